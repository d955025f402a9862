"""The cluster example of docs/scale.md, run as it stands by a stand-in for SLURM: parts put together are the whole."""

import os
import re
import subprocess
import sys

from conftest import ROOT

from semg.common.files import checksum


def test_array_jobs_put_together_are_one_run(tmp_path, run_script):
    run_script("simulate_putemg.py", tmp_path / "data/raw/Data-HDF5", "--subjects", 2, "--days", 1, "--seconds", 20)
    run_script("preprocess.py", "--raw", tmp_path / "data/raw/Data-HDF5", "--shards", tmp_path / "whole")
    job, after = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/scale.md").read_text(encoding="utf-8"), re.DOTALL)[:2]
    assert "#SBATCH --array=0-43" in job
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nscript=$1; shift\nexec "{sys.executable}" "{ROOT}/$script" "$@"\n')
    python.chmod(0o755)
    places = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for number in (0, 1):
        shell(job, tmp_path, places | {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "1"})
    told = shell(after, tmp_path, places)
    assert "0 shards written, 6 kept" in told
    whole = {path.relative_to(tmp_path / "whole"): checksum(path) for path in (tmp_path / "whole").rglob("*.*y")}
    assert len(whole) == 12
    for path, expected in whole.items():
        assert checksum(tmp_path / "data/shards" / path) == expected


def shell(script: str, folder: os.PathLike[str], places: dict[str, str]) -> str:
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=folder, env=places, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
