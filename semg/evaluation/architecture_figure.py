"""A picture of the network, drawn from its configuration: boxes in a row, from a window of signal to gestures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from semg.common.console import counted
from semg.data.normalization import ChannelNormalization
from semg.evaluation.predictions import unit_label
from semg.evaluation.score_figures import save, usual_style

LETTER, LINE, GAP, MARGIN = 0.112, 0.28, 0.76, 0.25  # inches, the unit of the drawing
TITLE_LETTER, TITLE_LINE = 0.16, 0.34  # inches of the title's larger and bold letters
SIZE = 14  # font size, points
MOST_NAMED = 12  # lines of the list of gestures
COLOURS = {"computed": "#F0F0F0", "trains": "#BBDDF5", "partly": "#E6F2FB", "frozen": "#FFFFFF"}
EDGE = "#333333"


class Box(NamedTuple):
    """name: shown in bold; lines: what the box does; state: a key of COLOURS; note: shown below it; after: shape of its
    output."""

    name: str
    lines: Sequence[str]
    state: str
    note: str
    after: str


@usual_style
def architecture(
    path: Path,
    config: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    channel_normalization: ChannelNormalization,
    rate: float,
    classes: Sequence[str],
    parameters: Mapping[str, int],
    title: str,
    unit: str = "uV",
) -> None:
    """Draw the network from left to right, with the shapes of the data between boxes.

    config: the fields of a ModelConfig; groups: of the front-end's features; channel_normalization: from electrodes to
    the network's channels; rate: Hz; parameters: see `GPT2Classifier.parameter_counts`;
    unit: of the signal, as in shard.json.
    """
    boxes = [*_front(config, groups, channel_normalization, rate, unit), *_network(config, groups)]
    if len(classes) > MOST_NAMED:  # a list of all of them would make the boxes as high as a page
        classes = [*classes[: MOST_NAMED - 1], f"and {len(classes) - MOST_NAMED + 1} more"]
    rows = max(len(classes), *(len(box.lines) + 2 for box in boxes))
    width = 2 * MARGIN + sum(_width(box) + GAP for box in boxes) + LETTER * max(map(len, classes))
    trained, total = (_number(parameters[key]) for key in ("trainable", "total"))
    words = f"{trained} of {total} parameters train"
    left_for_title = width - 2 * MARGIN - LETTER * (len(words) + 2)
    lines = wrap(title, max(20, int(left_for_title / TITLE_LETTER)))
    more = (len(lines) - 1) * TITLE_LINE
    figure = Figure(figsize=(width, (rows + 4.9) * LINE + more))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-3.1 * LINE, (rows + 1.8) * LINE + more))
    axes.axis("off")
    left = MARGIN
    for box in boxes:
        left = _draw(axes, box, left, rows * LINE)
    axes.text(left, rows * LINE / 2, "\n".join(classes), va="center", fontsize=SIZE, linespacing=1.3)
    middle = (rows + 1) * LINE + more / 2
    axes.text(MARGIN, middle, "\n".join(lines), va="center", fontsize=SIZE + 3, weight="bold")
    axes.text(width - MARGIN, (rows + 1) * LINE, words, ha="right", va="center", fontsize=SIZE)
    save(figure, path)


def _number(count: int) -> str:
    """`2,000`, or `1.23 million`."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:.3g} million"


def _front(
    config: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], how: ChannelNormalization, rate: float, unit: str
) -> list[Box]:
    """The boxes without parameters: the window, its channels, and the numbers that make up each token."""
    samples, channels = config["samples"], config["channels"]
    electrodes, tokens = channels // how.copies, samples // config["patch"]
    window = [f"{electrodes} electrodes", f"{samples} samples", f"{1000 * samples / rate:g} ms", f"at {rate:g} Hz"]
    scaled = {
        "session": ["scaled by", "session RMS"],
        "train": ["scaled by", "training RMS"],
        "none": [f"in {unit_label(unit)}"],
    }
    whitened = {"none": [], "append": [f"+ {electrodes} whitened"], "replace": ["whitened"]}[how.whitening]
    words, *more = scaled[how.method]
    features = []
    for group in groups:
        features.append(f"{channels} × {group['per_channel']} {'log powers' if group['log_power'] else 'samples'}")
        if group["log_power"]:
            low, high = (edge * rate for edge in (config["band_edges"][0], config["band_edges"][-1]))
            features += [f"{low:.0f}-{high:.0f} Hz", f"in {1000 * config['frame'] / rate:g} ms"]
        features += ["standardised"] if group["normalized"] else []
    lines = [f"{electrodes} {words}", *more, *whitened]
    return [
        Box("window", window, "computed", "", f"{electrodes} ×\n{samples}"),
        Box("channels", lines, "computed", "computed", f"{channels} ×\n{samples}"),
        Box(f"{tokens} tokens", features, "computed", "computed", f"{tokens} ×\n{_features(groups)}"),
    ]


def _network(config: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[Box]:
    """The boxes with parameters: the map to the backbone's width, the backbone, the head."""
    width, kind, classes = config["width"], config["backbone"], config["classes"]
    shape, heads = f"{config['samples'] // config['patch']} ×\n{width}", counted(config["heads"], "head")
    instead = [] if kind in ("attention", "none") else ["instead of", "word vectors"]
    boxes = [Box("linear map", [f"{_features(groups)} → {width}", *instead], "trains", "trains", shape)]
    if kind == "attention":
        boxes.append(Box(kind, ["one layer", f"width {width}", heads], "trains", "trains", shape))
    elif kind != "none":
        lines = [counted(config["layers"], "block"), f"width {width}", heads]
        state = {"full": "trains", "frozen": "frozen"}.get(config["tune"], "partly")
        boxes.append(Box("GPT-2" if kind == "gpt2" else kind, lines, state, _tuned(config), shape))
    pooled = "mean of tokens" if config["pooling"] == "mean" else "last token"
    return [
        *boxes,
        Box("head", [pooled, "LayerNorm", f"{width} → {classes}"], "trains", "trains", f"{classes}\nscores"),
    ]


def _features(groups: Sequence[Mapping[str, Any]]) -> int:
    return sum(group["channels"] * group["per_channel"] for group in groups)


def _tuned(config: Mapping[str, Any]) -> str:
    """Which part of the backbone is trained: the mode, and its meaning."""
    kind, _, blocks = config["tune"].partition(":")
    words = {
        "full": "all of it trains",
        "last": "last block trains" if blocks == "1" else f"last {blocks} blocks train",
        "fpt": "norms and\npositions train",
        "lora": f"updates of rank\n{config['lora_rank']} train",
        "frozen": "nothing trains",
    }
    return f"tune {config['tune']}\n{words[kind]}"


def _width(box: Box) -> float:
    return LETTER * max(map(len, [box.name + "  ", *box.lines, *box.note.split("\n")])) + 0.2


def _draw(axes: Axes, box: Box, left: float, height: float) -> float:
    """Draw a box with its name, its lines, its note below, and an arrow; returns where the arrow ends."""
    centre, right = left + _width(box) / 2, left + _width(box)
    corners, colour = "round,pad=0,rounding_size=0.08", COLOURS[box.state]
    axes.add_patch(FancyBboxPatch((left, 0), right - left, height, boxstyle=corners, facecolor=colour, edgecolor=EDGE))
    axes.text(centre, height - 0.8 * LINE, box.name, ha="center", va="center", fontsize=SIZE + 1, weight="bold")
    axes.text(centre, height / 2 - 0.5 * LINE, "\n".join(box.lines), ha="center", va="center", fontsize=SIZE)
    axes.text(centre, -0.4 * LINE, box.note, ha="center", va="top", fontsize=SIZE - 1)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": EDGE, "mutation_scale": 18, "shrinkA": 0, "shrinkB": 4}
    axes.annotate("", (right + GAP, height / 2), (right, height / 2), arrowprops=arrow)
    axes.text(right + GAP / 2, height / 2 + 0.3 * LINE, box.after, ha="center", fontsize=SIZE - 2)
    return right + GAP
