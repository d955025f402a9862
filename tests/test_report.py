"""report.py: the page says what the files say, whoever wrote them, and a browser opens it without network."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_shards
from waiting import LONGEST

import report
from semg.common.errors import DataError, SettingError, UsageError
from semg.data.shards import open_shard
from semg.evaluation import inline_charts, metrics
from semg.evaluation.comparison import read_evaluation
from semg.evaluation.predictions import Bin, Excerpt, excerpt, read_predictions, reliability, surest_errors
from semg.evaluation.report import write_results
from semg.evaluation.run_record import read_run_record
from semg.evaluation.scored_windows import ScoredWindows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CLASSES = small_shards.CLASSES
# what the browser asks its maker for, whatever page is open
BROWSERS_OWN = re.compile(r"[/. ](google|googleapis|gvt1|gstatic)\.com[:/]")
PEOPLE = {"04": 0.9, "05": 0.6}  # about this share of a person's windows is right


def decide(shard, right, seed):
    """Made-up decisions about all windows of a shard: (n,) prediction, (n, K) probabilities."""
    random = np.random.default_rng(seed)
    label = shard.windows["label"].astype(np.int64)
    wrong = (label + random.integers(1, len(CLASSES), len(label))) % len(CLASSES)
    prediction = np.where(random.random(len(label)) < right, label, wrong)
    shares = np.full((len(label), len(CLASSES)), 0.1)
    shares[np.arange(len(label)), prediction] = random.uniform(0.3, 0.7, len(label))
    return prediction, shares / shares.sum(1, keepdims=True)


def write_result(folder, shards, *, gain=0.0, names=PEOPLE, classes=CLASSES, seed=0, simulated=False, **extra):
    """A result of two people, scored in full by the real writer; returns what metrics.json holds."""
    opened = [open_shard(shards / small_shards.name(int(number))) for number in PEOPLE]
    result = [
        decide(one, right + gain, seed + k) for k, (one, right) in enumerate(zip(opened, PEOPLE.values(), strict=True))
    ]
    lengths = [len(one.windows) for one in opened]
    return write_results(
        folder,
        ScoredWindows(
            label=np.concatenate([one.windows["label"] for one in opened]).astype(np.int64),
            subject=np.repeat(list(names), lengths),
            record=np.repeat([one.record for one in opened], lengths),
            start=np.concatenate([one.windows["start"] for one in opened]),
            classes=list(classes),
            rest_classes=["idle"],
            rate=small_shards.RATE,
            window_seconds=320 / small_shards.RATE,
            stride_seconds=160 / small_shards.RATE,
            simulated=simulated,
            data={
                "rate": small_shards.RATE,
                "unit": "uV",
                "arguments": {"window": small_shards.WINDOW},
                "checksums": {one.record: one.content for one in opened},
            },
        ),
        np.concatenate([one[0] for one in result]),
        np.concatenate([one[1] for one in result]),
        extra={
            "subset": "test",
            "split": "splits/one",
            "split_sha256": "5" * 64,
            "checkpoint": "checkpoints/one/best_model.ckpt",
            "trained_on_subjects_scored": [],
            "made": {
                "script": "evaluate.py",
                "arguments": {"shards": shards.as_posix()},
                "versions": {"python": "3.11.7", "torch": "2.13.0"},
                "commit": "abcdef0123",
            },
            **extra,
        },
    )


def write_run(folder, **changes):
    """A training run's two text files."""
    folder.mkdir(parents=True)
    rows = [
        {"epoch": n, "train/loss": 1 / n, "val/loss": 1.2 / n, "train/macro_f1": 0.5 + 0.1 * n, "val/macro_f1": value}
        for n, value in ((1, 0.5), (2, 0.75), (3, 0.7))
    ]
    config = {
        "script": "train.py",
        "arguments": {"split": "splits/one", "lr": 0.00125, "layers": None, "precompute": True},
        "versions": {"numpy": "2.4.6"},
        "commit": "fedcba9876",
        "derived": {
            "train": {"subjects": 31, "recordings": 62, "windows": 4711, "simulated": False},
            "val": {"subjects": 7, "recordings": 14, "windows": 815, "simulated": False},
            "classes": CLASSES,
            "parameters": {"total": 184776},
        },
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards, a run, and results: plain, better, and adapted without labels and with them."""
    folder = tmp_path_factory.mktemp("report")
    shards, _ = small_shards.write_all(folder)
    plain = write_result(folder / "results" / "plain", shards)
    write_result(folder / "results" / "better", shards, gain=0.08, seed=5)
    was = {key: plain[key] for key in ("mean_over_subjects", "per_subject")}
    output = {
        "mode": "session",
        "settings": {},
        "sessions": [
            {"session": "04-2018-05-11", "accepted": True, "reason": None},
            {"session": "05-2018-05-11", "accepted": False, "reason": "few gestures were decided"},
        ],
    }
    write_result(folder / "results" / "adapted", shards, gain=0.05, unadapted=was, adaptation=output)
    for count in (1, 2):
        extra = {"calibrate": count, "zero_shot_on_the_same_windows": was}
        write_result(folder / "results" / f"repetitions-{count}", shards, gain=0.03 * count, **extra)
    extra = {"calibrate": 1, "zero_shot_on_the_same_windows": was, "adaptation": output}
    write_result(folder / "results" / "repetitions-adapted", shards, gain=0.1, **extra)
    return SimpleNamespace(folder=folder, shards=shards, results=folder / "results", run=write_run(folder / "my-run"))


class Parts(HTMLParser):
    """What a page is made of: its tags, their attributes, the words between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self._words, self._hidden = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._hidden = tag == "style"

    def handle_endtag(self, _tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self._words.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self._words).split())


@pytest.fixture
def make(monkeypatch, capsys, tmp_path):
    """Run report.py in this process: the page's parts, its path, and what was said."""

    def run(*words, code=0):
        out = tmp_path / "page" / "report.html"
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, words), "--out", str(out)])
        assert report.main() == code
        return SimpleNamespace(parts=Parts(out.read_text(encoding="utf-8")), path=out, said=capsys.readouterr())

    return run


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_page_says_what_the_files_say(make, data):
    words = make(data.run, data.results, "--reference", "plain").parts.words
    plain, better = numbers(data.results / "plain"), numbers(data.results / "better")
    for output in ("plain", "better", "adapted", "repetitions-1", "my-run", "31 62 4,711".replace(",", ""), "7 14 815"):
        assert output in words
    mean, sd = (plain[key]["macro_f1"] for key in ("mean_over_subjects", "sd_over_subjects"))
    assert f"{100 * mean:.1f} ± {100 * sd:.1f}" in words
    for one in (plain, better):
        for person in one["per_subject"].values():
            assert f"{100 * person['macro_f1']:.1f}" in words
    difference = better["mean_over_subjects"]["macro_f1"] - mean
    assert f"better {100 * difference:+.1f} under 5 people 2" in words
    idle = plain["confusion"][0]
    assert f"idle {100 * idle[0] / sum(idle):.0f} % {idle[0]}" in words
    for output in ("3 epochs; the best validation macro-F1 is 0.7500, in epoch 2", "lr 0.00125", "layers default"):
        assert output in words
    for output in ("commit abcdef0123", "torch 2.13.0", "commit fedcba9876", "numpy 2.4.6", "5" * 64, "splits/one"):
        assert output in words
    assert "no paired test can reach p < 0.05" in words
    assert "Deciding without the signal would reach a macro-F1 of 25.0 % at most, as a mean over people" in words
    assert "SIMULATED" not in words


def test_a_folder_of_training_runs_stands_for_all_of_them(make, data, tmp_path):
    """The folder of a sweep's checkpoints was answered with `run evaluate.py`."""
    for name in ("fold0/seed0", "fold1/seed0"):
        write_run(tmp_path / "sweep" / name)
    page = make(tmp_path / "sweep", tmp_path / "sweep" / "fold1", data.results / "plain")
    assert [page.parts.words.count(f"Training run fold{k}/seed0") for k in (0, 1)] == [1, 1]
    assert "1 method and 2 training runs" in page.said.out
    (tmp_path / "sweep" / "metrics.json").write_text((data.results / "plain" / "metrics.json").read_text())
    assert "1 method and 0 training runs" in make(tmp_path / "sweep").said.out, "results are what is asked for"


@pytest.mark.parametrize("most", [4, 3])
def test_of_too_many_gestures_for_a_matrix_the_most_frequent_confusions_are_listed(make, data, monkeypatch, most):
    monkeypatch.setattr("semg.evaluation.page.MOST_CLASSES", most)
    words = make(data.results / "plain").parts.words
    counts = np.array(numbers(data.results / "plain")["confusion"])
    assert ("Rows: true. Columns: decided." in words) is (most == 4)
    assert ("A matrix of 4 gestures is too large" in words) is (most == 3)
    wrong = counts * (1 - np.eye(4, dtype=int))
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    worst = f"{CLASSES[row]} {CLASSES[column]} {wrong.max()} {100 * wrong.max() / counts[row].sum():.1f}"
    assert (worst in words) is (most == 3)
    assert all(f"{one['support']:,}" in words for one in numbers(data.results / "plain")["per_class"].values())
    assert f"{100 * numbers(data.results / 'plain')['per_class'][CLASSES[0]]['precision']:.1f}" in words


def test_a_result_of_a_model_that_adapted_in_the_course_of_its_sessions_is_taken(make, data, tmp_path):
    """evaluate.py --adapt online writes its attempts by session; report.py refused the result."""
    attempts = [{"accepted": False, "reason": "few gestures"}, {"accepted": True, "reason": ""}]
    sessions = {"03": attempts, "04": attempts[:1], "05": []}
    adaptation = {"mode": "online", "settings": {}, "schedule": {}, "sessions": sessions}
    was = {key: numbers(data.results / "plain")[key] for key in ("mean_over_subjects", "per_subject")}
    write_result(tmp_path / "online", data.shards, unadapted=was, adaptation=adaptation)
    words = make(tmp_path / "online").parts.words
    assert "Adapted to 1 of 3 sessions. Not adapted: 04: few gestures" in words
    assert "05: too little signal" in words


def test_adapted_results_stand_beside_the_model_as_it_was(make, data):
    words = make(data.results).parts.words
    plain, adapted = (numbers(data.results / name)["mean_over_subjects"]["macro_f1"] for name in ("plain", "adapted"))
    assert f"{100 * plain:.1f} % as trained and {100 * adapted:.1f} % adapted without labels" in words
    assert "Adapted to 1 of 2 sessions. Not adapted: 05-2018-05-11: few gestures were decided" in words
    assert "calibrated with 2 repetitions of each gesture" in words
    assert "calibrated with 1 repetition of each gesture and adapted without labels" in words
    assert "The calibrated model has used labels of the people scored" in words
    assert "Repetitions to calibrate with" in words


def test_repetitions_of_two_models_are_two_curves(make, data, tmp_path):
    for name, gain in (("a", 0.03), ("b", -0.05)):
        was = write_result(tmp_path / name, data.shards, gain=gain)
        was = {key: was[key] for key in ("mean_over_subjects", "per_subject")}
        for count in (1, 2):
            extra = {"calibrate": count, "zero_shot_on_the_same_windows": was, "checkpoint_sha256": name * 64}
            write_result(tmp_path / f"{name}-{count}", data.shards, gain=gain + 0.03 * count, **extra)
    folders = [tmp_path / f"{name}-{count}" for count in (1, 2) for name in "ab"]
    page = make(*folders)
    page, words = page.path.read_text(encoding="utf-8"), page.parts.words
    assert "a-1, a-2. Means over people." in words
    assert "b-1, b-2. Means over people." in words
    for folder in folders:
        score = numbers(folder)["mean_over_subjects"]["macro_f1"]
        count = "1 repetition" if folder.name.endswith("1") else "2 repetitions"
        assert f"{count}, with: {100 * score:.1f}" in page, folder.name


def test_repetitions_of_other_people_are_another_curve(make, data, tmp_path):
    for name, people in (("a", {"04": 0.9, "05": 0.6}), ("b", {"14": 0.9, "15": 0.6})):
        was = write_result(tmp_path / name, data.shards, names=people)
        was = {key: was[key] for key in ("mean_over_subjects", "per_subject")}
        for count in (1, 2):
            extra = {"calibrate": count, "zero_shot_on_the_same_windows": was}
            write_result(tmp_path / f"{name}-{count}", data.shards, names=people, gain=0.03 * count, **extra)
    words = make(*(tmp_path / f"{name}-{count}" for name in "ab" for count in (1, 2))).parts.words
    assert "a-1, a-2. Means over people." in words
    assert "b-1, b-2. Means over people." in words


def test_repetitions_of_two_baselines_are_two_curves(make, data, tmp_path):
    """Results without a checkpoint were taken for those of one model: the second hid the first."""
    for name, gain in (("lda", 0.03), ("qda", -0.05)):
        was = write_result(tmp_path / name, data.shards, gain=gain)
        was = {key: was[key] for key in ("mean_over_subjects", "per_subject")}
        for count in (1, 2):
            baseline = {"classifier": name, "features": "rms", "calibrate": count}
            extra = {"calibrate": count, "zero_shot_on_the_same_windows": was, "checkpoint": None, "baseline": baseline}
            write_result(tmp_path / f"after-{count}" / name, data.shards, gain=gain + 0.03 * count, **extra)
    words = make(tmp_path / "after-1", tmp_path / "after-2").parts.words
    for name in ("lda", "qda"):
        assert f"after-1/{name}, after-2/{name}. Means over people." in words


def test_repetitions_with_some_of_the_gestures_are_another_curve(make, data, tmp_path):
    """Fewer gestures are easier to tell apart: a curve from one kind of scores to the other rises for that alone."""
    for count, classes in ((1, CLASSES), (2, [*CLASSES[:-1], "wave"])):
        was = write_result(tmp_path / f"was-{count}", data.shards, classes=classes)
        was = {key: was[key] for key in ("mean_over_subjects", "per_subject")}
        extra = {"calibrate": count, "zero_shot_on_the_same_windows": was}
        write_result(tmp_path / f"after-{count}", data.shards, classes=classes, gain=0.03 * count, **extra)
    words = make(tmp_path / "after-1", tmp_path / "after-2").parts.words
    assert "Repetitions to calibrate with" not in words


def test_an_error_that_several_runs_made_is_shown_once(make, data, tmp_path):
    """The page said "one window for each person and pair of gestures", and had one for each seed as well."""
    for seed in range(3):
        write_result(tmp_path / "net" / f"seed{seed}", data.shards, seed=seed)
    words = make(tmp_path / "net", "--errors", 100).parts.words
    kinds = re.findall(r"(\w+) taken for (\w+) \([^)]*\), person (\w+)", words)
    assert len(kinds) > 3
    assert len(set(kinds)) == len(kinds)
    shown = [float(sure) for sure in re.findall(r"\(([\d.]+) % sure", words)]
    runs = [read_predictions(tmp_path / "net" / f"seed{seed}" / "predictions.npz", len(CLASSES)) for seed in range(3)]
    assert shown[0] == pytest.approx(
        100 * max(run.confidence[run.label != run.prediction].max() for run in runs), abs=0.1
    )
    assert shown == sorted(shown, reverse=True)


def test_sessions_that_several_runs_were_adapted_to_are_not_more_sessions(make, data, tmp_path):
    adapted = numbers(data.results / "adapted")
    for seed in range(3):
        extra = {key: adapted[key] for key in ("unadapted", "adaptation")}
        write_result(tmp_path / "net" / f"seed{seed}", data.shards, seed=seed, **extra)
    words = make(tmp_path / "net").parts.words
    assert "Adapted to 3 of 6 sessions (2 different ones, in several runs). Not adapted:" in words


@pytest.mark.parametrize("where", ["result", "run"])
def test_simulated_recordings_are_called_so(make, data, tmp_path, where):
    if where == "result":
        write_result(tmp_path / "one", data.shards, simulated=True)
    else:
        subset = {"subjects": 1, "recordings": 1, "windows": 1, "simulated": True}
        write_run(tmp_path / "one", derived={"train": subset, "val": subset})
    words = make(tmp_path / "one").parts.words
    assert words.count("SIMULATED") >= 3  # title, top, the method or run
    assert "nothing about people" in words


HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


def test_names_of_others_stay_words(make, data, tmp_path):
    folder = tmp_path / "<b>r&amp;'\"{{ 7*7 }}"
    names = [HOSTILE[:60], "</title><script>"]
    write_result(
        folder,
        data.shards,
        names=names,
        classes=[HOSTILE, "</style><svg onload=alert(3)>", "{{ 8*8 }}", "javascript:alert(4)"],
        made={"script": HOSTILE, "arguments": {HOSTILE: [HOSTILE]}, "versions": {HOSTILE: HOSTILE}, "commit": HOSTILE},
        adaptation={"sessions": [{"session": HOSTILE, "accepted": False, "reason": HOSTILE}]},
        unadapted={"per_subject": {name: {"macro_f1": 0.5, "accuracy": 0.5, "n_windows": 1} for name in names}},
    )
    run = write_run(tmp_path / "<i>run", commit=HOSTILE, arguments={HOSTILE: HOSTILE}, versions={"<u>": "<u>"})
    page = make(folder, run, "--title", "</title><script>alert(5)</script>")
    bad = {"script", "img", "b", "i", "u", "iframe", "object", "form", "a", "base"}
    assert bad & set(page.parts.tags) == set()
    assert [name for _, name, _ in page.parts.attributes if name.startswith("on")] == []
    for name in (HOSTILE, "</title><script>", "{{ 8*8 }}", "<b>r&amp;'\"{{ 7*7 }}", "<i>run", "<u>"):
        assert name in page.parts.words


def test_the_page_needs_no_other_file(make, data):
    page = make(data.run, data.results)
    attributes = page.parts.attributes
    addresses = [value for _, name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "action")]
    assert addresses == ["data:,"]  # no icon: a browser would ask for one
    text = page.path.read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    policy = next(v for _, name, v in attributes if name == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text


def test_same_inputs_same_page_from_anywhere(make, data, tmp_path, run_script):
    first = make(data.results / "plain").path.read_bytes()
    assert make(data.results / "plain").path.read_bytes() == first
    done = run_script("report.py", data.results / "plain", "--out", "new/page.html", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["methods"] == ["plain"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    done = run_script("report.py", data.results, "--reference", "gpt2", "--out", tmp_path / "x.html", code=2)
    assert "--reference gpt2: expected one of" in done.stderr
    assert "plain" in done.stderr


def test_signals_are_drawn_or_their_absence_is_told(make, data, tmp_path):
    traces = make(data.results / "plain", "--errors", "3").path.read_text().count('class="trace"')
    assert traces == 3 * 6  # channels
    words = make(data.results / "plain", "--errors", "0").parts.words
    assert "confident errors" not in words and "None to show" not in words
    with pytest.raises(UsageError, match="--shards: expected --errors of at least 1 with it"):
        make(data.results / "plain", "--errors", "0", "--shards", data.shards)
    moved = tmp_path / "moved"
    shutil.copytree(data.shards, moved)
    assert make(data.results / "plain", "--shards", moved).path.read_text().count('class="trace"') == 6 * 6
    away = tmp_path / "home" / "results" / "one"
    write_result(away, data.shards)
    output = (away / "metrics.json").read_text()
    assert f'"{data.shards.as_posix()}"' in output
    (away / "metrics.json").write_text(output.replace(f'"{data.shards.as_posix()}"', '"shards"'))
    (tmp_path / "home" / "shards").symlink_to(data.shards)  # not here, but above the result
    assert make(away).path.read_text().count('class="trace"') == 6 * 6
    words = make(data.results / "plain", "--shards", tmp_path / "none").parts.words
    assert words.count("No signal here") == 6
    write_result(tmp_path / "bare", data.shards)
    (tmp_path / "bare" / "predictions.npz").unlink()
    words = make(tmp_path / "bare").parts.words
    assert "expected the predictions of a result, found no such file" in words
    assert "nothing is known about its confidence" in words


def test_a_model_as_it_was_on_other_people_is_left_out(make, data, tmp_path):
    others = {"per_subject": {"77": {"macro_f1": 0.5, "accuracy": 0.5, "n_windows": 1}}}
    write_result(tmp_path / "one", data.shards, unadapted=others)
    assert "as trained" not in make(tmp_path / "one").parts.words


def test_a_result_and_a_run_named_by_two_paths_are_there_once(make, data):
    twice = [path for one in (data.run, data.results / "plain") for path in (one, one / ".." / one.name)]
    page = make(*twice, data.results / "plain" / "metrics.json")
    assert "1 method and 1 training run;" in page.said.out
    assert "runs together" not in page.parts.words
    assert page.parts.words.count("Training run my-run") == 1


def test_a_folder_is_searched_once_for_results_and_once_for_runs_if_it_has_none(make, data, tmp_path, monkeypatch):
    """It may be on a network drive, among thousands of files."""
    searched, rglob = [], Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, name: searched.append((self, name)) or rglob(self, name))
    make(data.results)
    assert searched == [(data.results, "metrics.json")]
    write_run(tmp_path / "runs" / "one")
    searched.clear()
    make(tmp_path / "runs")
    assert searched == [(tmp_path / "runs", "metrics.json"), (tmp_path / "runs", "metrics.jsonl")]


def test_too_few_people_in_common_with_the_reference_are_said(make, tmp_path):
    for name, people in (("many", 8), ("few", 3)):
        scores = {f"{n:02d}": {"macro_f1": 0.5, "accuracy": n / 10, "n_windows": 9} for n in range(people)}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"per_subject": scores}))
    words = make(tmp_path / "many", tmp_path / "few").parts.words
    assert "only 3 people: no paired test can reach p < 0.05" in words


def test_a_reference_among_training_runs_is_refused(make, data):
    with pytest.raises(SettingError, match="results to compare, found training runs alone"):
        make(data.run, "--reference", "plain")


def test_a_person_whose_score_did_not_change_is_neither_better_nor_worse():
    pairs = {"01": (0.5, 0.5), "02": (0.5, 0.6), "03": (0.5, 0.4)}
    drawn = str(inline_charts.before_after(pairs, metrics.leading(), ("before", "after")))
    colours = re.findall(r'<circle class="(\w+)"[^>]*><title>([^<]*)', drawn)
    assert [css for css, words in colours if words.startswith("01")] == ["ring"]
    assert ("c0", "02, after: 60.0") in colours and ("c1", "03, after: 40.0") in colours
    assert ("ring", "01, before and after: 50.0") in colours


def test_a_bad_input_is_named_and_the_good_ones_are_there(make, data, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "metrics.json").write_text("{")
    page = make(data.results / "plain", bad, tmp_path / "missing", code=1)
    assert "unreadable JSON" in page.parts.words
    assert "missing: expected a metrics.json" in page.parts.words
    assert "True and decided gestures" in page.parts.words
    assert page.said.err.count("error:") == 2
    assert "2 inputs not readable" in page.said.out
    with pytest.raises(DataError, match="unreadable JSON"):
        make(bad)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"confusion": [[1, 2], [3, 4]]}, "4 true and 4 decided classes"),
        ({"confusion": [[-1] * 4] * 4}, "4 true and 4 decided classes"),
        ({"confusion": [[True] * 4] * 4}, "4 true and 4 decided classes"),
        ({"confusion": [[0] * 4] * 4}, "at least one window"),
        ({"chance_over_subjects": {"macro_f1": "0.5"}}, "a number or null for each metric for chance_over_subjects"),
        ({"classes": "idle"}, "a list of names for classes"),
        ({"classes": ["a\x00"] * 4}, "a list of names for classes"),
        ({"made": []}, "an object for made"),
        ({"made": {"commit": 7}}, "a text for made.commit"),
        ({"calibrate": -1}, "a whole number above 0 for calibrate"),
        ({"adaptation": {"sessions": [{"session": 1}]}}, "a list of sessions"),
        ({"adaptation": {"sessions": {"05": [{"accepted": 1}]}}}, "a list of sessions"),
        ({"adaptation": {"sessions": {"05": {}}}}, "a list of sessions"),
        ({"unadapted": {"per_subject": {"04": {"macro_f1": 7, "n_windows": 1}}}}, "a macro_f1 from 0 to 1"),
        ({"unadapted": {"macro_f1": 0.5}}, "expected per_subject with macro_f1"),
        ({"trained_on_subjects_scored": {"04": 1}}, "a list of people"),
    ],
)
def test_metrics_that_no_script_wrote_are_refused(make, data, tmp_path, changes, told):
    content = numbers(data.results / "plain") | changes
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=told):
        make(tmp_path)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("trained_on_subjects_scored", "people scored were trained on (04)"),
        ("chosen_on_subjects_scored", "the model was chosen on people scored (04)"),
        ("calibrated_on", "the model was calibrated on labels of 04"),
        ("adapted_to", "the model was adapted without labels to 04"),
    ],
)
def test_people_scored_who_are_not_new_to_the_model_are_noted(make, data, tmp_path, field, told):
    (tmp_path / "metrics.json").write_text(json.dumps(numbers(data.results / "plain") | {field: ["04"]}))
    assert told in make(tmp_path).parts.words


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": np.array([0, 9])}, "label"),
        ({"start": np.array([-1, 3])}, "start"),
        ({"prediction": np.array([0.0, 1.0])}, "prediction"),
        ({"record": np.array(["../../etc", "b"])}, "no folder"),
        ({"subject": np.array(["", "b"])}, "people's names"),
        ({"probabilities": np.array([[0.5, np.nan], [0.5, 0.5]])}, "from 0 to 1"),
        ({"probabilities": np.ones((2, 3))}, "in place of"),
        ({"record": np.array([{}, {}])}, "pickle"),
    ],
)
def test_predictions_that_no_script_wrote_are_refused(tmp_path, changes, told):
    two = np.array([0, 1])
    arrays = {"record": np.array(["a", "b"]), "subject": np.array(["1", "2"]), "start": two, "label": two}
    np.savez(tmp_path / "p.npz", **(arrays | {"prediction": two} | changes))
    with pytest.raises(DataError, match=told):
        read_predictions(tmp_path / "p.npz", 2)


def test_a_damaged_file_of_predictions_is_refused_wherever_the_damage_is(tmp_path):
    """One byte is wrong: of the archive's lists, of an array's header or of compressed numbers."""
    n, path = 20, tmp_path / "predictions.npz"
    numbers = np.arange(n) % 3
    arrays = {"record": np.full(n, small_shards.name(1)), "subject": np.full(n, "01"), "start": np.arange(n)}
    np.savez_compressed(path, **arrays, label=numbers, prediction=numbers, probabilities=np.full((n, 3), 1 / 3))
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        for read, words in ((read_evaluation, "accuracy"), (read_predictions, 3)):
            with suppress(DataError):
                read(path, words)
                continue
            refused += 1
    assert refused > len(whole) / 3


@pytest.mark.parametrize("line", ["{", "[]", '{"epoch": 0}', '{"epoch": 1, "train/loss": "1"}', ""])
def test_runs_that_train_did_not_write_are_refused(tmp_path, line):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text(line)
    with pytest.raises(DataError, match=r"metrics.jsonl: expected one line of metrics an epoch"):
        read_run_record(run)


def test_reliability_by_hand():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    right = np.array([1, 1, 1, 0, 1, 0, 0], bool)
    bins, error = reliability(confidence, right)
    assert [one.windows for one in bins] == [2, 5]
    assert bins[0].accuracy == pytest.approx(0.5)
    assert bins[1].confidence == pytest.approx(0.96)
    assert error == pytest.approx((2 * 0.05 + 5 * 0.36) / 7)


def test_the_surest_error_of_each_kind_comes_first(data):
    actual = read_predictions(data.results / "plain" / "predictions.npz", len(CLASSES))
    places = surest_errors(actual, 50)
    wrong = [k for k in range(len(actual.label)) if actual.label[k] != actual.prediction[k]]
    kinds = {(actual.subject[k], actual.label[k], actual.prediction[k]) for k in wrong}
    assert {(actual.subject[k], actual.label[k], actual.prediction[k]) for k in places} == kinds
    assert len(places) == len(kinds) > 3
    confidence = actual.confidence[places]
    assert (np.diff(confidence) <= 0).all()
    assert confidence[0] == max(actual.confidence[wrong])
    assert surest_errors(actual, 2) == places[:2]
    assert surest_errors(actual, 0) == []


def test_an_excerpt_is_the_signal_of_its_window(data):
    shard = open_shard(data.shards / small_shards.name(4))
    part = excerpt(data.shards, shard.record, 320, 3)
    assert part.begin == pytest.approx(320 / small_shards.RATE)
    assert part.length == pytest.approx(320 / small_shards.RATE)
    assert part.time[0] == pytest.approx(-160 / small_shards.RATE)
    loud = np.square(shard.signal[320:640].astype(float)).mean(0)
    places = sorted(np.argsort(-loud)[:3])
    assert part.channels == tuple(shard.channels[k] for k in places)
    assert np.array_equal(part.values, shard.signal[160:800][:, places].astype(np.float32))
    assert excerpt(data.shards, shard.record, 0, 3, shard.content).time[0] == 0
    with pytest.raises(DataError, match="the shard that was scored, found it made again differently since"):
        excerpt(data.shards, shard.record, 0, 3, "of another")
    with pytest.raises(DataError, match="a window at sample 999999"):
        excerpt(data.shards, shard.record, 999_999, 3)


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy():
    """A proxy that answers nothing: the addresses that a browser asked it for."""
    asked = []
    server = socket.create_server(("127.0.0.1", 0))

    def hear(connection):
        with connection, suppress(OSError):
            asked.append(connection.recv(4096).decode(errors="replace").split("\r\n")[0])

    def listen():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            # a browser also opens connections that it asks nothing on, for later: nobody must wait for these
            threading.Thread(target=hear, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield SimpleNamespace(port=server.getsockname()[1], asked=asked)
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def browse(page, picture, proxy):
    """Open a page in a headless browser and take its picture; returns what its console says."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-default-apps"]
    command += ["--disable-extensions", "--disable-client-side-phishing-detection", "--metrics-recording-only"]
    command += [f"--user-data-dir={picture.parent / 'profile'}", f"--proxy-server=http://127.0.0.1:{proxy.port}"]
    command += ["--enable-logging=stderr", "--window-size=1000,1400", f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    assert picture.exists(), done.stderr
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_without_errors_and_without_network(make, data, tmp_path, proxy):
    from matplotlib.image import imread

    page = make(data.run, data.results)
    assert browse(page.path, tmp_path / "page.png", proxy) == []
    assert [address for address in proxy.asked if not BROWSERS_OWN.search(address)] == []
    image = imread(tmp_path / "page.png")
    assert image.shape[:2] == (1400, 1000)
    assert image.std() > 0.05, "something is drawn"
    # the same page with an address and an error in it: the checks above would have seen them
    text = page.path.read_text(encoding="utf-8")
    policy = text[text.index("<meta http-equiv") : text.index('<meta name="viewport"')]
    bad = '<img src="http://elsewhere.invalid/x.png"><script>console.error("seen")</script>'
    open_page = tmp_path / "bad.html"
    open_page.write_text(text.replace(policy, "").replace("<main>", f"<main>{bad}"), encoding="utf-8")
    assert any("seen" in line for line in browse(open_page, tmp_path / "bad.png", proxy))
    assert any("http://elsewhere.invalid/x.png" in address for address in proxy.asked)
    # and with its policy the page stays shut whatever got into it
    proxy.asked.clear()
    shut = tmp_path / "shut.html"
    shut.write_text(text.replace("<main>", f"<main>{bad}"), encoding="utf-8")
    assert not any('"seen"' in line for line in browse(shut, tmp_path / "shut.png", proxy))
    assert not any("elsewhere" in address for address in proxy.asked)


def lines_drawn(markup, name):
    """Coordinates of each of a chart's lines of this class, (n, 2)."""
    actual = re.findall(rf'<polyline class="{name}" points="([^"]*)"', markup)
    return [np.array([pair.split(",") for pair in one.split()], float) for one in actual]


def test_a_trace_draws_extremes_where_they_are():
    time = np.arange(3000) / 5120
    wave = np.sin(2 * np.pi * 20 * time)  # slower than two columns of the picture: it must stay a wave
    (line,) = lines_drawn(str(inline_charts.traces(Excerpt(time, wave[:, None], ("a",), 0.0, 0.25))), "trace")
    assert (np.diff(line[:, 0]) >= 0).all()
    assert np.abs(np.diff(line[:, 1])).max() < 0.5 * np.ptp(line[:, 1])


def test_bars_of_near_confidences_do_not_overlap():
    bins = [Bin(0.30, 0.2, 10), Bin(0.86, 0.9, 30), Bin(0.89, 0.95, 20)]
    markup = str(inline_charts.reliability(bins))
    bars = [
        (float(x), float(w))
        for x, w in re.findall(r'<rect class="pale" x="([.\d]+)" y="[^"]*" width="([.\d]+)"', markup)
    ]
    assert len(bars) == 3
    assert all(x + w <= after for (x, w), (after, _) in pairwise(bars))
