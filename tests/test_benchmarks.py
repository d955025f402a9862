"""The benchmarks run, and count what they say they count. No test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import features
import gpu
import measuring
import numpy as np
import pytest
import torch
from preprocessing import authors_method
from torch.utils.flop_counter import FlopCounterMode

from model import GPT2Classifier, ModelConfig
from semg.common.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("checksums", "growth", "preprocessing")]


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("tune", ["full", "fpt"])
def test_the_arithmetic_counted_is_what_pytorch_counts(layers, tune):
    config = ModelConfig(layers=layers, width=96, heads=4, tune=tune, dropout=0.0)
    model = GPT2Classifier(config)
    tokens = torch.randn(5, config.tokens, model.frontend.n_features)
    with FlopCounterMode(display=False) as counter:
        model.classify(tokens).sum().backward()
    # PyTorch counts attention's recomputed scores in the backward pass; attention is a small part here
    assert counter.get_total_flops() == pytest.approx(5 * gpu.flops(config), rel=0.03)


def test_without_cuda_the_gpu_benchmark_says_so_in_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("gpu", "--out", tmp_path / "gpu.json")
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: benchmarks/gpu.py: expected a CUDA device, found none")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["backbone", "streaming", "live", "evaluation", "reading", "training_step", *SLOW])
def test_a_benchmark_prints_a_table_and_writes_machine_and_commit(tmp_path, name):
    out = tmp_path / f"{name}.json"
    done = run(name, "--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["quick"] is True and written["commit"] and written["machine"]["cores"]
    assert written["rows"] and all(row["ratio"] > 0 for row in written["rows"])
    assert all(row["what"] in done.stdout for row in written["rows"])


def test_without_libemg_its_benchmark_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(features.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"expected LibEMG 2.0.3, found none; pip install"):
        features.libemg()


def test_the_benchmark_of_features_compares_values_where_libemg_is(tmp_path):
    if features.importlib.util.find_spec("libemg") is None:
        pytest.skip("LibEMG is not installed")
    done = run("features", "--quick", "--out", tmp_path / "features.json")
    assert done.returncode == 0, done.stderr
    assert max(json.loads((tmp_path / "features.json").read_text())["largest_relative_difference"].values()) < 1e-3


def test_a_row_knows_whether_it_reached_its_goal():
    assert measuring.Row("a", "b", 1.0, 1.08).reached is True
    assert measuring.Row("a", "b", 1.1, 1.08).reached is False
    assert measuring.Row("a", "b", 2.0, 1.8, at_least=True).reached is True
    assert measuring.Row("a", "b", 1.7, 1.8, at_least=True).reached is False
    assert measuring.Row("a", "b", 1.7).reached is None


def test_every_benchmark_is_run_by_make_bench():
    named = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS"))
    apart = {"measuring", "material", "operations", "gpu"}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - apart
    assert set(named.split(":=")[1].split()) == scripts


def test_the_authors_filter_takes_hums_away_and_keeps_the_band():
    times = np.arange(20 * 5120) / 5120
    kept = 10 * np.sin(2 * np.pi * 200 * times)
    found = authors_method(kept + 50 * np.sin(2 * np.pi * 49.995 * times + 1))
    assert np.abs(found - kept)[5120:-5120].max() < 0.5


def run(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
