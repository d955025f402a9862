"""GPT2Classifier against bare transformers.GPT2Model on as many ready embeddings, forward and forward + backward.

Output: a table of ratios and benchmarks/results/backbone.json. Both have the same shape (2 blocks of width 64) and
dropout; the classifier starts from normalised tokens, so it also embeds, pools and scores them. Windows are random
numbers: content does not change how long this takes. On a busy machine the ratio still says something, times do not.

  python benchmarks/backbone.py            # about a minute on two cores
  python benchmarks/backbone.py --quick    # seconds, for a look
"""

from collections.abc import Callable

from measuring import Row, arguments, in_turns, report

# isort: split
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from model import FUSED, GPT2Classifier, ModelConfig
from semg import cli


def bare(config: ModelConfig) -> GPT2Model:
    """transformers' GPT-2 of the same shape, activation and dropout."""
    rate = config.dropout
    shape = GPT2Config(
        n_layer=config.layers, n_embd=config.width, n_head=config.heads, vocab_size=1, use_cache=False,
        bos_token_id=0, eos_token_id=0, activation_function=FUSED[config.activation],
        resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate,
    )  # fmt: skip
    return GPT2Model(shape)


def forward(work: Callable[[], Tensor]) -> Callable[[], None]:
    """Several forward passes without gradients."""

    def run() -> None:
        with torch.inference_mode():
            for _ in range(5):
                work()

    return run


def both_ways(model: nn.Module, work: Callable[[], Tensor]) -> Callable[[], None]:
    """Several forward and backward passes."""

    def run() -> None:
        for _ in range(5):
            model.zero_grad(set_to_none=True)
            work().sum().backward()

    return run


def main() -> int:
    """Run the script; the number returned is its exit code."""
    parser = arguments(__doc__, "backbone", repeats=9)
    parser.add_argument("--batch-size", type=cli.whole(1), default=128, help="windows")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.batch_size = 3, 16
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig(channels=48)
    ours, theirs = GPT2Classifier(config), bare(config)
    tokens = torch.randn(args.batch_size, config.tokens, config.band_features)
    embedded = torch.randn(args.batch_size, config.tokens, config.width)

    def classify() -> Tensor:
        return ours.classify(tokens)

    def reference() -> Tensor:
        return theirs(inputs_embeds=embedded).last_hidden_state

    rows = []
    for what, training in (("forward", False), ("forward and backward, dropout", True)):
        ours.train(training)
        theirs.train(training)
        ways: dict[str, Callable[[], object]] = {
            "classifier": both_ways(ours, classify) if training else forward(classify),
            "bare": both_ways(theirs, reference) if training else forward(reference),
        }
        taken = in_turns(ways, args.repeats)
        ratio = taken["classifier"] / taken["bare"]
        rows.append(Row(f"GPT2Classifier, {what}", "bare GPT2Model", ratio, 1.08, seconds=taken))
    return report(args, rows, batch=args.batch_size, threads=1, tokens=config.tokens)


if __name__ == "__main__":
    cli.run(main)
