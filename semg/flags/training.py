"""The flags of train.py, and the settings that they make: for itself, and for scripts that start it.

sweep.py reads here, before the first run, what train.py would refuse in a later one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from model import POOLINGS
from semg.common import cli
from semg.common.errors import UsageError
from semg.data import normalization
from semg.evaluation import metrics
from semg.flags import shared
from semg.training.augmentation import NAMES, Augmentation
from semg.training.config import AUTO, BANDS, PATCH, TrainConfig
from semg.training.optimization import LARGE_BACKBONE, REFERENCE_BATCH


def parser(manual: str | None = None) -> argparse.ArgumentParser:
    """The flags of train.py. manual: its docstring, for --help."""
    parser = cli.parser(manual)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
    parser.add_argument("--out", type=Path, help="folder to write (default: checkpoints/ and the split's name)")
    for flag in ("--calibrate", "--init-from"):
        cli.moved(parser, flag, "python calibrate.py --checkpoint CKPT --repetitions N")
    parser.add_argument("--seed", type=cli.whole(0), default=TrainConfig.seed, help="same seed, same result")
    shared.add_computing(parser)
    parser.add_argument(
        "--amp", choices=("auto", "bf16", "fp32"), default=TrainConfig.amp, help="precision; auto: bf16 on CUDA"
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="default",
        default="",
        choices=("default", "graphs"),
        help="torch.compile all that is behind the tokens; graphs: with CUDA graphs, for models whose steps are short",
    )
    parser.add_argument(
        "--no-precompute",
        dest="precompute",
        action="store_false",
        help="compute band powers in every step; else once, and windows start on a grid of some ms",
    )
    parser.add_argument("--workers", type=cli.whole(0), default=1, help="threads that read windows ahead")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt")
    parser.add_argument("--overwrite", action="store_true", help="start anew over a run that is there")
    _network_flags(parser.add_argument_group("network"))
    _input_flags(parser.add_argument_group("what the network reads"))
    _training_flags(parser.add_argument_group("training"))
    _choice_flags(parser.add_argument_group("training, further choices"))
    return parser


def _network_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backbone",
        default=TrainConfig.backbone,
        help="gpt2, a folder in Hugging Face layout, OWNER/NAME[@REVISION] on the Hub, none, or attention; see "
        "docs/backbones.md",
    )
    group.add_argument(
        "--init",
        choices=("pretrained", "random", "shuffled"),
        default=TrainConfig.init,
        help="the backbone's first weights; shuffled: each pretrained matrix with its numbers in random places",
    )
    group.add_argument(
        "--embed-init",
        choices=("uniform", "orthogonal"),
        default=TrainConfig.embed_init,
        help="first weights of the map from tokens to the backbone",
    )
    group.add_argument(
        "--embed-scale",
        type=embed_scale,
        default=TrainConfig.embed_scale,
        metavar="FACTOR",
        help="factor for these first weights; backbone: embedded tokens as large as the pretrained decoder's own "
        "embeddings",
    )
    group.add_argument("--layers", type=cli.whole(1), help="first N blocks kept (default: all; random: 2)")
    group.add_argument("--width", type=cli.whole(1), help="of a random GPT-2 (default: 64)")
    group.add_argument("--heads", type=cli.whole(1), help="of a random GPT-2 (default: 4)")
    group.add_argument("--tune", default=TrainConfig.tune, help="what trains: full, last:N, fpt, lora or frozen")
    group.add_argument(
        "--pooling", choices=POOLINGS, default=TrainConfig.pooling, help="the head sees the tokens' mean, or the last"
    )


def _input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frontend",
        default=TrainConfig.frontend,
        metavar="FEATURES",
        help="what tokens are made of: bands (log band powers), raw (samples), or both, which is bands+raw",
    )
    group.add_argument(
        "--patch",
        type=cli.length,
        help=f"length of a token, samples or time; divides the window (default: the divisor nearest to {PATCH})",
    )
    group.add_argument(
        "--frame",
        type=cli.length,
        default=TrainConfig.frame,
        help="length over which a token's band powers are taken, samples or time",
    )
    group.add_argument(
        "--bands",
        type=cli.number(0),
        nargs="+",
        metavar="HZ",
        help=f"edges of the bands (default: {' '.join(f'{edge:g}' for edge in BANDS)}, up to half the sampling rate)",
    )
    group.add_argument(
        "--normalize",
        choices=normalization.METHODS,
        default=TrainConfig.normalize,
        help="channels and tokens are scaled by each session's own statistics (no label is looked at), by those of the "
        "training data, or not at all",
    )
    group.add_argument(
        "--whitening",
        type=cli.renamed_values(beside="append", only="replace"),
        choices=normalization.WHITENING,
        help="channels made uncorrelated by the session's own correlations: none, in place of the scaled channels "
        "(replace) or after them (append) (default: append with --normalize session, else none)",
    )
    group.add_argument(
        "--ridge",
        type=cli.number(0, 10, above=True),
        default=TrainConfig.ridge,
        help="share of a channel's power that whitening adds to its own, so that weak directions stay weak",
    )


def _training_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--epochs", type=cli.whole(1), default=TrainConfig.epochs, help="passes over the training windows"
    )
    group.add_argument(
        "--pretrain",
        type=cli.whole(0),
        default=TrainConfig.pretrain,
        metavar="N",
        help="before that, passes over the training people's whole recordings in which the next patch is predicted "
        "(self-supervised: no label is looked at); 0: none",
    )
    group.add_argument(
        "--batch-size",
        type=batch_size,
        default=TrainConfig.batch_size,
        metavar="N",
        help=f"windows a step, over all processes; auto: on a GPU as many as fill it, see docs/scale.md, with learning "
        f"rates times the square root of N / {REFERENCE_BATCH}; elsewhere {REFERENCE_BATCH}",
    )
    group.add_argument("--lr", type=cli.number(0, above=True), default=TrainConfig.lr, help="highest learning rate")
    group.add_argument(
        "--backbone-lr",
        type=cli.number(0, above=True),
        help="highest learning rate of the backbone (default: that of --lr, or a tenth of it where "
        f"{LARGE_BACKBONE:,} or more of the backbone's numbers train)",
    )
    group.add_argument(
        "--weight-decay",
        type=cli.number(0),
        default=TrainConfig.weight_decay,
        help="of matrices, not of biases, norms or positions",
    )
    group.add_argument(
        "--warmup", type=cli.number(0, 1), default=TrainConfig.warmup, help="share of the steps; then a cosine to 0"
    )
    group.add_argument(
        "--clip", type=cli.number(0, above=True), default=TrainConfig.clip, help="largest norm of the gradient"
    )


def _choice_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-smoothing",
        type=cli.number(0, 0.9),
        default=TrainConfig.label_smoothing,
        help="share of the target that is spread over all classes",
    )
    group.add_argument(
        "--dropout", type=cli.number(0, 0.9), default=TrainConfig.dropout, help="in the backbone and before the head"
    )
    group.add_argument(
        "--ema",
        type=cli.number(0, 0.99999),
        default=TrainConfig.ema,
        help="decay of a moving average of the weights, which is validated and kept in their place; 0: none",
    )
    group.add_argument(
        "--augment",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help=f"none, or changes and their strength (default: {Augmentation()}); names: {', '.join(NAMES)}; "
        "band_rotation=auto: 0.5 or 0.1, whichever scores better on the validation people in a pilot of a quarter of "
        "the epochs each, which makes training half as long again; see docs/model.md",
    )
    group.add_argument(
        "--balance",
        choices=("none", "loss", "sampler"),
        default=TrainConfig.balance,
        help="give rare classes the weight of common ones, in the loss or by drawing their windows more often",
    )
    group.add_argument(
        "--select",
        choices=list(metrics.criteria()),
        default=TrainConfig.select,
        help="score on the validation people (mean over people) by which the best epoch is chosen",
    )
    group.add_argument(
        "--patience",
        type=cli.whole(0),
        default=TrainConfig.patience,
        help="stop after so many epochs in a row that were not better than the best; 0: never",
    )


def embed_scale(text: str) -> str:
    """Argument of --embed-scale. argparse.ArgumentTypeError for neither a number above 0 nor `backbone`."""
    return text if text == "backbone" else f"{cli.number(0, above=True)(text):g}"


def batch_size(text: str) -> int:
    """Argument of --batch-size. argparse.ArgumentTypeError for neither a whole number of at least 1 nor `auto`."""
    return AUTO if text == "auto" else cli.whole(1)(text)


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The run's settings, made from the flags once: each has its flag's name."""
    values = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    return TrainConfig(
        **values
        | {
            "augment": Augmentation.parse(args.augment),
            "bands": tuple(args.bands) if args.bands else None,
            "whitening": args.whitening or ("append" if args.normalize == "session" else "none"),
        }
    )


def checked(flags: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """train.py's own reading of `flags`, and which of them a result depends on. UsageError for what it refuses."""
    own = parser()
    own.exit_on_error = False
    try:
        args, unknown = own.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise UsageError(f"train.py: {error}") from None
    if unknown:
        raise UsageError(f"train.py: expected flags with their values, found {unknown[0]}; see python train.py --help")
    try:
        return args, config_of(args).to_dict()
    except UsageError as error:
        raise UsageError(f"train.py: {error}") from None
