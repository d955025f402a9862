"""The network as a picture, drawn from its configuration: from a window of signal to scores of gestures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from semg.evaluation.score_figures import save, usual_style

FIXED, TRAINED, FROZEN = "#F0F0F0", "#BBDDF5", "#FFFFFF"  # box colours; frozen boxes are also hatched
EDGE = "#333333"
_NAMES, _UNITS = {"bands": "log powers", "raw": "raw samples"}, {"bands": "bands", "raw": "samples"}
WIDTH, HEIGHT = 15.3, 5.6  # inches, which are the drawing's units too


@dataclass(frozen=True)
class Box:
    """A box of the drawing, in inches from the lower left corner."""

    left: float
    bottom: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Height of its middle."""
        return self.bottom + self.height / 2


@usual_style
def architecture(
    path: Path,
    config: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    rate: float,
    classes: Sequence[str],
    parameters: Mapping[str, int],
    title: str,
) -> None:
    """Draw the network from left to right, with the shapes of what goes from box to box.

    config: the fields of a ModelConfig; groups: of the front-end's features; rate: Hz; parameters: numbers of
    parameters, all and trained, see `GPT2Classifier.parameter_counts`.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.axis("off")
    tokens = config["samples"] // config["patch"]
    middle = 2.85
    window = _window(axes, Box(0.45, middle - 1.05, 1.9, 2.1), config, rate)
    parts = _front_end(axes, window, groups, config, rate)
    features = sum(group["channels"] * group["per_channel"] for group in groups)
    embed = Box(6.85, middle - 0.95, 1.85, 1.9)
    told = "\nin place of\nword embeddings" if config["backbone"] not in ("attention", "none") else ""
    _draw(axes, embed, TRAINED, "linear map", f"{features} → {config['width']}{told}")
    for part in parts:
        _arrow(axes, part, embed)
    _shape(axes, (parts[0].left + parts[0].width + embed.left) / 2, middle, tokens, features, between=len(parts) > 1)
    last = _backbone(axes, embed, config, tokens, middle)
    head = Box(12.2, middle - 0.95, 1.4, 1.9)
    pooled = "mean of\ntokens" if config["pooling"] == "mean" else "last\ntoken"
    _draw(axes, head, TRAINED, "head", f"{pooled}\nLayerNorm\nlinear")
    _arrow(axes, last, head)
    if last is not embed:
        _shape(axes, head.left - 0.5, middle, tokens, config["width"])
    _gestures(axes, head, classes, middle)
    _legend(axes, parameters)
    axes.text(0.3, HEIGHT - 0.42, title, fontsize=17, weight="bold", va="center")
    save(figure, path)


def _draw(axes: Axes, box: Box, colour: str, name: str, told: str) -> Box:
    """A box with its name in bold at the top and what it does below."""
    shape = FancyBboxPatch(
        (box.left, box.bottom),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour,
        edgecolor=EDGE,
        linewidth=1.4,
        hatch="////" if colour == FROZEN else None,
        zorder=2,
    )
    shape.set_hatch_linewidth(0.4)
    axes.add_patch(shape)
    centre = box.left + box.width / 2
    paper = {"facecolor": colour, "edgecolor": "none", "pad": 1.5} if colour == FROZEN else None
    axes.text(
        centre, box.bottom + box.height - 0.24, name, ha="center", va="center", fontsize=15, weight="bold", zorder=4
    ).set_bbox(paper)
    if told:
        place = box.middle - 0.16
        axes.text(centre, place, told, ha="center", va="center", fontsize=13.5, zorder=4, linespacing=1.3).set_bbox(
            paper
        )
    return box


def _arrow(axes: Axes, start: Box, end: Box) -> None:
    """From one box's right side to another's left."""
    begin = (start.left + start.width, start.middle)
    height = min(max(start.middle, end.bottom + 0.25), end.bottom + end.height - 0.25)
    axes.add_patch(
        FancyArrowPatch(begin, (end.left, height), arrowstyle="-|>", mutation_scale=18, linewidth=1.6, color=EDGE)
    )


def _shape(axes: Axes, x: float, y: float, tokens: int, features: int, *, between: bool = False) -> None:
    """What goes along an arrow, above it; or between two arrows."""
    told = f"{tokens} ×\n{features}"
    up, side = (0.0, "center") if between else (0.1, "bottom")
    axes.text(x, y + up, told, ha="center", va=side, fontsize=13, linespacing=1.2)


def _window(axes: Axes, box: Box, config: Mapping[str, Any], rate: float) -> Box:
    """Some channels of made-up signal with a burst, cut into patches, as the network gets them."""
    random = np.random.default_rng(4)
    time = np.linspace(0, 1, 400)
    shown = min(6, config["channels"])
    for place in range(shown):
        burst = 0.15 + 0.85 * np.exp(-(((time - 0.6) / 0.22) ** 2)) * random.uniform(0.3, 1)
        trace = np.clip(random.normal(size=400) * burst, -2, 2) * 0.075
        height = box.bottom + box.height * (place + 0.5) / shown
        axes.plot(box.left + time * box.width, height + trace, color="#0072B2", linewidth=0.7, zorder=3)
    patches = config["samples"] // config["patch"]
    for place in range(patches + 1):
        x = box.left + box.width * place / patches
        axes.plot([x, x], [box.bottom, box.bottom + box.height], color="#BBBBBB", linewidth=0.7, zorder=1)
    milliseconds = 1000 * config["samples"] / rate
    centre = box.left + box.width / 2
    top = box.bottom + box.height
    axes.text(centre, top + 0.12, "window (sketch)", ha="center", va="bottom", fontsize=15, weight="bold")
    told = f"{config['channels']} channels ×\n{config['samples']} samples ({milliseconds:g} ms)\n{patches} patches"
    axes.text(centre, box.bottom - 0.12, told, ha="center", va="top", fontsize=13.5, linespacing=1.3)
    return box


def _front_end(
    axes: Axes, window: Box, groups: Sequence[Mapping[str, Any]], config: Mapping[str, Any], rate: float
) -> list[Box]:
    """The boxes that make a token's features, one above the other."""
    low, high = (edge * rate for edge in (config["band_edges"][0], config["band_edges"][-1]))
    wanted = []
    for group in groups:
        name, channels, numbers = (group[key] for key in ("name", "channels", "per_channel"))
        lines = [f"{channels} channels × {numbers} {_UNITS.get(name, 'numbers')}"]
        if group["log_power"]:
            lines.append(f"{low:.0f}-{high:.0f} Hz, over {1000 * config['frame'] / rate:g} ms")
        lines += ["minus mean, over std"] if group["normalized"] else []
        wanted.append((_NAMES.get(name, name), [*lines, f"= {channels * numbers} features"]))
    heights = [0.55 + 0.325 * len(lines) for _, lines in wanted]
    top = window.middle + (sum(heights) + 0.3 * (len(wanted) - 1)) / 2
    boxes = []
    for (name, lines), height in zip(wanted, heights, strict=True):
        box = _draw(axes, Box(3.0, top - height, 2.95, height), FIXED, name, "\n".join(lines))
        _arrow(axes, window, box)
        boxes.append(box)
        top -= height + 0.3
    return boxes


def _backbone(axes: Axes, embed: Box, config: Mapping[str, Any], tokens: int, middle: float) -> Box:
    """The decoder, the attention layer, or nothing; returns the box that the head follows."""
    if config["backbone"] == "none":
        return embed
    width = config["width"]
    if config["backbone"] == "attention":
        box = Box(9.65, middle - 0.95, 1.5, 1.9)
        _draw(axes, box, TRAINED, "attention", f"one layer\n{config['heads']} heads\nresidual")
    else:
        tune = config["tune"]
        box = Box(9.65, middle - 1.25, 1.4, 2.5)
        for behind in (0.16, 0.08):  # a pile of blocks
            _draw(axes, Box(box.left + behind, box.bottom + behind, box.width, box.height), _colour(tune), "", "")
        told = f"{config['layers']} blocks\nwidth {width}\n{config['heads']} heads"
        _draw(axes, box, _colour(tune), {"gpt2": "GPT-2"}.get(config["backbone"], config["backbone"]), told)
        axes.text(box.left + box.width / 2, box.bottom - 0.12, _tuned(tune), ha="center", va="top", fontsize=13.5)
    _arrow(axes, embed, box)
    _shape(axes, (embed.left + embed.width + box.left) / 2, middle, tokens, width)
    return box


def _colour(tune: str) -> str:
    return TRAINED if tune == "full" else FROZEN


def _tuned(tune: str) -> str:
    """What of the backbone trains, in words."""
    if tune.startswith("last:"):
        return f"last {tune.partition(':')[2]} blocks train"
    told = {
        "full": "all of it trains",
        "fpt": "norms and\npositions train",
        "lora": "low-rank updates train",
        "frozen": "frozen",
    }
    return told[tune]


def _gestures(axes: Axes, head: Box, classes: Sequence[str], middle: float) -> None:
    """The names of the classes to the right of the head, one score each."""
    step = min(0.33, 3.4 / len(classes))
    top = middle + step * (len(classes) - 1) / 2
    x = head.left + head.width
    for place, name in enumerate(classes):
        height = top - step * place
        axes.plot([x, x + 0.25], [middle + (height - middle) * 0.5, height], color=EDGE, linewidth=0.9)
        axes.text(x + 0.3, height, name, va="center", fontsize=min(13.5, 40 * step))
    axes.text(x + 0.3, top + 0.32, f"{len(classes)} scores", va="bottom", fontsize=13.5, weight="bold")


def _legend(axes: Axes, parameters: Mapping[str, int]) -> None:
    handles = [
        Patch(facecolor=FIXED, edgecolor=EDGE, label="computed, no parameters"),
        Patch(facecolor=TRAINED, edgecolor=EDGE, label="trains"),
    ]
    if parameters["trainable"] < parameters["total"]:
        frozen = "kept as it was, but for what stands below it"
        handles.append(Patch(facecolor=FROZEN, edgecolor=EDGE, hatch="////", label=frozen))
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.015, 0.0), ncols=3, fontsize=13, frameon=False)
    told = f"{_many(parameters['trainable'])} of {_many(parameters['total'])} parameters train"
    axes.text(WIDTH - 0.3, 0.27, told, ha="right", va="center", fontsize=13.5)


def _many(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
