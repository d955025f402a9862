"""Figures: whole files with the same bytes each time, in the edge cases too, and showing what they were given."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.image import imread

from semg.evaluation import score_figures

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
