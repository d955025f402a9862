"""On a GPU, the same results as on the CPU: `pytest -m gpu` where there is one. on_pretended_cuda.py needs none."""

import json

import numpy as np
import pandas as pd
import pytest
import small_shards
import torch
import torch.nn.functional as F
from test_precision import under_autocast

from model import GPT2Classifier, ModelConfig
from semg.training.precision import hold_frozen_in_bf16

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 2 --batch-size 40 --dropout 0 --amp fp32"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_script):
    """Device -> the folder of a run on it, and the flags that name shards and split."""
    folder = tmp_path_factory.mktemp("gpu")
    shards, split = small_shards.write_all(folder)
    data = ["--shards", shards, "--split", split]
    for device in ("cpu", DEVICE):
        run_script("train.py", *data, "--out", folder / device, *TINY.split(), "--device", device)
    return {device: folder / device for device in ("cpu", DEVICE)}, data


def test_training_learns_the_same(runs):
    folders, _ = runs
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").open()] for out in folders.values()]
    assert len(rows[0]) == 2
    for on_cpu, on_gpu in zip(*rows, strict=True):
        assert on_gpu["train/loss"] == pytest.approx(on_cpu["train/loss"], rel=1e-2)


@pytest.mark.parametrize("flags", [[], ["--normalize", "online"], ["--adapt", "session"]], ids=" ".join)
def test_a_checkpoint_decides_the_same(runs, run_script, tmp_path, flags):
    folders, data = runs
    results = []
    for device in folders:
        out = tmp_path / device
        checkpoint = folders["cpu"] / "best_model.ckpt"
        run_script("evaluate.py", "--checkpoint", checkpoint, *data, *flags, "--device", device, "--out", out)
        with np.load(out / "predictions.npz") as arrays:
            results.append(arrays["probabilities"])
    np.testing.assert_allclose(results[1], results[0], atol=2e-2)


def test_a_recording_is_decided_for_alike(runs, run_script, tmp_path):
    folders, _ = runs
    samples = np.random.default_rng(0).normal(0, 40, (10_240, 24))
    pd.DataFrame(samples, columns=[f"EMG_{n}" for n in range(1, 25)]).to_csv(tmp_path / "new.csv", index=False)
    tables = []
    for device in folders:
        flags = ["--checkpoint", folders["cpu"] / "best_model.ckpt", "--stream", "--rate", 5120, "--device", device]
        run_script("predict.py", tmp_path / "new.csv", *flags, "--out", tmp_path / device)
        tables.append(pd.read_csv(tmp_path / device / "new.csv").filter(like="p_"))
    assert len(tables[0]) > 10
    np.testing.assert_allclose(tables[1], tables[0], atol=2e-2)


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_weights_held_in_bf16_compute_the_same_bits_in_half_the_memory(tune):
    model = GPT2Classifier(ModelConfig(width=256, tune=tune, dropout=0.0)).train().to(DEVICE)
    x = torch.randn(16, model.config.channels, model.config.samples, device=DEVICE)
    before = sum(weight.nbytes for weight in model.parameters())
    expected, expected_gradients = under_autocast(model, x)
    exact = hold_frozen_in_bf16(model)
    actual, gradients = under_autocast(model, x)
    assert torch.equal(actual, expected)
    assert gradients.keys() == expected_gradients.keys()
    assert all(torch.equal(gradients[name], expected_gradients[name]) for name in gradients)
    assert before - sum(weight.nbytes for weight in model.parameters()) == sum(w.nbytes for w in exact.values()) / 2


def queries_keys_values(*shape, dtype):
    """Of windows (B, T, h, d), as a model's one linear map has them beside each other."""
    x = torch.randn(*shape[:2], 3, *shape[2:], device=DEVICE, dtype=dtype, requires_grad=True)
    return x, [part.transpose(1, 2) for part in x.unbind(2)]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])  # for one length after another
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("tokens", [10, 20, 64])
def test_attention_of_short_windows_is_pytorchs(tokens, dtype, close, compiled):
    from semg.window_attention import attend

    x, parts = queries_keys_values(8, tokens, 3, 64, dtype=dtype)
    actual = (torch.compile(attend) if compiled else attend)(*parts, 0.125)
    wide = x.detach().double().requires_grad_()
    wide_parts = [part.transpose(1, 2) for part in wide.unbind(2)]
    expected = F.scaled_dot_product_attention(*wide_parts, is_causal=True).transpose(1, 2)
    given = torch.randn_like(expected)
    torch.testing.assert_close(actual.double(), expected, atol=close, rtol=close)
    gradients = torch.autograd.grad(actual, x, given.to(dtype))[0], torch.autograd.grad(expected, wide, given)[0]
    torch.testing.assert_close(gradients[0].double(), gradients[1], atol=2 * close, rtol=2 * close)


def test_a_replayed_step_drops_out_others():
    from semg.window_attention import attend

    _, parts = queries_keys_values(64, 10, 4, 16, dtype=torch.float32)
    step = torch.compile(lambda *parts: attend(*parts, 0.25, 0.3), mode="reduce-overhead")
    means = [float(step(*parts).detach().mean()) for _ in range(6)]
    assert len(set(means[-3:])) == 3
