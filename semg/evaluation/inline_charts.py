"""Charts as SVG inside a page: they use the page's colours, light or dark, and print well.

Colours are classes defined in the page's style sheet: c0 is the method or the training, c1 what it is compared with,
`muted` is for reference lines. All texts are escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from semg.common.console import counted
from semg.evaluation.metrics import Criterion, Metric, bootstrap_interval
from semg.evaluation.predictions import Bin, Excerpt, unit_label

_LONGEST = 26  # most characters of a row's name; the full name is in the tooltip
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 40.0  # margins of a chart
_ROW = 26.0  # height of a row of dots


@dataclass(frozen=True)
class Axis:
    """A linear scale from the values low..high to the positions first..last in the drawing."""

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The position of `value`."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, most: int = 6, whole: bool = False) -> list[float]:
        """Round values inside the axis."""
        values = MaxNLocator(nbins=most, integer=whole, min_n_ticks=1).tick_values(self.low, self.high)
        slack = 1e-9 * (self.high - self.low)
        return [float(v) for v in values if self.low - slack <= v <= self.high + slack]


class Chart:
    """Elements of one drawing, `width` by `height`; `description` is for screen readers."""

    def __init__(self, width: float, height: float, description: str) -> None:
        self.width, self.height, self.description = width, height, description
        self._parts: list[Markup] = []

    def line(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(Markup('<polyline class="{}" points="{}"/>').format(css, path))

    def dot(self, x: float, y: float, css: str, tooltip: str, radius: float = 3.6) -> None:
        """A dot with a tooltip."""
        dot = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
        self._parts.append(dot.format(css, f"{x:.1f}", f"{y:.1f}", radius, tooltip))

    def box(self, x: float, y: float, width: float, height: float, css: str) -> None:
        """A filled rectangle."""
        box = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
        self._parts.append(box.format(css, *(f"{value:.1f}" for value in (x, y, width, height))))

    def text(self, x: float, y: float, words: str, css: str = "", tooltip: str = "") -> None:
        """A text at a position; css: `end` or `middle` say which part of the text is there."""
        title = Markup("<title>{}</title>").format(tooltip) if tooltip else ""
        text = Markup('<text class="{}" x="{}" y="{}">{}{}</text>')
        self._parts.append(text.format(css, f"{x:.1f}", f"{y:.1f}", title, words))

    def markup(self) -> Markup:
        """The drawing as SVG."""
        head = Markup('<svg viewBox="0 0 {} {}" style="max-width:{}px" role="img" aria-label="{}">')
        shape = f"{self.width:g}", f"{self.height:g}", f"{self.width:g}"
        return head.format(*shape, self.description) + Markup("").join(self._parts) + Markup("</svg>")

    def across(self, axis: Axis, label: str, *, whole: bool = False) -> None:
        """The horizontal axis: ticks and a label below."""
        bottom = self.height - _BOTTOM
        for value in axis.ticks(whole=whole):
            self.line([(axis.at(value), _TOP), (axis.at(value), bottom)], "grid")
            self.text(axis.at(value), bottom + 15, f"{_zero(value):g}", "middle small")
        self.text((axis.first + axis.last) / 2, self.height - 7, label, "middle")

    def up(self, axis: Axis, label: str) -> None:
        """The vertical axis: ticks on the left, and a label above."""
        for value in axis.ticks(5):
            self.line([(_LEFT, axis.at(value)), (self.width - _RIGHT, axis.at(value))], "grid")
            self.text(_LEFT - 6, axis.at(value) + 4, f"{_zero(value):g}", "end small")
        self.text(_LEFT, _TOP - 3, label, "small")


def _zero(value: float) -> float:
    return 0.0 if abs(value) < 1e-12 else value


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _range(values: Iterable[float], pad: float = 0.06) -> tuple[float, float]:
    """The smallest and the largest of the values, with some margin; never of zero width."""
    known = list(values)
    low, high = min(known), max(known)
    room = pad * (high - low) or max(abs(low) * pad, 0.01)
    return low - room, high + room


def learning_curve(rows: Sequence[Mapping[str, float]], criterion: Criterion, best: int) -> Markup:
    """One criterion by epoch, training and validation. rows: as in metrics.jsonl; best: the epoch to mark."""
    chart = Chart(420, 240, f"{criterion.label} by epoch")
    epochs = [row["epoch"] for row in rows]
    across = Axis(*_range([min(epochs) - 0.4, max(epochs) + 0.4], 0.0), _LEFT, chart.width - _RIGHT)
    values = {subset: [row[f"{subset}/{criterion.name}"] for row in rows] for subset in ("train", "val")}
    up = Axis(*_range([*values["train"], *values["val"]]), chart.height - _BOTTOM, _TOP)
    chart.across(across, "epoch", whole=True)
    chart.up(up, criterion.label)
    chart.line([(across.at(best), up.first), (across.at(best), up.last)], "muted dashed")
    for subset, css in (("train", "c1"), ("val", "c0")):
        points = [(across.at(epoch), up.at(value)) for epoch, value in zip(epochs, values[subset], strict=True)]
        chart.line(points, css)
        for (x, y), epoch, value in zip(points, epochs, values[subset], strict=True):
            chart.dot(x, y, css, f"epoch {epoch}, {subset}: {value:.4f}", 2.6)
    return chart.markup()


def people(
    values: Mapping[str, Mapping[str, float]],
    metric: Metric,
    label: str,
    *,
    chance: float | None = None,
    zero: bool = False,
) -> Markup:
    """One row per name: a dot for every person, the mean and its interval. values: name -> person -> fraction.

    chance: position of a dashed line; zero: draw a line at 0, for differences.
    """
    scale = 100.0 if metric.share else 1.0
    left = 190.0
    chart = Chart(680, _TOP + _ROW * len(values) + _BOTTOM, label)
    everything = [scale * value for one in values.values() for value in one.values()]
    everything += [0.0] if zero else [] if chance is None else [scale * chance]
    axis = Axis(*_range(everything), left, chart.width - _RIGHT)
    chart.across(axis, label)
    bottom = chart.height - _BOTTOM
    if zero or chance is not None:
        at = axis.at(0.0 if zero else scale * (chance or 0.0))
        chart.line([(at, _TOP), (at, bottom)], "muted" if zero else "muted dashed")
    for place, (name, one) in enumerate(values.items()):
        y = _TOP + _ROW * (place + 0.5)
        chart.text(left - 10, y + 4, _short(name), "end", name)
        for order, (who, value) in enumerate(one.items()):
            aside = 6 * np.sin(2.4 * order)  # so that equal values are visible as two dots
            chart.dot(axis.at(scale * value), y + aside, "c0 pale", f"{who}: {metric.text(value, '+' if zero else '')}")
        mean = float(np.mean(list(one.values())))
        interval = bootstrap_interval(list(one.values()))
        if interval is not None:
            chart.line([(axis.at(scale * end), y) for end in interval], "mean")
        chart.box(axis.at(scale * mean) - 2, y - 8, 4, 16, "mean")
    return chart.markup()


def before_after(pairs: Mapping[str, tuple[float, float]], metric: Metric, words: tuple[str, str]) -> Markup:
    """One row per person: a ring at the score before, a dot at the score after, and the line between them. If the score
    did not change, there is only the ring.

    words: what the models before and after are called.
    """
    scale = 100.0 if metric.share else 1.0
    left, row = 190.0, 20.0
    chart = Chart(680, _TOP + row * len(pairs) + _BOTTOM, f"{metric.label}, {words[0]} and {words[1]}, by person")
    axis = Axis(*_range(scale * value for pair in pairs.values() for value in pair), left, chart.width - _RIGHT)
    chart.across(axis, metric.head)
    for place, (who, (was, now)) in enumerate(pairs.items()):
        y = _TOP + row * (place + 0.5)
        chart.text(left - 10, y + 4, _short(who), "end", who)
        if now == was:
            chart.dot(axis.at(scale * was), y, "ring", f"{who}, {words[0]} and {words[1]}: {metric.text(was)}", 4.5)
            continue
        css = "c0" if metric.rank(now) > metric.rank(was) else "c1"
        chart.line([(axis.at(scale * was), y), (axis.at(scale * now), y)], css)
        chart.dot(axis.at(scale * was), y, "ring", f"{who}, {words[0]}: {metric.text(was)}", 4.5)
        chart.dot(axis.at(scale * now), y, css, f"{who}, {words[1]}: {metric.text(now)}", 4.5)
    return chart.markup()


def repetitions(means: Mapping[int, tuple[float, float]], metric: Metric) -> Markup:
    """Mean scores by the number of repetitions used for calibration: (without, with), both on the same windows."""
    scale = 100.0 if metric.share else 1.0
    chart = Chart(420, 240, f"{metric.label} by repetitions calibrated with")
    counts = sorted(means)
    across = Axis(counts[0] - 0.5, counts[-1] + 0.5, _LEFT, chart.width - _RIGHT)
    up = Axis(*_range(scale * value for pair in means.values() for value in pair), chart.height - _BOTTOM, _TOP)
    chart.across(across, "repetitions of each gesture", whole=True)
    chart.up(up, metric.head)
    for which, css, words in ((0, "c1", "without"), (1, "c0", "with")):
        points = [(across.at(count), up.at(scale * means[count][which])) for count in counts]
        chart.line(points, css)
        for (x, y), count in zip(points, counts, strict=True):
            chart.dot(x, y, css, f"{counted(count, 'repetition')}, {words}: {metric.text(means[count][which])}")
    return chart.markup()


def reliability(bins: Sequence[Bin]) -> Markup:
    """Fraction of correct decisions by confidence; on the dashed line the two are equal. Bars: number of windows."""
    chart = Chart(340, 300, "share of right decisions by confidence")
    across = Axis(0, 100, _LEFT, chart.width - _RIGHT)
    up = Axis(0, 100, chart.height - _BOTTOM, _TOP)
    chart.across(across, "confidence (%)")
    chart.up(up, "right (%)")
    total = sum(one.windows for one in bins)
    nearest = min((b.confidence - a.confidence for a, b in pairwise(bins)), default=1.0)
    width = min(18.0, 0.9 * (across.at(100 * nearest) - across.at(0)))  # narrow enough that bars do not overlap
    for one in bins:
        height = (up.first - up.last) * one.windows / total
        chart.box(across.at(100 * one.confidence) - width / 2, up.first - height, width, height, "pale")
    chart.line([(across.at(0), up.at(0)), (across.at(100), up.at(100))], "muted dashed")
    points = [(across.at(100 * one.confidence), up.at(100 * one.accuracy)) for one in bins]
    chart.line(points, "c0")
    for (x, y), one in zip(points, bins, strict=True):
        chart.dot(x, y, "c0", f"confidence {one.confidence:.1%}: {one.accuracy:.1%} right of {one.windows:,} windows")
    return chart.markup()


def traces(part: Excerpt) -> Markup:
    """Channels below each other on a common scale; the window is shaded."""
    n = part.values.shape[1]
    chart = Chart(420, _TOP + 34 * n + _BOTTOM, "signal of the window and around it")
    left = 74.0
    across = Axis(float(part.time[0]), float(part.time[-1]), left, chart.width - _RIGHT)
    bottom = chart.height - _BOTTOM
    chart.box(across.at(0), _TOP, across.at(part.length) - across.at(0), bottom - _TOP, "window")
    chart.across(across, "seconds from the window's start")
    top = float(np.percentile(np.abs(part.values), 99.5)) or 1.0
    columns = int(across.last - across.first) // 2  # each with a minimum and a maximum
    edges = np.unique(np.linspace(0, len(part.time), columns + 1).astype(int))
    for place, name in enumerate(part.channels):
        middle = _TOP + 34 * (place + 0.5)
        values = np.clip(part.values[:, place] / top, -1.4, 1.4) * 17
        ends = [(a + values[a:b].argmin(), a + values[a:b].argmax()) for a, b in pairwise(edges)]
        places = [k for pair in ends for k in sorted(set(pair))]  # only one if all values are equal
        chart.line([(across.at(part.time[k]), middle - values[k]) for k in places], "trace")
        chart.text(left - 6, middle + 4, name if len(name) <= 9 else f"{name[:8]}…", "end small", name)
    chart.text(left, _TOP - 3, f"rows are {2 * top:.3g} {unit_label(part.unit)} apart", "small")
    return chart.markup()
