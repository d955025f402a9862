"""What Windows and Macs do otherwise, as far as it can be tried elsewhere."""

import contextlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

import model
import sweep
from semg.common import cli, files
from semg.common.console import Console
from semg.common.errors import UsageError
from semg.data.batches import Batches
from semg.data.shards import WindowSet, open_shard, open_shards
from semg.inference.batch import Signal
from semg.inference.prior import Prior
from semg.inference.trained_model import TrainedModel
from semg.training import adaptation

fcntl = pytest.importorskip("fcntl")  # the two tests of Windows's rules are for systems with others


def test_files_are_flushed_as_windows_wants_it(tmp_path, monkeypatch):
    """Windows's fsync fails on a file that is open for reading alone."""

    def windows(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "fsync", windows)
    files.write_text(tmp_path / "a.txt", "a")
    with files.atomic_folder(tmp_path / "folder") as folder:
        (folder / "b.txt").write_text("b")
    assert (tmp_path / "folder" / "b.txt").read_text() == "b"
    assert (tmp_path / "a.txt").read_text() == "a"


def test_a_lock_file_that_can_not_be_removed_while_it_is_open(tmp_path, monkeypatch):
    def windows(path, **_settings):
        raise PermissionError(13, "The process cannot access the file", str(path))

    for _ in range(2):
        with monkeypatch.context() as patch, files.folder_lock(tmp_path):
            patch.setattr(Path, "unlink", windows)
    with files.folder_lock(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_text_is_read_and_written_in_one_encoding_everywhere():
    """Without `encoding` Python takes the system's own, which on Windows is not UTF-8."""
    bare = re.compile(r"\.(read_text|write_text)\(\)|\.open\(\)|\.open\(\"[rwax]t?\"\)|\bwith open\(")
    for path in (*ROOT.glob("*.py"), *(ROOT / "semg").rglob("*.py")):
        wrong = [line for line in path.read_text(encoding="utf-8").splitlines() if bare.search(line)]
        assert not wrong, f"{path.name}: {wrong}"


def test_nothing_asks_for_what_one_system_alone_has():
    for path in (*ROOT.glob("*.py"), *(ROOT / "semg").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for name in (
            "import fcntl",
            "import resource",
            "os.fork",
            "os.rename",
            "os.path",
            "SIGKILL",
            'get_context("fork',
        ):
            left = re.search(r'if sys.platform == "win32":\n(        yield\n)?        return', text)
            guarded = name in ("import resource", "import fcntl") and left is not None
            guarded |= name == "import fcntl" and path.name == "launched_job.py"  # --launch refuses Windows, see below
            assert guarded or name not in text, f"{path.name}: {name}"


def test_many_runs_at_once_are_refused_on_windows_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    args = sweep.arguments().parse_args(["--split", "splits/x", "--launch", "local"])
    with pytest.raises(UsageError, match="--launch: expected Linux or macOS, found Windows"):
        cli.launcher(args, tmp_path, Console())


class NoFloat64(TorchDispatchMode):
    """Apple's GPUs have no float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor) and one.device.type == "meta":
                assert one.dtype is not torch.float64, function
        return result


def test_a_step_on_a_device_without_float64(tmp_path, monkeypatch):
    """On `meta`, a device that computes nothing, and where tensors of another device are refused as on any."""
    device = torch.device("meta")
    assert model.widest(torch.device("mps")) is torch.float32
    assert model.widest(torch.device("cpu")) is torch.float64
    monkeypatch.setattr(model, "widest", lambda _device: torch.float32)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which knows no meta
    shards, _ = small_shards.write_all(tmp_path)
    windows = WindowSet([open_shard(path) for path in sorted(shards.iterdir())[:2]])
    channels = windows.n_channels
    config = model.ModelConfig(
        channels=channels,
        samples=windows.window,
        patch=64,
        frame=160,
        backbone="attention",
        width=16,
        heads=2,
        frontend="both",
    )
    transform = np.stack([np.eye(channels, dtype=np.float32) + 0.1] * 2)
    network = model.GPT2Classifier(config).to(device)
    with NoFloat64():
        batch = Batches(windows, transform, device, workers=0).load(np.arange(4))
        sums = network.token_statistics(batch.x)
        statistics = network.finish_statistics(sums)[None].expand(4, -1, -1)
        loss = torch.nn.functional.cross_entropy(network(batch.x, statistics), batch.label)
        loss.backward()
    assert loss.device == device


class OnApple(torch.Tensor):
    """A tensor on a device without float64, which `cpu` leaves."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        assert not (isinstance(result, cls) and result.dtype is torch.float64), function
        return result


def test_a_trained_model_and_an_adapted_one_from_a_device_without_float64(tmp_path, monkeypatch, run_here):
    shards = [small_shards.write(tmp_path / "shards", subject) for subject in (3, 4, 5)]
    split, run = tmp_path / "split", tmp_path / "run"
    run_here("create_dataset_files.py", "--shards", tmp_path / "shards", "--out", split)
    words = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --device cpu"
    run_here("train.py", "--shards", tmp_path / "shards", "--split", split, "--out", run, *words.split(), "--quiet")
    trained = TrainedModel.open(run / "best_model.ckpt", "cpu")
    opened = open_shards(tmp_path / "shards", shards)
    statistics = trained.statistics(opened, trained.transforms(opened))
    there = Prior.of(opened, statistics.as_subclass(OnApple))
    torch.testing.assert_close(there.statistics, Prior.of(opened, statistics).statistics)
    signal = np.array(opened[0].signal)
    signals = [Signal(signal, trained.session_of(signal))]
    here = adaptation.adapt(trained, signals)
    tokens = adaptation.signal_tokens
    monkeypatch.setattr(
        adaptation, "signal_tokens", lambda *words: (one.as_subclass(OnApple) for one in tokens(*words))
    )
    assert adaptation.adapt(trained, signals).agreement == here.agreement


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac may have mps")
@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py"])
def test_a_device_that_is_not_there_is_one_line(script):
    from semg.common.errors import UsageError
    from semg.inference.batch import choose_device

    module = __import__(script.removesuffix(".py"))
    words = ["recording.hdf5"] if script == "predict.py" else []
    assert module.arguments().parse_args([*words, "--device", "mps"]).device == "mps"
    with pytest.raises(UsageError, match="device: expected one that this machine has, found mps; use device cpu"):
        choose_device("mps")
