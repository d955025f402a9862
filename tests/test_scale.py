"""docs/scale.md: its figures are those measured, and no other page or script has figures of its own; its example of a
cluster, run as it stands by a stand-in for SLURM: parts put together are the whole."""

import ast
import json
import os
import re
import subprocess
import sys
from itertools import product

import costs
import pytest
import recordings
from conftest import ROOT

from semg.common.files import checksum

PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
# what a machine takes, not what a person or a signal does: `it takes about a minute to hear enough`
FIGURE = re.compile(
    r"\b(takes?|needs?) about (\d[\d.]*|a|half a|two|a few) (s|seconds?|minutes?|hours?)\b(?! to\b)"
    r"|\d ?[MG]B of memory|\d (windows/s|windows a second)",
    re.IGNORECASE,
)
SCRIPTS = sorted(ROOT.glob("*.py"))
WITH_FIGURES = ("scale", "results", "choices", "baselines")  # the last three say with each result what it took
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.stem not in WITH_FIGURES]


def test_what_a_script_costs_is_what_was_measured():
    measured = json.loads((ROOT / "benchmarks/results/costs.json").read_text(encoding="utf-8"))
    assert not measured["quick"] and f"`{measured['commit'][:7]}`" in PAGE
    assert costs.markdown(measured["rows"]) in PAGE


def test_the_share_of_adaptation_is_what_was_measured():
    rows = json.loads((ROOT / "benchmarks/results/adaptation.json").read_text(encoding="utf-8"))["rows"]
    for row in rows:
        assert f"| {row['what']} | {row['ratio']:.1%} |".replace("%", " %") in PAGE


def test_a_figure_of_cost_is_recognised():
    for text in ("Takes about 1 s for each", "takes about a minute for 10,000", "400 MB of memory", "3,200 windows/s"):
        assert FIGURE.search(text), text
    for text in ("takes about a minute to hear", "takes 30 s of signal", "1.5 kB of memory", "some windows a second"):
        assert not FIGURE.search(text), text


@pytest.mark.parametrize("path", [*SCRIPTS, *PAGES], ids=lambda path: path.name)
def test_costs_are_said_in_one_place(path):
    text = path.read_text(encoding="utf-8")
    text = " ".join(((ast.get_docstring(ast.parse(text)) or "") if path.suffix == ".py" else text).split())
    assert not FIGURE.search(text), "a figure of what something costs: say it in docs/scale.md alone"


def test_array_jobs_put_together_are_one_run(tmp_path, run_script):
    raw = tmp_path / "data/raw/Data-HDF5"
    raw.mkdir(parents=True)
    for subject, trajectory in product((3, 4), ("repeats_long", "repeats_short")):
        table = recordings.frame(subject, trajectory, samples=4 * recordings.RATE)
        recordings.write(raw, table, recordings.record_name(subject, trajectory))
    run_script("preprocess.py", "--raw", raw, "--shards", tmp_path / "whole")
    job, after = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[:2]
    assert "#SBATCH --array=0-43" in job
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nscript=$1; shift\nexec "{sys.executable}" "{ROOT}/$script" "$@"\n')
    python.chmod(0o755)
    places = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for number in (0, 1):
        shell(job, tmp_path, places | {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "1"})
    output = shell(after, tmp_path, places)
    assert "0 shards written, 4 kept" in output
    whole = {path.relative_to(tmp_path / "whole"): checksum(path) for path in (tmp_path / "whole").rglob("*.*y")}
    assert len(whole) == 8
    for path, expected in whole.items():
        assert checksum(tmp_path / "data/shards" / path) == expected


def shell(script: str, folder: os.PathLike[str], places: dict[str, str]) -> str:
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
