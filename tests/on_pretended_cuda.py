"""What must hold on a GPU, on the stand-in of pretend_cuda.py; test_pretend_cuda.py runs it in a process of its own."""

import pretend_cuda  # before torch, which must see it

# isort: split
import json
import math
import signal as signals
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gpu
import measuring
import numpy as np
import pandas as pd
import prediction
import pytest
import small_shards
import torch
import training_step
from pretend_cuda import OnDevice, pretended
from test_adaptation import ANYTHING
from torch import nn

import evaluate
import predict
import train
from model import GPT2Classifier, ModelConfig
from semg import frontends
from semg.backbones import fingerprint
from semg.data import batches as data_batches
from semg.data.batches import Batches
from semg.data.normalization import ChannelNormalization, transform_of
from semg.data.shards import WindowSet, open_shards
from semg.inference.batch import Signal, choose_device, open_windows
from semg.inference.checkpoint import open_checkpoint
from semg.inference.streaming import Stream
from semg.inference.trained_model import TrainedModel
from semg.training import augmentation, batch_size, deep_baselines, loop
from semg.training.adaptation import adapt
from semg.training.calibration import Calibration, calibrate_subject, parts_of
from semg.training.optimization import Optimizer, OptimizerConfig

TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --quiet".split()  # noqa: SIM905
TINY += ["--augment", "band_rotation=0.5", "channel_dropout=0.1", "jitter=1"]  # no pilots before the steps that count
ALIKE = ["--dropout", "0", "--amp", "fp32"]  # what the CPU and the stand-in compute alike
CHANGES = "band_rotation=0.5 channel_dropout=0.1 time_masking=0.1 frequency_masking=0.1 gain=0.1 mixup=0.2 jitter=1"
ALL_CHANGES = ["--augment", *CHANGES.split()]
# A step of one block, everything included; each further block may add MOST_OF_A_BLOCK.
MOST_OF_A_STEP, MOST_OF_A_BLOCK = 180, 80
MATRICES = 12 * 16**2 + 9 * 16  # of a block of TINY: attention, attention's output, two maps of the MLP; with biases
MOST_OF_A_SESSION = 30  # waits: for a new transform now and then, not for each of its 71 windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretended")


@pytest.fixture(scope="module")
def data(folder):
    shards, split = small_shards.write_all(folder)
    return ["--shards", str(shards), "--split", str(split)]


@pytest.fixture(scope="module")
def script(data):
    """Run a script in this process: `script(train, out, *flags)`."""

    def run(module, out, *flags, first=data):
        before = {number: signals.getsignal(number) for number in (signals.SIGINT, signals.SIGTERM)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module.__name__, *map(str, first), "--out", str(out), *map(str, flags)])
            try:
                return module.main()
            finally:
                for number, handler in before.items():
                    signals.signal(number, handler)

    return run


@pytest.fixture
def steps(monkeypatch):
    """Operations and waits at the end of each training step: `steps(gpu)` gives those of one step after another."""
    marks, count = [], loop._count

    def counted(*args):
        marks.append((len(pretend_cuda.GPU.operations), list(pretend_cuda.GPU.waits)))
        return count(*args)

    monkeypatch.setattr(loop, "_count", counted)

    def between():
        return [(b[0] - a[0], b[1][len(a[1]) :]) for a, b in pairwise(marks)]

    between.marks = marks
    return between


def tensors(out, name="last.ckpt"):
    return open_checkpoint(out / name).tensors


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=2e-3, atol=2e-5, msg=lambda told, name=name: name + told)


# --- the stand-in itself ------------------------------------------------------------------------------------------


def test_devices_do_not_mix_and_what_the_host_waits_for_is_noted_down():
    with pretended() as gpu:
        x = torch.ones(3).to("cuda")
        assert isinstance(x, OnDevice) and x.device == torch.device("cuda:0")
        for other in (torch.ones(3), torch.ones(3, device="cuda:1")):
            with pytest.raises(RuntimeError, match="same device"):
                x + other
        with pytest.raises(TypeError, match="convert cuda:0"):
            np.asarray(x)
        gpu.clear()
        y = (2 * x).sum()
        assert (len(gpu.operations), gpu.waits) == (2, [])
        assert y.item() == 6 and x.tolist() == [1, 1, 1]
        assert [wait.split(" at ")[0] for wait in gpu.waits] == ["_local_scalar_dense", "a copy to the CPU"]
        gpu.clear()
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert gpu.waits == []
        torch.ones(3).to("cuda", non_blocking=True)
        assert len(gpu.waits) == 1
        torch.cuda.set_device(1)
        assert torch.zeros(1, device="cuda").device.index == choose_device("cuda").index == 1


# --- training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(script, folder):
    """Folders of the same run, on the CPU and on the stand-in: (cpu, gpu)."""
    flags = [*TINY, *ALIKE, *ALL_CHANGES, "--epochs", 2, "--ema", 0.9]
    script(train, folder / "cpu", *flags, "--device", "cpu")
    with pretended():
        script(train, folder / "gpu", *flags, "--device", "cuda")
    return folder / "cpu", folder / "gpu"


def test_training_computes_what_the_cpu_does(trained):
    cpu, gpu = trained
    assert_close(tensors(gpu), tensors(cpu))
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in (gpu, cpu)]
    for mine, theirs in zip(*rows, strict=True):
        assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-3)
        assert mine["val/macro_f1"] == pytest.approx(theirs["val/macro_f1"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "most"),
    [
        ([], MOST_OF_A_STEP),
        (["--layers", 2], MOST_OF_A_STEP + MOST_OF_A_BLOCK),
        ([*ALL_CHANGES, "noise=0.1", "--balance", "loss", "--ema", 0.99], MOST_OF_A_STEP + 60),
        (["--frontend", "both", "--whitening", "none"], MOST_OF_A_STEP + 60),
    ],
)
def test_a_step_waits_once_and_launches_few_operations(script, tmp_path, steps, flags, most):
    with pretended() as gpu:
        script(train, tmp_path, *TINY, *flags, "--device", "cuda")
        # in training several windows lie in a row, which a mask keeps apart; validated windows lie alone
        assert {(mask, causal) for mask, causal, _ in gpu.attention} == {(True, False), (False, True)}
        assert torch.bfloat16 in {dtype for _, _, dtype in gpu.attention}
    taken = steps()
    assert len(taken) > 2
    assert all(len(waits) <= 1 for _, waits in taken), taken
    assert min(operations for operations, _ in taken) <= most


class Diverging:
    """A loss of a weight on the GPU that is no number from the fourth step on."""

    steps_per_epoch = 6

    def __init__(self):
        self.module, self.seen = nn.Linear(3, 1).to("cuda"), 0

    def batches(self, epoch, first):
        yield from (torch.ones(4, 3).to("cuda") for _ in range(epoch * 6 + first, (epoch + 1) * 6))

    def loss(self, batch, generator):  # noqa: ARG002
        self.seen += 1
        return self.module(batch).mean() * (math.nan if self.seen > 3 else 1)


def test_a_loss_that_is_no_number_ends_the_run_a_step_later():
    state = loop.LoopState()
    with pretended():
        task = Diverging()
        optimizer = Optimizer(task.module, OptimizerConfig(lr=0.01), 6)
        with pytest.raises(loop.DivergedError, match="step 3: expected a finite loss"):
            list(loop.fit(task, optimizer, epochs=1, seed=0, state=state))
    assert (task.seen, state.in_epoch) == (5, 3)


@pytest.mark.parametrize("name", [name for name in augmentation.NAMES if name != "jitter"])  # which moves starts
def test_each_augmentation_alone_changes_what_it_does_on_the_cpu(name):
    how = augmentation.Augmentation.parse([f"{name}=0.4"])
    groups = (frontends.Group("bands", 0, 4, 3, log_power=True), frontends.Group("more", 12, 4, 2, channels_last=True))
    layout = augmentation.TokenLayout(groups, rings=((0, 1, 2, 3),))
    tokens, changed = torch.randn(6, 5, 20), []
    for device in ("cpu", "cuda"):
        with pretended() if device == "cuda" else nullcontext():
            generator = torch.Generator().manual_seed(3)
            change = augmentation.draw(how, layout, (6, 5), generator, torch.device(device))
            changed.append(change(tokens.to(device)).cpu())
    assert changed[0].shape == tokens.shape and not torch.equal(changed[0], tokens)
    if name != "noise":  # which a GPU draws itself
        assert torch.equal(changed[1], changed[0])


def test_a_rotation_is_chosen_by_pilots(script, tmp_path):
    with pretended():
        script(train, tmp_path, *TINY, "--augment", "band_rotation=auto", "--device", "cuda")
    assert tensors(tmp_path, "best_model.ckpt")


def test_signals_that_nothing_reads_stay_where_they_are(script, tmp_path, monkeypatch):
    copied = []
    true = Batches._resident_signals
    monkeypatch.setattr(Batches, "_resident_signals", lambda self: copied.append(self) or true(self))
    with pretended():
        script(train, tmp_path, *TINY, "--device", "cuda")
    assert json.loads((tmp_path / "config.json").read_text())["derived"]["resident"] is False
    assert len({len(one.windows.shards) for one in copied}) == 1  # the validation people's, for their tokens
    assert all(len(one.windows.shards) == 1 and one._signals is None for one in copied)  # and no longer


def test_a_stopped_run_goes_on_to_the_same_bits(script, tmp_path, monkeypatch):
    flags = [*TINY, "--dropout", 0.1, "--ema", 0.9, "--pretrain", 1, "--layers", 2, "--tune", "last:1"]
    flags += ["--device", "cuda"]
    with pretended():
        script(train, tmp_path / "whole", *flags)
        count, seen = loop._count, []

        def interrupted(*args):
            seen.append(args)
            if len(seen) == 4:  # in the first epoch, behind pretraining's two steps
                signals.raise_signal(signals.SIGINT)
            return count(*args)

        monkeypatch.setattr(loop, "_count", interrupted)
        with pytest.raises(KeyboardInterrupt, match="--resume continues it"):
            script(train, tmp_path / "stopped", *flags)
        monkeypatch.setattr(loop, "_count", count)
        script(train, tmp_path / "stopped", *flags, "--resume")
    whole, stopped = tensors(tmp_path / "whole"), tensors(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.parametrize(("tune", "held"), [("frozen", MATRICES), ("lora", MATRICES), ("full", 0)])
def test_weights_that_do_not_train_are_held_in_bf16_and_kept_as_they_were(script, tmp_path, monkeypatch, tune, held):
    runs, finish = [], train.finish
    monkeypatch.setattr(train, "finish", lambda run: runs.append(run) or finish(run))
    with pretended():
        script(train, tmp_path, *TINY, "--tune", tune, "--ema", 0.9, "--device", "cuda")
        weights = runs[0].model.backbone.parameters()
        rounded = sum(weight.numel() for weight in weights if weight.dtype == torch.bfloat16)
    derived = json.loads((tmp_path / "config.json").read_text())["derived"]
    assert rounded == derived["held_in_bf16"] == held
    for name, prefix in (("best_model.ckpt", "model."), ("last.ckpt", "model."), ("last.ckpt", "ema.")):
        kept = {key: value for key, value in tensors(tmp_path, name).items() if key.startswith(f"{prefix}backbone.")}
        assert {value.dtype for value in kept.values()} == {torch.float32}
        first = {key.removeprefix(f"{prefix}backbone.").replace(".base_layer.", "."): kept[key] for key in kept}
        first = {key: value for key, value in first.items() if ".lora_" not in key}
        assert (fingerprint(first) == derived["backbone"]["weights_sha256"]) is (tune != "full")


def test_a_batch_fills_the_memory_that_is_there_and_a_run_that_goes_on_keeps_it(script, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, "LEAST_STEPS", 1)
    monkeypatch.setattr(batch_size, "MOST", 1 << 20)
    flags = [*TINY, "--batch-size", "auto", "--epochs", 12, "--patience", 1, "--device", "cuda"]
    chosen, free = [], 24_000_000
    with pretended() as gpu:
        for times in (1, 2):
            gpu.free = times * free
            script(train, tmp_path / str(times), *flags)
            chosen.append(json.loads((tmp_path / str(times) / "config.json").read_text())["derived"])
            assert gpu.most_bytes < gpu.free
        script(train, tmp_path / "1", *flags, "--resume")
    assert json.loads((tmp_path / "1/config.json").read_text())["derived"]["batch_size"] == chosen[0]["batch_size"]
    assert chosen[1]["batch_size"] >= 2 * chosen[0]["batch_size"] > 256
    for one in chosen:
        assert one["lr"] == one["backbone_lr"] == pytest.approx(1e-3 * (one["batch_size"] / 128) ** 0.5)


def test_pretraining_computes_what_the_cpu_does_and_waits_once(script, tmp_path, steps):
    flags = [*TINY, *ALIKE, "--pretrain", 1]
    with pretended():
        script(train, tmp_path / "gpu", *flags, "--device", "cuda")
    waited = [[wait for wait in waits if "run_files.py" not in wait] for _, waits in steps()]
    assert len(waited) > 3 and max(map(len, waited)) <= 1, waited
    script(train, tmp_path / "cpu", *flags, "--device", "cpu")
    assert_close(tensors(tmp_path / "gpu"), tensors(tmp_path / "cpu"))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("whitening", ["none", "append"])
def test_windows_of_the_second_gpu_are_the_cpus(data, monkeypatch, resident, whitening):
    """Read by threads, which begin on the first GPU, where the signals do not fit."""
    shards = open_shards(Path(data[1]), [small_shards.name(subject) for subject in (1, 2, 3)])
    windows, transform = WindowSet(shards), transform_of(shards, ChannelNormalization(whitening=whitening))
    order = [np.arange(at, at + 7) for at in range(0, 35, 7)]
    expected = list(Batches(windows, transform, torch.device("cpu")).iterate(order))
    monkeypatch.setattr(data_batches, "RESIDENT_SHARE", 0.5 if resident else 0.0)
    with pretended():
        torch.cuda.set_device(1)
        result = Batches(windows, transform, torch.device("cuda"), workers=2)
        assert result.resident is resident
        for mine, theirs in zip(result.iterate(order), expected, strict=True):
            assert mine.x.device == mine.label.device == torch.device("cuda:1")
            torch.testing.assert_close(mine.x.cpu(), theirs.x)
            assert mine.label.tolist() == theirs.label.tolist()


# --- a trained model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--normalize", "online"], ["--adapt", "session"]])
def test_evaluation_decides_as_on_the_cpu(trained, script, tmp_path, flags):
    flags = ["--checkpoint", trained[0] / "best_model.ckpt", "--quiet", *flags]
    with pretended() as gpu:
        script(evaluate, tmp_path / "gpu", *flags, "--device", "cuda")
        assert len([wait for wait in gpu.waits if "online_normalization.py" in wait]) <= MOST_OF_A_SESSION
    script(evaluate, tmp_path / "cpu", *flags, "--device", "cpu")
    mine, theirs = (np.load(tmp_path / name / "predictions.npz")["probabilities"] for name in ("gpu", "cpu"))
    np.testing.assert_allclose(mine, theirs, atol=1e-4)


def models(trained):
    return [TrainedModel.open(trained[0] / "best_model.ckpt", device) for device in ("cuda", "cpu")]


def own_shards(data, subject=5):
    return open_shards(Path(data[1]), [small_shards.name(subject)])


def test_a_recording_and_a_stream_are_decided_as_on_the_cpu(trained, data):
    signal = np.array(own_shards(data)[0].signal)
    with pretended():
        actual = []
        for model in models(trained):
            whole = model.predict_filtered(signal).probabilities
            online = Stream(model.network, model.online(), np.array([[1.0, 0, 0, 1, 0, 0]]), np.eye(24), model.stride)
            streamed = [one.probabilities for one in online.push(signal[:4000].astype(np.float32))]
            actual.append((whole, np.stack(streamed)))
    for mine, theirs in zip(*actual, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--adapt"]], ids=" ".join)
def test_predict_decides_as_on_the_cpu(trained, data, script, tmp_path, flags):
    """The whole script, on a table: where a window is decided otherwise, another was nearly as probable."""
    table = tmp_path / "session.npy"
    np.save(table, np.array(own_shards(data)[0].signal, np.float32))
    flags = ["--rate", small_shards.RATE, "--unit", "uV", "--checkpoint", trained[0] / "best_model.ckpt", *flags]
    with pretended() as gpu:
        assert script(predict, tmp_path / "gpu", *flags, "--device", "cuda", first=[table]) == 0
        assert gpu.operations
    assert script(predict, tmp_path / "cpu", *flags, "--device", "cpu", first=[table]) == 0
    mine, theirs = (pd.read_csv(tmp_path / name / "session.csv") for name in ("gpu", "cpu"))
    probabilities = [name for name in theirs if name.startswith("p_")]
    assert len(mine) == len(theirs) > 50 and len(probabilities) == len(small_shards.CLASSES)
    np.testing.assert_allclose(mine[probabilities], theirs[probabilities], atol=2e-3)


def test_adapting_and_calibrating_learn_what_they_do_on_the_cpu(trained, data):
    how = replace(ANYTHING, rounds=1)
    recipe = Calibration(repetitions=1, tune="full", optimizer=OptimizerConfig(lr=1e-3), epochs=2)
    actual = []
    with pretended():
        for model in models(trained):
            shards = own_shards(data)
            signal = np.array(shards[0].signal)
            adapted = adapt(model, [Signal(signal, model.session_of(signal))], how)
            assert adapted.accepted
            actual.append((adapted.model.predict_filtered(signal).probabilities, *_after(model, shards, recipe)))
    for mine, theirs in zip(*actual, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


def _after(model, shards, recipe):
    parts = parts_of(open_windows(shards), recipe.repetitions)
    decisions = calibrate_subject(model, shards, parts, recipe, adaptation=replace(ANYTHING, rounds=1))
    assert all(one["accepted"] for one in decisions.sessions)
    return decisions.before, decisions.calibrated, decisions.after


def test_deep_baselines_train_as_on_the_cpu(data):
    shards = [open_shards(Path(data[1]), [small_shards.name(one) for one in some]) for some in ((1, 2), (3,))]
    recipe = deep_baselines.Recipe(optimizer=OptimizerConfig(lr=0.01), epochs=1, batch_size=32)
    actual = []
    with pretended():
        for device in map(torch.device, ("cuda", "cpu")):
            transforms = [transform_of(some, ChannelNormalization()) for some in shards]
            parts = [
                deep_baselines.prepare(some, 4, transform, device, lambda items, **_: items)
                for some, transform in zip(shards, transforms, strict=True)
            ]
            torch.manual_seed(0)
            module = nn.Sequential(nn.Conv1d(24, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 76, 4))
            deep_baselines.fit(module, *parts, recipe, lambda items, **_: items, str)
            actual.append({name: value.cpu() for name, value in module.state_dict().items()})
    assert_close(*actual)


def test_a_backbone_is_read_without_a_mask_in_each_family_of_positions():
    with pretended() as gpu:
        config = ModelConfig(layers=1, width=16, heads=2, dropout=0.0)
        model = GPT2Classifier(config).to("cuda").eval()
        gpu.clear()
        model.classify(torch.randn(2, config.tokens, model.frontend.n_features).to("cuda"))
        assert gpu.attention == [(False, True, torch.float32)]
        assert not [wait for wait in gpu.waits if "transformers" in wait]


# --- benchmarks ---------------------------------------------------------------------------------------------------


def test_the_benchmark_measures_a_step_beside_its_prediction_of_as_many_operations(monkeypatch, capsys, tmp_path):
    """gpu.py runs as on a GPU; and what it predicts from was counted on the CPU, where other kernels are chosen."""
    monkeypatch.setattr(gpu, "SIDE", 64)
    monkeypatch.setattr(gpu, "COPIED", 1 << 20)
    monkeypatch.setattr(gpu, "STEPS", 2)
    work = prediction.Work(2, 64, 4, batch=64)
    args = measuring.arguments("", "gpu").parse_args(["--repeats", "1"])
    with pretended() as device:
        card = gpu.this_card()
        assert card.name == "pretended" and min(card.bf16, card.fp32, card.bandwidth, card.launch) > 0
        rows = gpu.one(args, work, card, training_step.noise(tmp_path, 20))
        assert not [wait for wait in device.waits if "prediction.py" in wait]
    assert [row.what.rpartition(": ")[2] for row in rows] == ["a step", "arithmetic", "reading"]
    assert all(row.ratio > 0 for row in rows)
    assert "predicted" in capsys.readouterr().out


def test_a_step_counted_on_the_cpu_is_the_step_that_a_gpu_takes(tmp_path, steps):
    work = prediction.Work(2, 64, 4, batch=64)
    with pretended() as device:
        data = training_step.noise(tmp_path, 30)
        run = training_step.a_run(data, tmp_path / "run", work.words, device="cuda")
        training_step.epoch(run)
        taken = device.operations
        marks = [mark for mark, _ in steps.marks]
    counted = [one for own in prediction.counts(work).values() for one in own]
    last = taken[marks[-3] : marks[-2]]  # behind the last mark there is no step
    assert len(last) == pytest.approx(len(counted), rel=0.03)
    assert sum(one.flops for one in last) == sum(one.flops for one in counted)
    assert sum(one.bytes for one in last) == pytest.approx(sum(one.bytes for one in counted), rel=0.03)
