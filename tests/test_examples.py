"""examples/: the notebook runs from its first cell to its last, on a small simulated session."""

import tempfile

import nbformat
from conftest import ROOT
from nbclient import NotebookClient
from traitlets.config import Config
from waiting import LONGEST

NOTEBOOK = ROOT / "examples" / "explore.ipynb"
DEMO = 'ROOT / "data" / "demo" / "shards"'


def test_the_notebook_runs_and_shows_what_it_says(run_here, tmp_path, monkeypatch):
    raw, shards = tmp_path / "raw", tmp_path / "shards"
    run_here("simulate_putemg.py", raw, "--people", 1, "--days", 1, "--seconds", 20, "--workers", 1)
    run_here("preprocess.py", "--raw", raw, "--shards", shards, "--workers", 1)
    # a script sets it in its own process when it begins, which is this one in tests
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (first,) = [cell for cell in notebook.cells if DEMO in cell.source]
    first.source = first.source.replace(DEMO, f"Path({str(shards)!r})")
    with tempfile.TemporaryDirectory() as sockets:  # a port that is free now need not be when the kernel begins
        place = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        limits = {"timeout": LONGEST, "startup_timeout": LONGEST}
        NotebookClient(notebook, config=place, resources=where, **limits).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    said = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    assert "20 s of 24 channels at 5120 Hz" in said
    assert "decisions, one every 125 ms" in said
    assert "adapted" in said.rpartition("% of the labelled")[0]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    assert not [out for out in outputs if out.output_type == "error"]


def test_the_notebook_is_kept_without_what_it_showed():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
