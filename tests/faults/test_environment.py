"""What the environment does not bring: a home, a cache, a place for temporary files, a GPU that may be seen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import small_shards
from conftest import ROOT
from waiting import LONGEST

TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --quiet".split()  # noqa: SIM905
FOLDERS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
BOTH = """
import json, sys, train, evaluate
for script, words in zip((train, evaluate), json.loads(sys.argv[1])):
    sys.argv = [f"{script.__name__}.py", *words]
    assert not script.main()
"""


@pytest.mark.parametrize("home", ["unset", "nowhere"])
def test_a_model_is_trained_and_scored_without_a_home_or_a_gpu_to_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """nowhere: under a file, where not even root can make a folder. In a new process, where all is imported."""
    shards, split = small_shards.write_all(tmp_path)
    (tmp_path / "file").write_text("")
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)
        if home == "nowhere":
            monkeypatch.setenv(name, str(tmp_path / "file" / name))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    places = ["--shards", shards, "--split", split]
    run = [*places, "--out", tmp_path / "run", "--workers", 1, *TINY]
    results = ["--checkpoint", tmp_path / "run/best_model.ckpt", *places, "--out", tmp_path / "results"]
    words = json.dumps([[str(word) for word in one] for one in (run, results)])
    command = [sys.executable, "-c", BOTH, words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{tmp_path}/run/best_model.ckpt: best epoch 1 of 1" in done.stdout
    assert (tmp_path / "results" / "metrics.json").is_file()
