"""The benchmarks run, and count what they say they count. No test looks at a time."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import costs
import features
import gpu
import measuring
import numpy as np
import prediction
import pytest
import torch
import torch.nn.functional as F
from operations import Counter
from preprocessing import authors_method
from torch.utils.flop_counter import FlopCounterMode
from training_step import a_run, noise

from semg.common.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parent.parent
LONG = ("adaptation", "checksums", "costs", "growth", "preprocessing")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in LONG]


@pytest.mark.parametrize("trains", [True, False])
def test_of_a_linear_map_the_counts_are_exact(trains):
    """2 m n k forward, as much again for each gradient; no view is counted."""
    m, k, n = 5, 7, 3
    layer, x = torch.nn.Linear(k, n), torch.randn(m, k, requires_grad=trains)
    with Counter() as counter:
        with counter.component("forward"):
            y = layer(x)
        with counter.component("backward"):
            y.backward(torch.ones(m, n))
        with counter.component("views"):
            y.detach().view(n, m).t()[None].expand(4, -1, -1).transpose(1, 2).split(2)
            torch.empty(3).new_empty(2), torch.empty_like(x)
    assert [one.name for one in counter.operations["forward"]] == ["addmm"]
    assert counter.operations["forward"][0].flops == 2 * m * n * k
    assert counter.operations["forward"][0].bytes == 4 * (m * k + k * n + n + m * n)
    assert sum(one.flops for one in counter.operations["backward"]) == (4 if trains else 2) * m * n * k
    assert "views" not in counter.operations


def test_attention_is_counted_as_pytorch_counts_it():
    q = torch.randn(2, 3, 10, 8, requires_grad=True)
    with FlopCounterMode(display=False) as expected, Counter() as counter:
        F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
    flops = 2 * 2 * 2 * 3 * 10 * 10 * 8  # scores, and the mean of values
    own = {one.name: one.flops for one in counter.operations["other"] if one.flops}
    assert sorted(own.values()) == [flops, 5 * flops // 2]  # backwards four products, and the scores once more
    assert expected.get_total_flops() in (0, sum(own.values()))  # it doesn't know the CPU's name of it


def test_optimisers_on_lists_of_tensors_launch_a_kernel_for_each_full_list_and_move_all_of_them():
    weights = [torch.nn.Parameter(torch.randn(4, 3)) for _ in range(300)]
    optimizer = torch.optim.AdamW(weights, fused=True)
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        with Counter() as counter:
            optimizer.step()
    moved = {one.name: (one.launches, one.bytes) for one in counter.operations["other"]}
    assert set(moved) == {"_foreach_add_", "_fused_adamw_"}
    assert moved["_fused_adamw_"][0] == 2  # 252 of four lists each fit into a kernel's arguments
    # weights, gradients and both means are read and may be written; the counts of steps are read
    assert moved["_fused_adamw_"][1] == 300 * 4 * (2 * 4 * 12 + 1)


def test_what_is_predicted_of_a_batch_is_what_a_step_of_it_counts(tmp_path):
    work = prediction.Work(1, 32, 2, batch=32, tune="lora")
    run = a_run(noise(tmp_path, 30), tmp_path / "run", work.words)
    run.model.train()
    _, counted = (prediction._step(run, work.batch) for _ in range(2))
    assert prediction.counts(work) == counted


def test_the_bound_goes_from_launches_to_arithmetic_as_the_batch_grows():
    works = [prediction.Work(1, 512, 8, amp="fp32", batch=batch) for batch in (16, 1 << 16)]
    bounds = [prediction.predict(work, prediction.CARDS["h100"])["step"].bound for work in works]
    assert bounds == ["launch", "compute"]


def test_compiled_and_graphed_steps_launch_less_and_compute_the_same():
    plain, compiled, graphed = (
        prediction.predict(prediction.Work(1, 32, 2, compile=how), prediction.CARDS["h100"])["step"]
        for how in ("", "default", "graphs")
    )
    assert plain.flops == compiled.flops == graphed.flops
    assert plain.launches > compiled.launches and plain.bytes > compiled.bytes
    assert compiled.launch > graphed.launch


def test_without_a_gpu_the_plan_says_that_nothing_was_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "WORKS", (prediction.Work(1, 32, 2), prediction.Work(1, 32, 2, compile="default")))
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--plan", "--card", "a100"])
    assert gpu.main() == 0
    said = capsys.readouterr().out
    assert "PREDICTED" in said and "A100" in said and "nothing was measured on a GPU" in said
    for component in (*prediction.COMPONENTS, "step"):
        assert said.count(f"\n  {component:<10}") == 2
    assert list(tmp_path.iterdir()) == []


def test_the_plan_in_the_docs_is_the_plan_printed():
    """Of the small model, which is counted in seconds."""
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    small = [work for work in gpu.WORKS if work.layers == gpu.SMALL.layers]
    assert len(small) == 5
    for work in small:
        assert gpu.row(work, prediction.CARDS["h100"]) in page
    assert all(f"| {work} |" in page for work in gpu.WORKS)


@pytest.mark.slow
def test_several_processes_train_and_say_how_fast(tmp_path):
    data = noise(tmp_path, 20)
    row = gpu.several(data, prediction.Work(1, 32, 2, batch=16, amp="fp32"), 2, 100.0, device="cpu")
    assert row.facts["windows_per_second"] > 0 and "2 GPUs" in row.what


@pytest.mark.parametrize("torchrun_fails", [False, True])
def test_rows_measured_on_a_gpu_are_kept_when_a_later_one_fails(monkeypatch, capsys, tmp_path, torchrun_fails):
    """On a stand-in for a card: main() alone is tried, and what it keeps."""
    out, kept = tmp_path / "gpu.json", list[int]()
    alone = prediction.Work(12, 768, 12, batch=1024)

    def several(_data, work, processes, rate):
        assert (work, processes, rate) == (alone, 1, 50.0)
        kept.append(len(json.loads(out.read_text())["rows"]))
        if torchrun_fails:
            raise DataError("no rendezvous")
        return measuring.Row("DDP", "one alone", 0.9)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpu, "this_card", lambda: prediction.CARDS["h100"])
    monkeypatch.setattr(gpu, "WORKS", (alone, prediction.Work(2, 64, 4)))
    monkeypatch.setattr(gpu, "SECONDS", 5)  # of noise, which nothing here reads
    monkeypatch.setattr(
        gpu,
        "one",
        lambda _args, work, *_: [measuring.Row(f"{work}", "", 1.0, facts={"windows_per_second": work.batch / 20.48})],
    )
    monkeypatch.setattr(gpu, "several", several)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--out", str(out)])
    assert gpu.main() == 0
    assert kept == [2]
    assert len(json.loads(out.read_text())["rows"]) == (2 if torchrun_fails else 3)
    assert ("torchrun: no rendezvous" in capsys.readouterr().err) == torchrun_fails


def test_without_cuda_the_gpu_benchmark_says_so_in_one_line(tmp_path, run_script, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run_script("benchmarks/gpu.py", "--out", tmp_path / "gpu.json", code=1)
    assert done.stderr.startswith("error: benchmarks/gpu.py: expected a CUDA device, found none")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["backbone", "streaming", "live", "evaluation", "reading", "training_step", *SLOW])
def test_a_benchmark_prints_a_table_and_writes_machine_and_commit(tmp_path, run_here, run_script, name):
    """In this process, which has imported PyTorch, but for live: a script has this name too."""
    out = tmp_path / f"{name}.json"
    done = (run_script if name == "live" else run_here)(f"benchmarks/{name}.py", "--quick", "--out", out)
    written = json.loads(out.read_text())
    assert written["quick"] is True and written["commit"] and written["machine"]["cores"]
    # 0: of costs, where on a busy machine a short run took so long that nothing is left for the start
    assert written["rows"] and all(row["ratio"] > 0 or (name, row["ratio"]) == ("costs", 0) for row in written["rows"])
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


def test_a_quick_look_replaces_no_result(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    (tmp_path / "a.json").write_text("measured with care")
    monkeypatch.setattr("sys.argv", ["a.py", "--quick"])
    args = measuring.read(measuring.arguments("manual", "a", repeats=3))
    assert args.repeats == 1
    assert measuring.report(args, [measuring.Row("a", "b", 1.0)]) == 0
    assert (tmp_path / "a.json").read_text() == "measured with care"
    assert "nothing was written" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["a.py"])
    measuring.report(measuring.read(measuring.arguments("manual", "a", repeats=3)), [measuring.Row("a", "b", 1.0)])
    assert json.loads((tmp_path / "a.json").read_text())["repeats"] == 3


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--out", "a.png"], UsageError, r"--out a.png: expected a name that ends in .json"),
        (["--out", "file/a.json"], DataError, "expected a folder, to write the results under it, found a file"),
        (["--quick", "--repeats", "2"], UsageError, "--repeats: expected no --quick beside it"),
        (["--quick", "--repeats", "5"], UsageError, "--repeats: expected no --quick beside it"),
    ],
)
def test_flags_of_benchmarks_are_checked_before_anything_is_measured(monkeypatch, tmp_path, words, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["a.py", *words])
    with pytest.raises(error, match=message):
        measuring.read(measuring.arguments("manual", "a"))


@pytest.mark.parametrize("name", ["costs", "live", "streaming"])
def test_a_benchmark_that_measures_once_has_no_flag_for_repeats(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--repeats", "3"])
    with pytest.raises(SystemExit):
        importlib.import_module(name).main()
    assert "unrecognized arguments: --repeats 3" in capsys.readouterr().err


def test_a_script_that_fails_is_named_with_what_it_said():
    with pytest.raises(DataError, match=r"-c .*: expected it to succeed, found: error: no such place$"):
        measuring.run_python("-c", "print('begun'); raise SystemExit('error: no such place')")


@pytest.mark.parametrize("content", [None, "{", '{"rows": [{"what": "a"}]}', '{"rows": 1}'])
def test_a_table_of_costs_is_made_of_costs_alone(monkeypatch, tmp_path, content):
    place = tmp_path / "costs.json"
    if content is not None:
        place.write_text(content)
    monkeypatch.setattr("sys.argv", ["costs.py", "--markdown", "--out", str(place)])
    with pytest.raises(DataError, match=r"expected results of benchmarks/costs\.py"):
        costs.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--card", "a100"], "--card: expected --plan beside it"),
        (["--card", "h100"], "--card: expected --plan beside it"),
        (["--markdown"], "--markdown: expected --plan beside it"),
        (["--plan", "--repeats", "2"], "--repeats: expected no --plan beside it"),
        (["--plan", "--quick"], "--quick: expected no --plan beside it"),
        (["--plan", "--out", "x.json"], "--out: expected no --plan beside it"),
    ],
)
def test_flags_that_would_change_nothing_are_refused_by_the_gpu_benchmark(monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu.py", *words])
    with pytest.raises(UsageError, match=message):
        gpu.main()
    assert list(tmp_path.iterdir()) == []


def test_every_benchmark_is_run_by_make_bench():
    named = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("BENCHMARKS"))
    apart = {"measuring", "material", "operations", "prediction", "gpu"}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - apart
    assert set(named.split(":=")[1].split()) == scripts


def test_the_authors_filter_takes_hums_away_and_keeps_the_band():
    times = np.arange(20 * 5120) / 5120
    kept = 10 * np.sin(2 * np.pi * 200 * times)
    actual = authors_method(kept + 50 * np.sin(2 * np.pi * 49.995 * times + 1))
    assert np.abs(actual - kept)[5120:-5120].max() < 0.5


def run(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
