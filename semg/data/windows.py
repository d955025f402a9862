"""How a recording is cut into windows: arithmetic on its labels, sample by sample. No file is read here.

A segment is a maximal run of samples with one label. Windows lie wholly within one segment and keep a transition margin
from its beginning (`whole_windows`), or follow the putEMG authors' own rules (`paper_windows`).
"""

import itertools
from collections.abc import Sequence

import numpy as np

from semg.common.errors import DataError

WINDOW_FIELDS = np.dtype(
    [
        ("start", "<i8"),  # first sample
        ("label", "<i2"),  # index into the shard's classes
        ("repetition", "<i2"),  # number of earlier segments of this label in the recording
        ("low", "<i8"),  # the start may be shifted within low <= start <= high
        ("high", "<i8"),  # without the window leaving its label's segment or entering the transition margin
    ]
)

MOST_SEGMENTS = int(np.iinfo(WINDOW_FIELDS["repetition"]).max) + 1  # of one label in a recording
UNLABELLED = -1  # label of the windows that `continuous` adds
SESSION_WINDOWS = 20_000  # to adapt to a session on: 42 minutes at eight windows a second; longer sessions get fewer


def segments(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximal segments of one label: (first samples, ends (exclusive), labels), each (n_segments,)."""
    if len(labels) == 0:
        empty = np.empty(0, np.int64)
        return empty, empty, labels[:0]
    edges = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    starts = np.concatenate([[0], edges])
    return starts, np.concatenate([edges, [len(labels)]]), labels[starts]


def whole_windows(
    labels: np.ndarray,
    classes: Sequence[int],
    window: int,
    stride: int,
    transition_margin: int,
    cuts: Sequence[int] | np.ndarray = (),
) -> np.ndarray:
    """Windows that lie wholly within one label and start at least `transition_margin` samples after a label change.

    labels: (n_samples,) label codes; classes: the codes to keep, whose places become the windows' labels; lengths in
    samples. The first window of a segment starts as early as possible, the next ones `stride` later each. The beginning
    of the recording is not a label change. cuts: first samples of trials that follow directly upon each other in the
    table: a segment, and so a repetition, ends there even if its label continues. Returns a table of WINDOW_FIELDS in
    time order. DataError for more than MOST_SEGMENTS segments of a label.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    seen = dict.fromkeys(classes, 0)
    index = {code: place for place, code in enumerate(classes)}
    starts = np.union1d(segments(labels)[0], np.asarray(cuts, np.int64)).tolist()
    for start, stop in itertools.pairwise([*starts, len(labels)]):
        code = int(labels[start])
        if code not in index:
            continue
        repetition, seen[code] = seen[code], seen[code] + 1
        changed = start > 0 and labels[start - 1] != labels[start]
        low, high = start + (transition_margin if changed else 0), stop - window
        rows.extend((at, index[code], repetition, low, high) for at in range(low, high + 1, stride))
    return _table(rows)


def _table(rows: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """Windows as a table of WINDOW_FIELDS. DataError for a repetition that its field cannot hold."""
    if (most := max((repetition for _, _, repetition, _, _ in rows), default=0)) >= MOST_SEGMENTS:
        raise DataError(
            f"expected at most {MOST_SEGMENTS:,} segments of a gesture, found {most + 1:,}: does the label flicker?"
        )
    return np.array(rows, WINDOW_FIELDS)


PAUSE_AFTER = 4  # windows left out after a segment of windows that are labelled -1


def paper_windows(labels: np.ndarray, classes: Sequence[int], window: int, stride: int, rest: int) -> np.ndarray:
    """The putEMG authors' windows: every `stride` samples, labelled by the last sample, with transitions masked.

    Left out are windows labelled `rest` and the 4 windows after each segment of them, the first window of every gesture
    (a label above 0 after another label of at least 0), and the window just before it. Such a window may contain
    samples of two labels, so its start must not be shifted (low = start = high). DataError for more than MOST_SEGMENTS
    segments of a label.
    Source: putemg_features and biolab_utilities by the authors, as described in their article.
    """
    starts = np.arange(0, len(labels) - window + 1, stride)
    label = labels[starts + window - 1].astype(np.int64)
    keep = label != rest
    for end in np.flatnonzero((label[:-1] == rest) & (label[1:] != rest)) + 1:
        keep[end : end + PAUSE_AFTER] = False
    begins = np.flatnonzero((label[1:] > 0) & (label[:-1] >= 0) & (label[1:] != label[:-1])) + 1
    keep[begins] = False
    keep[begins - 1] = False
    repetition = _repetitions(label)
    index = {code: place for place, code in enumerate(classes)}
    rows = [
        (int(starts[i]), index[int(label[i])], int(repetition[i]), int(starts[i]), int(starts[i]))
        for i in np.flatnonzero(keep)
    ]
    return _table(rows)


def continuous(windows: np.ndarray, stride: int) -> np.ndarray:
    """The windows of a recording, in time order, as a stream decides: unlabelled ones are added where there are none.

    windows: table of WINDOW_FIELDS. Windows with the label UNLABELLED are added before the first window, from the
    beginning of the recording, and between windows. Each starts `stride` samples after the one before it (before the
    first window: `stride` samples before the one after it).
    """
    if not len(windows):
        return windows
    own = windows[np.argsort(windows["start"], kind="stable")]
    first = int(own["start"][0])
    added = [np.arange(first % stride, first, stride)]
    for before, after in itertools.pairwise(own["start"].tolist()):
        # none that almost coincides with the next
        added.append(np.arange(before + stride, after - stride // 2, stride))
    starts = np.concatenate(added)
    filled = np.zeros(len(starts), WINDOW_FIELDS)
    filled["start"] = filled["low"] = filled["high"] = starts
    filled["label"] = UNLABELLED
    both = np.concatenate([own, filled])
    return both[np.argsort(both["start"], kind="stable")]


def without_gaps(windows: np.ndarray, breaks: np.ndarray, window: int) -> np.ndarray:
    """The windows, of `window` samples, that span no gap in time; their starts may not be shifted across one either.

    windows: table of WINDOW_FIELDS; breaks: (n_gaps,) first samples after the gaps, rising.
    """
    ends = np.concatenate([[np.iinfo(np.int64).min], breaks, [np.iinfo(np.int64).max]])
    place = np.searchsorted(breaks, windows["start"], side="right")  # number of gaps up to a window's start
    inside = windows["start"] <= ends[place + 1] - window
    whole, place = windows[inside], place[inside]
    whole["low"] = np.maximum(whole["low"], ends[place])
    whole["high"] = np.minimum(whole["high"], ends[place + 1] - window)
    return whole


def evenly_spaced(samples: int, window: int, most: int) -> np.ndarray:
    """First samples of at most `most` windows spread over a recording of `samples` samples, regardless of labels."""
    return np.unique(np.linspace(0, samples - window, most).astype(np.int64))


def of_session(lengths: Sequence[int], window: int, stride: int) -> tuple[list[np.ndarray], int]:
    """Windows to adapt to a session on: the first samples of those of each recording, and the step between them.

    lengths: samples of each recording. Windows are spaced evenly over whole recordings, regardless of labels: one
    stride apart, or several in a session of more than SESSION_WINDOWS. A recording shorter than a window has none.
    """
    count = sum(len(range(0, length - window + 1, stride)) for length in lengths)
    step = stride * max(1, -(-count // SESSION_WINDOWS))
    return [np.arange(0, length - window + 1, step) for length in lengths], step


def _repetitions(label: np.ndarray) -> np.ndarray:
    """For each window, the number of earlier segments of its label."""
    repetition = np.zeros(len(label), np.int64)
    seen: dict[int, int] = {}
    for start, stop, value in zip(*segments(label), strict=True):
        repetition[start:stop] = seen.get(int(value), 0)
        seen[int(value)] = seen.get(int(value), 0) + 1
    return repetition
