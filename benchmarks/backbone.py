"""GPT2Classifier against a bare transformers.GPT2Model on as many embeddings, forward and forward + backward.

Output: a table of ratios and benchmarks/results/backbone.json. Both models have the same shape (2 blocks of width 64,
then GPT-2 small) and the same dropout. The classifier starts from normalised tokens, so it also embeds, pools and
classifies them. It computes GPT-2's activation as one operation. The bare model is measured twice: with transformers'
own activation (eight operations) and with the same single operation. Windows are random numbers, because content does
not change the time.

  python benchmarks/backbone.py            # about a minute on two cores
  python benchmarks/backbone.py --quick    # seconds, for a first look
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from measuring import Row, arguments, in_turns, read, report

# isort: split
import torch
from torch import Tensor, nn
from transformers.models.gpt2 import GPT2Config, GPT2Model

from model import GPT2Classifier, ModelConfig
from semg.backbones import FUSED
from semg.common import cli


def bare(config: ModelConfig, activation: str) -> GPT2Model:
    """transformers' GPT-2 of the same shape and dropout."""
    rate = config.dropout
    shape = GPT2Config(
        n_layer=config.layers, n_embd=config.width, n_head=config.heads, vocab_size=1, use_cache=False,
        bos_token_id=0, eos_token_id=0, activation_function=activation,
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


def measure(name: str, config: ModelConfig, batch: int, repeats: int) -> list[Row]:
    """Forward, and forward and backward, of one size of model."""
    torch.manual_seed(0)
    ours = GPT2Classifier(config)
    theirs = {"bare": bare(config, "gelu_new"), "bare_fused": bare(config, FUSED["gelu_new"])}
    tokens = torch.randn(batch, config.tokens, ours.frontend.n_features)
    embedded = torch.randn(batch, config.tokens, config.width)

    def classify() -> Tensor:
        return ours.classify(tokens)

    def way(model: nn.Module, work: Callable[[], Tensor], training: bool) -> Callable[[], None]:
        model.train(training)
        return both_ways(model, work) if training else forward(work)

    def hidden(model: nn.Module) -> Tensor:
        return model(inputs_embeds=embedded).last_hidden_state

    rows = []
    for what, training in (("forward", False), ("forward and backward", True)):
        ways: dict[str, Callable[[], object]] = {"classifier": way(ours, classify, training)}
        ways |= {key: way(model, partial(hidden, model), training) for key, model in theirs.items()}
        seconds = in_turns(ways, repeats)
        facts = {"batch": batch, "tokens": config.tokens}
        for key, against, reach in (
            ("bare", "bare GPT2Model", 1.08),
            ("bare_fused", "with fused activation", None),
        ):
            ratio = seconds["classifier"] / seconds[key]
            rows.append(Row(f"{name}, {what}", against, ratio, reach, seconds=seconds, facts=facts))
    return rows


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = read(arguments(__doc__, "backbone"))
    torch.set_num_threads(1)
    small = ModelConfig(channels=48)
    rows = measure("2 blocks of width 64", small, 16 if args.quick else 128, args.repeats)
    if not args.quick:
        whole = replace(small, layers=12, width=768, heads=12)
        rows += measure("GPT-2 small's 12 of 768", whole, 4, args.repeats)
    return report(args, rows, threads=1)


if __name__ == "__main__":
    cli.run(main)
