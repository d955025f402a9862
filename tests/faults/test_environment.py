"""What the environment does not bring: a home, a cache, a place for temporary files, a GPU that may be seen."""

from pathlib import Path

import pytest
import small_shards

TINY = "--init random --layers 1 --width 16 --patch 64 --frame 160 --epochs 1 --batch-size 40 --quiet".split()  # noqa: SIM905
FOLDERS = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@pytest.mark.parametrize("home", ["unset", "nowhere"])
def test_a_model_is_trained_and_scored_without_a_home_or_a_gpu_to_see(
    run_script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """nowhere: under a file, where not even root can make a folder."""
    shards, split = small_shards.write_all(tmp_path)
    (tmp_path / "file").write_text("")
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)
        if home == "nowhere":
            monkeypatch.setenv(name, str(tmp_path / "file" / name))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    places = ["--shards", shards, "--split", split]
    done = run_script("train.py", *places, "--out", tmp_path / "run", "--workers", 1, *TINY)
    assert f"{tmp_path}/run/best_model.ckpt: best epoch 1 of 1" in done.stdout
    run_script("evaluate.py", "--checkpoint", tmp_path / "run/best_model.ckpt", *places, "--out", tmp_path / "results")
    assert (tmp_path / "results" / "metrics.json").is_file()
