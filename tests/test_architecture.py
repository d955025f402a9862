"""The house's rules, checked from the source: who may know what."""

import ast
import re

import pytest
from conftest import ROOT

LIBRARY = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "model.py", *(ROOT / "semg").rglob("*.py")])
SHELL = "semg/common/cli.py"  # what scripts share at the shell; all else below them knows no flags


def texts(path):
    """(line, text) of every string and comment in a source file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        yield number, line.partition("  # ")[2] or line.strip().removeprefix("# ") * line.strip().startswith("#")


@pytest.mark.parametrize("path", [path for path in LIBRARY if path != SHELL])
def test_no_flag_is_named_below_the_scripts(path):
    """A flag's name there is wrong as soon as another script, or a notebook, calls the function."""
    named = [f"{path}:{line}: {text}" for line, text in texts(path) if re.search(r"(?<![\w-])--[a-z]", text)]
    assert named == []
