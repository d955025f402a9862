"""No line of the code can run what a file says: the linter's security rules are on, and what they don't know is here.

Each way of running foreign code is planted, to see that it is found.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from semg.common.errors import DataError
from semg.inference.checkpoint import open_checkpoint

CODE = sorted([*ROOT.glob("*.py"), *ROOT.glob("semg/**/*.py"), *ROOT.glob("benchmarks/*.py")])
FORBIDDEN = {  # calls that unpickle, whatever their arguments, or start a shell
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("joblib.load", "pd.read_hdf", "pd.read_pickle", "pandas.read_hdf", "pandas.read_pickle", "dill.load"),
    *("os.system", "os.popen", "eval", "exec", "yaml.load", "__import__"),
}
SAFE_ONLY_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
OWN = {"benchmarks/preprocessing.py": ["pd.read_hdf(source, 'data')"]}  # the usual way, timed on a file of its own
PLANTED = {
    "eval(text)": "ruff",
    "exec(text)": "ruff",
    "pickle.loads(text)": "ruff",
    "subprocess.run(text, shell=True)": "ruff",
    "yaml.load(text)": "ruff",
    "marshal.loads(text)": "ruff",
    "torch.load(text)": "here",
    "torch.load(text, weights_only=False)": "here",
    "np.load(text)": "here",
    "np.load(text, allow_pickle=True)": "here",
    "np.load(text, **settings)": "here",
    "pd.read_hdf(text)": "here",
    "pd.read_pickle(text)": "here",
    "joblib.load(text)": "here",
    "os.system(text)": "here",
    "__import__(text)": "here",
    "subprocess.Popen(text, shell=yes)": "here",
}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls that could run what a file says, as text."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: word.value for word in node.keywords}
        shell = "shell" in given and not (isinstance(given["shell"], ast.Constant) and given["shell"].value is False)
        word, right = SAFE_ONLY_WITH.get(name, ("", None))
        value = given.get(word)
        unsure = bool(word) and not (isinstance(value, ast.Constant) and value.value is right)
        if name in FORBIDDEN or shell or unsure:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_call_could_run_what_a_file_says(path: Path) -> None:
    actual = list(unsafe(ast.parse(path.read_text(encoding="utf-8"))))
    assert actual == OWN.get(path.relative_to(ROOT).as_posix(), [])


def test_what_is_planted_is_found_by_the_linter_or_here() -> None:
    """As `make lint` runs it, on a file that would lie in semg/."""
    lines = "".join(f"    {statement}\n" for statement in PLANTED)
    text = f"def planted(text: str, settings: dict, yes: bool) -> None:\n{lines}"
    first = "import marshal, os, pickle, subprocess, joblib, numpy as np, pandas as pd, torch, yaml\n"
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "concise",
        "--stdin-filename",
        "semg/x.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=first + text, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    output = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": S" in line}
    for number, (statement, by) in enumerate(PLANTED.items(), 3):
        assert list(unsafe(ast.parse(statement))) if by == "here" else number in output, statement


def test_a_pytorch_that_a_hostile_file_gets_past_opens_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = ROOT / "checkpoints" / "best_model.ckpt"
    for version, opened in (("2.9.1+cpu", False), ("2.10.0", True), ("3.0.0.dev1", True)):
        monkeypatch.setattr(torch, "__version__", version)
        if opened:
            assert open_checkpoint(shipped).tensors
            continue
        with pytest.raises(DataError, match=r"expected PyTorch 2.10 or newer .* found 2.9.1\+cpu; pip install"):
            open_checkpoint(shipped)


def test_the_versions_that_were_looked_up_are_those_pinned() -> None:
    """SECURITY.md's table of advisories has to be looked through again when a pin changes."""
    pinned = dict(
        re.findall(r"^(\w+)==(\S+)$", "".join(path.read_text() for path in ROOT.glob("requirements*.txt")), re.M)
    )
    rows = re.findall(r"^\| (\w+)[^|]*\| ([\d.]+) \|", (ROOT / "SECURITY.md").read_text(), re.M)
    assert {"torch", "transformers", "h5py", "onnx"} <= {name for name, _ in rows}
    for name, version in rows:
        assert version == pinned.get(name, metadata.version(name)), name
