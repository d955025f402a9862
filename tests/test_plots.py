"""Figures: whole files with the same bytes each time, in the edge cases too, and showing what they were given."""

import os
import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.text import Text

from semg.evaluation import metrics, palette, score_figures, signal_figures
from semg.evaluation.predictions import Excerpt

CLASSES = ["idle", "fist", "pinch index"]
COUNTS = np.array([[700, 30, 20], [5, 40, 5], [0, 0, 0]])  # of the last class there are no windows
PEOPLE = {f"{i:02d}": {"accuracy": 0.5 + i / 100, "macro_f1": 0.4 + i / 100, "n_windows": 9} for i in range(30)}
CHANCE = {"accuracy": 0.5, "macro_f1": 0.3}
ROWS = [
    {"epoch": e, "train/loss": 2.0 / e, "val/loss": 2.5 / e, "train/macro_f1": 0.1 * e, "val/macro_f1": 0.09 * e}
    for e in (1, 2, 3)
]
DRAWN = {
    "confusion": lambda path: score_figures.confusion_matrix(path, COUNTS, CLASSES),
    "people": lambda path: score_figures.per_subject(
        path, PEOPLE, CHANCE, {"accuracy": [0.6, 0.7], "macro_f1": [0.5, 0.6]}
    ),
    "one person": lambda path: score_figures.per_subject(
        path, {"03": PEOPLE["03"]}, CHANCE, {"accuracy": None, "macro_f1": None}
    ),
    "curves": lambda path: score_figures.learning_curves(path, ROWS),
    "one epoch": lambda path: score_figures.learning_curves(path, ROWS[:1]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_same_input_same_bytes_whatever_the_users_style(tmp_path, name):
    DRAWN[name](tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "savefig.facecolor": "black"}):
        DRAWN[name](tmp_path / "b.png")
    written = (tmp_path / "a.png").read_bytes()
    assert written == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    image = imread(tmp_path / "a.png")
    assert image.shape[0] >= 400
    assert image.std() > 0.05  # something is drawn


def test_cells_tell_share_of_the_row_and_count():
    axes = score_figures.confusion_figure(COUNTS, CLASSES).axes[0]
    assert axes.texts[0].get_text() == "93%\n700"
    assert axes.texts[4].get_text() == "80%\n40"
    assert axes.texts[8].get_text() == "0%\n0"
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES


def test_of_many_classes_only_cells_that_hold_something_have_a_number():
    many = 53
    counts = 30 * np.eye(many, dtype=int)
    counts[3, 5], counts[4, 6] = 10, 1
    counts[4, 4] = 1000  # the one window of 4 taken for 6 is 0.1 %
    figure = score_figures.confusion_figure(counts, [f"gesture {k}" for k in range(many)])
    axes = figure.axes[0]
    texts = {(round(one.get_position()[1]), round(one.get_position()[0])): one.get_text() for one in axes.texts}
    assert texts == {(k, k): "100" for k in range(many)} | {(3, 3): "75", (3, 5): "25"}
    assert max(score_figures.pixels(figure).shape) < 3000  # as it was, it took 15 s to draw
    places = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in pairwise(places))
    edge = axes.transData.transform([(0, 0), (1, 1)])
    assert axes.texts[0].get_window_extent().width < abs(edge[1] - edge[0]).min()


def test_other_numbers_other_bytes(tmp_path):
    score_figures.confusion_matrix(tmp_path / "a.png", COUNTS, CLASSES)
    score_figures.confusion_matrix(tmp_path / "b.png", COUNTS + 1, CLASSES)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_without_a_folder_for_matplotlibs_cache_a_picture_is_drawn_in_silence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    nowhere = {name: str(file / "none") for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")}
    code = "import semg.common.interrupts; from semg.evaluation import score_figures; import matplotlib; "
    code += "matplotlib.get_cachedir(); print('drawn'); from matplotlib.font_manager import _log; "
    code += "_log.warning('Matplotlib is building the font cache; this may take a moment.')"  # as it says after 5 s
    for places in (nowhere, {**nowhere, "MPLCONFIGDIR": str(file)}):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | places, capture_output=True)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"drawn"], b"")


LONG = [
    "rest",
    "Flexion of the ring and little finger, thumb flexed over middle and little",  # as a public data set calls it
    "Thumb opposing base of little finger",
    "Abduction of all fingers",
    "gesture number 30 of a list of gestures without an end",
]
SIGNAL = np.random.default_rng(0).normal(0, 50, (2000, 4))
HELD = [(2.0 * k, 2.0 * k + 2, k) for k in range(5)]
COLOURS = palette.gestures(LONG, ["rest"])
WRONG = (
    f"{LONG[1]} taken for {LONG[4]}, 93% sure\nperson 03, 1.00 s\nemg_gestures-03-repeats_long-2018-05-11-10-00-00-000"
)
METHOD = "results/a folder whose name says all that was done to make what is in it"
LONG_NAMES = {
    "confusion": lambda path: score_figures.confusion_matrix(path, np.eye(5, dtype=int), LONG),
    "recording": lambda path: signal_figures.recording(
        path, SIGNAL, 200.0, list("abcd"), HELD, LONG, "title", colours=COLOURS
    ),
    "electrodes": lambda path: signal_figures.electrodes(path, 1 + np.arange(40.0).reshape(5, 8), LONG, 1, "title", 0),
    "classes": lambda path: signal_figures.class_counts(
        path, {"train": np.arange(5), "test": np.ones(5)}, LONG, {"train": "30 people", "test": "9 people"}, "title"
    ),
    "timeline": lambda path: signal_figures.timeline(
        path, SIGNAL, 200.0, list("abcd"), HELD, HELD, np.arange(10.0), np.ones(10), LONG, "title", colours=COLOURS
    ),
    "errors": lambda path: signal_figures.errors(
        path, 4 * [(WRONG, Excerpt(np.linspace(-0.1, 0.3, 80), SIGNAL[:80], tuple("abcd"), 1.0, 0.25))], "title"
    ),
    "methods": lambda path: score_figures.compare(
        path, {f"{METHOD} {k}": {"01": 0.5 + k / 10, "02": 0.7} for k in (0, 1)}, metrics.leading(), f"{METHOD} 0"
    ),
}


@pytest.mark.parametrize("name", LONG_NAMES)
def test_long_names_are_neither_cut_nor_on_top_of_each_other(tmp_path, monkeypatch, name):
    drawn = []
    for module in (score_figures, signal_figures):
        monkeypatch.setattr(module, "save", lambda figure, _path: drawn.append(figure))
    LONG_NAMES[name](tmp_path / "a.png")
    (figure,) = drawn
    score_figures.pixels(figure)  # lays it out
    words = [text for text in figure.findobj(Text) if any(map(str.isalpha, text.get_text()))]  # not the axes' numbers
    boxes = {text: text.get_window_extent() for text in words}
    cut = [t.get_text() for t, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.width + 1 or box.y0 < -1]
    assert cut == []
    titles = [boxes[axes.title] for axes in figure.axes if axes.title in boxes]
    assert not any(a.overlaps(b) for k, a in enumerate(titles) for b in titles[:k])


@pytest.mark.parametrize("name", ["{}", "gesture {}", "wrist extension slowly with thumb and index finger extended {}"])
@pytest.mark.parametrize("picture", ["recording", "timeline"])
def test_a_legend_of_many_gestures_is_whole_and_says_that_colours_repeat(tmp_path, monkeypatch, picture, name):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    classes = [name.format(k) for k in range(53)]
    held = [(k / 10, (k + 1) / 10, k) for k in range(53)]
    place, words = (tmp_path / "a.png", SIGNAL, 200.0, list("abcd")), (classes, "title")
    colours = palette.gestures(classes)
    if picture == "recording":
        signal_figures.recording(*place, held, *words, colours=colours)
    else:
        signal_figures.timeline(*place, held, held, np.arange(10.0), np.ones(10), *words, colours=colours)
    (figure,) = drawn
    score_figures.pixels(figure)  # warns, which fails, if there is no room for the axes
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert [text.get_text() for text in legend.get_texts()] == classes
    assert "same colour" in legend.get_title().get_text()
    assert not any(axes.get_window_extent().y0 < box.y1 for axes in figure.axes)
    assert all(axes.get_window_extent().height > 20 for axes in figure.axes)


def test_a_wrong_decision_in_the_colour_of_the_truth_is_hatched(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    classes = [f"gesture {k}" for k in range(30)]
    colours = palette.gestures(classes)
    twin = next(k for k in range(1, 30) if colours[k] == colours[0])
    truth = [(0.0, 4.0, 0), (4.0, 10.0, 1)]
    for decided in ([(0.0, 3.0, 0), (3.0, 6.0, twin), (6.0, 10.0, 2)], [(0.0, 4.0, 0), (4.0, 10.0, 2)]):
        signal_figures.timeline(
            tmp_path / "a.png",
            SIGNAL,
            200.0,
            list("abcd"),
            truth,
            decided,
            np.arange(10.0),
            np.ones(10),
            classes,
            "t",
            colours=colours,
        )
    hatched = [[patch.get_bbox().intervalx for patch in one.axes[2].patches if patch.get_hatch()] for one in drawn]
    assert np.array_equal(hatched[0], [[3.0, 4.0]])
    assert hatched[1] == []
    assert ["hatched: wrong" in one.axes[2].get_ylabel() for one in drawn] == [True, False]


def test_a_subset_has_the_same_colour_in_every_picture(tmp_path, monkeypatch):
    """Training was orange beside its learning curve and blue beside its windows."""
    drawn = []
    for module in (score_figures, signal_figures):
        monkeypatch.setattr(module, "save", lambda figure, _path: drawn.append(figure))
    DRAWN["curves"](tmp_path / "a.png")
    LONG_NAMES["classes"](tmp_path / "b.png")
    curves = {line.get_label(): to_hex(line.get_color()) for line in drawn[0].axes[0].lines}
    train, test = (to_hex(bars.patches[0].get_facecolor()) for bars in drawn[1].axes[0].containers)
    assert train == curves["training"]
    assert len({train, test, curves["validation"]}) == 3


def test_every_score_is_seen_whole(tmp_path, monkeypatch):
    """Of two gestures made as often, accuracy and macro-F1 are all but equal: one hid the other. At 1 both were cut."""
    drawn = []
    monkeypatch.setattr(score_figures, "save", lambda figure, _path: drawn.append(figure))
    people = {f"{n:02d}": {"accuracy": score, "macro_f1": score} for n, score in enumerate([0.0, 0.8, 1.0] * 10)}
    score_figures.per_subject(tmp_path / "a.png", people, CHANCE, {"accuracy": None, "macro_f1": None})
    score_figures.pixels(drawn[0])  # lays it out
    axes = drawn[0].axes[0]
    dots = [line for line in axes.lines if line.get_marker() in score_figures.MARKERS]
    at = np.concatenate([line.get_transform().transform(line.get_xydata()) for line in dots])
    apart = np.abs(at[:, None] - at).max(2)[np.triu_indices(len(at), 1)]
    assert len(at) == 60
    assert apart.min() > 0.9 * dots[0].get_markersize() * drawn[0].dpi / 72
    assert not any(line.get_clip_on() for line in dots)
