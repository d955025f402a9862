"""experiments/context.py: what a decision depends on, how recordings are reordered, and that no test person is read."""

import json
import shutil
import sys

import numpy as np
import pytest
import small_shards
import torch
from conftest import ROOT

from semg.common.errors import DataError
from semg.data.shards import open_shard, open_shards, write_shard
from semg.data.windows import segments, whole_windows

sys.path.insert(0, str(ROOT / "experiments"))
import context
import smoothing

RATE, WINDOW, MARGIN = 5120, 1280, 256
STEP, FRAME = 512, 768
LABELS = np.concatenate([[-1] * 900, *(np.r_[np.full(5000 + 700 * k, k % 4), [-1] * 1200] for k in range(8))])


def write(folder, subject, level=60.0):
    """One recording of eight gestures with gaps between them; returns its name. level: of the loud channels."""
    random = np.random.default_rng(subject)
    loud = 20.0 + level * (np.arange(24)[None] % 4 == LABELS[:, None])
    record = small_shards.name(subject)
    meta = {
        "record": record,
        "subject": f"{subject:02d}",
        "session": "2018-05-11",
        "order": 11,
        "task": "repeats_long",
        "rate": float(RATE),
        "unit": "uV",
        "channels": [f"EMG_{i}" for i in range(1, 25)],
        "rings": small_shards.RINGS,
        "classes": small_shards.CLASSES,
        "rest_classes": ["idle"],
        "simulated": True,
        "arguments": {**small_shards.ARGUMENTS, "window": WINDOW, "stride": 640, "transition_margin": MARGIN / RATE},
    }
    windows = whole_windows(LABELS, range(4), WINDOW, 640, MARGIN)
    write_shard(folder / record, meta, (random.normal(size=(len(LABELS), 24)) * loud).astype(np.float16), windows)
    return record


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    records = [write(folder / "shards", subject) for subject in (1, 2, 3)]
    small_shards.write_split(folder / "split", train=records[:1], val=records[1:2], test=records[2:])
    shutil.rmtree(folder / "shards" / records[2])  # whoever opens the test person's recording fails
    return folder


@pytest.fixture(scope="module")
def recording(shards):
    count = (len(LABELS) - FRAME) // STEP + 1
    tokens = torch.randn(count, 288, generator=torch.Generator().manual_seed(0))
    return context.recording_of(open_shard(shards / "shards" / small_shards.name(1)), tokens, STEP, FRAME)


def test_tokens_have_the_label_at_their_end_and_windows_the_last_token_before_theirs(recording):
    ends = np.arange(len(recording)) * STEP + FRAME
    assert np.array_equal(recording.label, LABELS[ends - 1])
    start = recording.shard.windows["start"]
    assert (ends[recording.last] <= start + WINDOW).all() and (ends[recording.last] + STEP > start + WINDOW).all()
    begin, _, label = segments(LABELS)
    own = np.searchsorted(begin, start, side="right") - 1
    assert np.array_equal(label[own], recording.shard.windows["label"])
    np.testing.assert_allclose(recording.since, (start + WINDOW - begin[own]) / RATE)
    assert len(recording.edges) == 9 and recording.edges[0] == 0 and recording.edges[-1] == len(recording)
    pieces = np.split(recording.label, recording.edges[1:-1])
    assert [sorted(set(piece[piece >= 0])) for piece in pieces] == [[k % 4] for k in range(8)]


def test_shuffled_segments_stay_whole_and_cut_ones_are_in_two(recording):
    random = np.random.default_rng(0)
    assert np.array_equal(recording.order("recorded", random), np.arange(len(recording)))
    for how, pieces in (("shuffled", 8), ("cut", 16)):
        order = recording.order(how, random)
        assert np.array_equal(np.sort(order), np.arange(len(recording)))
        breaks = np.flatnonzero(np.diff(order) != 1) + 1
        assert 2 <= len(breaks) <= pieces - 1
        begins = {0, *order[breaks].tolist()}
        if how == "shuffled":
            assert begins <= set(recording.edges[:-1].tolist())
        else:
            assert len(begins - set(recording.edges[:-1].tolist())) > 2


def test_kept_tokens_are_used_for_the_same_shards_alone(shards, tmp_path, monkeypatch):
    written = []
    write_tokens = context.write_tokens

    def seen(network, session, files):
        written.append(len(session))
        write_tokens(network, session, files)

    monkeypatch.setattr(context, "write_tokens", seen)
    own = open_shards(shards / "shards", [small_shards.name(1)])
    (first,), (again,) = (context.read(own, tmp_path / "tokens") for _ in range(2))
    assert written == [1] and torch.equal(first.tokens, again.tokens)
    write(tmp_path / "others", 1, level=5.0)
    (other,) = context.read(open_shards(tmp_path / "others", [small_shards.name(1)]), tmp_path / "tokens")
    assert written == [1, 1] and not torch.equal(first.tokens, other.tokens)


@pytest.mark.parametrize("reach", [1, 3, 4, 7])
def test_a_decision_depends_on_exactly_so_many_tokens_up_to_it(recording, reach):
    torch.manual_seed(0)
    network = context.ContextNetwork(recording.shard, reach, chunk=16)
    tokens = recording.tokens[:40]
    before = network.probabilities(tokens)
    assert before.shape == (40, 4)
    np.testing.assert_allclose(before.sum(1), 1, rtol=1e-5)
    for changed in (0, 17, 30):
        other = tokens.clone()
        other[changed] += 3
        moved = np.flatnonzero(np.abs(network.probabilities(other) - before).max(1) > 1e-7)
        # two blocks reach an odd number
        assert moved.tolist() == list(range(changed, changed + reach - (reach % 2 == 0)))


def test_smoothing_is_causal_and_what_it_says():
    decided = np.random.default_rng(1).dirichlet(np.ones(4), 50)
    alone = decided.argmax(1)
    for t in range(50):
        last = alone[max(0, t - 4) : t + 1]
        counts = np.bincount(last, minlength=4)
        assert counts[smoothing.majority(decided, 5)[t]] == counts.max()
        assert smoothing.averaged(decided, 5)[t] == decided[max(0, t - 4) : t + 1].sum(0).argmax()
    assert np.array_equal(smoothing.filtered(decided, np.inf, 1.0), alone)
    blip = np.tile([0.9, 0.1], (20, 1))
    blip[10] = [0.4, 0.6]
    assert smoothing.filtered(blip, 0.0412, 1.0).tolist() == [0] * 20
    blip[10:] = [0.1, 0.9]
    assert smoothing.filtered(blip, 0.0412, 1.0).tolist() == [0] * 12 + [1] * 8  # the third to say so is believed
    later = decided.copy()
    later[30:] = later[30:][::-1]
    for smooth in smoothing.smoothers([0.5], 0.1).values():
        assert np.array_equal(smooth(decided)[:30], smooth(later)[:30])


def test_the_script_scores_validation_people_and_never_opens_test_people(shards, tmp_path, run_script, run_here):
    how = ["--shards", shards / "shards", "--split", shards / "split", "--cache", tmp_path / "tokens"]
    how += ["--context", 0.35, 1, "--orders", "cut", "--epochs", 60, "--chunk", 16, "--out", tmp_path / "out.json"]
    run_script("experiments/context.py", *how)
    actual = json.loads((tmp_path / "out.json").read_text())["found"]
    assert list(actual) == ["context 0.35 s, trained cut", "context 1 s, trained cut"]
    for one in actual.values():
        assert set(one["alone"]) == set(context.ORDERS)
        assert all(set(people) == {"02", "02 onset"} for people in one["alone"].values())
    assert actual["context 1 s, trained cut"]["alone"]["recorded"]["02"] > 0.5  # loud channels tell the gestures
    content = json.loads((tmp_path / "out.json").read_text())
    marked = {"marked": actual["context 0.35 s, trained cut"]["alone"]}
    stopped = {**content, "found": {"context 0.35 s, trained cut": marked}}  # after the first of two networks
    (tmp_path / "out.json").write_text(json.dumps(stopped))
    run_here("experiments/context.py", *how)
    again = json.loads((tmp_path / "out.json").read_text())["found"]
    assert again == {**actual, "context 0.35 s, trained cut": marked}, "it goes on where it was"
    error = run_here("experiments/context.py", *how, "--epochs", 3, code=1).stderr
    assert "out.json: expected results with this run's epochs, found others; --overwrite starts anew" in error
    assert json.loads((tmp_path / "out.json").read_text())["found"] == again, "nothing is lost"
    run_here("experiments/context.py", *how, "--overwrite", "--context", 0.35)
    assert list(json.loads((tmp_path / "out.json").read_text())["found"]) == ["context 0.35 s, trained cut"]
    printed = run_here("experiments/context.py", "--table", tmp_path / "out.json").stdout
    assert "| context 0.35 s, trained cut | alone |" in printed
    (tmp_path / "another.json").write_text("{}")
    error = run_here("experiments/context.py", "--table", tmp_path / "another.json", code=1).stderr
    assert "another.json: expected results of experiments/context.py, found another file" in error
    error = run_here("experiments/context.py", "--table", tmp_path / "out.json", "--epochs", 3, code=2).stderr
    assert "--table: expected no other flag beside it, found --epochs" in error
    error = run_here("experiments/context.py", code=2).stderr
    assert "--split: expected a folder of a split" in error
    error = run_here("experiments/context.py", *how, "--context", 2, code=2).stderr
    assert "--context: expected less than the 1.6 s of --chunk, found 2" in error
    with pytest.raises(DataError):
        open_shard(shards / "shards" / small_shards.name(3))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"found": {}},
        {"found": {"a": {"alone": 1}}},
        {"found": {"a": {"alone": {how: {} for how in context.ORDERS}}}},
        {"found": {"a": {"alone": {"recorded": {"02": 0.5, "02 onset": 0.4}}}}},
        {"found": {"a": {"alone": {how: {"02": "0.5", "02 onset": 0.4} for how in context.ORDERS}}}},
    ],
)
def test_a_table_is_made_of_whole_results_alone(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.json: expected results of experiments/context\.py, found another file"):
        context.table([tmp_path / "a.json"])


def test_a_person_of_several_seeds_counts_once_in_the_table(tmp_path):
    for seed, others in enumerate([{"03": 0.9, "03 onset": 0.9}, {}]):
        people = {"02": 0.2 + 0.2 * seed, "02 onset": 0.1, **others}
        content = {"found": {"a": {"alone": dict.fromkeys(context.ORDERS, people)}}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(content))
    last = context.table([tmp_path / "0.json", tmp_path / "1.json"]).splitlines()[-1]
    assert last == "| a | alone | 60.0 | 60.0 | 60.0 | 50.0 |"
