"""Does a longer context help? A GPT-2 that reads the last S seconds, against smoothing over the last S seconds.

The network is the default of train.py --init random (2 blocks of width 64, log band powers of whitened channels,
statistics of the session). It reads whole recordings as tokens of 100 ms and decides at each token, including
transitions. Attention is causal and limited, so that a decision depends on the last S seconds only. S = 0.35 s is the
control: the same training with a context hardly longer than a window. Scoring is that of evaluate.py, on the windows of
the validation people: the decision for a window is that of the last token before the window's end.

The comparison is a model made by train.py that decides on windows of 250 ms every 100 ms. Decisions of both are also
smoothed over the last seconds: by majority, by mean probability, or by the forward probabilities of a hidden Markov
model whose states last 4.1 s on average. Nothing looks ahead.

If a protocol has a fixed order and fixed times, a model with a long context can learn the protocol. So all models are
scored on three versions of the recordings, and can be trained on each of them (`--orders`), drawn again in each epoch:
  recorded   the recordings as they are
  shuffled   each recording's segments (a gesture and the transitions around it) in random order
  cut        each segment cut in two at a random place, and all pieces in random order: no fixed times either

  python experiments/context.py --shards data/shards --split splits/kfold4/fold0 --out results/context/fold0.json \\
      --checkpoint checkpoints/sweeps/default/default/fold0/seed0/best_model.ckpt
  python experiments/context.py --table results/context/*.json

Output: OUT.json with the macro-F1 of each person for each method. It is written after every network, and the same
command continues after a stop. --table prints means over the people of all files.
The test people's recordings are not opened. Takes about half a minute for each network on one CPU core.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from the checkout, nothing is installed

from context_table import ORDERS, WHAT, mean, methods_of, table
from smoothing import smoothers

from model import GPT2Classifier, ModelConfig
from semg.common import cli
from semg.common.console import Console
from semg.common.errors import DataError, UsageError
from semg.common.files import atomic_path, expect_place, read_json, write_json
from semg.common.length import Length
from semg.common.provenance import commit, how_made
from semg.data import normalization
from semg.data.shards import Shard, data_checksum, open_shards
from semg.data.splits import read_split
from semg.evaluation import metrics
from semg.flags import shared
from semg.inference.batch import session_statistics, signal_probabilities
from semg.inference.trained_model import TrainedModel
from semg.training.augmentation import TokenLayout, draw
from semg.training.config import TrainConfig
from semg.training.loop import fit
from semg.training.network import model_config
from semg.training.optimization import Optimizer, Stream

CPU = torch.device("cpu")
FEW = 10  # tokens whose features are computed at once, and of the windows that a session's statistics are taken from
STEP, FRAME = "100ms", "150ms"  # from token to token, and what a token's band powers are taken over
CHUNK = 256  # tokens that the network is trained on at once: 25.6 s
BATCH = 4  # chunks of a step
CHOICES = 6  # how often in training the network is scored on the validation people; the best is kept, as in train.py
SMOOTHED = (1, 4, 16)  # seconds
DRAWS = 3  # random orders of each recording that is scored
NONE = -1  # label of tokens that no segment holds


@dataclass(frozen=True)
class Recording:
    """A recording in tokens.

    tokens: (n, F) normalised; label: (n,) of the gesture at each token's end, or NONE; edges: where segments begin,
    from 0 to n, in the middle between two gestures; first, last: (w,) the tokens that each of its windows begins and
    ends with; since: (w,) seconds from the gesture's beginning to the window's end.
    """

    shard: Shard
    tokens: Tensor
    label: np.ndarray
    edges: np.ndarray
    first: np.ndarray
    last: np.ndarray
    since: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def order(self, how: str, random: np.random.Generator) -> np.ndarray:
        """(n,) places of its tokens, in one of ORDERS."""
        if how == "recorded":
            return np.arange(len(self))
        edges = self.edges
        if how == "cut":
            share = random.uniform(0.25, 0.75, len(edges) - 1)
            between = np.round(edges[:-1] + share * np.diff(edges)).astype(np.int64)
            edges = np.unique(np.concatenate([edges, between]))
        pieces = np.split(np.arange(len(self)), edges[1:-1])
        return np.concatenate([pieces[place] for place in random.permutation(len(pieces))])


def recording_of(shard: Shard, frames: Tensor, step: int, frame: int) -> Recording:
    """frames: (n, F) normalised, token i from samples i * step to i * step + frame."""
    windows = shard.windows
    margin = round(shard.arguments["transition_margin"] * shard.rate)
    low = np.where(windows["low"] > 0, windows["low"] - margin, 0)
    begin, place = np.unique(low, return_index=True)  # of the segments, in time order
    stop, of_segment = windows["high"][place] + shard.window, windows["label"][place]
    ends = np.arange(len(frames)) * step + frame
    segment = np.searchsorted(begin, ends - 1, side="right") - 1
    inside = (segment >= 0) & (ends <= stop[segment])
    middles = ((stop[:-1] + begin[1:]) // 2 - frame) // step + 1
    window_end = windows["start"] + shard.window
    last = np.minimum((window_end - frame) // step, len(frames) - 1)
    return Recording(
        shard,
        frames,
        np.where(inside, of_segment[segment], NONE).astype(np.int64),
        np.concatenate([[0], middles, [len(frames)]]).astype(np.int64),
        np.maximum(last - (shard.window - frame) // step, 0),
        last,
        (window_end - low) / shard.rate,
    )


def tokens_in(seconds: float, rate: float) -> int:
    """How many tokens so many seconds of signal have, at least one."""
    step, frame = (Length(one).samples(rate) for one in (STEP, FRAME))
    return max(0, round(seconds * rate) - frame) // step + 1


def shape_of(shard: Shard, tokens: int) -> ModelConfig:
    """train.py's default network, for windows of so many of this script's tokens."""
    config = model_config(TrainConfig(shards=Path(), split=Path(), init="random"), shard, None)
    patch, frame = (Length(one).samples(shard.rate) for one in (STEP, FRAME))
    return replace(config, samples=tokens * patch, patch=patch, frame=frame)


def read(shards: Sequence[Shard], cache: Path) -> list[Recording]:
    """The shards as tokens, normalised by their sessions.

    They are kept in the folder `cache`, under names with a checksum of the session's shards, because a session's tokens
    depend on all of its recordings.
    """
    config = shape_of(shards[0], FEW)
    network = GPT2Classifier(config).eval()
    files: dict[int, Path] = {}
    for places in normalization.sessions(shards).values():
        session = [shards[place] for place in places]
        own = [cache / f"{one.record}-{data_checksum(session)[:16]}.npy" for one in session]
        if not all(file.exists() for file in own):
            write_tokens(network, session, own)
        files |= zip(places, own, strict=True)
    tokens = [torch.from_numpy(np.load(files[place])).float() for place in range(len(shards))]
    return [recording_of(one, own, config.patch, config.frame) for one, own in zip(shards, tokens, strict=True)]


def write_tokens(network: GPT2Classifier, session: Sequence[Shard], files: Sequence[Path]) -> None:
    """Write the (n, F) tokens of each recording of a session, normalised by it."""
    config = network.config
    transforms = normalization.transform_of(session, normalization.ChannelNormalization("session", "append"))
    statistics = session_statistics(network, session, transforms, CPU)
    for shard, transform, own, file in zip(session, transforms, statistics, files, strict=True):
        starts = np.arange(0, len(shard.signal) - config.frame + 1, config.patch)
        pieces = np.array_split(starts, -(-len(starts) // FEW))
        tokens = torch.cat([features(network, shard.signal, transform, few) for few in pieces])
        with atomic_path(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, ((tokens - own[0]) / own[1]).half().numpy())


def features(network: GPT2Classifier, signal: np.ndarray, transform: np.ndarray, starts: np.ndarray) -> Tensor:
    """(n, F) what the front-end makes of the frames that begin at `starts` (n,), rising, of a recording."""
    part = signal[starts[0] : starts[-1] + network.config.frame].astype(np.float32) @ transform
    return network.frontend.at_starts(torch.from_numpy(part).T[None], (starts - starts[0]).tolist())[0]


# --- the network -------------------------------------------------------------------------------------------------


class ContextNetwork:
    """A GPT2Classifier that decides at each token, from the last `tokens` tokens."""

    def __init__(self, shard: Shard, tokens: int, chunk: int) -> None:
        config = shape_of(shard, chunk)
        self.module = GPT2Classifier(config)
        # tokens that one block attends to; the block after it reaches width - 1 tokens further back, and so on
        width = (tokens - 1) // config.layers + 1
        self.reach, self.chunk = config.layers * (width - 1) + 1, chunk
        ago = torch.arange(chunk)[:, None] - torch.arange(chunk)
        self._mask = ((ago >= 0) & (ago < width))[None, None]

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, classes)."""
        net, T = self.module, tokens.shape[1]
        assert net.backbone is not None  # noqa: S101
        mask = self._mask[..., :T, :T]
        read = net.backbone(inputs_embeds=net.embed(tokens), attention_mask=mask, use_cache=False)
        return net.head(net.drop(net.norm(read.last_hidden_state)))

    @torch.inference_mode()
    def probabilities(self, tokens: Tensor) -> np.ndarray:
        """(n, F) tokens of a whole recording -> (n, classes), each with all of its context."""
        self.module.eval()
        parts, at = [], 0
        hop = self.chunk - self.reach + 1
        while at == 0 or at + self.reach - 1 < len(tokens):
            known = 0 if at == 0 else self.reach - 1  # tokens that were decided with the previous chunk
            parts.append(self.logits(tokens[None, at : at + self.chunk])[0, known:].softmax(1))
            at += hop
        return torch.cat(parts).numpy()


class Reading:
    """A `loop.Task`: to decide at each token of chunks of the training recordings."""

    def __init__(self, network: ContextNetwork, recordings: Sequence[Recording], order: str, seed: int) -> None:
        self.network, self.module = network, network.module
        self._recordings, self._order, self._seed = recordings, order, seed
        self._config = TrainConfig(shards=Path(), split=Path())
        rings, copies = recordings[0].shard.rings, self._config.normalization.copies
        self._layout = TokenLayout(self.module.frontend.groups, rings, copies)
        self.steps_per_epoch = max(1, sum(map(len, recordings)) // (network.chunk * BATCH))

    def batches(self, epoch: int, first: int) -> Iterable[tuple[Tensor, Tensor]]:
        """(B, T, F) tokens and (B, T) labels.

        Recordings are drawn in proportion to their lengths, and each is read from a random token on.
        """
        random = np.random.default_rng((self._seed, Stream.ORDER, epoch))
        orders = [one.order(self._order, random) for one in self._recordings]
        lengths = np.array([len(order) for order in orders])
        which = random.choice(len(orders), (self.steps_per_epoch, BATCH), p=lengths / lengths.sum())
        begin = random.integers(0, lengths[which])
        for own, at in zip(which[first:], begin[first:], strict=True):
            # after its end, a recording continues at its beginning
            index = [orders[i][(j + np.arange(self.network.chunk)) % lengths[i]] for i, j in zip(own, at, strict=True)]
            rows = [(self._recordings[i], places) for i, places in zip(own, index, strict=True)]
            tokens = torch.stack([one.tokens[places] for one, places in rows])
            yield tokens, torch.from_numpy(np.stack([one.label[places] for one, places in rows]))

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """() cross-entropy over the tokens that have a label, augmented with the defaults of the time when this was
        measured."""
        tokens, labels = batch
        change = draw(self._config.augment.rotated(0.5), self._layout, (len(tokens), self.network.chunk), generator)
        logits = self.network.logits(change(tokens)).flatten(0, 1)
        how: dict[str, Any] = {"ignore_index": NONE, "label_smoothing": self._config.label_smoothing}
        return F.cross_entropy(logits, labels.flatten(), **how)


def trained(
    train: Sequence[Recording], val: Sequence[Recording], seconds: float, order: str, args: argparse.Namespace
) -> ContextNetwork:
    """A network with `seconds` of context, with the weights that scored best on the validation people."""
    torch.manual_seed(args.seed)
    network = ContextNetwork(train[0].shard, tokens_in(seconds, train[0].shard.rate), args.chunk)
    task = Reading(network, train, order, args.seed)
    config = TrainConfig(shards=args.shards, split=args.split).optimizer
    optimizer = Optimizer(network.module, config, args.epochs * task.steps_per_epoch)
    best, weights = -1.0, network.module.state_dict()
    for epoch in fit(task, optimizer, epochs=args.epochs, seed=args.seed):
        if epoch.number % math.ceil(args.epochs / CHOICES) and epoch.number < args.epochs:
            continue
        actual = mean(scores(val, "recorded", lambda one, at: network.probabilities(one.tokens[at]).argmax(1)))
        if actual > best:
            best, weights = actual, {name: value.clone() for name, value in network.module.state_dict().items()}
    network.module.load_state_dict(weights)
    return network


# --- scores ------------------------------------------------------------------------------------------------------


def scores(recordings: Sequence[Recording], how: str, decide: Any) -> dict[str, float]:
    """Subject -> macro-F1 over the windows of the recordings in an order, and as `SUBJECT onset` over those that end
    within 1.25 s of their gesture's beginning.

    decide: (recording, (n,) order of its tokens) -> (n,) decisions in this order. A window that is cut does not count.
    """
    columns: list[tuple[np.ndarray, ...]] = []
    for number in range(1 if how == "recorded" else DRAWS):
        for place, one in enumerate(recordings):
            order = one.order(how, np.random.default_rng((number, place)))
            at = np.empty(len(one), np.int64)
            at[order] = np.arange(len(one))
            whole = at[one.last] - at[one.first] == one.last - one.first
            label = one.shard.windows["label"].astype(np.int64)
            decided = decide(one, order)[at[one.last]]
            columns.append(tuple(c[whole] for c in (label, decided, np.full(len(label), one.shard.subject), one.since)))
    label, decided, subject, since = (np.concatenate(column) for column in zip(*columns, strict=True))
    classes, early = len(recordings[0].shard.classes), since <= 1.25
    every = metrics.per_subject(label, decided, subject, classes)
    onset = metrics.per_subject(label[early], decided[early], subject[early], classes)
    each = {"": every, " onset": onset}
    return {f"{name}{of}": own["macro_f1"] for of, people in each.items() for name, own in people.items()}


def under_all(recordings: Sequence[Recording], probabilities: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Smoother -> order -> `scores`. probabilities: (recording, order) -> (n, K) in this order."""
    known: dict[tuple[str, bytes], np.ndarray] = {}

    def decided(one: Recording, order: np.ndarray) -> np.ndarray:
        key = (one.shard.record, order.tobytes())
        if key not in known:
            known[key] = probabilities(one, order)
        return known[key]

    result = {}
    for name, smooth in smoothers(SMOOTHED, float(STEP.removesuffix("ms")) / 1000).items():
        smoothed = lambda one, order: smooth(decided(one, order))  # noqa: B023, E731
        result[name] = {how: scores(recordings, how, smoothed) for how in ORDERS}
    return result


def of_windows(model: TrainedModel, recordings: Sequence[Recording]) -> dict[str, np.ndarray]:
    """Record -> (n, K) probabilities of the window that ends with each token, normalised as in evaluate.py."""
    shards = [one.shard for one in recordings]
    step, frame, result = *(Length(one).samples(model.rate) for one in (STEP, FRAME)), {}
    for places in normalization.sessions(shards).values():
        session = model.session_of(*(np.array(shards[place].signal) for place in places))
        for place in places:
            starts = np.maximum(np.arange(len(recordings[place])) * step + frame - model.window, 0)
            one = shards[place]
            result[one.record] = signal_probabilities(model.network, one.signal, starts, session)
    return result


# --- the script --------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """The flags of this script."""
    parser = cli.parser(__doc__)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, help="folder of a split; its test people are left alone")
    parser.add_argument("--checkpoint", type=Path, help="a model that train.py made on the same split")
    parser.add_argument("--out", type=Path, default=Path("results/context.json"), help="file to write or continue")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT instead of continuing it")
    parser.add_argument("--cache", type=Path, default=Path("results/context-tokens"), help="where tokens are kept")
    parser.add_argument(
        "--context",
        type=cli.number(0, above=True),
        nargs="+",
        default=[0.35, 1, 4, 16],
        help="a network for each, seconds",
    )
    parser.add_argument("--orders", choices=ORDERS, nargs="+", default=["recorded", "cut"], help="what is trained on")
    parser.add_argument("--epochs", type=cli.whole(1), default=24, help="passes over the training recordings")
    parser.add_argument("--chunk", type=cli.whole(2), default=CHUNK, help="tokens that are trained on at once")
    parser.add_argument("--seed", type=cli.whole(0), default=0, help="random seed")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="only print the table of these results")
    return parser


def begun(args: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The methods that an earlier run of this command scored; DataError if it had other settings, data or code."""
    if args.overwrite or not args.out.exists():
        return {}
    methods = methods_of(args.out)
    then = read_json(args.out, WHAT).get("settings")
    if others := [key for key, value in settings.items() if not isinstance(then, dict) or then.get(key) != value]:
        expected = f"results with this run's {others[0]}"
        raise DataError(f"{args.out}: expected {expected}, found others; --overwrite starts anew")
    return methods


def measure(args: argparse.Namespace, console: Console) -> None:
    """Write OUT, method by method: method -> smoother -> condition -> subject -> macro-F1."""
    split = read_split(args.split, args.shards)
    shards = [open_shards(args.shards, names) for names in (split.train, split.val)]
    model = None if args.checkpoint is None else TrainedModel.open(args.checkpoint, "cpu")
    settings = {
        **{name: getattr(args, name) for name in ("epochs", "chunk", "seed")},
        "split": split.checksum,
        "shards": [data_checksum(own) for own in shards],
        "checkpoint": None if model is None else model.checkpoint.sha256,
        "commit": commit(),
    }
    actual = begun(args, settings)
    made = how_made("experiments/context.py", args)

    def write(name: str, scored: dict[str, Any]) -> None:
        actual[name] = scored
        write_json(args.out, {"settings": settings, "found": actual, "made": made})

    train, val = (read(own, args.cache) for own in shards)
    if model is not None and "windows of 0.25 s" not in actual:
        model.check_same_data(val[0].shard)
        windows = of_windows(model, val)
        probabilities = lambda one, order: windows[one.shard.record][order]  # noqa: E731
        write("windows of 0.25 s", under_all(val, probabilities))
    for order, seconds in product(args.orders, args.context):
        name = f"context {seconds:g} s, trained {order}"
        if name in actual:
            continue
        network = trained(train, val, seconds, order, args)
        probabilities = lambda one, at: network.probabilities(one.tokens[at])  # noqa: B023, E731
        write(name, under_all(val, probabilities))
        means = ", ".join(f"{how} {100 * mean(actual[name]['alone'][how]):.1f}" for how in ORDERS)
        console.say(f"{name}: macro-F1 {means}")


def main() -> int:
    """Run the script; the number returned is its exit code."""
    args = arguments().parse_args()
    console = cli.console(args)
    if args.table:
        shared.expect_alone(args, "table")
        console.finish(table(args.table))
        return 0
    if args.split is None:
        raise UsageError("--split: expected a folder of a split, or --table with results, found neither")
    longest = float(STEP.removesuffix("ms")) / 1000 * args.chunk
    if max(args.context) >= longest:
        raise UsageError(f"--context: expected less than the {longest:g} s of --chunk, found {max(args.context):g}")
    expect_place(args.out, "the scores")
    torch.set_num_threads(1)
    measure(args, console)
    console.finish(f"{args.out}: written; next: python experiments/context.py --table {args.out}")
    return 0


if __name__ == "__main__":
    cli.run(main, again="the same command goes on where it was")
