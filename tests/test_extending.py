"""docs/extending.md, run as it stands on small settings; and what import_csv.py says of wrong tables."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy.io import savemat

import import_csv
from semg.common.errors import DataError, UsageError
from semg.data.recording_list import read_list
from semg.data.shards import open_shard
from semg.data.splits import read_split
from semg.data.tables import read_table

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLE, PUBLIC = TEXT.split("\n## 3. ")
SMALL = {
    "train.py": "--layers 1 --width 16 --heads 2 --epochs 1 --device cpu",
    "simulate_putemg.py": "--workers 1",
    "evaluate.py": "--device cpu",
    "predict.py": "--device cpu",
    "adapt.py": "--device cpu",
}


def test_the_worked_example_runs(tmp_path, run_script, run_here):
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", EXAMPLE, re.DOTALL):
        if language == "python":
            code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{block}"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            continue
        for line in block.splitlines():
            script, *flags = line.split()[1:]
            run = run_script if script == "import_csv.py" else run_here  # no other test starts that as users do
            run(script, *flags, *SMALL.get(script, "").split(), cwd=tmp_path)
    shard = open_shard(next(iter((tmp_path / "my_armband/shards").glob("*"))), verify=True)
    assert (shard.rate, shard.channels) == (200, tuple(f"ch{n}" for n in range(1, 9)))
    assert shard.classes[0] == "idle"
    assert (shard.rest_classes, shard.rings) == (("idle",), (tuple(range(8)),))
    assert shard.simulated
    assert len(shard.classes) == 8
    assert shard.window == 50
    assert (tmp_path / "results/predictions/03-repeats_long.png").exists()
    assert json.loads((tmp_path / "results/my_armband/metrics.json").read_text())["n_subjects"] >= 1
    assert not (tmp_path / "data").exists()
    (listing,) = re.findall(r"```\n(file,.*)\n\.\.\.\n```", TEXT, re.DOTALL)
    assert (tmp_path / "my_armband/recordings.csv").read_text().startswith(listing + "\n")


def test_public_data_sets_are_taken_as_they_come(tmp_path, run_here):
    random, gain = np.random.default_rng(0), np.random.default_rng(7).uniform(10, 90, (11, 4))
    theirs = tmp_path / "theirs"
    for subject, session, gesture, trial in itertools.product((1, 2), (1, 2), (1, 2, 10), (1, 2, 10)):
        name = f"session{session}_participant{subject}_gesture{gesture}_trial{trial}.csv"
        path = theirs / f"Session{session}" / f"session{session}_participant{subject}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        signal = 1000 * subject + random.normal(size=(2048, 4)) * gain[gesture]
        pd.DataFrame(signal.round(1), columns=["F1", "F2", "W1", "W2"]).to_csv(path, index=False)
    pd.DataFrame({"subject": [1, 1, 2], "ch1": [1, 2, 3]}).to_csv(theirs / "all.csv", index=False)
    np.savetxt(theirs / "wide.csv", np.r_[np.arange(64), 3, np.arange(64, 128), 3].reshape(2, 65), delimiter=",")
    matlab = {"emg": np.ones((3, 2)), "restimulus": np.array([[0], [1], [1]], np.int8), "exercise": np.array([[2]])}
    savemat(theirs / "S1_E2_A1.mat", matlab)
    code = "".join(re.findall(r"```python\n(.*?)```", PUBLIC, re.DOTALL))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.returncode) == ("36 recordings of 2 people\n", 0), done.stderr
    listed = [entry for entry in read_list(theirs / "recordings.csv") if entry.facts.subject == "2"]
    assert [(one.facts.session, one.label, one.path.stem[-2:]) for one in listed[:7]] == [
        *(("1", gesture, "l1") for gesture in ("1", "2", "10")),
        *(("1", gesture, "l2") for gesture in ("1", "2", "10")),
        ("1", "1", "10"),
    ]
    assert all(entry.path.is_file() for entry in listed)
    assert (theirs / "person1.csv").read_text() == "subject,ch1\n1,1\n1,2\n"
    np.testing.assert_array_equal(np.load(theirs / "wide.npy"), np.arange(128).reshape(16, 8))
    assert (theirs / "S1_E2_A1.csv").read_text() == "ch0,ch1,label\n1.0,1.0,rest\n1.0,1.0,E2-1\n1.0,1.0,E2-1\n"

    for line in re.search(r"```bash\n(.*?)```", PUBLIC, re.DOTALL)[1].splitlines():
        script, *flags = line.split()[1:]
        run_here(script, *flags, *SMALL.get(script, "").split(), cwd=tmp_path)
    shards = [open_shard(path) for path in sorted((theirs / "shards").glob("[!.]*"))]
    assert [(one.record, one.facts.session, one.facts.order) for one in shards[:4]] == [
        ("1-1-1", "1", 1),
        ("1-1-10", "1", 3),
        ("1-1-2", "1", 2),
        ("1-2-1", "2", 4),
    ]
    for shard in shards:
        assert (shard.classes, shard.channels) == (("1", "2", "10"), ("F1", "F2", "W1", "W2"))
        assert shard.windows["label"].tolist() == [0] * 7 + [1] * 5 + [2] * 5
        assert not shard.windows["repetition"].any()
    split = read_split(tmp_path / "splits/theirs", theirs / "shards")
    assert (split.val, split.test) == (("1-1-10", "2-1-10"), tuple(f"{a}-2-{b}" for a in (1, 2) for b in (1, 10, 2)))
    assert (theirs / "person.ckpt").is_file()


@pytest.mark.parametrize(("file", "form"), re.findall(r"^\|[^|]*`(\S*\d\S*)` \| `(\S+)` \|", PUBLIC, re.MULTILINE))
def test_forms_of_names_match_the_names(file, form):
    match = re.search(form, file)
    assert match is not None
    assert match["subject"].lstrip("p") in ("1", "3", "03")


@pytest.fixture
def study(tmp_path):
    """A list and one recording of 4 s at 200 Hz with a time column and two gestures."""
    signal = np.random.default_rng(0).normal(0, 30, (800, 2))
    label = np.repeat(["rest", "fist", "", "fist"], 200)
    rows = [f"{n / 200:.3f},{a:.3f},{b:.3f},{name}" for n, ((a, b), name) in enumerate(zip(signal, label, strict=True))]
    (tmp_path / "a.csv").write_text("\n".join(["t,left,right,what", *rows]) + "\n")
    (tmp_path / "list.csv").write_text("file,subject,date,task\na.csv,7,2024-03-01,\n")
    return tmp_path


@pytest.fixture
def here(study, monkeypatch, capsys):
    def run(*words):
        own = [
            "--rate",
            "200",
            "--labels",
            "what",
            "--channels",
            "2-3",
            "--transition-margin",
            "0",
            "--shards",
            study / "shards",
        ]
        monkeypatch.setattr(sys, "argv", ["import_csv.py", *map(str, [study / "list.csv", *own, *words])])
        return import_csv.main(), *capsys.readouterr()

    return run


def test_a_table_becomes_a_shard_and_is_kept(here, study):
    assert "1 shard written" in here()[1]
    shard = open_shard(study / "shards" / "a", verify=True)
    assert (shard.channels, shard.classes, shard.subject) == (("left", "right"), ("rest", "fist"), "7")
    assert (shard.session, shard.order, shard.task) == ("7/2024-03-01", 1, "")
    assert (shard.rest_classes, shard.rings, shard.simulated) == (("rest",), (), False)
    assert (shard.arguments["low"], shard.arguments["high"]) == (20, 90)
    assert shard.windows["label"].tolist() == [0] * 7 + [1] * 14
    assert shard.windows["repetition"][-1] == 1
    assert "1 kept" in here()[1]
    code, _, output = here("--high", 80)
    assert code == 1
    assert "expected high 80.0, found 90.0; --overwrite redoes it" in output
    assert here("--high", 80, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda t: t.replace(",what\n", ",that\n"),
            "expected a column 'what', found t, left, right, that; --labels names",
        ),
        (lambda t: t.replace("0.005,", "0.005,x", 1), "a.csv:3: expected a number in column 2"),
        (
            lambda t: "\n".join(t.splitlines()[:20] + t.replace(",rest", ",fist").splitlines()[20:30]),
            "at least a window",
        ),
        (lambda t: t.replace(",rest", ""), ":2: expected 4 cells as in the other rows, found 3|:1: expected"),
    ],
)
def test_wrong_recordings_are_named(here, study, change, told):
    whole = (study / "a.csv").read_text()
    (study / "a.csv").write_text(change(whole))
    code, _, errors = here()
    assert code == 1
    assert re.search(told, errors), errors
    assert not list((study / "shards").glob("[!.]*"))


def test_wrong_lists_and_flags_are_named(here, study):
    for row, output in (
        (",7,2024-03-01,", "expected a file"),
        ("a.csv,,2024-03-01,", "expected a subject of letters"),
        ("a.csv,../7,2024-03-01,", "expected a subject of letters"),
        ("a.csv,7,1 March,", "a date such as"),
        ("a.csv,7,2024-03-01,No Space", "expected a task of letters"),
        ("a.csv,7,2024-03-01,\nA.csv,7,2024-03-01,", "which both become A"),
        ("a.csv,7,2024-03-01,\nb.csv,07,2024-03-01,", "one name for one person, found 07 after 7"),
        ("a.csv,7,2024-03-01,\nb.csv,7,,", "a date for all of subject 7's recordings or for none"),
    ):
        (study / "list.csv").write_text(f"file,subject,date,task\n{row}\n")
        with pytest.raises(DataError, match=output):
            here()
    (study / "list.csv").write_text("")
    with pytest.raises(DataError, match="header file,subject,session,date,task"):
        here()
    with pytest.raises(UsageError, match="below the Nyquist frequency, 100 Hz"):
        here("--high", 120)


def test_facts_of_the_list_and_the_flags(study, here):
    """Any subject, sessions by name or by day, an order by time; rings, rest and simulation as told."""
    (study / "P 1").mkdir()
    rows = (study / "a.csv").read_text().splitlines(keepends=True)
    for less, name in enumerate(("b.csv", "c.csv", "P 1/d.csv"), 1):
        (study / name).write_text("".join(rows[:-less]))
    early, late = "2024-03-01T09:00", "2024-03-01T10:30"
    rows = ["a.csv,P101,evening,2024-03-02", f"b.csv,P101,,{late}", f"c.csv,P101,,{early}", "P 1/d.csv,2,,"]
    (study / "list.csv").write_text("\n".join(["file,subject,session,date", *rows]) + "\n")
    said = here()[1]
    assert "assumed: 4 to 16 channels are one ring" in said
    assert "no gesture is made in rest (--rest-classes)" in said
    facts = {shard.name: open_shard(shard).facts for shard in (study / "shards").iterdir()}
    assert {name: (one.session_key, one.order) for name, one in facts.items()} == {
        "a": ("P101/evening", 3),
        "b": ("P101/2024-03-01", 2),
        "c": ("P101/2024-03-01", 1),
        "P_1-d": ("2/1", 1),
    }
    said = here("--rings", "3,2", "--rest-classes", "--simulated", "--overwrite")[1]
    assert "assumed" not in said
    shard = open_shard(study / "shards" / "a")
    assert (shard.rings, shard.rest_classes, shard.simulated) == (((1, 0),), (), True)
    for flags, message in (
        (("--rest-classes", "nap"), "--rest-classes nap: expected one of the classes rest, fist"),
        (("--rings", "none", "2-3"), "--rings none: expected no rings beside it"),
        (("--rings", "2"), "rings of two columns or more"),
        (("--rings", "1-2"), "--rings: expected columns that --channels names, found 1"),
    ):
        with pytest.raises(UsageError, match=message):
            here(*flags)


def test_prediction_reads_the_same_table_beside_its_labels(study):
    source = read_table(study / "a.csv", 200, 1000.0, (2, 3), 2)
    assert source.samples.shape == (800, 2)
    assert source.scale == 1000
    with pytest.raises(DataError, match="expected a column 9, found 4 columns"):
        read_table(study / "a.csv", 200, 1.0, (9,), 1)
