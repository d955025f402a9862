"""Figures of signals and of data sets, from arrays: no files, no models. The same input gives the same bytes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from semg.evaluation import palette
from semg.evaluation.palette import BLUE, GREY, ORANGE
from semg.evaluation.predictions import Excerpt, unit_label
from semg.evaluation.score_figures import headline, height_of, new_figure, save, usual_style, wrapped

_MOST_LARGE = 16  # gestures of a legend in large letters
_REPEATED = "some gestures have the same colour; the names are on the bars that are wide enough"
COLUMNS = 1600  # columns of a figure's traces; more samples are drawn as the minimum and maximum of each column
Segment = tuple[float, float, int]  # beginning and end in seconds, class


@usual_style
def recording(
    path: Path,
    signal: np.ndarray,
    rate: float,
    channels: Sequence[str],
    segments: Sequence[Segment],
    classes: Sequence[str],
    title: str,
    begin: float = 0.0,
    *,
    colours: Sequence[str],
    unit: str = "uV",
) -> None:
    """Channels over time, below each other on a common scale, with coloured bands for gestures.

    signal: (T, C) in `unit`, as in shard.json, at `rate` Hz, its first sample at `begin` seconds; segments: of each
    class; colours: of the classes.
    """
    figure = new_figure(13, 2.4 + 0.26 * max(6, signal.shape[1]))
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 3 + 0.8 * signal.shape[1]])
    end = begin + len(signal) / rate
    segments = [(first, last, label) for first, last, label in segments if first < end and last > begin]
    label_strip(strip, segments, classes, colours, begin, end)
    for first, last, label in segments:
        axes.axvspan(first, last, color=colours[label], alpha=0.22, linewidth=0)
    draw_channels(axes, signal, rate, channels, begin, unit)
    axes.set_xlim(begin, end)
    axes.set_xlabel("time, s", fontsize=12)
    axes.set_ylabel("channel", fontsize=12)
    legend(figure, [label for _, _, label in segments], classes, colours)
    headline(figure, title)
    save(figure, path)


def legend(figure: Figure, labels: Iterable[int], classes: Sequence[str], colours: Sequence[str]) -> None:
    """A legend of the gestures' colours, below everything; the figure becomes higher if it has many rows.

    It says so if colours repeat.
    """
    used = sorted(set(labels))
    if not used:
        return
    size = 11.0 if len(used) <= _MOST_LARGE else 8.5  # points
    handles = [Patch(color=colours[label], label=classes[label]) for label in used]
    repeats = len({colours[label] for label in used}) < len(used)
    title = _REPEATED if repeats else None
    fit = max(1, int(figure.get_figwidth() / ((0.55 + 0.085 * max(len(classes[label]) for label in used)) * size / 11)))
    renderer = FigureCanvasAgg(figure).get_renderer()
    while True:
        rows = -(-len(used) // fit)
        columns = -(-len(used) // rows)
        drawn = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=size, title=title)
        if columns == 1 or drawn.get_window_extent(renderer).width <= figure.bbox.width:
            break
        drawn.remove()
        fit = columns - 1
    more = rows + repeats - 2  # two rows have their room
    figure.set_figheight(figure.get_figheight() + height_of(max(0, more), 1.2 * size))


def label_strip(
    axes: Axes, segments: Sequence[Segment], classes: Sequence[str], colours: Sequence[str], begin: float, end: float
) -> None:
    """A row of coloured bars, with the gestures' names in those that are wide enough."""
    for first, last, label in segments:
        axes.axvspan(first, last, color=colours[label], linewidth=0)
        inside = min(last, end) - max(first, begin)
        wide = inside > (end - begin) * 0.0078 * len(classes[label])
        if wide:
            middle = (max(first, begin) + min(last, end)) / 2
            ink = palette.letters_on(colours[label])
            axes.text(middle, 0.5, classes[label], ha="center", va="center", fontsize=10, color=ink)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(bottom=False)
    for side in axes.spines.values():
        side.set_visible(False)


def alike_but_wrong(truth: Sequence[Segment], decided: Sequence[Segment], colours: Sequence[str]) -> list[Segment]:
    """The parts of wrong decisions whose colour is that of the truth, which would look right."""
    if len(set(colours)) == len(colours):  # nearly always; a long recording has thousands of parts
        return []
    return [
        (max(begin, first), min(end, last), label)
        for first, last, label in decided
        for begin, end, actual in truth
        if label != actual and colours[label] == colours[actual] and max(begin, first) < min(end, last)
    ]


def draw_channels(
    axes: Axes, signal: np.ndarray, rate: float, channels: Sequence[str], begin: float, unit: str = "uV"
) -> float:
    """Draw channels from top to bottom, each within its own row, and state the distance between rows.

    Signals larger than a row, of a few channels or for a short time, are clipped, and the figure says so. Returns the
    distance between rows in `unit`, that of the signal.
    """
    low, high, time = _envelope(signal, rate, begin)
    reach = np.percentile(np.maximum(-low, high), 98, axis=0)  # for each channel; few columns are larger
    step = _round_up(2.1 * float(np.percentile(reach, 90, method="higher")))
    most = 0.49 * step
    cut = low.min() < -most or high.max() > most
    low, high = np.clip(low, -most, most), np.clip(high, -most, most)
    single = np.array_equal(low, high)
    for row in range(signal.shape[1]):
        place = -row * step
        if single:  # filling a band without height takes a minute
            axes.plot(time, low[:, row] + place, color="#222222", linewidth=0.6)
        else:
            axes.fill_between(time, low[:, row] + place, high[:, row] + place, color="#222222", linewidth=0.35)
    axes.set_yticks([-row * step for row in range(signal.shape[1])], channels, fontsize=9)
    axes.set_ylim(-(signal.shape[1] - 0.4) * step, 0.6 * step)
    label = unit_label(unit)
    distance = f"rows are {step:g} {label} apart" + (f"; cut beyond ±{most:g} {label}" if cut else "")
    axes.set_title(distance, fontsize=10, loc="right", color="#555555")
    return step


def _envelope(signal: np.ndarray, rate: float, begin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum and maximum sample (n, C) in each column of the picture, and the columns' times (n,)."""
    size = max(1, len(signal) // COLUMNS)
    count = len(signal) // size
    parts = signal[: count * size].astype(np.float32).reshape(count, size, -1)
    return parts.min(1), parts.max(1), begin + (np.arange(count) + 0.5) * size / rate


def _round_up(value: float) -> float:
    """The next of 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, ... that is at least `value`."""
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(
        next(power * digit for digit in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * digit >= value * 0.9999)
    )


@usual_style
def spectrum(path: Path, frequency: np.ndarray, before: np.ndarray, after: np.ndarray, title: str) -> None:
    """Power spectral density before and after the filter: median over channels, and the range of 80 % of them.

    frequency: (F,) Hz, the first above 0; before, after: (F, C) uV^2/Hz.
    """
    figure = new_figure(10, 5)
    axes = figure.add_subplot()
    for density, colour, name in ((before, ORANGE, "as recorded"), (after, BLUE, "filtered")):
        low, middle, high = np.percentile(np.maximum(density, 1e-12), (10, 50, 90), axis=1)
        axes.fill_between(frequency, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(frequency, middle, color=colour, linewidth=1.3, label=f"{name}: median of the channels")
    axes.set_xscale("log")
    axes.set_yscale("log")
    if len(frequency) > 1:
        axes.set_xlim(frequency[0], frequency[-1])
    top = max(float(before.max()), 1e-11)  # 0 if all channels are dead
    axes.set_ylim(max(top * 1e-9, float(np.percentile(after, 10)) / 10), top * 3)
    # the default one writes TeX, which is switched off
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    inside = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if frequency[0] <= t <= frequency[-1]]
    axes.set_xticks(inside, [str(t) for t in inside])  # a tick outside would widen the axis
    axes.set_xlabel("frequency, Hz", fontsize=12)
    axes.set_ylabel("power spectral density, µV²/Hz", fontsize=12)
    axes.grid()
    axes.legend(fontsize=11, title="bands: 80 % of the channels")
    headline(figure, title)
    save(figure, path)


@usual_style
def electrodes(
    path: Path,
    rms: np.ndarray,
    classes: Sequence[str],
    rings: int,
    title: str,
    rest: int | None = None,
    *,
    unit: str = "uV",
) -> None:
    """A map of the electrodes for each gesture, which shows where the muscles are; all maps have the same colour scale.

    rms: (K, C) root mean square in `unit`, as in shard.json; channels in `rings` rings from the elbow to the wrist.
    rest: the class in which no gesture is made, with an RMS above 0 at some electrode; the gestures are then drawn as
    multiples of its RMS at each electrode, so that an electrode with poor contact or much noise does not stand out in
    every map. None: in `unit`.
    """
    label = f"root mean square, {unit_label(unit)}"
    if rest is not None:
        # an electrode without any signal at rest has no multiples of it
        ratio = np.divide(rms, rms[rest], out=np.full_like(rms, np.nan), where=rms[rest] > 0)
        rms, label = np.delete(ratio, rest, axis=0), f"RMS, times that in {classes[rest]}"
        classes = [name for place, name in enumerate(classes) if place != rest]
    made = ~np.isnan(rms).all(axis=1)
    rms, classes = rms[made], [name for name, there in zip(classes, made, strict=True) if there]
    columns = 4 if len(classes) > 3 else len(classes)
    rows = -(-len(classes) // columns)
    titles = [wrapped(name, 3.2, 13) for name in classes]
    higher = height_of(max(title.count("\n") for title in titles), 13)
    figure = new_figure(max(7.0, 3.2 * columns + 0.8), 1.1 + (1.75 + higher) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    around = rms.shape[1] // rings
    image = None
    for place, axes in enumerate(grid.flat):
        if place >= len(classes):
            axes.axis("off")
            continue
        image = axes.imshow(
            rms[place].reshape(rings, around),
            cmap="viridis",
            vmin=0 if rest is None else min(1.0, np.nanmin(rms)),
            vmax=np.nanmax(rms),
            aspect="auto",
        )
        axes.set_title(titles[place], fontsize=13)
        between = ["middle"] if rings == 3 else [""] * (rings - 2)
        names = ["elbow", *between, "wrist"] if rings > 1 else [""]
        axes.set_yticks(range(rings), names if place % columns == 0 else [""] * rings, fontsize=11)
        axes.tick_params(left=rings > 1)
        below = place + columns >= len(classes)
        axes.set_xticks(range(around), [str(n + 1) for n in range(around)] if below else [""] * around, fontsize=11)
        if below:
            axes.set_xlabel("electrode around the forearm", fontsize=11)
    assert image is not None  # noqa: S101  there is at least one class
    figure.colorbar(image, ax=grid, fraction=0.03, pad=0.02).set_label(label, fontsize=12)
    headline(figure, title)
    save(figure, path)


@usual_style
def class_counts(
    path: Path, counts: Mapping[str, np.ndarray], classes: Sequence[str], about: Mapping[str, str], title: str
) -> None:
    """Windows of each class in each subset of a split: bars are fractions of the subset, numbers are counts.

    counts: subset -> (K,) windows; about: subset -> its text in the legend.
    """
    longer = 0.11 * max(0, max(map(len, classes)) - 20)  # inches that long names need beside the bars
    figure = new_figure(10 + longer, 1.9 + 0.26 * len(counts) * len(classes))
    axes = figure.add_subplot()
    height = 0.8 / len(counts)
    longest = 0.0
    for place, (subset, values) in enumerate(counts.items()):
        share = 100 * values / max(1, values.sum())
        longest = max(longest, float(share.max()))
        rows = np.arange(len(classes)) + (place - (len(counts) - 1) / 2) * height
        axes.barh(rows, share, height * 0.92, color=palette.SUBSETS[subset], label=f"{subset}: {about[subset]}")
        for row, value, number in zip(rows, share, values, strict=True):
            axes.text(value, row, f" {number:,}", va="center", fontsize=9.5)
    axes.set_yticks(range(len(classes)), classes, fontsize=12)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.12)
    axes.set_xlabel("share of the subset's windows, % (numbers: windows)", fontsize=12)
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", fontsize=10, ncols=len(counts))
    headline(figure, title)
    save(figure, path)


@usual_style
def timeline(
    path: Path,
    signal: np.ndarray,
    rate: float,
    channels: Sequence[str],
    truth: Sequence[Segment],
    decided: Sequence[Segment],
    time: np.ndarray,
    confidence: np.ndarray,
    classes: Sequence[str],
    title: str,
    vote: int = 1,
    *,
    colours: Sequence[str],
    unit: str = "uV",
) -> None:
    """A recording's decisions over time: some channels, the truth if known, the decisions, and their confidence.

    signal: (T, C) in `unit`, as in shard.json, at `rate` Hz; time, confidence: (n,) the time of each decision in
    seconds, and its probability; with `vote` above 1, the fraction of the last `vote` decisions that agree; colours: of
    the classes.
    """
    heights = [0.8 + 0.5 * signal.shape[1], *([0.45] if truth else []), 0.45, 1.1]
    figure = new_figure(13, 2.2 + sum(heights))
    rows = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    draw_channels(rows[0], signal, rate, channels, 0.0, unit)
    for row, name, segments in ((rows[1], "true", truth), (rows[-2], "decided", decided)):
        if segments:
            label_strip(row, segments, classes, colours, 0.0, len(signal) / rate)
            row.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=12)
    if wrong := alike_but_wrong(truth, decided, colours):
        for first, last, label in wrong:
            ink = palette.letters_on(colours[label])
            rows[-2].axvspan(first, last, facecolor="none", edgecolor=ink, linewidth=0, hatch="xxxx")
        rows[-2].set_ylabel(
            "decided\n(hatched: wrong,\nin the same colour)", rotation=0, ha="right", va="center", fontsize=9
        )
    rows[-1].step(time, confidence, where="post", color=BLUE, linewidth=1.0)
    rows[-1].set_ylim(0, 1.03)
    if vote > 1:
        rows[-1].set_ylabel(f"share of the\nlast {vote} votes", fontsize=11)
        rows[-1].set_xlabel("time, s", fontsize=12)
    else:
        rows[-1].axhline(1 / len(classes), color=GREY, linewidth=1.2, linestyle=":")
        rows[-1].set_ylabel("probability of\nthe decision", fontsize=11)
        rows[-1].set_xlabel("time, s (dotted: chance)", fontsize=12)
    rows[-1].set_xlim(0, len(signal) / rate)
    legend(figure, [label for _, _, label in (*truth, *decided)], classes, colours)
    headline(figure, title)
    save(figure, path)


@usual_style
def errors(path: Path, parts: Sequence[tuple[str, Excerpt]], title: str) -> None:
    """Misclassified windows, each with its signal: the window is shaded, and each row has its own scale.

    parts: the text above each window, and its signal.
    """
    columns = min(3, len(parts))
    rows = -(-len(parts) // columns)
    captions = [wrapped(caption, 5.0, 9.5) for caption, _ in parts]
    higher = height_of(max(caption.count("\n") for caption in captions) - 2, 9.5)  # three lines have their room
    figure = new_figure(5.2 * columns, 0.8 + (3.5 + max(0.0, higher)) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, caption, (_, part) in zip(grid.flat, captions, parts, strict=False):
        step = _round_up(2.1 * float(np.abs(part.values).max()))
        axes.axvspan(0, part.length, color=ORANGE, alpha=0.14, linewidth=0)
        for row in range(part.values.shape[1]):
            axes.plot(part.time, part.values[:, row] - row * step, color="#222222", linewidth=0.7)
        axes.set_yticks([-row * step for row in range(part.values.shape[1])], part.channels, fontsize=9)
        axes.set_ylim(-(part.values.shape[1] - 0.3) * step, 0.7 * step)
        axes.set_xlim(part.time[0], part.time[-1])
        axes.set_xlabel(f"seconds from the window's start; rows are {step:g} {unit_label(part.unit)} apart", fontsize=9)
        axes.set_title(caption, fontsize=9.5)
    for axes in grid.flat[len(parts) :]:
        axes.axis("off")
    headline(figure, title)
    save(figure, path)
