"""Figures from arrays: no file formats of ours, no models. The same input gives the same bytes.

matplotlib's objects are used directly, without pyplot's global state. Colours are from the Okabe-Ito palette and
the viridis family, which colour-blind readers can tell apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semg.common.console import counted
from semg.common.files import atomic_path
from semg.evaluation.metrics import bootstrap_interval

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
DPI = 120
CONFUSION, SUBJECTS = "Windows by true and decided gesture", "Every person scored"  # titles
# a decorator, so that nobody's matplotlibrc changes a picture
usual_style = matplotlib.rc_context(matplotlib.rcParamsDefault)


@usual_style
def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without a date or a version in it."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches, with the project's fonts and margins."""
    return Figure(figsize=(width, height), layout="constrained")


@usual_style
def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str = CONFUSION) -> Figure:
    """A confusion matrix: rows true, columns decided; colour is the share of the row, the cell tells both."""
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    size = 2.6 + 0.72 * len(classes)
    figure = new_figure(size + 0.8, size)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(classes))
    axes.set_xticks(places, classes, rotation=40, ha="right", rotation_mode="anchor", fontsize=11)
    axes.set_yticks(places, classes, fontsize=11)
    axes.set_xlabel("decided", fontsize=12)
    axes.set_ylabel("true", fontsize=12)
    for row, column in np.ndindex(counts.shape):
        dark = share[row, column] > 0.5
        text = f"{share[row, column]:.0%}\n{counts[row, column]}"
        colour = "white" if dark else "black" if counts[row, column] else "#9a9a9a"  # noughts are many
        axes.text(column, row, text, ha="center", va="center", fontsize=10.5, color=colour)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format="{x:.0%}", label="share of the true class")
    axes.set_title(title, fontsize=13)
    return figure


def confusion_matrix(path: Path, counts: np.ndarray, classes: Sequence[str], title: str = CONFUSION) -> None:
    """Write `confusion_figure`."""
    save(confusion_figure(counts, classes, title), path)


@usual_style
def per_subject(
    path: Path,
    subjects: Mapping[str, Mapping[str, Any]],
    classes: int,
    ci95: Mapping[str, Sequence[float] | None] | None = None,
    title: str = SUBJECTS,
) -> None:
    """A dot for every person, accuracy and macro-F1, sorted by macro-F1, with the means and chance.

    subjects: person -> fractions by name; ci95: ends of the means' 95 % intervals by name, drawn as bands.
    """
    order = sorted(subjects, key=lambda subject: (subjects[subject]["macro_f1"], subject))
    places = np.arange(len(order))
    figure = new_figure(max(6.0, 2.5 + 0.28 * len(order)), 5.0)
    axes = figure.add_subplot()
    for key, colour, marker, name in (("accuracy", ORANGE, "s", "accuracy"), ("macro_f1", BLUE, "o", "macro-F1")):
        values = np.array([subjects[subject][key] for subject in order], float)
        told = f"{name}, mean {values.mean():.3f}"
        axes.axhline(values.mean(), color=colour, linewidth=1.2, linestyle="--")
        if interval := (ci95 or {}).get(key):
            axes.axhspan(*interval, color=colour, alpha=0.13, linewidth=0)
            told += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        axes.plot(places, values, marker, color=colour, markersize=8, label=told)
    axes.axhline(1 / classes, color=GREY, linewidth=1.2, linestyle=":", label=f"accuracy by chance, 1/{classes}")
    axes.set_xticks(places, order, fontsize=10, rotation=90 if len(order) > 24 else 0)
    axes.set_xlabel("person", fontsize=12)
    axes.set_ylabel("share of windows, F1", fontsize=12)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", fontsize=10)  # inside, it could hide a person
    axes.set_title(title, fontsize=13)
    save(figure, path)


@usual_style
def learning_curves(path: Path, rows: Sequence[Mapping[str, float]], title: str = "Learning curves") -> None:
    """Loss and macro-F1 by epoch, training and validation; rows as in metrics.jsonl."""
    epochs = [row["epoch"] for row in rows]
    best = max(rows, key=lambda row: row["val/macro_f1"])["epoch"]  # the first of equals, as training keeps it
    figure = new_figure(9, 4.2)
    for place, (key, name) in enumerate((("loss", "loss, nats"), ("macro_f1", "macro-F1"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for subset, colour, marker in (("train", ORANGE, "s"), ("val", BLUE, "o")):
            values = [row[f"{subset}/{key}"] for row in rows]
            told = "training" if subset == "train" else "validation"
            axes.plot(epochs, values, color=colour, marker=marker, markersize=5, label=told)
        axes.axvline(best, color=GREY, linewidth=1.2, linestyle=":", label="highest validation macro-F1")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.set_xlabel("epoch", fontsize=12)
        axes.set_ylabel(name, fontsize=12)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=11, ncols=3)
    figure.suptitle(title, fontsize=13)
    save(figure, path)


@usual_style
def compare(
    path: Path,
    subjects: Mapping[str, np.ndarray],
    intervals: Mapping[str, tuple[float, float]],
    metric: str,
    reference: str | None = None,
) -> None:
    """Methods from top to bottom in the order given: every person a dot, the mean and its interval.

    subjects: method -> (n_people,) fractions; intervals: method -> ends of the mean's 95 % interval.
    """
    figure = new_figure(8.5, 1.6 + 0.45 * len(subjects))
    axes = figure.add_subplot()
    for row, (name, values) in enumerate(subjects.items()):
        colour = ORANGE if name == reference else BLUE
        beside = row + 0.25 * np.sin(2.4 * np.arange(len(values)))  # so that equal values show as two dots
        axes.plot(values, beside, "o", color=colour, alpha=0.45, markersize=5.5, markeredgewidth=0)
        axes.plot(intervals[name], [row, row], color="black", linewidth=1.8, solid_capstyle="butt")
        axes.plot([values.mean()], [row], "D", color="black", markersize=6)
    names = [f"{name} (reference)" if name == reference else name for name in subjects]
    axes.set_yticks(range(len(subjects)), names, fontsize=11)
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.margins(x=0.06)
    axes.set_xlabel(f"{metric}: every person a dot,\nblack the mean over people and its 95 % interval", fontsize=11)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    save(figure, path)


@usual_style
def calibration(
    path: Path,
    subjects: Mapping[int, Mapping[str, Mapping[str, np.ndarray]]],
    classes: int,
    title: str,
) -> None:
    """Scores against the repetitions of each gesture that a model was adapted with; every person a thin line.

    subjects: repetitions -> `adapted` and `unadapted` -> metric -> (n_people,) fractions, people in one order. Both are
    scored on the same windows at each number of repetitions, on other windows at another number.
    """
    counts = sorted(subjects)
    figure = new_figure(9.5, 4.6)
    for place, (metric, name) in enumerate((("macro_f1", "macro-F1"), ("accuracy", "accuracy"))):
        axes = figure.add_subplot(1, 2, place + 1)
        for which, colour, marker, aside, told in (
            ("unadapted", ORANGE, "s", -0.03, "the model as it was, on the same windows"),
            ("adapted", BLUE, "o", 0.03, "adapted to the person"),
        ):  # aside: two intervals at one place would hide each other
            values = np.stack([subjects[count][which][metric] for count in counts])  # (counts, people)
            places = np.array(counts) + aside
            axes.plot(places, values, color=colour, alpha=0.3, linewidth=0.9)
            means = values.mean(axis=1)
            ends = np.array([bootstrap_interval(row) for row in values])
            errors = np.abs(ends.T - means)
            label = f"{told}: mean over {counted(values.shape[1], 'person', 'people')}, 95 % interval"
            axes.errorbar(
                places, means, errors, color=colour, marker=marker, markersize=7, linewidth=1.8, capsize=4, label=label
            )
        axes.axhline(1 / classes, color=GREY, linewidth=1.2, linestyle=":", label="accuracy by chance")
        axes.set_xticks(counts)
        axes.set_xlim(counts[0] - 0.5, counts[-1] + 0.5)
        axes.set_ylim(0, 1)
        axes.set_xlabel("repetitions of each gesture to adapt with", fontsize=12)
        axes.set_ylabel(f"{name}, share" if metric == "accuracy" else name, fontsize=12)
        axes.grid(color="#dddddd")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=10)
    figure.suptitle(title, fontsize=13)
    save(figure, path)
