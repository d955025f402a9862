"""--batch-size auto: which batch and which learning rates it means. On a GPU: on_pretended_cuda.py."""

import json
import sys
from types import SimpleNamespace

import pytest
import small_shards
import torch

import train
from semg.flags import training
from semg.inference.checkpoint import open_checkpoint
from semg.training import batch_size
from semg.training.batch_size import choose, shared_out
from semg.training.config import AUTO, TrainConfig

FLAGS = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --device cpu --quiet".split()  # noqa: SIM905


def config(*words):
    return training.config_of(train.arguments().parse_args(["--batch-size", "auto", *words]))


@pytest.mark.parametrize(("windows", "lr"), [(128, 1e-3), (512, 2e-3), (2048, 4e-3), (32, 5e-4)])
def test_learning_rates_grow_with_the_root_of_the_batch(windows, lr):
    result = config().at(windows)
    assert (result.batch_size, result.backbone_lr) == (windows, None)
    assert result.lr == pytest.approx(lr)
    given = config("--lr", "3e-4", "--backbone-lr", "3e-5").at(windows)
    assert given.lr / 3e-4 == pytest.approx(given.backbone_lr / 3e-5) == pytest.approx(lr / 1e-3)


def test_auto_is_kept_as_the_word_until_a_run_has_chosen():
    kept = json.loads(json.dumps(config().to_dict()))
    assert kept["batch_size"] == "auto"
    assert TrainConfig.from_dict(kept).batch_size == AUTO


@pytest.mark.parametrize(
    ("most", "processes", "shared"), [(128, 1, 128), (700, 1, 512), (700, 4, 512), (128, 3, 96), (1, 1, 1), (2, 3, 3)]
)
def test_each_process_gets_the_same_power_of_two(most, processes, shared):
    assert shared_out(most, processes) == shared


@pytest.mark.parametrize(
    ("device", "windows", "epochs", "chosen"),
    [
        ("cuda", 19_521, 8, 128),  # 512 would leave 304 steps
        ("cuda", 400_000, 8, 2048),
        ("cuda", 400_000, 1, 256),
        ("cuda", 300, 8, 128),
        ("cpu", 400_000, 8, 128),
    ],
)
def test_a_batch_leaves_enough_steps_to_learn(monkeypatch, device, windows, epochs, chosen):
    monkeypatch.setattr(batch_size, "fitting", lambda *_, **__: 1 << 20)
    train_set = SimpleNamespace(windows=range(windows), batches=SimpleNamespace(device=torch.device(device)))
    assert choose(None, train_set, epochs) == chosen


def test_a_batch_fits_into_the_memory_of_each_process(monkeypatch):
    monkeypatch.setattr(batch_size, "fitting", lambda *_, **__: 300)
    train_set = SimpleNamespace(windows=range(400_000), batches=SimpleNamespace(device=torch.device("cuda")))
    assert choose(None, train_set, 8) == 256
    assert choose(None, train_set, 8, processes=2) == 512


def test_on_a_cpu_auto_is_the_default(tmp_path, monkeypatch):
    shards, split = small_shards.write_all(tmp_path)
    for name, more in (("auto", ["--batch-size", "auto"]), ("plain", [])):
        words = ["--shards", shards, "--split", split, "--out", tmp_path / name, *FLAGS, *more]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        train.main()
    kept = json.loads((tmp_path / "auto/config.json").read_text())
    assert kept["arguments"]["batch_size"] == "auto"
    assert (kept["derived"]["batch_size"], kept["derived"]["lr"]) == (128, 1e-3)
    one, other = (open_checkpoint(tmp_path / name / "last.ckpt").tensors for name in ("auto", "plain"))
    assert all(torch.equal(one[name], other[name]) for name in other)
