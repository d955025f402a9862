"""TensorBoard: the event files of a run are read back, and every tag is there with what it should hold."""

import html
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import small_shards
from conftest import ROOT
from google.protobuf import text_format
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector import projector_config_pb2
from tensorboard.util import tensor_util

import train
from semg.data.splits import Split
from semg.evaluation import metrics, palette, tensorboard
from semg.inference.checkpoint import open_checkpoint

CLASSES = small_shards.CLASSES
FLAGS = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 32 --device cpu --quiet"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    shards, split = small_shards.write_all(tmp_path_factory.mktemp("data"))
    return ["--shards", str(shards), "--split", str(split)]


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    """A small run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *data, "--out", str(folder), *FLAGS.split(), "--augment", "none"])
        assert train.main() == 0
    return folder


@pytest.fixture(scope="module")
def events(out):
    return EventAccumulator(str(out), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def row(out, epoch):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[epoch - 1])


def natural(tag):
    """TensorBoard's order of tags: by name, runs of digits by value."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", tag)]


def groups(tags):
    """Groups of tags in the order in which TensorBoard shows them; it opens the first two."""
    return list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags, key=natural)))


GESTURES = [f"{place}_{name}" for place, name in enumerate(CLASSES, 1)]


def test_every_tag_is_there_at_every_epoch(events):
    tags = events.Tags()
    scores = [tensorboard.tag(f"{part}/{name}") for part in ("train", "val") for name in metrics.criteria()]
    chosen = {f"4_chosen/{name}" for name in metrics.criteria()}
    assert chosen <= set(tags["scalars"])
    tags["scalars"] = [name for name in tags["scalars"] if name not in chosen]
    scalars = [*scores, "7_optimizer/lr", "7_optimizer/gradient_norm", "8_speed/windows_per_second"]
    scalars += [*(f"5_val_f1/{name}" for name in GESTURES), "6_val_macro_f1_of_subject/04"]
    assert sorted(tags["scalars"]) == sorted(scalars)
    assert tags["images"] == ["2_confusion/val"]
    curves = [f"val_precision_recall/{name}" for name in GESTURES]
    texts = ["configuration/text_summary", "split/text_summary"]
    assert sorted(tags["tensors"]) == sorted([*curves, *texts, "custom_scalars__config__"])
    for name in scalars:
        assert [event.step for event in events.Scalars(name)] == [1, 2], name
    for name in curves:
        assert [event.step for event in events.Tensors(name)] == [1, 2], name
    assert [event.step for event in events.Images("2_confusion/val")] == [1, 2]


def test_loss_and_macro_f1_are_first_and_gestures_are_in_their_order(events):
    tags = [*events.Tags()["scalars"], *events.Tags()["images"]]
    first, second, *_ = groups(tags)
    learning = [tag for tag in sorted(tags, key=natural) if tag.split("/")[0] == first]
    assert [tag.split("/")[1] for tag in learning] == ["loss_train", "loss_val", "macro_f1_train", "macro_f1_val"]
    assert second == "2_confusion"
    gestures = [tag for tag in sorted(tags, key=natural) if "val_f1/" in tag]
    assert [tag.split("_", 3)[-1] for tag in gestures] == CLASSES


def test_scalars_are_the_numbers_of_metrics_jsonl(out, events):
    for name, value in row(out, 2).items():
        if name not in ("epoch", "step"):
            assert events.Scalars(tensorboard.tag(name))[-1].value == pytest.approx(value, rel=1e-5)
    f1 = [events.Scalars(f"5_val_f1/{name}")[-1].value for name in GESTURES]
    assert np.mean(f1) == pytest.approx(row(out, 2)["val/macro_f1"], abs=1e-6)  # one validation person


def test_charts_of_training_and_validation_name_tags_that_are_there(events):
    held = tensor_util.make_ndarray(events.Tensors("custom_scalars__config__")[0].tensor_proto).item()
    (category,) = layout_pb2.Layout.FromString(held).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert list(charts) == [one.label for one in (metrics.LOSS, *metrics.METRICS)]
    assert {tag for tags in charts.values() for tag in tags} <= set(events.Tags()["scalars"])


def test_texts_say_settings_and_who_is_where(events):
    output = {
        name: tensor_util.make_ndarray(events.Tensors(f"{name}/text_summary")[0].tensor_proto).item().decode()
        for name in ("configuration", "split")
    }
    for line in ("batch_size | 32", "augment | none", "model.width | 16", "train.windows | 180"):
        assert line in output["configuration"].splitlines()
    assert "train | 3 | 3 | 01 02 03" in output["split"].splitlines()
    assert "test | 1 | 1 | 05" in output["split"].splitlines()
    assert small_shards.name(4) in output["split"].splitlines()


def test_precision_and_recall_follow_from_the_probabilities(tmp_path):
    label, actual = np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    split = tensorboard.Split("hand", "custom", (), (), ())
    board = tensorboard.Board(tmp_path, ["a", "b"], settings={}, facts={}, split=split)
    board.epoch({"epoch": 1, "step": 1}, {}, label, actual)
    board.close()
    event = EventAccumulator(str(tmp_path)).Reload().Tensors("val_precision_recall/1_a")[0]
    *_, precision, recall = tensor_util.make_ndarray(event.tensor_proto)  # (6, thresholds)
    half = len(precision) // 2
    assert (precision[half], recall[half]) == (0.5, 0.5)
    assert recall[0] == 1


def test_people_whose_names_tensorboard_writes_alike_have_curves_of_their_own(tmp_path):
    split = tensorboard.Split("hand", "custom", (), (), ())
    board = tensorboard.Board(tmp_path, ["a", "b"], settings={}, facts={}, split=split)
    scores = {"p 1": 0.1, "p_1": 0.2, "p+1": 0.3, "p 2": 0.4, "p_1.2": 0.5, "p_1.3": 0.6}
    subjects = {name: {"macro_f1": value} for name, value in scores.items()}
    board.epoch({"epoch": 1, "step": 1}, subjects, np.array([0, 1]), np.array([[0.9, 0.1], [0.4, 0.6]]))
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    curves = [name for name in events.Tags()["scalars"] if name.startswith("6_")]
    assert "6_val_macro_f1_of_subject/p_2" in curves
    shown = [one.value for name in curves for one in events.Scalars(name)]
    assert len(curves) == 6 and sorted(shown) == pytest.approx(sorted(scores.values()))


def test_settings_are_hyperparameters_with_validation_scores(events):
    def content(name):
        held = events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(held)

    given = content("session_start_info").session_start_info.hparams
    assert given["batch_size"].number_value == 32
    assert given["tune"].string_value == "full"
    shown = [info.name.tag for info in content("experiment").experiment.metric_infos]
    assert shown == [f"4_chosen/{name}" for name in metrics.criteria()]


def test_the_scores_beside_the_settings_are_those_of_the_epoch_chosen(tmp_path):
    """Not the last epoch's, which TensorBoard would show of val/."""
    split = tensorboard.Split("hand", "custom", (), (), ())
    board = tensorboard.Board(tmp_path, ["a", "b"], settings={"lr": 0.1}, facts={}, split=split)
    for epoch, (score, chosen) in enumerate([(0.5, True), (0.8, True), (0.6, False)], 1):
        values = {f"val/{name}": score for name in metrics.criteria()}
        actual = np.array([[0.9, 0.1], [0.4, 0.6]])
        board.epoch({"epoch": epoch, "step": epoch, **values}, {}, np.array([0, 1]), actual, chosen=chosen)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in metrics.criteria():
        assert events.Scalars(tensorboard.tag(f"val/{name}"))[-1].value == pytest.approx(0.6)
        assert events.Scalars(f"4_chosen/{name}")[-1].value == pytest.approx(0.8)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_confusion_picture_says_where_recordings_were_simulated(tmp_path, monkeypatch, simulated):
    titles = []
    draw = tensorboard.score_figures.confusion_figure
    monkeypatch.setattr(
        tensorboard.score_figures, "confusion_figure", lambda *given: titles.append(given[2]) or draw(*given)
    )
    split = tensorboard.Split("hand", "custom", (), (), ())
    board = tensorboard.Board(tmp_path, ["a", "b"], settings={}, facts={}, split=split, simulated=simulated)
    board.epoch({"epoch": 1, "step": 1}, {}, np.array([0, 1]), np.eye(2))
    board.close()
    assert ["SIMULATED" in title for title in titles] == [simulated]


def test_the_projector_shows_features_of_the_best_epoch(out):
    text = (out / "projector_config.pbtxt").read_text()
    (shown,) = text_format.Parse(text, projector_config_pb2.ProjectorConfig()).embeddings
    assert shown.tensor_name.endswith(f"epoch {open_checkpoint(out / 'best_model.ckpt').description['epoch']}")
    features = np.loadtxt(out / shown.tensor_path, delimiter="\t")
    head, *rows = (out / shown.metadata_path).read_text().splitlines()
    assert head == "gesture\tperson\trecording\tbegin"
    assert features.shape == (len(rows), 16)
    gesture, person, recording, begin = zip(*(line.split("\t") for line in rows), strict=True)
    assert set(gesture) == set(CLASSES)
    assert (set(person), set(recording)) == ({"04"}, {small_shards.name(4)})
    assert all(re.fullmatch(r"\d+\.\d\d s", one) for one in begin)
    assert len(set(begin)) > 10


def test_the_projector_opens_in_the_colours_of_the_gestures(out):
    """Its own colours are off until somebody chooses them; a picture for each point is there at once."""
    text = (out / "projector_config.pbtxt").read_text()
    (shown,) = text_format.Parse(text, projector_config_pb2.ProjectorConfig()).embeddings
    across, down = shown.sprite.single_image_dim
    sheet = imread(out / shown.sprite.image_path)
    gestures = [line.split("\t")[0] for line in (out / shown.metadata_path).read_text().splitlines()[1:]]
    colours = dict(zip(CLASSES, palette.gestures(CLASSES), strict=True))
    columns = sheet.shape[1] // across
    assert sheet.shape[0] // down * columns >= len(gestures)
    for place, gesture in enumerate(gestures):
        middle = sheet[place // columns * down + down // 2, place % columns * across + across // 2]
        assert middle == pytest.approx((*to_rgb(colours[gesture]), 1), abs=1 / 255)


def test_projected_windows_are_spread_over_gestures_and_recordings():
    label = np.repeat([0, 1, 0, 2], [6000, 40, 6000, 0])
    index = tensorboard.projected(label, 4)
    assert len(index) == 250 + 40
    assert (label[index] == 1).sum() == 40
    assert 100 < (index < 6000).sum() < 150
    assert np.array_equal(index, np.unique(index))


def test_a_new_run_in_the_same_folder_leaves_nothing_of_the_old(data, out, monkeypatch):
    old = {path.read_bytes() for path in out.glob("events.out.*")}  # names are of a second, which two runs may share
    monkeypatch.setattr(sys, "argv", ["train.py", *data, "--out", str(out), *FLAGS.split(), "--overwrite"])
    assert train.main() == 0
    assert not old & {path.read_bytes() for path in out.glob("events.out.*")}
    assert len(list(out.glob("events.out.*"))) == len(old)


def test_a_notebooks_backend_in_the_environment_is_no_matter(tmp_path):
    """Where another process asked for a backend that only a notebook has; pyplot would import it."""
    code = (
        "import sys, numpy as np; from semg.data.splits import Split\n"
        "from semg.common import cli; from semg.evaluation import tensorboard as t\n"
        "b = t.Board(t.Path(sys.argv[1]), 'ab', settings={}, facts={}, split=Split('x', 'custom', (), (), ()))\n"
        "b.epoch({'epoch': 1, 'step': 1}, {}, np.array([0, 1]), np.eye(2)); b.close()\n"
        "print(*sorted({'matplotlib.pyplot'} & set(sys.modules)))"
    )
    for backend in ("module://no_such_module", "nonsense"):
        environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_names_in_texts_stay_words(tmp_path):
    """A gesture's name with a bar ended its row of the table: the gestures after it were missing."""
    classes = ["rest", "ball|open", "*pinch*", "_small_", "[a](b)", "`x`", "a_b"]
    records = [small_shards.name(subject) for subject in (1, 2, 3)]
    split = Split("*of*|two", "subject", *((record,) for record in records))
    board = tensorboard.Board(
        tmp_path, classes, settings={"split": "my|*splits*/x"}, facts={"classes": classes}, split=split
    )
    board.close()
    actual = EventAccumulator(str(tmp_path))
    actual.Reload()
    for tag, names in (("configuration", [*classes, "my|*splits*/x"]), ("split", ["*of*|two", *records])):
        (text,) = actual.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val
        shown = html.unescape(re.sub("<[^>]*>", "", markdown_to_safe_html(text)))
        assert [name for name in names if name not in shown] == []
