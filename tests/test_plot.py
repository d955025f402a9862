"""plot.py: each picture is drawn from what it is given, the numbers in it are right, and wrong sources are named."""

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import asdict
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import recordings
import small_shards
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

import plot
import predict
from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError, UsageError
from semg.data import putemg
from semg.data.normalization import ChannelNormalization
from semg.data.shards import open_shard
from semg.data.tables import RawRecording
from semg.evaluation import architecture_figure, inline_charts, palette, score_figures, signal_figures
from semg.evaluation.predictions import excerpt
from semg.evaluation.report import write_results
from semg.evaluation.scored_windows import ScoredWindows
from semg.frontends import FrontEnd
from semg.inference.streaming import Predictions
from semg.inference.trained_model import TrainedModel

TINY = {"patch": 64, "layers": 1, "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards and a split of five people; one recording as HDF5: a tone of 200 Hz, another of 5 Hz, and the mains."""
    folder = tmp_path_factory.mktemp("data")
    shards, split = small_shards.write_all(folder)
    table = recordings.frame(samples=3 * recordings.RATE)
    time = table.index.to_numpy()
    for place in range(24):
        result = [50 * np.sin(2 * np.pi * f * time + place) for f in (5, 50, 200)]
        table[f"EMG_{place + 1}"] = np.round(sum(result))
    recording = recordings.write(folder, table)
    return SimpleNamespace(folder=folder, shards=shards, split=split, recording=recording)


@pytest.fixture
def draw(monkeypatch, capsys):
    """Run plot.py in this process; returns the picture and what was said."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, words)])
        assert plot.main() == 0
        out = words[words.index("--out") + 1]
        image = imread(out)
        assert image.shape[0] >= 300
        assert image.std() > 0.03, "something is drawn"
        return capsys.readouterr().out

    return run


def seen(monkeypatch, name):
    """What plot.py hands to a drawing function."""
    calls = []
    real = getattr(signal_figures, name)
    monkeypatch.setattr(signal_figures, name, lambda *args, **named: (calls.append(args), real(*args, **named)))
    return calls


def test_a_recording_as_a_user_draws_it(run_script, run_here, data, tmp_path):
    out = tmp_path / "new" / "r.png"
    done = run_script("plot.py", "recording", data.recording, "--out", out, "--json")
    assert json.loads(done.stdout)["out"] == out.as_posix()
    assert [path.name for path in out.parent.iterdir()] == ["r.png"]
    again = tmp_path / "again.png"
    run_here("plot.py", "recording", data.recording, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    done = run_here("plot.py", "recording", data.recording, "--channels", "25", "--out", out, code=2)
    assert "1 to 24" in done.stderr


def test_a_part_of_a_recording_and_of_a_shard(draw, data, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "recording")
    words = ["--begin", 0.5, "--seconds", 0.25, "--channels", "3,1", "--out", tmp_path / "r.png"]
    assert "2 channels, 0.25 s" in draw("recording", data.recording, *words)
    _, signal, _, channels, segments, classes, title, begin = calls[-1]
    assert (signal.shape, begin, list(channels)) == ((1280, 2), 0.5, ["EMG_3", "EMG_1"])
    assert abs(signal.mean()) < 1e-2
    assert [classes[label] for _, _, label in segments] == ["idle", "fist"], "-1 is in no gesture"
    assert segments[1][:2] == (1.0, 2.0)
    assert "as recorded" in title
    draw("recording", data.shards / small_shards.name(2), "--out", tmp_path / "s.png")
    segments = calls[-1][4]
    assert len(segments) == 12
    assert segments[1] == pytest.approx((960 / 5120, 1920 / 5120, 1))


def test_a_table_is_no_recording_for_pictures(draw, tmp_path):
    (tmp_path / "a.csv").write_text("ch1,label\n1,rest\n")
    with pytest.raises(DataError, match=r"a\.csv: expected an HDF5 .*; import_csv\.py makes shards of tables"):
        draw("recording", tmp_path / "a.csv", "--out", tmp_path / "a.png")


def test_the_last_line_says_what_to_run_next(draw, data, tmp_path):
    shard = data.shards / small_shards.name(2)
    no_map = tmp_path / small_shards.write(tmp_path, 3, rings=[])
    for words, command in (
        (["recording", no_map], f"create_dataset_files.py --shards {tmp_path}"),  # electrodes in no ring have no map
        (["recording", data.recording], f"plot.py spectrum {data.recording}"),
        (["spectrum", data.recording], f"preprocess.py --raw {data.folder}"),
        (["recording", shard], f"plot.py electrodes {shard}"),
        (["electrodes", shard], f"create_dataset_files.py --shards {data.shards}"),
        (
            ["classes", data.split, "--shards", data.shards],
            f"train.py --split {data.split} --shards {data.shards}",
        ),
    ):
        assert draw(*words, "--out", tmp_path / "a.png").splitlines()[-1].endswith(f"; next: python {command}")


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({"shards": "mine/shards", "split": "splits/mine"}, " --shards mine/shards --split splits/mine"),
        ({}, ""),
        (1, ""),
    ],
)
def test_curves_lead_to_an_evaluation_on_the_runs_own_data(draw, tmp_path, arguments, flags):
    row = {"epoch": 1, "train/loss": 2.0, "val/loss": 2.5, "train/macro_f1": 0.1, "val/macro_f1": 0.2}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"arguments": arguments}))
    said = draw("curves", tmp_path, "--out", tmp_path / "c.png")
    assert said.strip().endswith(f"evaluate.py --checkpoint {tmp_path}/best_model.ckpt{flags}")


def test_simulated_recordings_are_called_so(draw, data, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "recording")
    copy = tmp_path / data.recording.name
    copy.write_bytes(data.recording.read_bytes())
    draw("recording", copy, "--out", tmp_path / "a.png")
    assert "SIMULATED" not in calls[-1][6]
    (tmp_path / "simulated.json").write_text("{}")
    draw("recording", copy, "--out", tmp_path / "a.png")
    assert calls[-1][6].endswith("(SIMULATED)")
    for note, expected in (("first try", "(SIMULATED, first try)"), ("Simulated", "(Simulated)")):
        draw("recording", copy, "--note", note, "--out", tmp_path / "a.png")
        assert calls[-1][6].endswith(expected)


def test_the_spectrum_shows_what_the_filter_takes_out(draw, data, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "spectrum")
    draw("spectrum", data.recording, "--out", tmp_path / "s.png")
    _, frequency, before, after, _ = calls[-1]
    # Parseval: a sine of 50 counts has the power 50^2 / 2
    assert before[:, 0].sum() * (frequency[1] - frequency[0]) == pytest.approx(3 * 1250 * 6.1035**2, rel=0.05)
    at = {f: int(np.argmin(abs(frequency - f))) for f in (5, 50, 200)}
    ratio = {f: after[place, 0] / before[place, 0] for f, place in at.items()}
    assert ratio[200] == pytest.approx(1, abs=0.02)
    assert ratio[5] < 1e-4
    assert ratio[50] < 0.1
    with pytest.raises(UsageError, match="no longer holds"):
        draw("spectrum", data.shards / small_shards.name(1), "--out", tmp_path / "s.png")


def test_electrodes_are_drawn_in_the_rings_that_shards_name(draw, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "electrodes")
    around = [[11, *range(11)], [*range(12, 24)]]
    record = small_shards.write(tmp_path, 1, rings=around)
    draw("electrodes", tmp_path / record, "--out", tmp_path / "e.png")
    _, rms, _, rings, _, rest = calls[-1]
    assert rest == 0
    assert rings == 2
    samples = open_shard(tmp_path / record).signal[small_shards.labels() == 0].astype(np.float64)
    expected = np.sqrt((samples**2).mean(axis=0))[[*around[0], *around[1]]]
    np.testing.assert_allclose(rms[0], expected, rtol=0.05)
    record = small_shards.write(tmp_path, 2, rings=[])
    with pytest.raises(DataError, match="electrodes in rings of one size"):
        draw("electrodes", tmp_path / record, "--out", tmp_path / "e.png")


def test_electrodes_are_loud_where_their_gesture_is(draw, data, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "electrodes")
    draw("electrodes", *[data.shards / small_shards.name(i) for i in (1, 2)], "--out", tmp_path / "e.png")
    _, rms, classes, rings, title, _ = calls[-1]
    assert (rms.shape, list(classes), rings) == ((4, 24), small_shards.CLASSES, 3)
    assert np.array_equal(rms.argmax(0), np.arange(24) % 4), "each class is loudest on channels of its own"
    assert "2 recordings" in title
    one = plot.Signal(data.shards / small_shards.name(1), "TRAJ_GT")
    fist = small_shards.labels() == 1
    expected = np.sqrt(np.mean(np.asarray(open_shard(data.shards / small_shards.name(1)).signal, float)[fist] ** 2, 0))
    np.testing.assert_allclose(plot.gesture_rms([one])[1], expected, rtol=1e-6)


def test_electrodes_are_drawn_relative_to_rest(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    rms = np.array([[2.0, 4.0, 1.0, 1.0], [6.0, 4.0, 1.0, 3.0]])
    signal_figures.electrodes(tmp_path / "e.png", rms, ["idle", "fist"], 2, "title", 0)
    (image,) = [image for axes in drawn[0].axes for image in axes.images if axes.get_title() == "fist"]
    assert image.get_array().tolist() == [[3, 1], [1, 3]]
    signal_figures.electrodes(tmp_path / "e.png", rms, ["idle", "fist"], 2, "title", None)
    assert [axes.get_title() for axes in drawn[1].axes][:2] == ["idle", "fist"]


@pytest.mark.parametrize("dead", [range(1), range(24)], ids=["one", "all"])
@pytest.mark.filterwarnings("error")
def test_dead_channels_are_drawn_without_a_word(draw, tmp_path, monkeypatch, dead):
    """They have no signal to divide by, and no power for a logarithm."""
    calls = seen(monkeypatch, "electrodes")
    table = recordings.frame(samples=6000)
    for place in dead:
        table[f"EMG_{place + 1}"] = 7.0
    recording = recordings.write(tmp_path, table)
    draw("electrodes", recording, "--out", tmp_path / "e.png")
    assert calls[-1][5] == (None if len(dead) == 24 else 0)
    draw("spectrum", recording, "--out", tmp_path / "s.png")
    draw("spectrum", recording, "--seconds", 3 / recordings.RATE, "--out", tmp_path / "s.png")


def test_signals_in_an_arbitrary_unit_are_not_called_microvolts(draw, tmp_path, monkeypatch):
    drawn = []
    real = signal_figures.save
    monkeypatch.setattr(signal_figures, "save", lambda figure, path: (drawn.append(figure), real(figure, path)))
    for unit, label in (("uV", "µV"), ("arbitrary", "a.u.")):
        record = small_shards.write(tmp_path / unit, 1, unit=unit, rest_classes=[])
        draw("recording", tmp_path / unit / record, "--out", tmp_path / "r.png")
        assert f" {label} apart; cut beyond" in drawn[-1].axes[1].get_title("right")
        draw("electrodes", tmp_path / unit / record, "--out", tmp_path / "e.png")
        assert drawn[-1].axes[-1].get_ylabel() == f"root mean square, {label}"
        part = excerpt(tmp_path / unit, record, 320, 3)
        signal_figures.errors(tmp_path / "w.png", [("", part)], "title")
        assert drawn[-1].axes[0].get_xlabel().endswith(f" {label} apart")
        assert f" {label} apart" in inline_charts.traces(part)


def test_errors_are_the_surest_wrong_windows(draw, data, tmp_path, monkeypatch):
    record = small_shards.name(1)
    start = open_shard(data.shards / record).windows["start"][:4].astype(np.int64)
    shares = np.array([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.1, 0.8, 0.1, 0], [0, 0, 1, 0]])
    label = np.array([1, 2, 1, 2])  # the first two are wrong, the first more surely
    write_results(
        tmp_path / "scores",
        ScoredWindows(
            label=label,
            subject=np.full(4, "01"),
            record=np.full(4, record),
            start=start,
            classes=small_shards.CLASSES,
            rest_classes=["idle"],
            rate=small_shards.RATE,
            window_seconds=0.0625,
            stride_seconds=0.03125,
            simulated=True,
        ),
        shares.argmax(1),
        shares,
        extra={"subset": "test"},
    )
    calls = seen(monkeypatch, "errors")
    assert "2 windows" in draw("errors", tmp_path / "scores", "--shards", data.shards, "--out", tmp_path / "errors.png")
    _, parts, title = calls[-1]
    assert [output.split(",")[0] for output, _ in parts] == ["fist taken for idle", "flexion taken for idle"]
    assert [part.begin for _, part in parts] == pytest.approx(start[:2] / small_shards.RATE)
    assert title.endswith("(SIMULATED)")
    output = tmp_path / "scores" / "metrics.json"
    content = json.loads(output.read_text())
    output.write_text(json.dumps(content | {"made": {"arguments": {"shards": data.shards.name}}}))
    with pytest.raises(DataError, match=r"expected a folder of shards, found none; --shards names another"):
        draw("errors", tmp_path / "scores", "--out", tmp_path / "errors.png")
    (tmp_path / data.shards.name).symlink_to(data.shards)  # above the result, as where it was made
    draw("errors", tmp_path / "scores", "--out", tmp_path / "errors.png")
    assert len(calls) == 2


def test_shards_of_a_split_that_are_elsewhere_are_asked_for(draw, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"shards: expected a folder of shards, found none; --shards names another"):
        draw("classes", data.split)


def test_classes_of_a_split(draw, data, tmp_path, monkeypatch):
    calls = seen(monkeypatch, "class_counts")
    output = draw("classes", data.split, "--shards", data.shards, "--out", tmp_path / "c.png")
    counts = calls[-1][1]
    assert {part: values.tolist() for part, values in counts.items()} == {
        "train": [45] * 4,
        "val": [15] * 4,
        "test": [15] * 4,
    }
    assert "train: 3 people, 180 windows" in output


def test_curves_of_a_run(draw, tmp_path):
    row = {"epoch": 1, "train/loss": 2.0, "val/loss": 2.5, "train/macro_f1": 0.1, "val/macro_f1": 0.2}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'epoch': 2})}\n")
    assert "2 epochs" in draw("curves", tmp_path, "--out", tmp_path / "c.png")
    for content in ("", "{}\n", "no\n"):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(DataError, match="one line of metrics an epoch"):
            draw("curves", tmp_path, "--out", tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def calibrated(folder, repetitions, people, *, gain=0.2, as_calibrated=True, classes=("idle", "fist"), adapted=""):
    """Results as calibrate.py writes them, or as another script does; the more repetitions, the fewer fists."""
    before = {who: {"macro_f1": value, "accuracy": value + 0.1, "n_windows": 9} for who, value in people.items()}
    after = {who: one | {"macro_f1": one["macro_f1"] + gain} for who, one in before.items()}
    folder.mkdir(parents=True)
    output = {"per_subject": after}
    if as_calibrated:
        output |= {"calibrate": repetitions, "zero_shot_on_the_same_windows": {"per_subject": before}}
    if adapted:
        output["adaptation"] = {"mode": adapted, "sessions": []}
    chance = {"macro_f1": 0.5, "accuracy": 0.5 + 0.1 * repetitions + 0.02 * ("03" in people)}
    truth = {"classes": classes, "confusion": [[5, 1], [0, 4 - repetitions]], "chance_over_subjects": chance}
    (folder / "metrics.json").write_text(json.dumps(output | truth))
    return folder


def test_calibration_over_repetitions_and_folds(draw, tmp_path, monkeypatch):
    calls = []
    real = plot.score_figures.calibration
    monkeypatch.setattr(
        plot.score_figures, "calibration", lambda *args, **named: (calls.append(args), real(*args, **named))
    )
    folders = [
        calibrated(tmp_path / f"{n}-{fold}", n, {who: 0.3 + 0.1 * n})
        for n in (2, 1)
        for fold, who in enumerate(("09", "03"))
    ]
    output = draw("calibration", *folders, "--out", tmp_path / "c.png")
    assert "2 people, repetitions 1, 2" in output
    _, table, chance, _ = calls[-1]
    assert [chance[count]["accuracy"] for count in (1, 2)] == pytest.approx([0.61, 0.71]), "the mean over people"
    assert [chance[count]["macro_f1"] for count in (1, 2)] == [0.5, 0.5]
    assert table[2]["uncalibrated"]["macro_f1"].tolist() == pytest.approx([0.5, 0.5])
    assert table[2]["calibrated"]["macro_f1"].tolist() == pytest.approx([0.7, 0.7])
    for sources, error, words in (
        ([], UsageError, "at least one SOURCE"),
        ([folders[0], folders[0]], DataError, "each person once, found 09 again"),
        (folders[:3], DataError, "the same people"),
        ([tmp_path], DataError, r"metrics\.json"),
    ):
        with pytest.raises(error, match=words):
            draw("calibration", *sources, "--out", tmp_path / "d.png")
    calibrated(tmp_path / "evaluated", 1, {"09": 0.5}, as_calibrated=False)
    with pytest.raises(DataError, match=r"results of calibrate\.py"):
        draw("calibration", tmp_path / "evaluated", "--out", tmp_path / "d.png")
    other = calibrated(tmp_path / "other", 1, {"11": 0.5}, classes=("idle", "pinch"))
    with pytest.raises(DataError, match="other: expected the same gestures as in"):
        draw("calibration", folders[0], other, "--out", tmp_path / "d.png")


def test_calibration_says_that_models_were_adapted_too_and_takes_no_mixture(draw, tmp_path, monkeypatch):
    said = []
    real = plot.score_figures.calibration
    monkeypatch.setattr(
        plot.score_figures, "calibration", lambda *args, **named: (said.append(named["adapted"]), real(*args, **named))
    )
    adapted = calibrated(tmp_path / "adapted", 1, {"09": 0.5}, adapted="session")
    alone = calibrated(tmp_path / "alone", 2, {"09": 0.5})
    for source in (adapted, alone):
        draw("calibration", source, "--out", tmp_path / "c.png")
    assert said == [True, False]
    with pytest.raises(DataError, match=r"alone: expected .* --adapt session, as .*adapted.*, found --adapt none"):
        draw("calibration", adapted, alone, "--out", tmp_path / "d.png")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"checkpoint_sha256": "1" * 64}, {"checkpoint_sha256": "2" * 64}),
        ({"baseline": {"classifier": "lda", "calibrate": 1}}, {"baseline": {"classifier": "qda", "calibrate": 2}}),
    ],
)
def test_a_curve_over_repetitions_is_of_one_model(draw, tmp_path, one, other):
    """One model with one repetition and another with two were one curve."""
    folders = [calibrated(tmp_path / str(n), n, {"09": 0.5}) for n in (1, 2)]
    for second, right in ((other, False), (one, True)):
        for folder, about in zip(folders, (one, second), strict=True):
            path = folder / "metrics.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | about))
        refused = pytest.raises(DataError, match="2 repetitions: expected the models that 1 repetition has")
        with nullcontext() if right else refused:
            draw("calibration", *folders, "--out", tmp_path / "c.png")


def test_a_result_is_named_by_its_folder_or_its_file(draw, tmp_path):
    folder = calibrated(tmp_path / "one", 1, {"09": 0.5})
    for source in (folder, folder / "metrics.json"):
        assert "1 person, repetitions 1" in draw("calibration", source, "--out", tmp_path / "c.png")


def test_subsets_of_other_gestures_are_not_drawn_beside_each_other(draw, tmp_path):
    records = [small_shards.write(tmp_path / "shards", n) for n in (1, 2)]
    other = [*small_shards.CLASSES[:3], "pinch"]
    records.append(small_shards.write(tmp_path / "shards", 3, classes=other))
    split = small_shards.write_split(tmp_path / "split", train=records[:1], val=records[1:2], test=records[2:])
    with pytest.raises(DataError, match="pinch"):
        draw("classes", split, "--shards", tmp_path / "shards", "--out", tmp_path / "c.png")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"frontend": "both", "channels": 48},
            [
                "24 electrodes",
                "48 ×\n1280",
                "+ 24 whitened",
                "48 × 6 log powers",
                "48 × 64 samples",
                "20 ×\n3360",
                "GPT-2",
            ],
        ),
        ({"tune": "fpt", "whitening": "none"}, ["24 ×\n1280", "tune fpt\nnorms and\npositions train", "20 tokens"]),
        ({"tune": "last:1", "whitening": "none"}, ["tune last:1\nlast block trains"]),
        ({"samples": 320, "whitening": "replace"}, ["320 samples", "62.5 ms", "5 ×\n144", "1 block", "whitened"]),
        (
            {"frontend": "raw", "backbone": "none", "normalize": "none", "whitening": "none"},
            ["20 ×\n1536", "1536 → 16"],
        ),
        ({"backbone": "attention", "pooling": "last"}, ["attention", "last token", "LayerNorm", "16 → 8"]),
    ],
)
def test_the_architecture_says_what_the_configuration_says(tmp_path, monkeypatch, changes, told):
    figures_made = []
    real = architecture_figure.save
    monkeypatch.setattr(
        architecture_figure, "save", lambda figure, path: (figures_made.append(figure), real(figure, path))
    )
    how = {key: changes.pop(key) for key in ("normalize", "whitening") if key in changes}
    how = ChannelNormalization(how.get("normalize", "session"), how.get("whitening", "append"))
    config = ModelConfig(**{**TINY, **changes})
    counts = {"trainable": 2_000, "total": 1_234_567}
    groups, classes = [asdict(group) for group in FrontEnd(config).groups], ["idle", "fist"]
    architecture_figure.architecture(
        tmp_path / "a.png", config.to_dict(), groups, how, 5120.0, classes, counts, "title"
    )
    blocks = [text.get_text() for text in figures_made[0].axes[0].texts]
    lines = [line for block in blocks for line in block.split("\n")]
    for words in [*told, "idle", "fist", "8\nscores", "2,000 of 1.23 million parameters train"]:
        assert words in blocks or words in lines, words
    if "GPT-2" not in told and changes.get("backbone"):
        assert "GPT-2" not in lines


@pytest.mark.parametrize("note", ["", " (" + "a long note with many words " * 12 + ")", "x" * 300])
def test_no_words_of_the_architecture_overlap(tmp_path, monkeypatch, note):
    figures_made = []
    monkeypatch.setattr(architecture_figure, "save", lambda figure, _: figures_made.append(figure))
    config = ModelConfig(**TINY, tune="lora", frontend="both", channels=48, classes=14)
    groups, counts = [asdict(group) for group in FrontEnd(config).groups], {"trainable": 10**8, "total": 10**9}
    classes, how = [f"a gesture called {number}" for number in range(14)], ChannelNormalization("session", "append")
    architecture_figure.architecture(
        tmp_path / "a.png",
        config.to_dict(),
        groups,
        how,
        5120.0,
        classes,
        counts,
        f"How a window becomes a gesture{note}",
    )
    figure = figures_made[0]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(figure.bbox.containsy(y) for box in boxes for y in (box.y0, box.y1))
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("count", [12, 13, 53])
def test_of_many_gestures_the_architecture_names_a_few(tmp_path, monkeypatch, count):
    figures_made = []
    monkeypatch.setattr(architecture_figure, "save", lambda figure, _: figures_made.append(figure))
    config = ModelConfig(**TINY)
    groups, counts = [asdict(group) for group in FrontEnd(config).groups], {"trainable": 10**8, "total": 10**9}
    how, classes = ChannelNormalization("session", "append"), [f"gesture {k}" for k in range(count)]
    architecture_figure.architecture(
        tmp_path / "a.png", config.to_dict(), groups, how, 5120.0, classes, counts, "title"
    )
    (named,) = (text.get_text().split("\n") for text in figures_made[0].axes[0].texts if "gesture 0" in text.get_text())
    assert named == (classes if count == 12 else [*classes[:11], f"and {count - 11} more"])


def test_the_architecture_of_a_checkpoint(draw, tmp_path):
    from semg.inference.checkpoint import write_checkpoint

    config = ModelConfig(**TINY, channels=8, classes=2)
    how = {"window": config.samples, "stride": 100}
    data = {"rate": 2000.0, "classes": ["open", "shut"], "channels": [f"C{i}" for i in range(8)], "arguments": how}
    output = {"model": config.to_dict(), "data": data, "normalize": {"method": "session"}}
    weights = {f"model.{name}": value for name, value in GPT2Classifier(config).state_dict().items()}
    write_checkpoint(tmp_path / "m.ckpt", output, weights | {"train_gain": torch.ones(8)})
    assert "parameters train" in draw("architecture", tmp_path / "m.ckpt", "--out", tmp_path / "a.png")
    write_checkpoint(tmp_path / "m.ckpt", {"model": {"colour": "red"}}, {})
    with pytest.raises(DataError, match=r"m\.ckpt"):
        draw("architecture", tmp_path / "m.ckpt", "--out", tmp_path / "a.png")


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["architecture", "--tune", "last:13"], UsageError, "tune.*last:12"),
        (["recording"], UsageError, "expected one SOURCE"),
        (["recording", "none.hdf5"], DataError, "no such file"),
        (["electrodes"], UsageError, "at least one SOURCE"),
        (["classes", "none"], DataError, "none"),
        (["curves", "none"], DataError, r"metrics\.jsonl of a run"),
        (["curves", "none", "--out", "x.pdf"], UsageError, r"ends in \.png"),
        (["electrodes", "none", "--seconds", "1"], UsageError, "--seconds: expected recording or spectrum"),
        (["electrodes", "none", "--channels", "1-8"], UsageError, "--channels: expected recording or spectrum"),
        (["classes", "none", "--begin", "1"], UsageError, "--begin: expected recording or spectrum"),
        (["recording", "none.hdf5", "--causal"], UsageError, "--causal: expected spectrum"),
        (["classes", "none", "--begin", "0"], UsageError, "--begin: expected recording or spectrum"),
        (["recording", "none", "--labels", "TRAJ_GT"], UsageError, "--labels: expected HDF5 recordings, found none"),
        (["architecture", "m.ckpt", "--tune", "full"], UsageError, r"--tune: expected no checkpoint .* m\.ckpt"),
        (["spectrum", "none.hdf5", "--labels", "TRAJ_1"], UsageError, "--labels: expected recording or electrodes"),
        (["recording", "none", "--labels", "TRAJ_1"], UsageError, "--labels: expected HDF5 recordings, found none"),
        (["curves", "none", "--shards", "s"], UsageError, "--shards: expected classes or errors"),
        (["architecture", "m.ckpt", "--tune", "fpt"], UsageError, r"--tune: expected no checkpoint .* m\.ckpt"),
    ],
)
def test_wrong_words_are_named(draw, tmp_path, monkeypatch, words, error, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told):
        draw(*words)
    assert list(tmp_path.iterdir()) == []


def test_parts_that_are_not_there(data):
    signal = plot.Signal(data.recording, "TRAJ_GT")
    for begin, seconds, channels, told in (
        (3.0, None, None, "--begin 3: expected at least 2 samples before the recording's end, 3.0 s"),
        (2.9999, 1.0, None, "--begin 2.9999: expected at least 2 samples before"),
        (0.0, 1e-6, None, "--seconds 1e-06: expected at least 2 samples, found 0"),
        (0.0, None, (25,), "--channels: expected numbers from 1 to 24, found 25"),
    ):
        with pytest.raises(UsageError, match=told):
            signal.part(begin, seconds, channels)
    assert signal.part(2.5, 99.0, None).shape == (2560, 24)


def test_every_picture_is_in_the_manual():
    assert isinstance(plot.arguments(), argparse.ArgumentParser)
    for name in plot.PICTURES:
        assert f"python plot.py {name} " in plot.__doc__


def rows_of(axes):
    """(lowest, highest) place of the drawing in each row, from top to bottom."""
    return [(path.vertices[:, 1].min(), path.vertices[:, 1].max()) for c in axes.collections for path in c.get_paths()]


@pytest.mark.parametrize("loud", [0, 1, 2], ids=["the top channel", "one in the middle", "the bottom channel"])
def test_rows_do_not_touch_and_what_is_cut_is_said(loud):
    axes, other = Figure().add_subplot(), Figure().add_subplot()
    signal = np.random.default_rng(0).uniform(-100, 100, (60_000, 3)).astype(np.float32)
    signal[10_000:13_000, loud] *= 2.5
    step = signal_figures.draw_channels(axes, signal, 1000.0, ["a", "b", "c"], 0.0)
    rows = rows_of(axes)
    assert len(rows) == 3
    assert all(above[0] > below[1] for above, below in pairwise(rows))
    low, high = axes.get_ylim()
    assert high > rows[0][1]
    assert low < rows[2][0]
    assert rows[loud][1] - rows[loud][0] == pytest.approx(500, rel=0.02), "the burst is drawn whole"
    assert axes.get_title("right") == f"rows are {step:g} µV apart"
    signal[5, loud] = 1e6  # a jump must not make all the rest a line
    assert signal_figures.draw_channels(other, signal, 1000.0, ["a", "b", "c"], 0.0) == step
    assert other.get_ylim() == axes.get_ylim()
    rows = rows_of(other)
    assert all(above[0] > below[1] for above, below in pairwise(rows))
    assert f"cut beyond ±{0.49 * step:g} µV" in other.get_title("right")


def test_the_legend_has_the_gestures_that_are_seen(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    signal = np.zeros((1000, 2), np.float32)
    segments = [(0, 2, 0), (2, 4.5, 1), (4.5, 9, 2)]
    names = ["idle", "fist", "flexion"]
    signal_figures.recording(
        tmp_path / "r.png", signal, 1000.0, ["a", "b"], segments, names, "title", begin=3, colours=["w", "b", "r"]
    )
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["fist"]


def test_electrodes_leave_out_gestures_that_nobody_made(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    rms = np.array([[2.0, 4.0], [np.nan, np.nan], [6.0, 4.0]])
    signal_figures.electrodes(tmp_path / "e.png", rms, ["idle", "fist", "flexion"], 1, "title", 0)
    assert [axes.get_title() for axes in drawn[0].axes if axes.images] == ["flexion"]


def test_axes_of_the_spectrum_are_numbers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    density = np.full((50, 2), 3.0)
    signal_figures.spectrum(tmp_path / "s.png", np.arange(1, 51.0), density, density / 1e4, "t" * 20)
    FigureCanvasAgg(drawn[0]).draw()
    labels = [label.get_text() for axes in drawn[0].axes for label in axes.get_yticklabels()]
    assert "0.001" in labels
    assert [float(label) for label in labels] == sorted(map(float, labels))


def test_the_spectrum_of_a_short_excerpt_fills_its_axes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    frequency, density = np.arange(100, 2501, 100.0), np.full((25, 2), 3.0)
    signal_figures.spectrum(tmp_path / "s.png", frequency, density, density, "title")
    assert drawn[0].axes[0].get_xlim() == (100, 2500)


def test_the_legend_of_a_large_split_is_in_the_picture(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(signal_figures, "save", lambda figure, _path: drawn.append(figure))
    about = {
        subset: f"{people} people, 1,234,567 windows" for subset, people in (("train", 131), ("val", 17), ("test", 44))
    }
    counts = dict.fromkeys(about, np.full(8, 1000))
    signal_figures.class_counts(tmp_path / "c.png", counts, [*putemg.GESTURES.values()], about, "title")
    FigureCanvasAgg(drawn[0]).draw()
    (legend,) = drawn[0].legends
    place = legend.get_window_extent()
    assert place.x0 >= 0 and place.x1 <= drawn[0].bbox.width


def test_a_long_title_is_told_in_lines_that_fit():
    figure = Figure(figsize=(4, 2))
    title = " ".join(["repeats_long-2020-01-09"] * 4)
    score_figures.headline(figure, title)
    FigureCanvasAgg(figure).draw()
    assert figure._suptitle.get_window_extent().width < figure.bbox.width
    assert figure._suptitle.get_text().split() == title.split()


def test_a_long_name_without_blanks_is_not_cut_off():
    figure = Figure(figsize=(4, 2))
    score_figures.headline(figure, "recording_" * 20)
    FigureCanvasAgg(figure).draw()
    assert figure._suptitle.get_window_extent().width < figure.bbox.width
    assert figure._suptitle.get_text().replace("\n", "") == "recording_" * 20


@pytest.mark.parametrize(
    "names", [["g"] * 8, ["gesture"] * 5, ["a very long gesture name"] * 9, ["x" * 60] * 2, ["wrist"] * 53]
)
def test_all_of_a_confusion_matrix_is_in_the_picture(names):
    classes = [f"{name} {k}" for k, name in enumerate(names)]
    figure = score_figures.confusion_figure(1000 * np.eye(len(names), dtype=int), classes)
    FigureCanvasAgg(figure).draw()
    axes, bar = figure.axes
    for text in (axes.xaxis.label, axes.yaxis.label, bar.yaxis.label, figure._suptitle):
        place = text.get_window_extent()
        assert place.x0 >= 0 and place.y0 >= 0, text.get_text()
        assert place.x1 <= figure.bbox.width and place.y1 <= figure.bbox.height, text.get_text()


@pytest.mark.parametrize(
    ("people", "name"), [(1, "{:02d}"), (20, "S{:03d}"), (44, "{:02d}"), (8, "participant-{:02d}")]
)
def test_names_of_people_do_not_overlap(tmp_path, monkeypatch, people, name):
    drawn = []
    monkeypatch.setattr(score_figures, "save", lambda figure, _path: drawn.append(figure))
    scores = [metric.name for metric in score_figures.metrics.headlines()]
    subjects = {name.format(k): dict.fromkeys(scores, 0.5) for k in range(people)}
    score_figures.per_subject(
        tmp_path / "p.png", subjects, dict.fromkeys(scores, 0.1), dict.fromkeys(scores), "a title"
    )
    FigureCanvasAgg(drawn[0]).draw()
    places = [label.get_window_extent() for label in drawn[0].axes[0].get_xticklabels()]
    assert len(places) == people
    assert all(left.x1 + 2 < right.x0 for left, right in pairwise(places))


def test_a_class_keeps_its_colour_whatever_else_is_there():
    everything = [*putemg.GESTURES.values()]
    colours = dict(zip(everything, palette.gestures(everything), strict=True))
    assert len(set(colours.values())) == len(everything)
    some = ["pinch small", "fist"]
    assert palette.gestures(some) == [colours[name] for name in some]
    others = ["extension", "fist", "hibernation", "supination", "wrist up"]
    named = dict(zip(others, palette.gestures(others, ["hibernation"]), strict=True))
    assert named["hibernation"] == colours["idle"]
    assert (named["fist"], named["extension"]) == (colours["fist"], colours["extension"])
    assert len(set(named.values())) == len(others)
    assert palette.gestures(["wrist up"], ["hibernation"], others) == [named["wrist up"]]
    many = palette.gestures(["idle", *(f"gesture {k}" for k in range(20))], ["idle"])
    distances = [max(abs(a - b) for a, b in zip(*map(to_rgb, pair), strict=True)) for pair in combinations(many, 2)]
    assert min(distances) > 0.12, "a wrong decision must not look right"
    assert len(palette.gestures([f"gesture {k}" for k in range(60)])) == 60
    assert [palette.letters_on(colour) for colour in ("#F0E442", "#0072B2")] == ["black", "white"]


def test_calibration_is_on_one_scale_from_0_to_1(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(score_figures, "save", lambda figure, _path: drawn.append(figure))
    names = [metric.name for metric in score_figures.metrics.headlines()]
    table = {n: {w: dict.fromkeys(names, np.array([0.7, 0.9])) for w in ("calibrated", "uncalibrated")} for n in (1, 2)}
    chance = {1: dict.fromkeys(names, 0.125), 2: dict.fromkeys(names, 0.25)}
    score_figures.calibration(tmp_path / "c.png", table, chance, "title")
    for axes in drawn[0].axes:
        (by_chance,) = [line for line in axes.lines if "by chance, 0.125 to 0.250" in line.get_label()]
        levels = dict(zip(*by_chance.get_data(), strict=True))
        assert (levels[1], levels[2]) == (0.125, 0.25)
    assert {axes.get_ylim() for axes in drawn[0].axes} == {(0, 1)}
    assert all(axes.get_ylabel().endswith("0 to 1") and axes.get_xlabel() for axes in drawn[0].axes)


def test_comparison_has_a_panel_of_paired_differences(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(score_figures, "save", lambda figure, _path: drawn.append(figure))
    subjects = {"a": {"01": 0.5, "02": 0.75}, "b": {"01": 0.25, "02": 1.0, "03": 0.1}}
    score_figures.compare(tmp_path / "c.png", subjects, score_figures.metrics.METRICS[0], "a", "title")
    _, panel = drawn[0].axes
    assert panel.get_xlabel() == "macro-F1 minus that of a"
    assert "right of the line" in panel.get_title()
    (dots,) = [line for line in panel.lines if line.get_marker() == "o"]
    assert sorted(dots.get_xdata()) == [-0.25, 0.25], "of those whom both scored"


def test_numbers_of_small_differences_do_not_touch(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(score_figures, "save", lambda figure, _path: drawn.append(figure))
    subjects = {f"a method {k}": {f"{n:02d}": 0.5 + 0.01 * k + 0.02 * n for n in range(12)} for k in range(3)}
    score_figures.compare(tmp_path / "c.png", subjects, score_figures.metrics.METRICS[0], "a method 0", "title")
    FigureCanvasAgg(drawn[0]).draw()
    for axes in drawn[0].axes:
        places = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(places) >= 3
        assert all(left.x1 + 8 < right.x0 for left, right in pairwise(places))


@pytest.mark.parametrize(("unit", "label"), [("uV", "µV"), ("arbitrary", "a.u.")])
def test_timeline_and_architecture_name_the_unit_of_the_model(draw, tmp_path, monkeypatch, unit, label):
    from semg.inference.checkpoint import write_checkpoint

    config = ModelConfig(**TINY, channels=8, classes=2)
    how = {"window": config.samples, "stride": 100}
    names = {"classes": ["open", "shut"], "channels": [f"C{i}" for i in range(8)]}
    data = {"rate": 2000.0, "unit": unit, **names, "arguments": how}
    output = {"model": config.to_dict(), "data": data, "normalize": {"method": "none"}}
    weights = {f"model.{name}": value for name, value in GPT2Classifier(config).state_dict().items()}
    write_checkpoint(tmp_path / "m.ckpt", output, weights | {"train_gain": torch.ones(8)})
    figures_made = []
    real = signal_figures.save
    for module in (architecture_figure, signal_figures):
        monkeypatch.setattr(module, "save", lambda figure, path: (figures_made.append(figure), real(figure, path)))

    draw("architecture", tmp_path / "m.ckpt", "--out", tmp_path / "a.png")
    assert f"in {label}" in "\n".join(text.get_text() for text in figures_made[0].axes[0].texts)

    model = TrainedModel.open(tmp_path / "m.ckpt", "cpu")
    source = RawRecording("mine", np.zeros((2000, 8), np.float32), 2000.0, 1.0)
    decided = Predictions(np.array([1000, 1500]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    signal = np.random.default_rng(0).normal(size=(2000, 8))
    decisions, confidence = decided.probabilities.argmax(1), decided.probabilities.max(1)
    how = {"vote": 1, "hold": 0.0, "simulated": False}
    predict.draw(tmp_path / "t.png", model, source, signal, decided, decisions, confidence, **how)
    assert f"{label} apart" in figures_made[1].axes[0].get_title(loc="right")
