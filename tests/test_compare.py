"""compare.py on hand-made results, its statistics against values worked out by hand or by loops."""

import csv
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compare
from semg.common.errors import DataError
from semg.evaluation.comparison import (
    Evaluation,
    differences_between,
    find_results,
    holm,
    method_names,
    paired,
    pool,
    read_evaluation,
    too_few,
)

PEOPLE = [f"{n:02d}" for n in range(3, 11)]  # eight


def write_result(folder: Path, values: dict[str, float], subset: str = "test", windows: int = 100) -> Path:
    """A metrics.json with what compare.py reads."""
    per_subject = {
        person: {"accuracy": value + 0.1, "balanced_accuracy": value, "macro_f1": value, "n_windows": windows}
        for person, value in values.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.json"
    path.write_text(json.dumps({"per_subject": per_subject, "subset": subset, "split": "splits/x"}))
    return path


def evaluation_of(values: dict[str, float], windows: int = 100) -> Evaluation:
    return Evaluation(Path("x"), "test", values, dict.fromkeys(values, windows))


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


# --- statistics --------------------------------------------------------------------------------------------------


def signed_rank_p(differences: list[float]) -> float:
    """Exact two-sided p by trying every pattern of signs; no zeros, no equal sizes."""
    order = sorted(range(len(differences)), key=lambda i: abs(differences[i]))
    ranks = {i: rank for rank, i in enumerate(order, 1)}
    positive = sum(ranks[i] for i, d in enumerate(differences) if d > 0)
    middle = sum(ranks.values()) / 2
    sums = [sum(r for r, on in zip(ranks.values(), signs, strict=True) if on) for signs in every_sign(differences)]
    return sum(abs(s - middle) >= abs(positive - middle) for s in sums) / len(sums)


def every_sign(values):
    return itertools.product((False, True), repeat=len(values))


@given(st.lists(st.integers(-500, 500).filter(bool), min_size=2, max_size=8, unique_by=abs))
def test_paired_test_is_the_exact_signed_rank_test(thousandths):
    differences = [value / 1000 for value in thousandths]
    reference = {f"{i:02d}": 0.5 for i in range(len(differences))}
    method = {person: 0.5 + d for person, d in zip(reference, differences, strict=True)}
    actual = paired(pool("a", [evaluation_of(method)]), pool("b", [evaluation_of(reference)]))
    assert actual.n == len(differences)
    assert actual.difference == pytest.approx(np.mean(differences))
    assert actual.p == pytest.approx(signed_rank_p(differences))
    assert (actual.interval is None) == (len(differences) < 5)
    assert actual.interval is None or actual.interval[0] <= actual.difference <= actual.interval[1]


def test_equal_methods_differ_by_nothing():
    one = pool("a", [evaluation_of(dict.fromkeys(PEOPLE, 0.1 + 0.2))])
    same = pool("b", [evaluation_of(dict.fromkeys(PEOPLE, 0.3))])  # 0.1 + 0.2 is not quite 0.3
    assert paired(one, same).p == 1.0


def test_people_with_equal_scores_do_not_hide_the_difference_of_the_others():
    differences = [0.1, 0.2, 0.3, 0.05, 0.15, 0.25, 0.12]
    reference = dict.fromkeys(PEOPLE, 0.5)
    method = {person: 0.5 + d for person, d in zip(PEOPLE, [*differences, 0.0], strict=True)}
    actual = paired(pool("a", [evaluation_of(method)]), pool("b", [evaluation_of(reference)]))
    assert (actual.n, actual.p) == (8, pytest.approx(signed_rank_p(differences)))


def test_pairs_are_people_that_both_have():
    one = pool("a", [evaluation_of({"03": 0.9, "04": 0.8, "05": 0.7})])
    other = pool("b", [evaluation_of({"04": 0.5, "05": 0.5, "06": 0.0})])
    actual = paired(one, other)
    assert (actual.n, actual.difference) == (2, pytest.approx(0.25))
    with pytest.raises(DataError, match="found none"):
        paired(one, pool("c", [evaluation_of({"09": 0.1})]))


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04 -> 3 * 0.01, 2 * 0.02, 1 * 0.04; then never falling
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_seeds_are_averaged_and_folds_add_people():
    method = pool(
        "m", [evaluation_of({"03": 0.2, "04": 0.4}), evaluation_of({"03": 0.4, "04": 0.6}), evaluation_of({"05": 0.9})]
    )
    assert method.subjects == pytest.approx({"03": 0.3, "04": 0.5, "05": 0.9})
    assert method.values.tolist() == pytest.approx([0.3, 0.5, 0.9])
    assert method.runs_per_subject == (1, 2)


def test_notes_name_what_is_not_comparable():
    full = pool("full", [evaluation_of(dict.fromkeys(PEOPLE, 0.5))])
    partly = pool("partly", [evaluation_of(dict.fromkeys(PEOPLE[1:], 0.5), windows=90)])
    uneven = pool("uneven", [evaluation_of(dict.fromkeys(PEOPLE, 0.5)), evaluation_of({"03": 0.4})])
    assert differences_between([full, full]) == []
    notes = "\n".join(differences_between([full, partly, uneven]))
    assert "partly: 1 of 8 people not scored (03)" in notes
    assert "partly: not the same windows as full" in notes
    assert "uneven: some people have 1 run, others 2" in notes


def test_a_persons_recordings_may_differ_in_windows():
    def of(folder, windows):
        return replace(evaluation_of({"03": 0.5}, windows=windows), path=Path(f"results/paper/{folder}/metrics.json"))

    first = of("03-2018-05-11-sequential/lda-rms", 90)
    assert differences_between([pool("lda", [first, of("03-2018-05-11-repeats_long/lda-rms", 80)])]) == []
    (note,) = differences_between([pool("lda", [first, of("03-2018-05-11-sequential/lda-rms", 80)])])
    assert "has other numbers of windows than the runs before it" in note
    (note,) = differences_between([pool("gpt2", [of("seed0", 90), of("seed1", 80)])])
    assert "seed1/metrics.json has other numbers of windows than the runs before it" in note


def test_results_of_other_data_are_noted():
    """A table could mix results of shards that were made anew with those from before."""
    arguments = {"window": 1280, "low": 20.0}

    def of(folder, person, checksum="a", **changes):
        data = {"rate": 5120.0, "unit": "uV", "arguments": arguments | changes, "checksums": {f"r-{person}": checksum}}
        return replace(evaluation_of({person: 0.5}), path=Path(f"{folder}/metrics.json"), data=data)

    people = [of("gpt2/fold0", "03"), of("gpt2/fold1", "04")]
    rest = [replace(one, data={}) for one in people]  # results from before results said it
    assert differences_between([pool("gpt2", people), pool("lda", people), pool("svm", rest)]) == []
    (note,) = differences_between([pool("gpt2", people), pool("lda", [people[0], of("lda/fold1", "04", "b")])])
    both = "gpt2/fold1/metrics.json and lda/fold1/metrics.json"
    assert note == f"lda: the shard of r-04 was made again differently between {both}"
    (note,) = differences_between([pool("gpt2", [people[0], of("gpt2/fold1", "04", window=2500)])])
    told = "expected window 1280, found 2500"
    assert (
        note
        == f"gpt2: gpt2/fold1/metrics.json is of shards made differently from those of gpt2/fold0/metrics.json: {told}"
    )


def test_results_of_other_gestures_are_noted(tmp_path):
    """A note was there on the numbers of windows alone, and none where those are the same."""

    def of(folder, classes):
        path = write_result(tmp_path / folder, {"03": 0.5})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": classes}))
        return read_evaluation(path, "macro_f1")

    all_of_them = of("all", ["idle", "fist", "pinch"])
    same, rest = of("same", ["fist", "idle", "pinch"]), evaluation_of({"03": 0.5})  # an earlier version's does not say
    assert differences_between([pool("all", [all_of_them]), pool("same", [same]), pool("rest", [rest])]) == []
    others = [pool(name, [of(name, ["fist", "wave"])]) for name in ("active", "waves")]
    (note,) = differences_between([pool("all", [all_of_them]), *others])
    assert note == f"active, waves: of other gestures than {tmp_path}/all/metrics.json: without idle, pinch; with wave"
    more = pool("more", [of("more", [*all_of_them.classes, "wave"])])
    (note,) = differences_between([pool("all", [all_of_them]), more])
    assert note.endswith("all/metrics.json: with wave")
    for wrong in ("fist", [1, 2], {"fist": 1}):
        with pytest.raises(DataError, match="a list of names for classes"):
            of("wrong", wrong)


def test_methods_that_learnt_from_the_people_scored_are_told_from_those_that_did_not(tmp_path):
    """An adapted model stood beside unadapted ones without a word."""

    def of(folder, **more):
        path = write_result(tmp_path / folder, {"03": 0.5})
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
        return pool(folder, [read_evaluation(path, "macro_f1")])

    plain, other = of("plain"), of("other")
    session, rival = of("session", adaptation={"mode": "session"}), of("rival", adaptation={"on": "session"})
    both = of("both", calibrate=1, adaptation={"mode": "first"})
    assert differences_between([plain, other]) == []
    assert differences_between([session, rival]) == []
    (note,) = differences_between([plain, session, other, rival, both])
    assert note == (
        "methods have learnt from different data of the people scored: neither adapted nor calibrated: plain, other; "
        "adapted without labels (session): session, rival; "
        "calibrated with labels (1 of each gesture) and adapted without labels (first): both"
    )
    kept, taught = of("kept", adapted_to=["her.csv"]), of("taught", calibrated_on=["her.csv"])
    note, *_ = differences_between([plain, kept, taught])
    assert note.endswith("adapted without labels (adapt.py): kept; calibrated with labels (adapt.py): taught")
    assert len(differences_between([plain, of("odd", adaptation=3, calibrate="\x1b[2J")])) == 1


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("trained_on_subjects_scored", "a, b: people scored were trained on (03, 04); they are not new to the model"),
        ("chosen_on_subjects_scored", "a, b: the model was chosen on people scored (03, 04); this flatters it"),
    ],
)
def test_people_scored_who_are_not_new_to_a_model_are_noted(tmp_path, field, told):
    """The page of report.py said it; a table with the same results did not."""

    def of(folder, *people):
        path = write_result(tmp_path / folder, {"03": 0.5, "04": 0.6})
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: list(people)}))
        return read_evaluation(path, "macro_f1")

    seen = [pool("a", [of("a/fold0", "04"), of("a/fold1", "03")]), pool("b", [of("b", "03", "04")])]
    assert differences_between([*seen, pool("new", [of("new")])]) == [told]
    for wrong in ("03", [3], {"03": 1}):
        path = write_result(tmp_path / "wrong", {"03": 0.5})
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: wrong}))
        with pytest.raises(DataError, match="a list of people"):
            read_evaluation(path, "macro_f1")


def test_methods_that_were_normalised_by_other_signals_are_told_apart(tmp_path):
    """Decisions that knew a session's whole signal stood beside those of a live device without a word."""

    def of(folder, **more):
        path = write_result(tmp_path / folder, {"03": 0.5})
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
        return pool(folder, [read_evaluation(path, "macro_f1")])

    whole, rival, live = (
        of("whole", normalize="session"),
        of("rival", normalize="session"),
        of("live", normalize="online"),
    )
    earlier = of("earlier")  # an earlier version's does not say
    assert differences_between([whole, rival, earlier]) == []
    (note,) = differences_between([whole, live, rival, of("raw", normalize="none"), earlier])
    assert note == "methods were normalised differently: session: whole, rival; online: live; none: raw"
    with pytest.raises(DataError, match="a text for normalize"):
        of("wrong", normalize=["session"])


def test_a_mean_of_ones_may_be_rounded_up(tmp_path):
    path = write_result(tmp_path, {"03": 0.0, "04": 1.0000000000000002})
    assert read_evaluation(path, "macro_f1").subjects["04"] == pytest.approx(1)
    with pytest.raises(DataError, match="from 0 to 1"):
        read_evaluation(write_result(tmp_path, {"03": 1.01}), "macro_f1")


def test_names_are_paths_without_folds_seeds_and_what_is_common():
    names = method_names([Path(f"/r/{p}/metrics.json") for p in ("none/fold0/lda-rms", "session/fold12/lda-rms")])
    assert names == ["none/lda-rms", "session/lda-rms"]
    names = method_names([Path(f"/r/{p}/metrics.json") for p in ("gpt2-seed0/fold0", "gpt2-seed1/fold1", "foldable")])
    assert names == ["gpt2", "gpt2", "foldable"]
    assert method_names([Path("/r/one/fold0/metrics.json"), Path("/r/one/fold1/metrics.json")]) == ["one", "one"]


# --- the script --------------------------------------------------------------------------------------------------


def spread(mean: float, step: float = 0.01) -> dict[str, float]:
    return {person: mean + step * place for place, person in enumerate(PEOPLE)}


def test_the_page_that_is_to_follow_is_of_the_same_numbers(tmp_path, run_here):
    write_result(tmp_path / "results", spread(0.6))
    words = (tmp_path / "results", "--metric", "balanced_accuracy", "--out", tmp_path / "out")
    done = run_here("compare.py", *words)
    *_, command = done.stdout.splitlines()[-1].partition("next: python ")
    assert command == f"report.py {tmp_path}/results --metric balanced_accuracy --out {tmp_path}/out/report.html"
    run_here("report.py", *command.split()[1:])
    assert "Every person&#39;s balanced accuracy" in (tmp_path / "out" / "report.html").read_text().replace(
        "'", "&#39;"
    )
    arrays = {name: np.array([0, 1]) for name in ("start", "label", "prediction")}
    np.savez(tmp_path / "a.npz", record=np.array(["a", "b"]), subject=np.array(["1", "2"]), **arrays)
    done = run_here("compare.py", tmp_path / "a.npz", "--out", tmp_path / "out")
    assert "next:" not in done.stdout, "report.py takes no predictions alone"


def test_folds_and_seeds_become_one_row_and_are_tested_against_the_reference(tmp_path, run_script, run_here):
    results = tmp_path / "results"
    for seed, shift in (("seed0", -0.02), ("seed1", 0.02)):
        whole = spread(0.6 + shift)
        write_result(results / "gpt2" / "fold0" / seed, {p: whole[p] for p in PEOPLE[:4]})
        write_result(results / "gpt2" / "fold1" / seed, {p: whole[p] for p in PEOPLE[4:]})
    write_result(results / "lda", spread(0.5, 0.012))
    write_result(results / "svm", spread(0.55, 0.02))
    out = tmp_path / "out"
    done = run_script("compare.py", results, "--reference", "gpt2", "--out", out)
    page = ["--reference", "gpt2", "--out", str(out / "report.html")]
    assert done.stdout.splitlines()[-1].endswith(f"; next: python report.py {results} {' '.join(page)}")
    run_here("report.py", results, *page)

    rows = table(out / "compare.csv")
    assert list(rows) == ["gpt2", "svm", "lda"]  # best first
    gpt2 = rows["gpt2"]
    assert (gpt2["subjects"], gpt2["runs_fewest"], gpt2["runs_most"], gpt2["p"]) == ("8", "2", "2", "")
    assert float(gpt2["mean"]) == pytest.approx(0.6 + 0.01 * 3.5)
    assert float(gpt2["sd"]) == pytest.approx(np.std(0.01 * np.arange(8), ddof=1))
    assert float(gpt2["ci95_low"]) < float(gpt2["mean"]) < float(gpt2["ci95_high"])
    lda = rows["lda"]
    assert (lda["reference"], lda["n"]) == ("gpt2", "8")
    assert float(lda["difference"]) == pytest.approx(-0.1 + 0.002 * 3.5)
    assert float(lda["p"]) == pytest.approx(2 / 2**8)  # all eight people worse
    assert float(lda["p_holm"]) == pytest.approx(4 / 2**8)

    markdown = (out / "compare.md").read_text()
    assert markdown in done.stdout
    assert "| lda | 8 | 1 |" in markdown
    assert "macro-F1 (%)" in markdown
    people = {row["subject"]: row for row in csv.DictReader((out / "subjects.csv").open())}
    assert float(people["03"]["gpt2"]) == pytest.approx(0.6)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((out / "compare.json").read_text())["runs"]["gpt2"]) == 4
    assert all(path.name in done.stdout.splitlines()[-1] for path in out.iterdir())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run_here("compare.py", results, "--reference", "gpt2", "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_method_called_like_the_column_of_people_has_a_column_of_its_own(tmp_path, run_here):
    for name, value in (("subject", 0.5), ("method subject", 0.6)):
        write_result(tmp_path / "r" / name, {"03": value, "04": value})
    run_here("compare.py", tmp_path / "r", "--out", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "subjects.csv").open()))
    assert [row.pop("subject") for row in rows] == ["03", "04"]
    assert rows == 2 * [{"method subject": "0.5", "method method subject": "0.6"}]


def test_groups_metric_and_json(tmp_path, run_here):
    for fold, people in (("fold0", PEOPLE[:4]), ("fold1", PEOPLE[4:])):
        for name, mean in (("lda-rms", 0.4), ("svm-rms", 0.5)):
            write_result(tmp_path / fold / name, dict.fromkeys(people, mean))
    done = run_here(
        *("compare.py", "--group", f"linear={tmp_path}/fold*/lda-rms"),
        *("--group", f"kernel={tmp_path}/fold0/svm-rms", f"{tmp_path}/fold1/svm-rms/metrics.json"),
        *("--metric", "accuracy", "--out", tmp_path / "out", "--json"),
    )
    assert json.loads(done.stdout)["methods"] == pytest.approx({"linear": 0.5, "kernel": 0.6})
    assert "reference" not in (tmp_path / "out" / "compare.md").read_text()


def write_predictions(folder: Path, wrong: dict[str, int]) -> Path:
    """Ten windows a person, of two classes, the first `wrong` of them predicted wrong."""
    label = np.tile([0, 1], 5)
    names = [f"emg_gestures-{person}-sequential-2018-05-11-10-00-00-000" for person in wrong]
    folder.mkdir(parents=True)
    np.savez(
        folder / "predictions.npz",
        record=np.repeat(names, 10),
        label=np.tile(label, len(names)),
        prediction=np.concatenate([np.where(np.arange(10) < n, 1 - label, label) for n in wrong.values()]),
    )
    return folder / "predictions.npz"


def test_a_result_counts_once_however_its_path_is_written(tmp_path, monkeypatch):
    for seed, score in (("seed0", 0.2), ("seed1", 0.4)):
        write_result(tmp_path / "gpt2" / seed, {"03": score})
    monkeypatch.chdir(tmp_path)
    (method,) = compare.collect([Path("gpt2/seed0"), tmp_path / "gpt2"], [], "macro_f1")
    assert method.runs_per_subject == (2, 2)
    assert method.subjects["03"] == pytest.approx(0.3)


def test_a_pattern_of_all_that_is_below_takes_the_results(tmp_path):
    for seed in ("seed0", "seed1"):
        write_result(tmp_path / "gpt2" / seed, {"03": 0.2})
        (tmp_path / "gpt2" / seed / "confusion_matrix.png").write_bytes(bytes(9))
        (tmp_path / "gpt2" / seed / "figures").mkdir()
    (method,) = compare.collect([], [[f"gpt2={tmp_path}/gpt2/**"]], "macro_f1")
    assert method.runs_per_subject == (2, 2)


def test_files_of_the_system_are_no_results(tmp_path):
    run = write_result(tmp_path / "a" / "run", {"03": 0.5})
    (tmp_path / "a" / "@eaDir" / "metrics.json").mkdir(parents=True)
    write_result(tmp_path / "a" / ".ipynb_checkpoints", {"03": 0.5})
    assert find_results(tmp_path / "a") == [run]
    for pattern in ("**", "*", "**/metrics.json"):
        assert compare.matching("x", [f"{tmp_path}/a/{pattern}"]) == [run]


def test_predictions_alone_are_scored_by_person(tmp_path, run_here):
    write_result(tmp_path / "a", {"03": 0.5, "04": 0.5}, windows=10)
    path = write_predictions(tmp_path / "b", {"03": 2, "04": 0})
    run_here("compare.py", tmp_path / "a", path, "--metric", "accuracy", "--out", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "subjects.csv").open()))
    assert [(row["subject"], float(row["b"])) for row in rows] == [("03", 0.8), ("04", 1.0)]
    named = {"subject": np.repeat(["P101", "P7"], 10), "record": np.repeat(["fist-1", "fist-2"], 10)}
    with np.load(path) as arrays:
        np.savez(tmp_path / "c.npz", **{**arrays, **named})
    assert read_evaluation(tmp_path / "c.npz", "accuracy").subjects == {"P101": 0.8, "P7": 1.0}
    for name in ("label", "prediction"):  # a gesture that only the truth has, or only the decisions
        with np.load(path) as arrays:
            np.savez(tmp_path / "d.npz", **{**arrays, **named, name: arrays[name] + 1})
        assert max(read_evaluation(tmp_path / "d.npz", "accuracy").subjects.values()) < 0.8
    done = run_here("compare.py", path, "--metric", "active_accuracy", "--out", tmp_path / "out", code=1)
    assert "expected a value of accuracy without rest for at least one person, found none" in done.stderr
    path.write_bytes(path.read_bytes()[:-30])
    done = run_here("compare.py", path, "--out", tmp_path / "out", code=1)
    assert "expected record, label and prediction" in done.stderr


def test_few_people_are_warned_about(tmp_path, run_here):
    few = dict.fromkeys(PEOPLE[:5], 0.5)
    enough = pool("enough", [evaluation_of(dict.fromkeys(PEOPLE[:6], 0.5))])
    assert too_few([enough], {}) == []
    for name, shift in (("a", 0.0), ("b", 0.1)):
        write_result(tmp_path / name, {p: v + shift for p, v in few.items()})
    done = run_here("compare.py", tmp_path / "a", tmp_path / "b", "--reference", "a", "--out", tmp_path / "out")
    assert "only 5 people" in done.stderr
    assert "only 5 people" in (tmp_path / "out" / "compare.md").read_text()
    assert float(table(tmp_path / "out" / "compare.csv")["b"]["p"]) == pytest.approx(2 / 2**5)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nothing-there"], 1, "run evaluate.py"),
        ([], 2, "expected results to compare"),
        (["good", "--reference", "other"], 2, "expected one of good"),
        (["good", "validation"], 1, "one subset"),
        (["broken"], 1, "per_subject"),
        (["empty"], 1, "at least one person"),
        (["good", "--group", "nameless"], 2, "NAME=GLOB"),
        (["good", "--group", "x=absent/*"], 1, "found none"),
        (["good", "--group", "good=good"], 2, "each name once"),
    ],
)
def test_wrong_input_is_one_clear_line(tmp_path, run_here, arguments, code, told):
    write_result(tmp_path / "good", spread(0.5))
    write_result(tmp_path / "validation", spread(0.5), subset="val")
    write_result(tmp_path / "empty", {})
    write_result(tmp_path / "broken", spread(0.5)).write_text('{"per_subject": {"03": {"macro_f1": 1}}}')
    done = run_here("compare.py", *arguments, "--out", "out", code=code, cwd=tmp_path)
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or code == 2
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, run_here):
    (tmp_path / "out").write_text("mine")
    done = run_here("compare.py", "nothing-there", "--out", "out", code=1, cwd=tmp_path)
    assert done.stderr.startswith("error: ")
    assert "out: expected a folder, to write the tables under it, found a file" in done.stderr


# --- names that others chose -------------------------------------------------------------------------------------


def test_names_become_no_formula_markup_or_command(tmp_path, run_here):
    """A folder's name is a method's; in a terminal, a spreadsheet and a page it is a name and nothing else."""
    evil = ["=1+1", "@SUM(A1)", "+x", "a|b", "<script>x", "[x](http:", "\x1b[31mred", "new\nline", "$x_{$", "&lt;"]
    for name in evil:
        write_result(tmp_path / "r" / name.replace("/", ""), spread(0.5))
    out = tmp_path / "out"
    done = run_here("compare.py", tmp_path / "r", "--reference", "=1+1", "--out", out)
    assert "\x1b" not in done.stdout + done.stderr
    text = (out / "compare.md").read_text()
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(evil)
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert columns == {12}  # of a table with a reference: none more for a name with a bar
    assert not re.search(r"(?<!\\)<[a-z]|(?<!\\)\]\(|(?<!\\)(?<!\\)\]\(", text)
    assert r"\&lt;" in text
    for name in ("compare.csv", "subjects.csv"):
        with (out / name).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "@", "+") or (cell[:1] == "-" and not number(cell))]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"macro_f1": "0.5"}, "'0.5' in place of a number"),
        ({"macro_f1": True}, "True in place of a number"),
        ({"macro_f1": 1e999}, "a number that is not finite: Infinity"),
        ({"n_windows": "100"}, "'100' in place of a count"),
        ({"n_windows": 10.5}, "10.5 in place of a count"),
        ({"n_windows": -1}, "-1 in place of a count"),
    ],
)
def test_what_passes_for_a_number_is_none(tmp_path, change, told):
    path = write_result(tmp_path, {"03": 0.5})
    content = json.loads(path.read_text())
    content["per_subject"]["03"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=told):
        read_evaluation(path, "macro_f1")


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "x" * 65])
def test_people_have_names_that_can_be_shown(tmp_path, name):
    with pytest.raises(DataError, match="expected people's names of 1 to 64 printable characters"):
        read_evaluation(write_result(tmp_path, {name: 0.5}), "macro_f1")


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = write_result(tmp_path, {"03": 0.5})
    path.write_text(path.read_text().replace('"macro_f1": 0.5', '"macro_f1": 0.1, "macro_f1": 0.9'))
    with pytest.raises(DataError, match="the key 'macro_f1' is there twice"):
        read_evaluation(path, "macro_f1")
