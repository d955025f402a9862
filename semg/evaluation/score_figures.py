"""Figures of scores, from arrays: no file formats of this project, no models. The same input gives the same bytes.

matplotlib's objects are used directly, without pyplot's global state.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from semg.common.console import counted
from semg.common.files import atomic_path
from semg.evaluation import metrics, palette
from semg.evaluation.metrics import FEWEST_FOR_INTERVAL, Metric, bootstrap_interval
from semg.evaluation.palette import BLUE, GREY, ORANGE

MARKERS = "os^v"  # markers of metrics, in the registry's order
SIMULATED = " (SIMULATED)"  # end of a title
NO_INTERVAL = f"no interval: fewer than {FEWEST_FOR_INTERVAL} people"
DPI = 120
MOST_WITH_COUNTS = 20  # classes of a confusion matrix that also states numbers of windows
_TITLE_SIZE = 13  # points
_MARKER = 8.0  # points, of a person
_NAME = 0.085  # inches, a character of a person's name
CONFUSION, SUBJECTS = "Windows by true and decided gesture", "Every person scored"  # titles
# A decorator: a user's matplotlibrc does not change pictures, and `$` in a name is a character, not mathematics.
usual_style = matplotlib.rc_context(
    {**matplotlib.rcParamsDefault, "text.parse_math": False, "grid.color": "#dddddd", "axes.axisbelow": True}
)


@usual_style
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without date or version in it."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


@usual_style
def pixels(figure: Figure) -> np.ndarray:
    """(height, width, 3) uint8; without pyplot, which would use a backend that a notebook may have set in
    MPLBACKEND."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, size in inches, with the project's fonts and margins."""
    return Figure(figsize=(width, height), layout="constrained")


def wrapped(text: str, width: float, size: float) -> str:
    """`text` in as many lines as a width in inches requires, at a font size in points."""
    room = max(1, int(72 * width / (0.6 * size)))  # characters; each is about 0.6 of the font size wide
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, room, break_on_hyphens=False))


def height_of(lines: int, size: float) -> float:
    """Inches that lines of text need, at a font size in points."""
    return lines * 1.25 * size / 72


def headline(figure: Figure, title: str) -> None:
    """The title above everything, in as many lines as the figure's width requires."""
    figure.suptitle(wrapped(title, figure.get_figwidth(), _TITLE_SIZE), fontsize=_TITLE_SIZE)


@usual_style
def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str = CONFUSION) -> Figure:
    """A confusion matrix: rows true, columns decided; the colour is the fraction of the row, the cell states both
    numbers.

    Of more than MOST_WITH_COUNTS classes, cells are smaller and state the percentage alone, and nothing where it rounds
    to 0: thousands of numbers take many seconds to draw, and most of them are zeros.
    """
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    many = len(classes) > MOST_WITH_COUNTS
    cell, name_size, number_size = (0.3, 8.5, 8.0) if many else (0.72, 11.0, 10.5)  # inches, points, points
    size = 2.6 + cell * len(classes)
    # inches that long names need, beside and below
    longer = 0.09 * name_size / 11 * max(0, max(map(len, classes)) - 14)
    figure = new_figure(size + 0.8 + longer, size + 0.7 * longer)
    axes = figure.add_subplot()
    # aspect auto: the layout has no room for the labels of axes that keep their own shape
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    places = np.arange(len(classes))
    axes.set_xticks(places, classes, rotation=40, ha="right", rotation_mode="anchor", fontsize=name_size)
    axes.set_yticks(places, classes, fontsize=name_size)
    axes.set_xlabel("decided", fontsize=12)
    axes.set_ylabel("true", fontsize=12)
    for row, column in np.ndindex(counts.shape):
        percent = f"{100 * share[row, column]:.0f}"
        if many and percent == "0":
            continue
        dark = share[row, column] > 0.5
        text = percent if many else f"{percent}%\n{counts[row, column]}"
        # zeros are frequent and therefore pale
        colour = "white" if dark else "black" if counts[row, column] else "#9a9a9a"
        axes.text(column, row, text, ha="center", va="center", fontsize=number_size, color=colour, in_layout=False)
    label = "share of the true class" + (" (numbers: %, from 1 on)" if many else "")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}", label=label)
    headline(figure, title)
    return figure


def confusion_matrix(path: Path, counts: np.ndarray, classes: Sequence[str], title: str = CONFUSION) -> None:
    """Write `confusion_figure`."""
    save(confusion_figure(counts, classes, title), path)


@usual_style
def per_subject(
    path: Path,
    subjects: Mapping[str, Mapping[str, Any]],
    chance: Mapping[str, float | None],
    ci95: Mapping[str, Sequence[float] | None],
    title: str = SUBJECTS,
) -> None:
    """A dot for every person and each headline metric, sorted by the first metric, with the means and chance levels.

    subjects: person -> fractions by name; chance: means over people by name; ci95: ends of the means' 95 % intervals by
    name, drawn as bands, None if there are too few people.
    """
    reported = metrics.headlines()
    first = reported[0]
    order = sorted(subjects, key=lambda subject: (first.rank(subjects[subject][first.name]), subject))
    places = np.arange(len(order))
    width = max(6.0, 2.5 + 0.28 * len(order))
    longest = _NAME * (1 + max(map(len, order)))
    fits = longest < (width - 1) / len(order)  # else the names are turned, and the figure is higher by their length
    figure = new_figure(width, 5.4 if fits else 5.4 + longest)
    axes = figure.add_subplot()
    asides = _MARKER * (np.arange(len(reported)) - (len(reported) - 1) / 2)  # equal scores would hide each other
    for metric, colour, marker, aside in zip(reported, palette.METRICS, MARKERS, asides, strict=False):
        values = np.array([subjects[subject][metric.name] for subject in order], float)
        mean = np.nanmean(values)
        label = f"{metric.label}, mean {mean:.3f}"
        axes.axhline(mean, color=colour, linewidth=1.2, linestyle="--")
        if interval := ci95[metric.name]:
            axes.axhspan(*interval, color=colour, alpha=0.13, linewidth=0)
            label += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        else:
            label += f" ({NO_INTERVAL})"
        shifted = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
        axes.plot(
            places,
            values,
            marker,
            color=colour,
            markersize=_MARKER,
            transform=shifted,
            clip_on=False,  # a marker at 0 or 1 is whole
            label=label,
        )
        draw_chance(axes, metric, chance[metric.name], colour)
    axes.set_xticks(places, order, fontsize=10, rotation=0 if fits else 90)
    axes.set_xlabel("person", fontsize=12)
    axes.set_ylabel("score, 0 to 1", fontsize=12)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", fontsize=10)  # inside the axes it could hide a person
    headline(figure, title)
    save(figure, path)


def draw_chance(axes: Axes, metric: Metric, chance: float | None, colour: str) -> None:
    """A dotted line at the value of `metric` for decisions that ignore the signal."""
    if chance is not None:
        axes.axhline(
            chance, color=colour, linewidth=1.4, linestyle=":", label=f"{metric.label} by chance, {chance:.3f}"
        )


@usual_style
def learning_curves(path: Path, rows: Sequence[Mapping[str, float]], title: str = "Learning curves") -> None:
    """Loss and leading metric by epoch, training and validation; rows as in metrics.jsonl."""
    epochs = [row["epoch"] for row in rows]
    first = metrics.METRICS[0]
    best = max(rows, key=lambda row: first.rank(row[f"val/{first.name}"]))["epoch"]  # of equal scores, the first
    figure = new_figure(9, 4.2)
    for place, criterion in enumerate((metrics.LOSS, first)):
        key, axes = criterion.name, figure.add_subplot(1, 2, place + 1)
        for subset, label, marker in (("train", "training", "s"), ("val", "validation", "o")):
            values = [row[f"{subset}/{key}"] for row in rows]
            axes.plot(epochs, values, color=palette.SUBSETS[subset], marker=marker, markersize=5, label=label)
        axes.axvline(best, color=GREY, linewidth=1.2, linestyle=":", label=f"best validation {first.label}")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.set_xlabel("epoch", fontsize=12)
        over_people = "" if criterion is metrics.LOSS else "\n(validation: mean over people)"
        axes.set_ylabel(f"{criterion.label}{over_people}", fontsize=12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=11, ncols=3)
    headline(figure, title)
    save(figure, path)


@usual_style
def compare(
    path: Path,
    subjects: Mapping[str, Mapping[str, float]],
    metric: Metric,
    reference: str | None = None,
    title: str = "",
) -> None:
    """Methods from top to bottom in the order given: a dot for every person, the mean and its interval.

    subjects: method -> person -> fraction. With a reference, a second panel shows each person's difference from it.
    """
    panels: list[tuple[str, dict[str, np.ndarray]]] = [
        (f"{metric.label}: every person a dot", {name: np.array(list(one.values())) for name, one in subjects.items()})
    ]
    if reference is not None:
        base = subjects[reference]
        differences = {
            name: np.array([one[who] - base[who] for who in one if who in base])
            for name, one in subjects.items()
            if name != reference
        }
        panels.append((f"{metric.label} minus that of {reference}", {reference: np.empty(0)} | differences))
    names = [f"{name} (reference)" if name == reference else name for name in subjects]
    labels = [wrapped(label, 4.4, 11) for label, _ in panels]
    higher = height_of(max(label.count("\n") for label in labels), 11)
    figure = new_figure(0.8 + 0.09 * max(map(len, names)) + 4.6 * len(panels), 1.9 + 0.45 * len(subjects) + higher)
    few = False
    for place, (label, (_, values)) in enumerate(zip(labels, panels, strict=True)):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for row, name in enumerate(subjects):
            few |= _draw_people(axes, row, values[name], ORANGE if name == reference else BLUE)
        axes.set_yticks(range(len(subjects)), names if place == 0 else [], fontsize=11)
        axes.set_ylim(len(subjects) - 0.5, -0.5)
        axes.margins(x=0.06)
        axes.set_xlabel(label, fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(6))  # the default writes more numbers than there is room for
        axes.grid(axis="x")
        if place:
            axes.axvline(0, color=ORANGE, linewidth=1.2)
            better = "right" if metric.rank(1.0) > metric.rank(0.0) else "left"
            axes.set_title(f"every person a dot; {better} of the line: better than the reference", fontsize=10)
    below = "black: the mean over people" + ("" if few else " and its 95 % interval")
    figure.supxlabel(f"{below}; {NO_INTERVAL}" if few else below, fontsize=10)
    headline(figure, title)
    save(figure, path)


def _draw_people(axes: Axes, row: int, values: np.ndarray, colour: str) -> bool:
    """Dots, mean and interval in one row; returns whether there were too few people for an interval."""
    if not len(values):
        return False
    beside = row + 0.25 * np.sin(2.4 * np.arange(len(values)))  # so that equal values are visible as two dots
    axes.plot(values, beside, "o", color=colour, alpha=0.45, markersize=5.5, markeredgewidth=0)
    interval = bootstrap_interval(values)
    if interval is not None:
        axes.plot(interval, [row, row], color="black", linewidth=1.8, solid_capstyle="butt")
    axes.plot([values.mean()], [row], "D", color="black", markersize=6)
    return interval is None


@usual_style
def calibration(
    path: Path,
    subjects: Mapping[int, Mapping[str, Mapping[str, np.ndarray]]],
    chance: Mapping[int, Mapping[str, float | None]],
    title: str,
    *,
    adapted: bool = False,
) -> None:
    """Scores by the number of repetitions of each gesture used for calibration; a thin line for every person.

    subjects: repetitions -> `calibrated` and `uncalibrated` -> metric -> (n_people,) fractions, people always
    in the same order. For a given number of repetitions both are scored on the same windows; other numbers have others.
    chance: repetitions -> the mean over people for decisions that ignore the signal, by name of the metric. adapted:
    whether the calibrated model was also adapted to each session.
    """
    counts = sorted(subjects)
    reported = metrics.headlines()
    figure = new_figure(9.5, 4.6)
    for place, metric in enumerate(reported):
        axes = figure.add_subplot(1, len(reported), place + 1)
        # shifted sideways: two intervals at the same place would hide each other
        for which, colour, marker, aside, model_words in (
            ("uncalibrated", ORANGE, "s", -0.03, "the uncalibrated model, on the same windows"),
            ("calibrated", BLUE, "o", 0.03, "calibrated to the person" + (", and adapted" if adapted else "")),
        ):
            values = np.stack([subjects[count][which][metric.name] for count in counts])  # (counts, people)
            places = np.array(counts) + aside
            axes.plot(places, values, color=colour, alpha=0.3, linewidth=0.9)
            people = counted(values.shape[1], "person", "people")
            means, errors = values.mean(axis=1), _errors(values)
            label = f"{model_words}: mean over {people}, {NO_INTERVAL if errors is None else '95 % interval'}"
            axes.errorbar(
                places,
                means,
                errors,
                color=colour,
                marker=marker,
                markersize=7,
                linewidth=1.8,
                capsize=4,
                clip_on=False,  # a marker at 0 or 1 is whole
                label=label,
            )
        _draw_chances(axes, metric, {count: chance[count][metric.name] for count in counts})
        axes.set_xticks(counts)
        axes.set_xlim(counts[0] - 0.5, counts[-1] + 0.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel("labelled repetitions of each gesture", fontsize=12)
        axes.set_ylabel(f"{metric.label}, 0 to 1", fontsize=12)
        axes.grid()
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    order = sorted(handles, key=lambda label: "by chance" in label)  # models first
    figure.legend([handles[label] for label in order], order, loc="outside lower center", fontsize=10)
    headline(figure, title)
    save(figure, path)


def _draw_chances(axes: Axes, metric: Metric, chance: Mapping[int, float | None]) -> None:
    """A dotted line through the value of `metric` by chance at each place, in rising order; none if one is unknown."""
    levels = [level for level in chance.values() if level is not None]
    if len(levels) < len(chance):
        return
    places = [*chance]
    ends = dict.fromkeys(f"{level:.3f}" for level in (min(levels), max(levels)))  # one if they are equal
    axes.plot(
        [places[0] - 0.5, *places, places[-1] + 0.5],
        [levels[0], *levels, levels[-1]],
        color=GREY,
        linewidth=1.4,
        linestyle=":",
        label=f"{metric.label} by chance, {' to '.join(ends)}",
    )


def _errors(values: np.ndarray) -> np.ndarray | None:
    """(2, counts) distances from the means of (counts, people) to the ends of their intervals; None for too few
    people."""
    ends = [bootstrap_interval(row) for row in values]
    return None if None in ends else np.abs(np.array(ends).T - values.mean(axis=1))
