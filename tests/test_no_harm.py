"""experiments/no_harm.py: how sessions are altered, when the rule is broken, that it goes on where it was."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import small_shards
from conftest import ROOT

from semg.common.errors import DataError, UsageError
from semg.data.shards import open_shards

sys.path.insert(0, str(ROOT / "experiments"))
import altered_sessions
import no_harm
from altered_sessions import KINDS, altered

IDLE = small_shards.CLASSES.index("idle")
TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --device cpu".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder with shards of three people, and a split of one each; the validation person has two recordings."""
    folder = tmp_path_factory.mktemp("no_harm")
    records = [small_shards.write(folder / "shards", subject) for subject in (3, 4, 5)]
    records.append(small_shards.write(folder / "shards", 4, "repeats_short"))
    small_shards.write_split(folder / "split", train=records[:1], val=[records[1], records[3]], test=records[2:3])
    return folder


@pytest.fixture(scope="module")
def session(shards):
    """The validation person's two recordings."""
    return open_shards(shards / "shards", (shards / "split" / "val.txt").read_text().split())


def labels(recordings):
    return np.concatenate([one.windows["label"] for one in recordings])


@pytest.mark.parametrize("kind", ["three", "idle", "idle60", "idle80", "short"])
def test_windows_of_a_session_that_was_cut_hold_the_signal_of_their_gesture(session, kind):
    """Whatever was cut out: each window's signal is that of a window of the recording, of the same class."""
    for one in altered(session, kind, "idle"):
        own = next(shard for shard in session if shard.record == one.record)
        known = {bytes(own.signal[w["start"] : w["start"] + own.window]): w["label"] for w in own.windows}
        assert len(one.windows)
        for window in one.windows:
            signal = bytes(one.signal[window["start"] : window["start"] + one.window])
            assert known[signal] == window["label"]
        np.testing.assert_allclose(one.second_moment, altered_sessions.second_moment(one.signal))
        assert one.meta["n_samples"] == len(one.signal)


def test_what_is_left_of_a_session(session):
    three, again = (set(labels(altered(session, "three", "idle"))) for _ in range(2))
    assert three == again and len(three) == 3 and IDLE in three
    assert set(labels(altered(session, "idle", "idle"))) == {IDLE}
    for kind, share in (("idle60", 0.6), ("idle80", 0.8)):
        recordings = altered(session, kind, "idle")
        kept = sum(end - begin for one in session for k, (begin, end) in altered_sessions.runs(one) if k == IDLE)
        total = sum(len(one.signal) for one in recordings)
        most = len(small_shards.CLASSES) * small_shards.WINDOW  # a piece shorter than a window is not kept
        assert kept / share - most <= total <= kept / share
        assert IDLE in labels(recordings)
    assert altered(session, "plain", "idle") == list(session)


def test_a_dead_channel_and_turned_rings(session):
    for one, dead, turned in zip(
        session, *(altered(session, kind, "idle") for kind in ("dead", "rotated")), strict=True
    ):
        silent = [c for c in range(24) if not dead.signal[:, c].any()]
        assert silent == [2]
        assert one.signal[:, 2].any(), "the shard is as it was"
        others = np.delete(np.arange(24), 2)
        assert np.array_equal(dead.signal[:, others], one.signal[:, others])
        for ring in small_shards.RINGS:
            for i, channel in enumerate(ring):
                assert np.array_equal(turned.signal[:, channel], one.signal[:, ring[i - 1]])
        assert np.array_equal(turned.windows, one.windows)


def test_so_many_seconds_from_the_middle(session, monkeypatch):
    monkeypatch.setattr(altered_sessions, "SECONDS", 0.5)
    (one,) = altered(session, "short", "idle")
    assert one.record == session[1].record and len(one.signal) == 0.5 * one.rate
    at = len(session[1].signal) // 2
    assert np.array_equal(one.signal[1280], session[1].signal[at])


def test_a_session_of_one_gesture_has_no_three(session):
    with pytest.raises(DataError, match="expected two gestures beside idle in its session, found 0"):
        altered(altered(session, "idle", "idle"), "three", "idle")


def test_kinds_that_recordings_cannot_have_are_refused_before_the_first(session):
    without_rings = replace(session[0], meta={**session[0].meta, "rings": []})
    with pytest.raises(UsageError, match="--kinds rotated: expected channels in rings"):
        no_harm.check_kinds(without_rings, list(KINDS))
    few = replace(session[0], meta={**session[0].meta, "channels": ["a", "b"]})
    with pytest.raises(UsageError, match="--kinds dead: expected at least 3 channels, found 2"):
        no_harm.check_kinds(few, list(KINDS))
    no_harm.check_kinds(session[0], list(KINDS))


# --- the table -----------------------------------------------------------------------------------------------------


def write(path, *changes):
    """A file of sessions of the kind `three`, each with so many points before and after."""
    rows = [
        {"checkpoint": "m.ckpt", "kind": "three", "session": f"{i:02d}", "before": before, "after": after}
        | {"accepted": after != before, "turn": 0}
        for i, (before, after) in enumerate(changes)
    ]
    path.write_text(json.dumps({"sessions": rows}))
    return path


def test_the_rule_is_broken_by_a_mean_or_by_a_person(tmp_path):
    fine = write(tmp_path / "fine.json", (50, 47.1), (60, 61.5))
    assert no_harm.harmed([fine]) == []
    assert f"| {KINDS['three']} | 55.0 to 54.3; 2 of 2; 0; -2.9, 1 worse |" in no_harm.table([fine])
    person = write(tmp_path / "person.json", (50, 46.9), (60, 65))
    assert no_harm.harmed([person]) == [f"person, {KINDS['three']}: 00 of m.ckpt lost 3.1"]
    assert "55.0 to 56.0; 2 of 2; 0; **-3.1**, 1 worse" in no_harm.table([person])
    mean = write(tmp_path / "mean.json", (50, 48.5), (60, 59))
    assert no_harm.harmed([mean]) == [f"mean, {KINDS['three']}: the mean fell by 1.2"]
    assert "55.0 to **53.8**; 2 of 2; 0; -1.5, 2 worse" in no_harm.table([mean])
    kept = write(tmp_path / "kept.json", (50, 50), (60, 60))
    lines = no_harm.table([fine, kept]).splitlines()
    assert lines[0] == "| session | fine | kept |"
    assert lines[2].endswith("| kept, all 2 |")


# --- the script ----------------------------------------------------------------------------------------------------


def test_the_script_scores_validation_people_alone_and_goes_on_where_it_was(shards, tmp_path, run_here, run_script):
    data = ("--shards", shards / "shards", "--split", shards / "split")
    run_here("train.py", *data, "--out", tmp_path / "run", *TINY, "--quiet")
    shutil.rmtree(shards / "shards" / small_shards.name(5))  # whoever opens the test person's recording fails
    out = tmp_path / "out.json"
    words = ("experiments/no_harm.py", *data, "--checkpoint", tmp_path / "run" / "best_model.ckpt", "--out", out)
    words += ("--kinds", "plain", "first", "three", "dead")
    printed = run_script(*words).stdout
    assert f"{out}: written; next: python experiments/no_harm.py --table {out}" in printed
    content = json.loads(out.read_text())
    rows = content["sessions"]
    assert [row["kind"] for row in rows] == ["plain", "first", "three", "dead"]
    for row in rows:
        assert row["subject"] == "04"
        assert row["before"] == row["after"] and "s of signal, less than 30 s" in row["reason"]
        assert 0 <= row["before"] <= 100
    marked = {**content, "sessions": [{**rows[0], "reason": "marked"}, *rows[1:-1]]}
    out.write_text(json.dumps(marked))
    run_here(*words)
    again = json.loads(out.read_text())["sessions"]
    assert again[0]["reason"] == "marked", "what was there was computed again"
    assert again[-1]["before"] == rows[-1]["before"]
    assert f"| {KINDS['dead']} | kept, all 1 |" in run_here("experiments/no_harm.py", "--table", out).stdout
    (tmp_path / "moved.ckpt").write_bytes((tmp_path / "run" / "best_model.ckpt").read_bytes())
    twice = (tmp_path / "moved.ckpt", tmp_path / "run" / ".." / "run" / "best_model.ckpt")
    at = words.index("--checkpoint")
    run_here(*words[: at + 1], *twice, *words[at + 2 :])
    assert json.loads(out.read_text())["sessions"] == again, "a model is the same under another name"
    other = {**rows[1], "recordings": "0" * 64}  # preprocessed again into the same folder
    out.write_text(json.dumps({**content, "sessions": [rows[0], other]}))
    assert "as they are now, found others; --overwrite starts anew" in run_here(*words, code=1).stderr
    assert json.loads(out.read_text())["sessions"] == [rows[0], other], "nothing is lost"
    out.write_text(json.dumps(content))
    others = shards / "other split"  # in which the person trained on would be scored
    small_shards.write_split(
        others, train=[small_shards.name(4)], val=[small_shards.name(3)], test=[small_shards.name(5)]
    )
    error = run_here(*words, "--split", others, code=1).stderr
    assert "expected results with this run's --split of " in error and "--overwrite starts anew" in error
    assert json.loads(out.read_text()) == content
    out.write_text(json.dumps({**content, "settings": {}}))
    error = run_here(*words, code=1).stderr
    assert "expected results with this run's settings, found others; --overwrite starts anew" in error
    out.write_text(json.dumps({**content, "made": {**content["made"], "arguments": {"shards": "elsewhere"}}}))
    assert "expected results with this run's --shards, found others" in run_here(*words, code=1).stderr
    out.write_text("{}")
    for which in (words, ("experiments/no_harm.py", "--table", out)):
        assert f"{out}: expected results of experiments/no_harm.py, found another" in run_here(*which, code=1).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected --checkpoint with --split, or --table with results, found neither"),
        (("--table", "a.json", "--seed", "3"), "--table: expected no other flag beside it, found --seed"),
        (("--table", "a.json", "--seed", "0"), "--table: expected no other flag beside it, found --seed"),
        (("--checkpoint", "a", "b", "c", "--split", "x", "y"), "--split: expected 1 folder or 3, found 2"),
    ],
)
def test_flags_that_do_not_go_together(run_here, words, message):
    assert message in run_here("experiments/no_harm.py", *words, code=2).stderr
