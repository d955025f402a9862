"""The flags of train.py and the settings made from them, for train.py itself and for scripts that start it.

sweep.py uses this module to detect, before its first run, flags that train.py would refuse in a later one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from model import CONTROLS, POOLINGS, GPT2Classifier
from semg.common import cli
from semg.common.errors import UsageError
from semg.data import normalization
from semg.evaluation import metrics
from semg.flags import shared
from semg.frontends import has_log_powers
from semg.training.augmentation import NAMES, Augmentation
from semg.training.config import AUTO, BANDS, PATCH, TrainConfig
from semg.training.optimization import LARGE_BACKBONE, REFERENCE_BATCH


def parser(manual: str | None = None) -> argparse.ArgumentParser:
    """The parser of train.py's flags. manual: the script's docstring, for --help."""
    parser = cli.parser(manual)
    parser.add_argument("--shards", type=Path, default=Path("data/shards"), help="folder of shards")
    parser.add_argument("--split", type=Path, default=Path("splits/default"), help="folder of the split")
    parser.add_argument("--out", type=Path, help="folder to write (default: checkpoints/SPLIT)")
    for flag in ("--calibrate", "--init-from"):
        cli.moved(parser, flag, "python calibrate.py --checkpoint CKPT --repetitions N")
    parser.add_argument(
        "--seed", type=cli.whole(0), default=TrainConfig.seed, help="random seed; the same seed gives the same result"
    )
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
        help="use torch.compile for everything after the front-end, which draws other dropout from the same seed, so "
        "the result differs as between two seeds; graphs: with CUDA graphs, for models with short steps",
    )
    parser.add_argument(
        "--no-precompute",
        dest="precompute",
        action="store_false",
        help="compute band powers anew in every step; by default they are computed once, and windows then start on a "
        "grid of some ms",
    )
    parser.add_argument("--workers", type=cli.whole(0), default=1, help="threads that prefetch windows")
    parser.add_argument("--resume", action="store_true", help="continue from OUT/last.ckpt")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in OUT")
    _network_flags(parser.add_argument_group("network"))
    _input_flags(parser.add_argument_group("input of the network"))
    _training_flags(parser.add_argument_group("training"))
    _choice_flags(parser.add_argument_group("training, further choices"))
    return parser


def _network_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backbone",
        default=TrainConfig.backbone,
        help="gpt2; a folder in Hugging Face layout; OWNER/NAME[@REVISION] on the Hub; none; or attention, a single "
        "attention layer; see docs/backbones.md",
    )
    group.add_argument(
        "--init",
        choices=("pretrained", "random", "shuffled"),
        default=TrainConfig.init,
        help="initial weights of the backbone; shuffled: the pretrained ones, with the numbers of each matrix permuted "
        "at random",
    )
    group.add_argument(
        "--embed-init",
        choices=("uniform", "orthogonal"),
        default=TrainConfig.embed_init,
        help="initial weights of the linear map from tokens to the backbone",
    )
    group.add_argument(
        "--embed-scale",
        type=embed_scale,
        default=TrainConfig.embed_scale,
        metavar="FACTOR",
        help="factor for the initial weights of that map; backbone: make embedded tokens as large as the pretrained "
        "decoder's own embeddings",
    )
    group.add_argument(
        "--layers", type=cli.whole(1), help="keep the first N blocks of the backbone (default: all; random GPT-2: 2)"
    )
    group.add_argument("--width", type=cli.whole(1), help="embedding width of a random GPT-2 (default: 64)")
    group.add_argument("--heads", type=cli.whole(1), help="attention heads of a random GPT-2 (default: 4)")
    group.add_argument(
        "--tune",
        default=TrainConfig.tune,
        help="which part of the backbone is trained: full, last:N (blocks), fpt (LayerNorms and positions), lora or "
        "frozen",
    )
    group.add_argument(
        "--pooling",
        choices=POOLINGS,
        default=TrainConfig.pooling,
        help="what the head classifies: the mean of the backbone's output over tokens, or its output for the last "
        "token",
    )


def _input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frontend",
        default=TrainConfig.frontend,
        metavar="FEATURES",
        help="features of a token: bands (log band powers), raw (samples) or bands+raw (both)",
    )
    group.add_argument(
        "--patch",
        type=cli.length,
        help=f"length of a token, in samples or time; must divide the window (default: the divisor nearest to {PATCH})",
    )
    group.add_argument(
        "--frame",
        type=cli.length,
        default=TrainConfig.frame,
        help="length of signal from which a token's band powers are computed, in samples or time",
    )
    group.add_argument(
        "--bands",
        type=cli.number(0),
        nargs="+",
        metavar="HZ",
        help=f"edges of the frequency bands (default: {' '.join(f'{edge:g}' for edge in BANDS)}, up to half the "
        "sampling rate)",
    )
    group.add_argument(
        "--normalize",
        choices=normalization.METHODS,
        default=TrainConfig.normalize,
        help="how channels and tokens are normalised: by the statistics of each session (without its labels), by those "
        "of the training data, or not at all",
    )
    group.add_argument(
        "--whitening",
        type=cli.renamed_values(beside="append", only="replace"),
        choices=normalization.WHITENING,
        help="decorrelate the channels of each session: not at all (none), instead of the scaled channels (replace) or "
        "in addition to them (append) (default: append with --normalize session, otherwise none)",
    )
    group.add_argument(
        "--ridge",
        type=cli.number(0, 10, above=True),
        default=TrainConfig.ridge,
        help="added to the diagonal of the channels' correlation matrix for whitening, so that weak directions stay "
        "weak",
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
        help="first train for N passes over the training people's whole recordings to predict the next patch "
        "(self-supervised, without labels); 0: off",
    )
    group.add_argument(
        "--batch-size",
        type=batch_size,
        default=TrainConfig.batch_size,
        metavar="N",
        help="windows per step, over all processes; auto: on a GPU as many as fill it (see docs/scale.md), with "
        f"learning rates multiplied by the square root of N / {REFERENCE_BATCH}; elsewhere {REFERENCE_BATCH}",
    )
    add_optimizer(group)


def add_optimizer(group: argparse._ArgumentGroup) -> None:
    """Add the settings of AdamW and of its learning rate, which training and calibration share."""
    group.add_argument("--lr", type=cli.number(0, above=True), default=TrainConfig.lr, help="peak learning rate")
    group.add_argument(
        "--backbone-lr",
        type=cli.number(0, above=True),
        help="peak learning rate of the backbone (default: that of --lr, or a tenth of it if "
        f"{LARGE_BACKBONE:,} or more parameters of the backbone are trained)",
    )
    group.add_argument(
        "--weight-decay",
        type=cli.number(0),
        default=TrainConfig.weight_decay,
        help="weight decay of matrices; biases, normalisation layers and position embeddings have none",
    )
    group.add_argument(
        "--warmup",
        type=cli.number(0, 1),
        default=TrainConfig.warmup,
        help="fraction of the steps in which the learning rate rises; a cosine decay to 0 follows",
    )
    group.add_argument(
        "--clip", type=cli.number(0, above=True), default=TrainConfig.clip, help="gradients are clipped to this norm"
    )


def _choice_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-smoothing",
        type=cli.number(0, 0.9),
        default=TrainConfig.label_smoothing,
        help="fraction of the target that is spread over all classes",
    )
    group.add_argument(
        "--dropout",
        type=cli.number(0, 0.9),
        default=TrainConfig.dropout,
        help="dropout rate in the backbone and before the head",
    )
    group.add_argument(
        "--ema",
        type=cli.number(0, 0.99999),
        default=TrainConfig.ema,
        help="decay of a moving average of the weights, which is validated and saved instead of the weights; 0: off",
    )
    group.add_argument(
        "--augment",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help=f"none, or augmentations and their strengths (default: {Augmentation()}); names: {', '.join(NAMES)}; "
        "band_rotation=auto: 0.5 or 0.1, whichever scores better on the validation people in a short pilot run; the "
        "two pilots have a quarter of the epochs each, so training takes half as long again; see docs/model.md",
    )
    group.add_argument(
        "--balance",
        choices=("none", "loss", "sampler"),
        default=TrainConfig.balance,
        help="give rare classes as much weight as frequent ones, in the loss or by sampling their windows more often",
    )
    group.add_argument(
        "--select",
        choices=list(metrics.criteria()),
        default=TrainConfig.select,
        help="score on the validation people (mean over people; the loss: over windows) that selects the best epoch",
    )
    group.add_argument(
        "--patience",
        type=cli.whole(0),
        default=TrainConfig.patience,
        help="stop after this many epochs in a row without a new best score; 0: never",
    )


def embed_scale(text: str) -> str:
    """The type of --embed-scale. argparse.ArgumentTypeError unless it is a number above 0 or `backbone`."""
    return text if text == "backbone" else f"{cli.number(0, above=True)(text):g}"


def batch_size(text: str) -> int:
    """The type of --batch-size. argparse.ArgumentTypeError unless it is a whole number of at least 1 or `auto`."""
    return AUTO if text == "auto" else cli.whole(1)(text)


def config_of(args: argparse.Namespace) -> TrainConfig:
    """The run's settings, made from the flags; each setting is named after its flag."""
    values = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    return TrainConfig(
        **values
        | {
            "augment": Augmentation.parse(args.augment),
            "bands": tuple(args.bands) if args.bands else None,
            "whitening": args.whitening or ("append" if args.normalize == "session" else "none"),
        }
    )


def without_effect(config: TrainConfig, network: GPT2Classifier, *, precomputable: bool) -> dict[str, str]:
    """Setting -> why it changes nothing beside the others.

    None of them is refused, because a grid over networks passes the same flags to all. precomputable: whether band
    powers can be computed once for all epochs.
    """
    nothing: dict[str, str] = {}
    if config.backbone == "none":
        nothing |= dict.fromkeys(("init", "layers", "heads", "tune", "backbone_lr"), "there is no backbone")
    elif config.backbone in CONTROLS:
        reason = f"{config.backbone} is one layer of random weights, all of which train"
        nothing |= dict.fromkeys(("init", "layers", "tune"), reason)
    elif config.tune == "frozen":
        nothing["backbone_lr"] = "no weight of the backbone trains"
    if config.whitening == "none":
        nothing["ridge"] = "no channels are whitened"
    if network.frontend.frames is None:
        nothing["frame"] = f"{config.frontend} has no band powers"
    if not has_log_powers(config.frontend):
        nothing["bands"] = f"{config.frontend} has no band powers"
    if not precomputable:
        nothing["precompute"] = "nothing could be computed once"
    if network.config.tokens == 1:
        nothing["pooling"] = "a window is a single token"
    if config.patience > max(0, config.epochs - 2):
        nothing["patience"] = "training ends before it runs out"
    return nothing


def checked(flags: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """`flags` as train.py reads them, and those settings that a result depends on. UsageError for flags that it
    refuses."""
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
