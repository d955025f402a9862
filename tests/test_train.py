"""train.py: what it writes, that it repeats itself, goes on where it was, and says what is wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import small_shards
import torch
import transformers
from conftest import ROOT
from downloading import tree
from killing import finished, start, until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel
from waiting import LONGEST

import train
from semg.backbones import fingerprint
from semg.common import cli
from semg.common.errors import DataError, UsageError
from semg.data.shards import open_shard
from semg.evaluation.tensorboard import Board
from semg.inference.checkpoint import open_checkpoint
from semg.inference.trained_model import TrainedModel
from semg.training import subsets
from semg.training.classification import Classification

TINY = "--layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 32 --device cpu --quiet".split()  # noqa: SIM905
RANDOM = [*TINY, "--init", "random"]
BACKBONE_FLAGS = ("init", "layers", "heads", "tune", "backbone-lr")
HERE_ALONE = ["--standalone", "--local-addr", "127.0.0.1"]  # a machine without a network may not know its own name


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    shards, split = small_shards.write_all(tmp_path_factory.mktemp("data"))
    return ["--shards", str(shards), "--split", str(split)]


@pytest.fixture
def here(data, monkeypatch):
    """Run train.py in this process: `here(out, *flags)`. Importing torch anew for each run would take the time."""

    def run(out, *flags):
        monkeypatch.setattr(sys, "argv", ["train.py", *data, "--out", str(out), *map(str, flags)])
        return train.main()

    return run


def weights(path):
    return open_checkpoint(path).tensors


def same(a, b) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def rows(out):
    output = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("speed")} for row in output]


def test_a_run_leaves_a_model_that_learnt_and_a_log_for_people_and_programs(run_script, data, tmp_path):
    done = run_script("train.py", *data, "--out", tmp_path / "run", *RANDOM, "--epochs", 4, "--lr", 0.01)
    out = tmp_path / "run"
    assert "best_model.ckpt" in done.stdout.splitlines()[-1]
    assert "next: python evaluate.py" in done.stdout
    assert sorted(p.name for p in out.iterdir() if "events" not in p.name) == [
        "best_model.ckpt",
        "config.json",
        "last.ckpt",
        "metrics.jsonl",
        "projector",
        "projector_config.pbtxt",
    ]
    output = rows(out)
    assert [row["epoch"] for row in output] == [1, 2, 3, 4]
    assert output[-1]["train/loss"] < output[0]["train/loss"]
    assert output[-1]["val/macro_f1"] > 0.8
    config = json.loads((out / "config.json").read_text())
    assert config["derived"]["train"] == {"subjects": 3, "recordings": 3, "windows": 180, "simulated": False}
    assert config["arguments"]["lr"] == 0.01
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in config["versions"]
    best = open_checkpoint(out / "best_model.ckpt").description
    assert best["trained_on"] == ["01", "02", "03"]
    assert best["data"]["classes"] == small_shards.CLASSES
    assert best["validation"]["val/macro_f1"] == max(row["val/macro_f1"] for row in output)
    events = EventAccumulator(str(out)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {f"1_learning/{k}_{p}" for p in ("train", "val") for k in ("loss", "macro_f1")} <= scalars
    assert {"7_optimizer/lr", "7_optimizer/gradient_norm", "8_speed/windows_per_second"} <= scalars
    assert [e.step for e in events.Scalars("1_learning/loss_val")] == [1, 2, 3, 4]
    assert events.Scalars("1_learning/loss_val")[-1].value == pytest.approx(output[-1]["val/loss"], rel=1e-5)
    assert "2_confusion/val" in events.Tags()["images"]
    assert {"configuration/text_summary", "split/text_summary"} <= set(events.Tags()["tensors"])


def test_same_seed_same_weights_and_another_seed_others(here, tmp_path):
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        here(
            tmp_path / out,
            *RANDOM,
            "--seed",
            seed,
            "--augment",
            "band_rotation=0.5",
            "channel_dropout=0.1",
            "mixup=0.3",
            "jitter=1",
        )
    a, b, c = (weights(tmp_path / out / "best_model.ckpt") for out in "abc")
    assert same(a, b)
    assert not same(a, c)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def stop_in_step(monkeypatch, task, number):
    """Press Ctrl-C in the number-th step of such a task."""
    steps, loss = [], task.loss

    def counted(self, batch, generator):
        steps.append(batch)
        if len(steps) == number:
            signal.raise_signal(signal.SIGINT)
        return loss(self, batch, generator)

    monkeypatch.setattr(task, "loss", counted)


FOUR_STEPS = [*RANDOM, "--ema", "0.9", "--epochs", "2", "--batch-size", "40"]  # an epoch


@pytest.fixture(scope="module")
def whole(run_here, data, tmp_path_factory):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    run_here("train.py", *data, "--out", out, *FOUR_STEPS)
    return out


@pytest.mark.parametrize("stop_after", [2, 4, 5, 8, 10, 13, 16])  # two pilots of four steps come first
def test_a_stopped_run_goes_on_to_the_very_same_end(here, whole, tmp_path, monkeypatch, stop_after):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="--resume"):
        stop_in_step(patch, Classification, stop_after)
        here(tmp_path, *FOUR_STEPS)
    here(tmp_path, *FOUR_STEPS, "--resume")
    assert rows(tmp_path) == rows(whole)
    for name in ("best_model.ckpt", "last.ckpt"):
        assert same(weights(tmp_path / name), weights(whole / name)), name


def test_band_rotation_is_chosen_on_the_validation_people_and_the_run_is_that_with_the_choice_given(
    here, tmp_path, capsys
):
    flags = [*(flag for flag in RANDOM if flag != "--quiet"), "--epochs", 4, "--lr", 0.01]
    here(tmp_path / "auto", *flags)  # a turned window looks like one of another class: the less the better
    printed = capsys.readouterr().out
    assert "band rotation 0.5 or 0.1: chosen on the validation people by 2 pilots of 1 epoch" in printed
    assert re.search(r"^pilot  band rotation 0.5, 1 epoch: validation macro-F1 0\.\d{3}$", printed, re.MULTILINE)
    assert "band rotation 0.1, chosen on the validation people" in printed
    config = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert config["arguments"]["augment"] == "band_rotation=auto channel_dropout=0.1 jitter=1"
    assert config["derived"]["augment"] == "band_rotation=0.1 channel_dropout=0.1 jitter=1"
    assert config["derived"]["pilots"]["0.1"] > config["derived"]["pilots"]["0.5"]
    *_, text = EventAccumulator(str(tmp_path / "auto")).Reload().Tensors("configuration/text_summary")
    assert f"augment | {config['derived']['augment']}" in tensor_util.make_ndarray(text.tensor_proto).item().decode()
    best = open_checkpoint(tmp_path / "auto" / "best_model.ckpt")
    assert best.description["augment"] == config["derived"]["augment"]
    here(tmp_path / "given", *flags, "--augment", *config["derived"]["augment"].split())
    assert "pilot" not in capsys.readouterr().out
    assert same(best.tensors, weights(tmp_path / "given" / "best_model.ckpt"))
    assert rows(tmp_path / "auto") == rows(tmp_path / "given")


def train_in_two_processes(flags, errors):
    """As torchrun would start them; itself it would import PyTorch three times."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        start("train", flags, errors=errors, environment=launched | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    try:
        assert [finished(process) for process in processes] == [0, 0], errors.read_text()
    finally:
        for process in processes:
            process.kill()


def test_two_processes_choose_one_band_rotation(data, tmp_path):
    train_in_two_processes([*data, "--out", tmp_path / "two", *RANDOM, "--lr", "0.01"], tmp_path / "errors")
    derived = json.loads((tmp_path / "two" / "config.json").read_text())["derived"]
    assert (derived["augment"].split()[0], derived["processes"]) == ("band_rotation=0.1", 2)
    assert len(rows(tmp_path / "two")) == 2


def test_windows_counted_before_two_processes_went_on_are_counted_once(here, data, tmp_path, monkeypatch):
    flags = [*FOUR_STEPS, "--augment", "none"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_step(patch, Classification, 2)
        here(tmp_path / "two", *flags)
    train_in_two_processes([*data, "--out", tmp_path / "two", *flags, "--resume"], tmp_path / "errors")
    right = rows(tmp_path / "two")[0]["train/accuracy"] * 4 * 40
    assert right == pytest.approx(round(right))


def test_training_in_a_process_of_others_leaves_ctrl_c_as_it_was(here, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    here(tmp_path, *RANDOM, "--epochs", 1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def steps_in_tensorboard(out, tag):
    return [event.step for event in EventAccumulator(str(out)).Reload().Scalars(tag)]


def set_back(out):
    """Let the event file be of an earlier second: its name is of one, which two runs of a test may share."""
    (events,) = out.glob("events.out.*")
    events.rename(out / "events.out.tfevents.1.here")


def test_the_curve_of_pretraining_is_whole_after_resuming(here, tmp_path, monkeypatch):
    """TensorBoard hides what an earlier process wrote about later epochs, also about those of pretraining."""
    flags = [*RANDOM, "--augment", "none", "--pretrain", 3]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_step(patch, Classification, 7)  # in the second epoch
        here(tmp_path, *flags)
    set_back(tmp_path)
    here(tmp_path, *flags, "--resume")
    assert steps_in_tensorboard(tmp_path, "9_pretrain/loss") == [1, 2, 3]
    assert steps_in_tensorboard(tmp_path, "1_learning/loss_val") == [1, 2]


def test_a_run_killed_while_it_draws_an_epoch_has_it_in_tensorboard_after_resuming(here, tmp_path, monkeypatch):
    """last.ckpt said that the epoch was done, so nobody drew it any more."""

    class Killed(BaseException):
        """Nothing catches it."""

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Board, "epoch", die)
        here(tmp_path, *RANDOM, "--augment", "none")
    set_back(tmp_path)
    here(tmp_path, *RANDOM, "--augment", "none", "--resume")
    assert steps_in_tensorboard(tmp_path, "1_learning/loss_val") == [1, 2]
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_last_ckpt_and_say_how_to_go_on(data, tmp_path, number, code):
    flags = [*data, "--out", tmp_path / "run", *RANDOM, "--epochs", 5000, "--augment", "none"]  # pilots: 2500 more
    log, errors = tmp_path / "run" / "metrics.jsonl", tmp_path / "errors"
    process = start("train", flags, errors=errors)
    try:
        until(log.exists, process)
        os.kill(process.pid, number)
        ended, output = finished(process), errors.read_text()
    finally:
        process.kill()
    assert ended == code, output
    assert "--resume" in output
    assert "Traceback" not in output
    assert open_checkpoint(tmp_path / "run" / "last.ckpt").description["state"]["training"]["epoch"] >= 1


def test_two_processes_train_as_one(here, data, tmp_path):
    flags = [*TINY, "--init", "random", "--augment", "none", "--dropout", "0", "--pretrain", "1"]
    here(tmp_path / "one", *flags)
    launcher = [sys.executable, "-m", "torch.distributed.run", *HERE_ALONE, "--nproc-per-node", "2"]
    command = [*launcher, str(ROOT / "train.py"), *data, "--out", str(tmp_path / "two"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=1e-5)
    a, b = (weights(tmp_path / out / "last.ckpt") for out in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-4)


def test_a_run_that_is_there_is_not_overwritten_by_accident(here, tmp_path):
    here(tmp_path, *RANDOM, "--epochs", 1)
    before = (tmp_path / "best_model.ckpt").read_bytes()
    with pytest.raises(DataError, match="--resume goes on, --overwrite starts anew"):
        here(tmp_path, *RANDOM)
    with pytest.raises(DataError, match=r"expected epochs 2, found 1; resume with the run's own epochs"):
        here(tmp_path, *RANDOM, "--resume")
    assert (tmp_path / "best_model.ckpt").read_bytes() == before
    here(tmp_path, *RANDOM, "--overwrite")
    assert len(rows(tmp_path)) == 2
    assert len(list(tmp_path.glob("events*"))) == 1
    with pytest.raises(DataError, match="found none; start it without --resume"):
        here(tmp_path / "new", *RANDOM, "--resume")


def test_a_run_that_goes_on_in_other_circumstances_says_so(here, tmp_path, monkeypatch, capsys):
    """It ends otherwise than a run that nothing stopped, and its files said nothing of it."""
    flags = [*RANDOM, "--epochs", 1, "--augment", "none"]
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    here(tmp_path, *flags, "--threads", 1)
    here(tmp_path, *flags, "--threads", 1, "--resume")
    assert "warning" not in capsys.readouterr().err
    here(tmp_path, *flags, "--threads", 2, "--compile", "--resume")
    told = "goes on with compile default instead of none, threads 2 instead of 1: a run that nothing stopped would end"
    assert told in capsys.readouterr().err
    assert json.loads((tmp_path / "config.json").read_text())["derived"]["compile"] == "default"


def test_a_run_without_its_best_model_is_not_continued(here, tmp_path):
    """It ended as if the model were there: whoever had moved last.ckpt alone had lost the best epoch."""
    here(tmp_path, *RANDOM, "--augment", "none")
    best = tmp_path / "best_model.ckpt"
    best.unlink()
    number = open_checkpoint(tmp_path / "last.ckpt").description["state"]["best_epoch"]
    told = rf"best_model.ckpt: expected the model of epoch {number}, the run's best so far, found none; put it there"
    with pytest.raises(DataError, match=told):
        here(tmp_path, *RANDOM, "--augment", "none", "--resume")
    here(tmp_path, *RANDOM, "--augment", "none", "--overwrite")
    assert best.is_file()


def test_a_run_is_continued_or_overwritten(here, tmp_path):
    """With both flags it was continued, whatever came last."""
    with pytest.raises(UsageError, match="--resume, --overwrite: expected one of them, found both"):
        here(tmp_path, *RANDOM, "--resume", "--overwrite")


def test_other_settings_are_refused_before_the_data_are_prepared(here, tmp_path, capsys):
    """Statistics and features of hundreds of recordings take minutes."""
    words = [word for word in RANDOM if word != "--quiet"]
    here(tmp_path, *words, "--epochs", 1, "--augment", "none")
    capsys.readouterr()
    with pytest.raises(DataError, match="expected epochs 3, found 1"):
        here(tmp_path, *words, "--epochs", 3, "--augment", "none", "--resume")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"config.json": '{"model_type": "semg-gpt2"}', "model.safetensors": "weights"}, "an exported model"),
        ({"config.json": '{"model_type": "semg-gpt2"}', "best_model.ckpt": "weights"}, "an exported model"),
        ({"config.json": '{"model_type": "gpt2"}', "model.safetensors": "weights"}, "another config.json"),
        ({"events.out.tfevents.1.host": "a log"}, "another events.out.tfevents.1.host"),
        ({"metrics.jsonl": "{}"}, "another metrics.jsonl"),
    ],
)
def test_a_folder_of_something_else_keeps_its_files(here, tmp_path, files, found):
    """An exported model lost its config.json to a run."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"expected a new folder or one of a run, found {found}; choose another --out"):
        here(tmp_path, *RANDOM, "--overwrite")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_run_that_was_killed_before_its_first_checkpoint_may_begin_again(tmp_path):
    (tmp_path / "config.json").write_text('{"script": "train.py"}')
    train.expect_own(tmp_path)


def test_a_run_goes_on_with_its_own_shards_alone(here, tmp_path):
    """One half of its epochs would have been of other data."""
    shards, split = small_shards.write_all(tmp_path)
    flags = [*RANDOM, "--epochs", 1, "--augment", "none", "--shards", shards, "--split", split]
    here(tmp_path / "run", *flags)
    best = open_checkpoint(tmp_path / "run" / "best_model.ckpt").description
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert best["shards_sha256"] == config["derived"]["shards_sha256"] != ""
    for person in range(1, 5):
        small_shards.write(shards, person, repetitions=2)
    with pytest.raises(
        DataError, match=r"expected the shards in .*shards as they were, found them made again differently"
    ):
        here(tmp_path / "run", *flags, "--resume")
    for person in range(1, 5):  # as they were, but for who made them
        small_shards.write(shards, person, commit="another", versions={"numpy": "3"})
    here(tmp_path / "run", *flags, "--resume")


def test_a_run_goes_on_where_its_shards_and_split_have_moved(here, tmp_path, monkeypatch):
    """Jobs of a cluster copy data to a disk of their own, whose path is another each time."""
    shards, split = small_shards.write_all(tmp_path / "first")
    flags = [*RANDOM, "--augment", "none"]
    places = ["--shards", shards, "--split", split]
    here(tmp_path / "whole", *flags, *places)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_step(patch, Classification, 3)
        here(tmp_path / "parts", *flags, *places)
    (tmp_path / "first").rename(tmp_path / "second")
    moved = [tmp_path / "second" / path.relative_to(tmp_path / "first") for path in (shards, split)]
    here(tmp_path / "parts", *flags, "--shards", moved[0], "--split", moved[1], "--resume")
    assert same(*(weights(tmp_path / name / "last.ckpt") for name in ("whole", "parts")))
    assert open_checkpoint(tmp_path / "parts" / "best_model.ckpt").description["shards"] == moved[0].as_posix()


def test_a_wrong_input_does_not_cost_the_run_that_was_to_be_overwritten(here, tmp_path):
    here(tmp_path / "run", *RANDOM, "--epochs", 1)
    before = tree(tmp_path / "run")
    with pytest.raises(DataError, match="nowhere"):
        here(tmp_path / "run", *RANDOM, "--overwrite", "--split", "nowhere")
    assert tree(tmp_path / "run") == before


def test_a_model_without_its_run_is_not_overwritten_by_accident(here, tmp_path):
    (tmp_path / "best_model.ckpt").write_bytes(b"all that sweep.py keeps of a run, or somebody's download")
    with pytest.raises(DataError, match=r"best_model.ckpt: expected no run there"):
        here(tmp_path, *RANDOM)
    assert [path.name for path in tmp_path.iterdir()] == ["best_model.ckpt"]


def test_a_wrong_input_leaves_no_empty_folder(here, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        here(tmp_path / "runs" / "mine", *RANDOM, "--split", "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_pretrained_weights_from_a_folder_stay_where_they_are_frozen(here, tmp_path):
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=5, bos_token_id=0, eos_token_id=0)
    saved = GPT2Model(shape)
    saved.save_pretrained(tmp_path / "gpt2")
    common = [
        "--patch",
        "64",
        "--frame",
        "160",
        "--epochs",
        "1",
        "--batch-size",
        "32",
        "--device",
        "cpu",
        "--quiet",
        "--lr",
        "0.01",
    ]
    here(tmp_path / "run", *common, "--backbone", tmp_path / "gpt2", "--tune", "fpt")
    actual = weights(tmp_path / "run" / "best_model.ckpt")
    for name, tensor in saved.state_dict().items():
        if name == "wte.weight":
            continue
        moved = not torch.equal(actual[f"model.backbone.{name}"], tensor)
        assert moved == ("ln_" in name or "wpe" in name), name
    with pytest.raises(UsageError, match="init random"):
        here(tmp_path / "x", *common, "--backbone", tmp_path / "gpt2", "--width", 32)
    with pytest.raises(UsageError, match="at most the 2"):
        here(tmp_path / "x", *common, "--backbone", tmp_path / "gpt2", "--layers", 3)


def test_a_run_says_which_weights_it_began_with_and_a_random_control_has_the_same_architecture(here, tmp_path, capsys):
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    saved = LlamaModel(LlamaConfig(**shape, num_key_value_heads=1, rms_norm_eps=0.01, vocab_size=5))
    saved.save_pretrained(tmp_path / "llama")
    flags = ["--patch", 64, "--frame", 160, "--epochs", 1, "--batch-size", 32, "--device", "cpu", "--layers", 1]
    output = {}
    for init in ("pretrained", "random"):
        here(tmp_path / init, *flags, "--backbone", tmp_path / "llama", "--init", init, "--tune", "frozen")
        best = open_checkpoint(tmp_path / init / "best_model.ckpt")
        output[init] = json.loads((tmp_path / init / "config.json").read_text())["derived"]["backbone"]
        assert best.description["backbone"] == output[init]
        assert output[init]["weights_sha256"][:16] in capsys.readouterr().out
        frozen = {k.removeprefix("model.backbone."): v for k, v in best.tensors.items() if "backbone" in k}
        assert fingerprint(frozen) == output[init]["weights_sha256"]
        assert best.description["model"]["architecture"]["rms_norm_eps"] == 0.01
    assert torch.equal(frozen["norm.weight"], saved.norm.weight)  # ones, drawn anew
    assert output["pretrained"]["weights_sha256"] != output["random"]["weights_sha256"]
    shutil.rmtree(tmp_path / "llama")
    TrainedModel.open(tmp_path / init / "best_model.ckpt", "cpu")  # without the folder


def test_a_run_that_goes_on_says_which_weights_it_began_with_whatever_the_folder_holds_now(here, tmp_path):
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=5, bos_token_id=0, eos_token_id=0)
    flags = "--patch 64 --frame 160 --epochs 1 --batch-size 32 --device cpu --quiet --backbone".split()  # noqa: SIM905
    output = []
    for more in ([], ["--resume"]):
        GPT2Model(shape).save_pretrained(tmp_path / "gpt2")  # others each time
        here(tmp_path / "run", *flags, tmp_path / "gpt2", *more)
        output.append(json.loads((tmp_path / "run" / "config.json").read_text())["derived"]["backbone"])
    assert output[0] == output[1]


@pytest.mark.parametrize(
    "flags",
    [
        "--backbone none",
        "--backbone attention --pooling last",
        "--frontend raw --normalize train",
        "--frontend bands --normalize train --select loss",
        "--normalize none --lr 1e-4",
        "--balance loss --select accuracy",
        "--balance sampler --patience 1",
        "--tune lora",
        "--tune last:1 --amp bf16",
        "--workers 0 --bands 20 100 700",
        "--no-precompute",
        "--whitening replace --ridge 0.5 --pretrain 1",
        "--whitening none --frontend both",
    ],
)
def test_every_choice_trains_and_its_checkpoint_opens(here, tmp_path, flags):
    here(tmp_path, *RANDOM, "--epochs", 1, *flags.split())
    (row,) = rows(tmp_path)
    assert np.isfinite(list(row.values())).all()
    assert open_checkpoint(tmp_path / "best_model.ckpt").description["model"]


@pytest.mark.slow
def test_a_compiled_run_computes_what_a_plain_one_does(here, tmp_path):
    flags = [*RANDOM, "--epochs", 1, "--dropout", 0]
    here(tmp_path / "plain", *flags)
    here(tmp_path / "compiled", *flags, "--compile")
    assert rows(tmp_path / "compiled")[0] == pytest.approx(rows(tmp_path / "plain")[0], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("rings", "augment", "told"), [([], [], True), (None, [], False), ([], ["gain=0.1"], False)])
def test_a_band_rotation_that_changes_nothing_is_told(tmp_path, monkeypatch, capsys, rings, augment, told):
    changes = {} if rings is None else {"rings": rings}
    records = [small_shards.write(tmp_path / "shards", subject, **changes) for subject in (1, 2, 3)]
    split = small_shards.write_split(tmp_path / "split", train=records[:1], val=records[1:2], test=records[2:])
    words = ["--shards", tmp_path / "shards", "--split", split, "--out", tmp_path / "run", *RANDOM, "--epochs", 1]
    words = [str(word) for word in [*words, "--augment", *augment] if word != "--quiet"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert train.main() == 0
    printed = capsys.readouterr().out
    assert ("band rotation changes nothing here" in printed) == told
    assert ("pilot" in printed) == (rings is None), "nothing to choose without rings, or where a number is given"
    used = json.loads((tmp_path / "run" / "config.json").read_text())["derived"]["augment"]
    assert ("band_rotation" in used) == (rings is None), "what is used, not what was asked for"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("", []),
        ("--tune lora --backbone-lr 1e-3 --ridge 0.2 --bands 20 100 700 --pooling last --heads 2", []),
        ("--tune frozen --backbone-lr 1e-3", ["--backbone-lr changes nothing here: no weight of the backbone trains"]),
        (
            "--backbone none --layers 2 --heads 3 --tune lora --backbone-lr 1e-3",  # --init random too
            [f"--{flag} changes nothing here: there is no backbone" for flag in BACKBONE_FLAGS],
        ),
        (
            "--backbone attention --tune lora --layers 9 --heads 2 --backbone-lr 1e-3",
            [
                f"--{flag} changes nothing here: attention is one layer of random weights, all of which train"
                for flag in ("init", "layers", "tune")
            ],
        ),
        ("--whitening none --ridge 0.2", ["--ridge changes nothing here: no channels are whitened"]),
        (
            "--frontend raw --frame 20ms --bands 20 100 --no-precompute",
            [
                *(f"--{flag} changes nothing here: raw has no band powers" for flag in ("frame", "bands")),
                "--no-precompute changes nothing here: nothing could be computed once",
            ],
        ),
        ("--no-precompute --augment jitter=1", []),
        ("--epochs 1 --patience 1", ["--patience changes nothing here: training ends before it runs out"]),
        (
            "--no-precompute --augment jitter=0.5",
            ["--no-precompute changes nothing here: nothing could be computed once"],
        ),
        ("--patch 320 --frame 320 --pooling last", ["--pooling changes nothing here: a window is a single token"]),
        ("--epochs 3 --patience 1", []),
        ("--epochs 3 --patience 2", ["--patience changes nothing here: training ends before it runs out"]),
        ("--patience 0", []),
    ],
)
def test_flags_that_change_nothing_beside_the_others_are_told(here, tmp_path, capsys, flags, told):
    """Nothing refuses them: a grid over networks passes the same flags to all."""
    words = [word for word in RANDOM if word != "--quiet"]
    here(tmp_path, *words, "--epochs", 1, "--augment", "none", *flags.split())
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "changes nothing here" in line] == told


@pytest.mark.parametrize(("backbone", "init"), [("none", None), ("attention", "random")])
def test_a_control_is_not_said_to_be_pretrained(here, tmp_path, capsys, backbone, init):
    """As --init is, by default. A network without a backbone has no heads either, into which its width would divide."""
    words = [word for word in TINY if word != "--quiet"]
    width = 15 if backbone == "none" else 16
    here(tmp_path, *words, "--epochs", 1, "--augment", "none", "--backbone", backbone, "--width", width)
    printed = capsys.readouterr().out
    assert "pretrained" not in printed
    assert ("no backbone" if init is None else "backbone attention (random)") in printed
    described = open_checkpoint(tmp_path / "best_model.ckpt").description["backbone"]
    assert (described["source"], described.get("init")) == (backbone, init)


def of_classes(folder, **made_by):
    """A split whose people make these gestures only: subset -> the classes; three people, one in each subset.

    A gesture lasts for some windows; those of `x` last for half a window each.
    """
    records = {}
    for subject, (subset, classes) in enumerate(made_by.items(), 1):
        label = np.tile(np.repeat(np.int8([0, 1]), 160), 9) if classes == "x" else np.repeat(np.int8(classes), 960)
        with mock.patch.object(small_shards, "labels", lambda *_, own=label: own):
            records[subset] = [small_shards.write(folder / "shards", subject)]
    return ["--shards", folder / "shards", "--split", small_shards.write_split(folder / "split", **records)]


def test_a_score_that_validation_does_not_have_chooses_no_epoch(here, tmp_path):
    """Training ended with a traceback after its first epoch."""
    places = of_classes(tmp_path, train=[0, 1, 2, 3], val=[0, 0, 0], test=[0, 1, 2, 3])
    with pytest.raises(UsageError) as refused:
        here(tmp_path / "run", *RANDOM, *places, "--select", "active_accuracy")
    told = "--select active_accuracy: expected a score that the validation people's windows define"
    assert told in cli.in_words(refused.value)
    assert not list((tmp_path / "run").glob("*"))
    here(tmp_path / "run", *RANDOM, *places, "--select", "loss", "--epochs", 1)


@pytest.mark.parametrize(("select", "told"), [("loss", "(mean over windows)"), ("accuracy", "(mean over people)")])
def test_the_last_line_says_over_what_the_score_is_a_mean(here, tmp_path, capsys, select, told):
    """The loss is not one over people."""
    shards = tmp_path / "shards"
    records = [small_shards.write(shards, subject, repetitions=subject) for subject in (3, 1, 5, 2)]
    split = small_shards.write_split(tmp_path / "split", train=records[:1], val=records[1:3], test=records[3:])
    flags = [*RANDOM, "--epochs", 1, "--augment", "none", "--shards", shards, "--split", split]
    here(tmp_path / "run", *flags, "--select", select, "--json")
    last = json.loads(capsys.readouterr().out)
    assert told in last["message"]
    model, row = TrainedModel.open(tmp_path / "run" / "best_model.ckpt", "cpu"), rows(tmp_path / "run")[0]
    scores = model.score([open_shard(shards / record) for record in records[1:3]])
    windows, decided = scores.windows, scores.probabilities
    if select == "loss":
        expected = -np.log(decided[np.arange(len(decided)), windows.label]).mean()
    else:
        right = decided.argmax(1) == windows.label
        expected = np.mean([right[windows.subject == one].mean() for one in set(windows.subject)])
    assert row[f"val/{select}"] == last["score"] == pytest.approx(expected, rel=1e-5)


def test_steps_are_of_no_more_windows_than_there_are(here, tmp_path, capsys, monkeypatch):
    """Windows per second were steps times a batch that no step had."""
    seconds = iter(range(1000))
    clock = SimpleNamespace(perf_counter=lambda: next(seconds))  # an epoch takes one
    monkeypatch.setattr("semg.training.loop.time", clock)
    words = [word for word in RANDOM if word != "--quiet"]
    here(tmp_path, *words, "--augment", "none", "--batch-size", 1000)
    assert "2 epochs x 1 step of 180 windows" in capsys.readouterr().out
    speeds = [json.loads(line)["speed/windows_per_second"] for line in (tmp_path / "metrics.jsonl").open()]
    assert speeds == [180, 180]


def test_people_without_a_window_are_named_by_a_recording(here, tmp_path):
    places = of_classes(tmp_path, train=[0, 1, 2, 3], val="x", test=[0, 1, 2, 3])
    with pytest.raises(DataError, match=rf"expected windows in 1 shard, such as {small_shards.name(2)}, found none"):
        here(tmp_path / "run", *RANDOM, *places)


def test_gestures_that_no_one_in_a_subset_makes_are_named(here, tmp_path, capsys):
    here(tmp_path / "all", *RANDOM, "--epochs", 1, "--augment", "none")
    assert "warning" not in capsys.readouterr().err
    places = of_classes(tmp_path, train=[0, 1, 2, 2], val=[0, 1, 3, 3], test=[0, 1, 2, 3])
    here(tmp_path / "run", *RANDOM, *places, "--epochs", 1, "--augment", "none")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: no window of the training people is of extension: the model cannot learn to decide for it"
    assert second == "warning: no window of the validation people is of flexion: the epoch is chosen without it"


def test_a_balanced_loss_teaches_each_window_its_own_gesture(here, tmp_path):
    """With weights on the smoothed target's classes, a window of a class 100 times as frequent as the others was to be
    taken for one of these."""
    places = of_classes(tmp_path, train=[*[0] * 100, 1, 2, 3], val=[0, 1, 2, 3], test=[0, 1, 2, 3])
    here(tmp_path / "run", *RANDOM, *places, "--balance", "loss", "--augment", "none", "--epochs", 3, "--lr", 0.003)
    assert rows(tmp_path / "run")[-1]["train/accuracy"] > 0.9


def test_the_test_peoples_recordings_are_not_touched(here, data, tmp_path):
    """They need not even be there."""
    shards, split = (data[place] for place in (1, 3))
    test = (Path(split) / "test.txt").read_text().split()
    moved = small_shards.write_all(tmp_path / "own")[0]
    for record in test:
        shutil.rmtree(moved / record)
    here(tmp_path / "with", *RANDOM)
    here(tmp_path / "without", *RANDOM, "--shards", moved)
    assert shards != str(moved)
    assert same(weights(tmp_path / "with" / "best_model.ckpt"), weights(tmp_path / "without" / "best_model.ckpt"))


def test_patience_ends_a_run_that_gets_no_better(here, tmp_path):
    here(tmp_path, *RANDOM, "--epochs", 30, "--patience", 2, "--lr", 1e-12, "--augment", "none", "--dropout", 0)
    assert 3 <= len(rows(tmp_path)) < 30


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_a_loss_that_is_no_number_stops_the_run(here, tmp_path, amp):
    with pytest.raises(
        DataError, match=r"expected a finite loss and gradient, found loss (nan|inf).*smaller lr"
    ) as error:
        here(tmp_path, *RANDOM, "--epochs", 50, "--lr", 1e15, "--warmup", 1, "--clip", 1e15, "--amp", amp)
    assert (tmp_path / "last.ckpt").exists()
    assert ("or amp fp32" in str(error.value)) == (amp == "bf16"), "float32 is advised where it is not used already"


def test_without_the_hub_one_line_says_what_to_do(run_here, data, tmp_path, monkeypatch):
    no_models = partial(transformers.utils.hub.cached_file, cache_dir=tmp_path / "empty")
    monkeypatch.setattr("semg.backbones.cached_file", no_models)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run_here("train.py", *data, "--out", tmp_path / "run", "--quiet", code=1)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "--backbone FOLDER" in line
    assert "--init random" in line


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--patch 77", "expected a whole number of samples that divides the window's 320 samples, such as 80 samples"),
        ("--patch 0.1s", "expected a whole number of samples that divides the window's 0.0625 s, such as 0.0625 s"),
        # divides 62.5 ms, but is not a whole number of samples at 5120 Hz
        ("--patch 2.5ms", "expected a whole number of samples that divides the window's 62.5 ms, such as 3.125 ms"),
        ("--frame 10ms", "--frame 10ms: expected from a patch's 12.5 ms to the window's 62.5 ms"),
        ("--frame=330", "--frame 330: expected from a patch's 64 samples to the window's 320 samples"),
        ("--bands 20 20.1", "--frame 160: expected at least 12800 samples for such --bands"),
        ("--normalize train --whitening replace", "--whitening replace: expected none where --normalize is train"),
        ("--heads 3", "--heads 3: expected a divisor of the width 16"),
        ("--tune last:5", "--tune last:5: expected full, last:1 to last:1, fpt, lora or frozen"),
        ("--augment colour=3", "--augment colour=3: expected none, or NAME=VALUE with a name of band_rotation, "),
        ("--augment gain=much noise=1", "--augment gain=much noise=1: expected gain from 0 to 10, found 'much'"),
        (
            "--frontend raw --augment band_rotation=0.5 gain=0.3",
            "gain=0.3: expected no gain, which changes",
        ),
        ("--frontend raw --augment frequency_masking=0.1", "expected no frequency_masking, which changes band powers"),
        ("--bands 100 20", "--bands 100 20: expected at least two frequencies, rising within 0 and 2560"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_written(here, tmp_path, flags, told):
    with pytest.raises(UsageError) as refused:
        here(tmp_path / "run", *RANDOM, *flags.split())
    assert told in cli.in_words(refused.value)
    assert not list((tmp_path / "run").glob("*"))


def test_labels_drawn_at_random_are_not_learnt(here, tmp_path, monkeypatch):
    """A leak anywhere between parts would show here as more than chance."""
    original = subsets.open_windows

    def shuffled(shards):
        windows = original(shards)
        windows.label = np.random.default_rng(len(windows)).permutation(windows.label)
        return windows

    monkeypatch.setattr(subsets, "open_windows", shuffled)
    here(tmp_path, *RANDOM, "--epochs", 4)
    assert rows(tmp_path)[-1]["val/accuracy"] == pytest.approx(0.25, abs=0.2)


def test_a_run_killed_before_it_wrote_its_last_row_has_it_after_resuming(here, tmp_path):
    here(tmp_path, *RANDOM)
    output = rows(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()  # last.ckpt is written just before it
    here(tmp_path, *RANDOM, "--resume")
    assert rows(tmp_path) == output


def planted(monkeypatch, loss):
    """Make the training loss what `loss` makes of the true one."""
    true = torch.nn.functional.cross_entropy
    monkeypatch.setattr("semg.training.classification.F.cross_entropy", lambda *a, **k: loss(true(*a, **k)))


def test_a_loss_that_no_longer_moves_stops_the_run(here, tmp_path, monkeypatch):
    planted(monkeypatch, lambda loss: loss * 0 + 1.4)
    with pytest.raises(DataError, match=r"step 19: expected a loss that still moves, found loss 1.4 .* for 20 steps"):
        here(tmp_path, *RANDOM, "--epochs", 50, "--augment", "none")
    state = open_checkpoint(tmp_path / "last.ckpt").description["state"]["training"]
    assert (state["epoch"], state["in_epoch"]) == (3, 0), "three epochs of five steps"


@pytest.mark.parametrize("factor", [1e4, 1e7, float("nan"), float("inf")])
def test_a_gradient_or_a_loss_that_explodes_stops_the_run(here, tmp_path, monkeypatch, factor):
    calls = []

    def explode(loss):
        calls.append(loss)
        return loss * factor if len(calls) > 3 else loss

    planted(monkeypatch, explode)
    limits = "a finite loss and gradient" if not np.isfinite(factor) else "a loss of at most .* and a gradient norm of"
    with pytest.raises(DataError, match=rf"step 3: expected {limits}.*, found loss .*smaller lr"):
        here(tmp_path, *RANDOM, "--epochs", 50)


@pytest.mark.parametrize("steps", [0, 60])
def test_a_run_that_explodes_names_a_best_model_only_if_there_is_one(here, tmp_path, monkeypatch, steps):
    calls = []

    def explode(loss):
        calls.append(loss)
        return loss * float("nan") if len(calls) > steps else loss

    planted(monkeypatch, explode)
    with pytest.raises(DataError, match="smaller lr") as error:
        here(tmp_path, *RANDOM, "--epochs", 50, "--augment", "none")
    assert ("is in best_model.ckpt" in str(error.value)) == (tmp_path / "best_model.ckpt").exists() == (steps > 0)


def test_a_model_that_has_learnt_everything_is_not_taken_for_dead(here, tmp_path, monkeypatch):
    planted(monkeypatch, lambda loss: loss * 0)
    here(tmp_path, *RANDOM, "--epochs", 5)
    assert len(rows(tmp_path)) == 5


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_a_quiet_run_hides_the_bars_of_the_hub(data, tmp_path, monkeypatch, flag):
    transformers.logging.enable_progress_bar()
    words = [word for word in [*data, "--out", str(tmp_path / "run"), *RANDOM] if word != "--quiet"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words, flag])
    monkeypatch.setattr(train, "train", lambda *_: 0)
    assert train.main() == 0
    assert not transformers.utils.logging.is_progress_bar_enabled()


def test_a_line_says_what_each_stage_begins_and_without_a_terminal_a_line_a_minute_how_far_it_is(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("semg.common.console.MINUTE", 0.0)
    words = [word for word in [*data, "--out", str(tmp_path / "run"), *RANDOM] if word != "--quiet"]
    monkeypatch.setattr(sys, "argv", ["train.py", *words, "--pretrain", "1"])
    assert train.main() == 0
    said = capsys.readouterr()
    stages = [
        "opening 4 shards",
        "statistics of",
        "features of 3 recordings",
        "train ",
        "model ",
        "steps ",
        "pretraining",
    ]
    places = [said.out.index(stage) for stage in [*stages, "epoch   1"]]
    assert places == sorted(places)
    for line in ("opened: 1 of 3 shards", "statistics: 2 of 3 recordings", "features: 3 of 3 recordings"):
        assert line in said.err
    assert re.search(r"pretraining 1/1: 2 of 3 steps in \S+, \S+ left", said.err)
    assert re.search(r"epoch 2/2: 4 of 5 steps in \S+, \S+ left", said.err)
