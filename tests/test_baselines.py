"""baselines.py as a user runs it, on small shards; its numbers against scikit-learn used by hand."""

import argparse
import json
import shutil
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

import baselines
from semg.common.console import Console
from semg.common.errors import DataError
from semg.common.files import read_json, write_json
from semg.data.records import from_name
from semg.data.shards import WindowSet, open_shards, verify, write_shard
from semg.data.splits import Split, write_split
from semg.data.windows import whole_windows
from semg.evaluation import baseline_results
from semg.evaluation.hand_crafted_features import FeatureExtractor, feature_names
from semg.flags import folds
from semg.training import classical, feature_tables

RATE, WINDOW, STRIDE, CHANNELS = 1000.0, 100, 50, 4
CLASSES = ("idle", "fist", "flexion")
SUBSETS = {"train": ("03", "04", "05"), "val": ("06",), "test": ("07", "08")}
FILES = {"metrics.json", "per_subject.csv", "predictions.npz", "confusion_matrix.png", "per_subject.png"}


def record_of(subject: str, trajectory: str = "repeats_long") -> str:
    minute = "00" if trajectory == "repeats_long" else "10"
    return f"emg_gestures-{subject}-{trajectory}-2018-05-11-10-{minute}-00-000"


def make_shard(
    folder: Path, record: str, *, gain: float = 1.0, labels: np.ndarray | None = None, unit: str = "uV"
) -> None:
    """A recording in which each gesture is a little louder on channels of its own; `gain` is the person's strength."""
    parsed = from_name(record)
    rng = np.random.default_rng(int(parsed.subject) + len(parsed.task))
    code = np.repeat([0, 1, 2, 0, 2, 1, 0], 500)
    loudness = np.array([[6, 6, 6, 6], [8, 6.5, 7.5, 6], [6.5, 8, 6, 7.5]])[code]
    signal = gain * loudness * rng.normal(0, 1, (len(code), CHANNELS))
    windows = whole_windows(code if labels is None else labels, range(3), WINDOW, STRIDE, 50)
    meta = {
        "record": record,
        "subject": parsed.subject,
        "session": parsed.session,
        "order": parsed.order,
        "task": parsed.task,
        "rate": RATE,
        "unit": unit,
        "channels": [f"EMG_{i}" for i in range(CHANNELS)],
        "rings": [],
        "classes": list(CLASSES),
        "rest_classes": ["idle"],
        "simulated": False,
        "arguments": {"window": WINDOW, "stride": STRIDE, "low": 30.0, "high": 400.0, "label_rule": "whole-window"},
    }
    write_shard(folder / record, meta, signal.astype(np.float16), windows)


def records(subset: str) -> tuple[str, ...]:
    return tuple(
        sorted(record_of(subject, t) for subject in SUBSETS[subset] for t in ("repeats_long", "repeats_short"))
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of six people, two recordings each, and a split of them."""
    folder = tmp_path_factory.mktemp("baselines")
    for subset in SUBSETS:
        for record in records(subset):
            make_shard(folder / "shards", record, gain=1 + int(record[13:15]) % 3)
    lists = {subset: records(subset) for subset in SUBSETS}
    write_split(folder / "split", Split("split", "subject", **lists, seed=0), {})
    return folder


@pytest.fixture
def score(data, run_here):
    """Run baselines.py on that data: `score(out, "--features", "rms")`."""

    def run(out: Path, *arguments: object, code: int = 0, shards: Path | None = None):
        given = ("--shards", shards or data / "shards", "--split", data / "split", "--out", out)
        return run_here("baselines.py", *given, *arguments, code=code)

    return run


def scored_windows(data: Path) -> WindowSet:
    return WindowSet(open_shards(data / "shards", records("test")))


def result(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "metrics.json").read_text()), dict(arrays)


# --- what is written -------------------------------------------------------------------------------------------


def test_people_scored_who_were_trained_or_chosen_on_are_named(data, run_here, tmp_path):
    """evaluate.py recorded them, so that in one table a network looked less honest than its rivals."""
    split = tmp_path / "split"
    split.mkdir()
    for subset, task, people in (
        ("train", "repeats_long", ("03", "04")),
        ("val", "repeats_long", ("05",)),
        ("test", "repeats_short", ("03", "05", "07")),
    ):
        (split / f"{subset}.txt").write_text("".join(f"{record_of(who, task)}\n" for who in people))
    given = ("--shards", data / "shards", "--split", split, "--features", "rms", "--classifiers", "lda")
    run_here("baselines.py", *given, "--out", tmp_path / "out")
    metrics, _ = result(tmp_path / "out" / "lda-rms")
    assert metrics["trained_on_subjects_scored"] == ["03"]
    assert metrics["chosen_on_subjects_scored"] == [], "nothing was chosen"
    run_here("baselines.py", *given, "--choose", "--out", tmp_path / "chosen")
    metrics, _ = result(tmp_path / "chosen" / "lda-rms")
    assert (metrics["trained_on_subjects_scored"], metrics["chosen_on_subjects_scored"]) == (["03"], ["05"])


def test_every_pair_gets_its_folder_with_the_windows_that_are_scored(data, score, run_script, tmp_path):
    out = tmp_path / "out"
    arguments = ("--features", "rms", "hudgins+logband", "--classifiers", "lda", "svm")
    done = score(out, *arguments)
    assert {path.name for path in out.iterdir()} == {
        f"{classifier}-{features}" for classifier in ("lda", "svm") for features in ("rms", "hudgins+logband")
    }
    windows = scored_windows(data)
    for folder in out.iterdir():
        assert {path.name for path in folder.iterdir()} == FILES
        metrics, arrays = result(folder)
        np.testing.assert_array_equal(arrays["record"], windows.record)
        np.testing.assert_array_equal(arrays["start"], windows.start)
        np.testing.assert_array_equal(arrays["label"], windows.label)
        assert metrics["accuracy"] == pytest.approx(np.mean(arrays["prediction"] == windows.label))
        assert set(metrics["per_subject"]) == {"07", "08"}
        assert (metrics["subset"], metrics["checkpoint"], metrics["n_windows"]) == ("test", None, len(windows))
        assert metrics["macro_f1"] > 0.8, folder  # the gestures differ plainly
    _, lda = result(out / "lda-rms")
    np.testing.assert_allclose(lda["probabilities"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(lda["probabilities"].argmax(1), lda["prediction"])
    assert "probabilities" not in result(out / "svm-rms")[1]
    assert "compare.py" in done.stdout

    again = tmp_path / "again"  # in another process, as a user runs it
    run_script("baselines.py", "--shards", data / "shards", "--split", data / "split", "--out", again, *arguments)
    for folder in out.iterdir():
        for name in FILES - {"metrics.json"}:  # which names --out
            assert (again / folder.name / name).read_bytes() == (folder / name).read_bytes(), (folder.name, name)


def by_hand(data: Path, normalize: bool) -> np.ndarray:
    """LDA on RMS for the test windows: features and scaling by loops over people and windows."""
    tables = {}
    for subset in ("train", "test"):
        windows = WindowSet(open_shards(data / "shards", records(subset)))
        rows = [np.sqrt((windows.gather(np.array([i]))[0].astype(float) ** 2).mean(0)) for i in range(len(windows))]
        table = np.array(rows)
        for person in SUBSETS[subset] if normalize else ():
            signals = [s.signal for s in windows.shards if s.subject == person]
            starts = np.unique(np.linspace(0, len(signals[0]) - WINDOW, 256).astype(int))
            spread = [np.sqrt((x[s : s + WINDOW].astype(float) ** 2).mean(0)) for x in signals for s in starts]
            mine = windows.subject == person
            table[mine] = (table[mine] - np.mean(spread, 0)) / np.std(spread, 0)
        tables[subset] = (table, windows.label)
    mean, std = tables["train"][0].mean(0), tables["train"][0].std(0)
    model = LinearDiscriminantAnalysis().fit((tables["train"][0] - mean) / std, tables["train"][1])
    return model.predict_proba((tables["test"][0] - mean) / std)


@pytest.mark.parametrize("normalize", ["session", "none"])
def test_numbers_are_those_of_the_definitions(data, score, tmp_path, normalize):
    score(tmp_path, "--features", "rms", "--classifiers", "lda", "--normalize", normalize)
    actual = result(tmp_path / "lda-rms")[1]["probabilities"]
    np.testing.assert_allclose(actual, by_hand(data, normalize == "session"), atol=2e-3)


def test_some_of_the_gestures_are_trained_and_scored_alone(data, score, tmp_path):
    """The windows that evaluate.py scores with the same flag; what is left out has no part in training."""
    done = score(tmp_path, "--features", "rms", "--classifiers", "lda", "--normalize", "none", "--no-idle")
    assert "fist, flexion alone, left out: idle" in done.stdout
    output, arrays = result(tmp_path / "lda-rms")
    windows = scored_windows(data)
    kept = windows.label > 0
    np.testing.assert_array_equal(arrays["start"], windows.start[kept])
    np.testing.assert_array_equal(arrays["label"], windows.label[kept] - 1)
    assert list(output["per_class"]) == ["fist", "flexion"]
    assert output["classes_left_out"] == ["idle"]
    tables = {}
    for subset in ("train", "test"):
        some = WindowSet(open_shards(data / "shards", records(subset)))
        rows = np.flatnonzero(some.label)
        rms = [np.sqrt((some.gather(np.array([i]))[0].astype(float) ** 2).mean(0)) for i in rows]
        tables[subset] = np.array(rms), some.label[rows]
    mean, std = tables["train"][0].mean(0), tables["train"][0].std(0)
    model = LinearDiscriminantAnalysis().fit((tables["train"][0] - mean) / std, tables["train"][1])
    expected = model.predict_proba((tables["test"][0] - mean) / std)
    np.testing.assert_allclose(arrays["probabilities"], expected, atol=2e-3)
    some = ("--features", "rms", "--classifiers", "lda", "--normalize", "none")
    done = score(tmp_path, *some, "--classes", "fist", "idle", code=1)  # another result than the one that is there
    assert "--overwrite" in done.stderr
    done = score(tmp_path, *some, "--classes", "flexion", "fist", code=1)  # the same gestures in another order
    assert "expected a result with classes" in done.stderr
    done = score(tmp_path, *some, "--classes", "fist", "first", code=2)
    assert "--classes fist first: expected gestures of idle, fist, flexion, found 'first'" in done.stderr


# --- what must not matter ----------------------------------------------------------------------------------------


def test_session_normalisation_looks_at_no_label_and_takes_out_a_persons_strength(data, score, tmp_path):
    (other := tmp_path / "shards").mkdir()
    labels = np.repeat([2, 1, 0, 1, 2, 1, 0], 500)  # wrong ones
    for subset in SUBSETS:
        for record in records(subset):
            if subset == "test":
                make_shard(other, record, gain=0.2 * (1 + int(record[13:15]) % 3), labels=labels)
            else:
                (other / record).symlink_to(data / "shards" / record)
    actual = {}
    for name, shards in (("real", data / "shards"), ("other", other)):
        for normalize in ("session", "none"):
            out = tmp_path / name / normalize
            arguments = ("--features", "rms", "--classifiers", "lda", "--normalize", normalize)
            score(out, *arguments, shards=shards)
            actual[name, normalize] = result(out / "lda-rms")[1]["probabilities"]
    np.testing.assert_allclose(actual["real", "session"], actual["other", "session"], atol=0.01)
    assert np.abs(actual["real", "none"] - actual["other", "none"]).max() > 0.5


def test_test_recordings_have_no_part_in_training(data, score, tmp_path):
    (other := tmp_path / "shards").mkdir()
    for subset in SUBSETS:
        for record in records(subset):
            if "-08-" in record:
                make_shard(other, record, gain=50)
            else:
                (other / record).symlink_to(data / "shards" / record)
    arguments = ("--features", "hudgins", "--classifiers", "knn")
    score(tmp_path / "a", *arguments)
    score(tmp_path / "b", *arguments, shards=other)
    (_, a), (_, b) = result(tmp_path / "a" / "knn-hudgins"), result(tmp_path / "b" / "knn-hudgins")
    mine = np.char.find(a["record"], "-07-") >= 0
    np.testing.assert_array_equal(a["probabilities"][mine], b["probabilities"][mine])


def test_memory_beyond_the_table_does_not_grow_with_the_recordings(data):
    """Signals are read a few windows at a time: six recordings need what one needs, and the features themselves."""
    names = records("train")
    extract = FeatureExtractor(names=feature_names("du+logband"), rate=RATE, low=30, high=400)

    def beyond(chosen):
        windows = WindowSet(open_shards(data / "shards", chosen))
        source = feature_tables.HandCrafted(windows.shards, extract, by_session=False)
        feature_tables.feature_table(windows, source, SimpleNamespace(update=lambda _: None))  # caches of NumPy fill
        tracemalloc.start()
        table = feature_tables.feature_table(windows, source, SimpleNamespace(update=lambda _: None))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most - table.nbytes

    one, all_of_them = beyond(names[:1]), beyond(names)
    assert len(names) >= 6
    assert all_of_them < 1.5 * one


# --- units -----------------------------------------------------------------------------------------------------


def results_in_a_unit(folder: Path, monkeypatch, capsys, scale: float) -> tuple[dict, dict, str]:
    """metrics.json, predictions and output of lda on recordings in a unit of their own, `scale` of them a microvolt."""
    subjects = sorted(record for subset in SUBSETS for record in records(subset))
    for record in subjects:
        make_shard(folder / "shards", record, gain=scale * (1 + int(record[13:15]) % 3), unit="arbitrary")
    write_split(folder / "split", Split("split", "subject", **{name: records(name) for name in SUBSETS}, seed=0), {})
    flags = ["--shards", folder / "shards", "--split", folder / "split", "--out", folder / "out"]
    flags += ["--features", "du+hudgins+logband", "--classifiers", "lda"]
    monkeypatch.setattr("sys.argv", ["baselines.py", *map(str, flags)])
    assert baselines.main() == 0
    return *result(folder / "out" / "lda-du+hudgins+logband"), capsys.readouterr().out


def test_the_same_signal_in_any_unit_is_decided_the_same(tmp_path, monkeypatch, capsys):
    """Thresholds are shares of the training people's RMS where no unit is known."""
    metrics, arrays, out = results_in_a_unit(tmp_path / "1", monkeypatch, capsys, 1.0)
    assert metrics["baseline"]["thresholds"] == pytest.approx(
        {"zc_of_rms": 0.1, "ssc_of_rms2": 0.01, "wamp_of_rms": 0.1}
    )
    recordings = [shard.signal.astype(float) for shard in open_shards(tmp_path / "1" / "shards", records("train"))]
    rms = np.median([np.sqrt(np.mean(one**2)) for one in recordings])
    assert metrics["stands_for_a_microvolt"] == pytest.approx(rms / 100, rel=0.01)
    assert f"the training people's RMS, {100 * metrics['stands_for_a_microvolt']:.4g}, stands for 100 uV" in out
    for scale in (1 / 64, 32.0, 0.37):
        other, output, _ = results_in_a_unit(tmp_path / str(scale), monkeypatch, capsys, scale)
        assert other["stands_for_a_microvolt"] == pytest.approx(scale * metrics["stands_for_a_microvolt"], rel=1e-3)
        # float16 holds a multiple by a power of two as it is, and rounds any other anew
        np.testing.assert_allclose(
            output["probabilities"], arrays["probabilities"], atol=0.1 if scale == 0.37 else 1e-4
        )
        assert np.mean(output["prediction"] == arrays["prediction"]) >= (0.98 if scale == 0.37 else 1)


# --- subsampling, presets ------------------------------------------------------------------------------------------


def test_kernel_methods_get_a_part_of_the_windows_and_say_so(score, tmp_path):
    done = score(tmp_path, *("--features", "rms", "--classifiers", "svm", "lda", "--max-train-windows", 60))
    assert "svm-rms: trained on 58 of 342 windows" in done.stderr
    assert "lda-rms" not in done.stderr
    metrics, _ = result(tmp_path / "svm-rms")
    assert metrics["n_train_windows"] <= 60 < metrics["n_train_windows_available"]
    whole, _ = result(tmp_path / "lda-rms")
    assert whole["n_train_windows"] == whole["n_train_windows_available"]


def test_smoothed_decisions_are_scored_beside_and_change_no_other_number(score, tmp_path):
    flags = ("--features", "rms", "--classifiers", "lda", "svm")
    score(tmp_path / "plain", *flags)
    score(tmp_path / "smooth", *flags, "--vote", 3, "--smooth", 4.1)
    for method, keys in (("lda-rms", {"vote", "smoothed"}), ("svm-rms", {"vote"})):  # svm gives no probabilities
        (plain, windows), (smooth, same) = (result(tmp_path / name / method) for name in ("plain", "smooth"))
        assert smooth["confusion"] == plain["confusion"]
        np.testing.assert_array_equal(windows["start"], same["start"])
        assert keys == smooth.keys() - plain.keys()
        assert {name: smooth["baseline"][name] for name in ("vote", "smooth")} == {"vote": 3, "smooth": 4.1}
        assert all(smooth[key]["mean_over_subjects"].keys() == plain["mean_over_subjects"].keys() for key in keys)
    done = score(tmp_path / "plain", *flags, "--vote", 3, code=1)
    assert "expected a result with vote 3, found none" in done.stderr


def test_sessions_without_a_later_recording_are_left_out_and_named(score, tmp_path):
    lists = {subset: records(subset) for subset in SUBSETS}
    alone = Split("alone", "subject", **lists | {"test": lists["test"][:-1]}, seed=0)
    write_split(tmp_path / "alone", alone, {})
    flags = ("--features", "rms", "--classifiers", "lda", "--adapt", "first", "--split", tmp_path / "alone")
    done = score(tmp_path / "out", *flags)
    metrics, _ = result(tmp_path / "out" / "lda-rms")
    assert list(metrics["per_subject"]) == ["07"]
    assert metrics["adaptation"]["left_out"] == ["08/2018-05-11"]
    assert "lda-rms: nothing to score after the first recording of 08/2018-05-11: left out" in done.stderr


def test_people_who_made_none_of_the_gestures_are_named(data, score, tmp_path):
    shutil.copytree(data / "shards", tmp_path / "shards")
    for record in records("test")[-2:]:
        shutil.rmtree(tmp_path / "shards" / record)
        make_shard(tmp_path / "shards", record, labels=np.zeros(3500, np.int8))
    flags = ("--features", "rms", "--classifiers", "lda", "--shards", tmp_path / "shards")
    assert "left out" not in score(tmp_path / "all", *flags).stderr
    done = score(tmp_path / "some", *flags, "--no-idle")
    assert "warning: nothing to score of 08: left out" in done.stderr.splitlines()
    assert list(result(tmp_path / "some" / "lda-rms")[0]["per_subject"]) == ["07"]


def test_subsample_keeps_shares_and_every_class():
    label = np.repeat([0, 1, 2], [6000, 3990, 10])
    kept = classical.subsample(label, 500, seed=0)
    assert np.bincount(label[kept]).tolist() == [300, 199, 1]
    assert len(np.unique(kept)) == len(kept)
    assert np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(kept, classical.subsample(label, 500, seed=0))
    assert not np.array_equal(kept, classical.subsample(label, 500, seed=1))
    np.testing.assert_array_equal(classical.subsample(label, len(label), seed=0), np.arange(len(label)))


def test_the_authors_preset(data, score, tmp_path):
    done = score(tmp_path, "--features", "du+logband", "--classifiers", "lda", "--preset", "paper")
    metrics, arrays = result(tmp_path / "lda-du+logband")
    actual = metrics["baseline"]
    assert (actual["definitions"], actual["normalize"], actual["train_on"]) == ("authors", "none", ["train", "val"])
    assert actual["thresholds"]["zc_uv"] == pytest.approx(30 * 6.103515625)
    windows = WindowSet(open_shards(data / "shards", [*records("train"), *records("val")]))
    assert metrics["n_train_windows"] == len(windows)
    assert "made without it" in done.stderr  # these shards are not the authors'

    names = feature_names("du+logband")
    extract = FeatureExtractor(names=names, rate=RATE, authors=True, low=30, high=400)  # the shards' own band
    train, test = (extract(w.gather(np.arange(len(w)))) for w in (windows, scored_windows(data)))
    scale = StandardScaler().fit(train)
    model = LinearDiscriminantAnalysis().fit(scale.transform(train), windows.label)
    expected = model.predict_proba(scale.transform(test))  # near 0 or 1, so that logarithms tell more
    np.testing.assert_allclose(np.log(arrays["probabilities"] + 1e-20), np.log(expected + 1e-20), atol=0.1)


def test_classifiers_have_the_authors_settings():
    actual = {
        name: classical.build(name, classical.SETTINGS[name][0], seed=0).steps for name in baselines.USUAL_CLASSIFIERS
    }
    assert all(type(steps[0][1]).__name__ == "StandardScaler" for steps in actual.values())
    last = {name: steps[1][1].get_params() for name, steps in actual.items()}
    assert last["lda"]["solver"] == "svd"
    assert last["qda"]["reg_param"] == 0.3
    assert last["knn"]["n_neighbors"] == 5
    assert (last["svm"]["kernel"], last["svm"]["C"], last["svm"]["gamma"]) == ("rbf", 50, "scale")


# --- running again, going wrong --------------------------------------------------------------------------------


def test_results_are_kept_made_whole_or_refused(score, tmp_path):
    arguments = ("--features", "rms", "--classifiers", "lda")
    score(tmp_path, *arguments)
    path = tmp_path / "lda-rms" / "metrics.json"
    before = path.stat().st_mtime_ns

    done = score(tmp_path, *arguments[:3], "lda", "knn")
    assert "1 of 2 results are there already" in done.stdout
    assert path.stat().st_mtime_ns == before
    assert (tmp_path / "knn-rms" / "metrics.json").is_file()

    done = score(tmp_path, *arguments, "--normalize", "none", code=1)
    assert "normalize none, found session" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(path.read_text())["normalize"] == "session"
    score(tmp_path, *arguments, "--normalize", "none", "--overwrite")
    assert json.loads(path.read_text())["normalize"] == "none"

    score(tmp_path, *arguments, "--vote", 3, "--overwrite")
    done = score(tmp_path, *arguments, code=1)
    assert "expected a result with vote none, found 3" in done.stderr
    score(tmp_path, *arguments, "--normalize", "none", "--overwrite")

    (tmp_path / "lda-rms" / "predictions.npz").unlink()
    score(tmp_path, *arguments, "--normalize", "none")
    assert (tmp_path / "lda-rms" / "predictions.npz").is_file()


def test_shards_are_read_whole_for_results_that_are_to_be_made_alone(data, score, tmp_path):
    """Those of all people take minutes to read: a result made otherwise is refused before, and those there are kept."""
    arguments, shards, out = ("--features", "rms", "--classifiers", "lda"), tmp_path / "shards", tmp_path / "out"
    shutil.copytree(data / "shards", shards)
    score(out, *arguments, shards=shards)
    signal = shards / records("train")[0] / "signal.npy"
    damaged = bytearray(signal.read_bytes())
    damaged[-1] ^= 1
    signal.write_bytes(damaged)
    assert "1 of 1 results are there already and kept" in score(out, *arguments, shards=shards).stdout
    done = score(out, *arguments, "--normalize", "none", shards=shards, code=1)
    assert "normalize none, found session" in done.stderr
    done = score(out, *arguments, "--overwrite", shards=shards, code=1)
    assert f"{signal}: expected the checksum in shard.json, found another" in done.stderr
    make_shard(shards, records("train")[0])
    opened = open_shards(shards, records("train"))
    make_shard(shards, records("train")[0], gain=2.0)
    with pytest.raises(DataError, match="expected the shard as it was, found it made again"):
        verify(opened, Console())


def test_a_folder_of_folds_is_one_run(data, run_here, tmp_path):
    """Each fold is what it would be alone; all folds' people count together; what is done is kept."""
    folds = tmp_path / "folds"
    for number, (test, val) in enumerate((("07", "08"), ("08", "07"))):
        named = {"train": SUBSETS["train"], "val": (val,), "test": (test,)}
        lists = {
            subset: tuple(sorted(record_of(who, t) for who in people for t in ("repeats_long", "repeats_short")))
            for subset, people in named.items()
        }
        write_split(folds / f"fold{number}", Split(f"fold{number}", "subject", **lists, seed=0), {})
    flags = ("--shards", data / "shards", "--features", "rms", "--classifiers", "lda", "qda")
    done = run_here("baselines.py", *flags, "--split", folds, "--out", tmp_path / "all")
    means = {}
    for method in ("lda-rms", "qda-rms"):
        scores = {}
        for fold, who in (("fold0", "07"), ("fold1", "08")):
            metrics, _ = result(tmp_path / "all" / method / fold)
            assert list(metrics["per_subject"]) == [who]
            scores[who] = metrics["per_subject"][who]["macro_f1"]
        mean, sd = np.mean(list(scores.values())), np.std(list(scores.values()), ddof=1)
        assert f"all folds  {method:<28} macro-F1 {mean:.4f} +- {sd:.4f} over 2 people" in done.stdout
        means[method] = mean
    best = max(means, key=means.get)
    assert f"; best macro-F1 {means[best]:.4f} ({best}, all folds); next" in done.stdout, "not of the easiest fold"
    run_here("baselines.py", *flags, "--split", folds / "fold1", "--out", tmp_path / "one")
    for name in FILES - {"metrics.json"}:
        one, same = tmp_path / "one" / "lda-rms" / name, tmp_path / "all" / "lda-rms" / "fold1" / name
        assert one.read_bytes() == same.read_bytes()

    many = (*flags, "--split", folds, "--out", tmp_path / "many", "--launch", "local", "--parallel", 2)
    launched = run_here("baselines.py", *many)
    assert [line for line in launched.stdout.splitlines() if line.startswith("all folds")] == [
        line for line in done.stdout.splitlines() if line.startswith("all folds")
    ]
    for place in (f"{method}/fold{number}" for method in ("lda-rms", "qda-rms") for number in (0, 1)):
        for name in FILES - {"metrics.json"}:
            assert (tmp_path / "many" / place / name).read_bytes() == (tmp_path / "all" / place / name).read_bytes()
        one, same = (read_json(tmp_path / run / place / "metrics.json", "metrics") for run in ("many", "all"))
        for name in ("out", "threads"):  # where it is written, and by how many; neither changes a number
            one["made"]["arguments"][name] = same["made"]["arguments"][name]
        assert one == same
    output = run_here(
        "baselines.py", *flags, "--split", folds, "--out", tmp_path / "no", "--only-folds", "fold7", code=2
    )
    assert "--only-folds fold7: expected folds of" in output.stderr and "which has fold0, fold1" in output.stderr

    (tmp_path / "all/qda-rms/fold0/metrics.json").unlink()
    done = run_here("baselines.py", *flags, "--split", folds, "--out", tmp_path / "all")
    assert "3 of 4 results are there already" in done.stdout
    table = run_here("compare.py", tmp_path / "all", "--out", tmp_path / "table").stdout
    assert "lda-rms" in table
    assert (tmp_path / "all/qda-rms/fold0/metrics.json").is_file()


def test_a_person_whom_several_folds_test_counts_once_with_their_mean(tmp_path):
    """As with a split by recording, which tests each recording of a person in a fold of its own."""
    scored = {"a": {"03": 0.2}, "b": {"03": 0.6}, "c": {"04": 0.8}}
    own = [baseline_results.Baseline("lda-rms", fold, tmp_path / fold, {"fold": fold}) for fold in scored]
    for one, people in zip(own, scored.values(), strict=True):
        per_subject = {who: {"macro_f1": value} for who, value in people.items()}
        write_json(one.folder / "metrics.json", {"baseline": one.settings, "per_subject": per_subject})
    mean, sd, people = baseline_results.pooled(own)["lda-rms"]
    assert (mean, sd, people) == pytest.approx((0.6, np.std([0.4, 0.8], ddof=1), 2))


class Launched:
    """In place of a launcher: each job leaves a result, of the data that it found."""

    def __init__(self, baselines, data):
        self.baselines, self.data = {one.fold: one for one in baselines}, data

    def run(self, jobs, _what):
        for job in jobs:
            folder = self.baselines[job.name].folder
            folder.mkdir(parents=True)
            for name in baseline_results.OUTPUT_FILES:
                (folder / name).touch()
            scores = {"macro_f1": 0.5}
            report = {"mean_over_subjects": scores, "per_subject": {job.name: scores}}
            settings = {"shards_sha256": self.data[job.name]}
            write_json(folder / "metrics.json", report | {"baseline": settings})
            yield job, ""


def test_a_fold_of_shards_that_were_made_anew_before_its_job_began_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["baselines.py"])
    args = argparse.Namespace(out=tmp_path, overwrite=False)
    own = [
        baseline_results.Baseline("lda-rms", fold, tmp_path / "lda-rms" / fold, {"shards_sha256": "old"})
        for fold in ("fold0", "fold1")
    ]
    launched = Launched(own, {"fold0": "old", "fold1": "new"})
    windows = {"fold0": {}, "fold1": {}}
    assert folds.work_through("baselines.py", args, own, windows, None, launched, Console()) == 1
    told = capsys.readouterr()
    assert "error: lda-rms fold1: " in told.err and "expected a result with shards_sha256 old, found new" in told.err
    assert "all folds" not in told.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--networks", "eegnet"], 2, "--networks: expected it no longer; instead: python deep_baselines.py"),
        (["--features", "rms", "hudgin"], 2, "rms, hudgins, du, logband"),
        (["--subset", "train"], 2, "not trained on"),
        (["--subset", "val", "--preset", "paper"], 2, "not trained on"),
        (["--classifiers", "forest"], 2, "invalid choice"),
        (["--max-train-windows", "0"], 2, "at least 8"),
        (["--max-train-windows", "60", "--classifiers", "lda"], 2, "expected knn or svm among --classifiers"),
        (["--seed", "1", "--classifiers", "lda"], 2, "--seed: expected knn, svm, boosting or mlp among --classifiers"),
        (["--augment", "rotation"], 2, "expected recordings with rings of electrodes, found none"),
        (
            ["--preset", "paper", "--adapt", "session", "--adapt-by", "network", "--classifiers", "svm"],
            2,
            "--preset paper: expected without svm, whose probabilities are fitted to the validation people",
        ),
        (["--split", "absent"], 1, "create_dataset_files.py"),
        (["--shards", "absent"], 1, "preprocess.py"),
    ],
)
def test_wrong_input_is_refused_before_any_work(score, tmp_path, arguments, code, told):
    done = score(tmp_path / "out", *arguments, code=code)
    assert told in done.stderr
    assert not list((tmp_path / "out").glob("*/*"))


def test_a_classifier_that_cannot_be_trained_does_not_stop_the_others(data, tmp_path, monkeypatch):
    """With fewer windows of a class than features QDA's covariance may have no inverse; the run goes on."""

    def refuse(*_arguments, **_settings):
        raise np.linalg.LinAlgError("not full rank")

    monkeypatch.setattr("sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis.fit", refuse)
    given = ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path, "--features", "rms"]
    monkeypatch.setattr("sys.argv", ["baselines.py", *map(str, given), "--classifiers", "qda", "lda"])
    assert baselines.main() == 1
    assert (tmp_path / "lda-rms" / "metrics.json").is_file()
    assert not (tmp_path / "qda-rms").exists()


@pytest.mark.parametrize(("flags", "expected"), [((), 3), (("--threads", "2"), 2)])
def test_it_computes_with_the_threads_of_the_environment_unless_told_otherwise(
    data, tmp_path, monkeypatch, flags, expected
):
    """As docs/many_runs.md says: it took all cores, and waited for the other jobs' threads."""
    limits = []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(baselines, "threadpool_limits", lambda number: limits.append(number) or nullcontext())
    monkeypatch.setattr(baselines.folds, "work_through", lambda *_: 0)
    places = ["--shards", data / "shards", "--split", data / "split", "--out", tmp_path]
    monkeypatch.setattr("sys.argv", ["baselines.py", *map(str, places), *flags])
    assert baselines.main() == 0
    assert limits == [expected]


def test_what_there_is_one_of_is_told_as_one(tmp_path, capsys):
    make_shard(tmp_path, record_of("03"), labels=np.repeat([0, -1], [WINDOW, 3500 - WINDOW]))
    windows = WindowSet(open_shards(tmp_path, [record_of("03")]))
    said = baseline_results.describe("", {"train": windows, "scored": windows}, "test", "session")
    assert said.startswith("training on 1 window of 1 person, scoring 1 window of 1 person (test)")
    one = baseline_results.Baseline("lda-rms", "", tmp_path / "lda-rms", {})
    assert baseline_results.finish(Console(), tmp_path, [one], [one], {"lda-rms": 0.5}) == 0
    assert ": 1 result written; best macro-F1 0.5000 (lda-rms)" in capsys.readouterr().out
