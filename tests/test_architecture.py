"""The house's rules, checked from the source: who may know what."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LIBRARY = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "model.py", *(ROOT / "semg").rglob("*.py")])
HOOKS = {"model.py", "hatch_build.py"}  # the network; a hook of the build
SCRIPTS = sorted({path.name for path in ROOT.glob("*.py")} - HOOKS)
# What scripts share at the shell; all else below them knows no flags.
SHELL = {"semg/common/cli.py", *(path for path in LIBRARY if path.startswith("semg/flags/"))}

# What the modules of a room may import of this project, beside their own room.
NETWORK = {"model", "backbones", "frontends"}
BELOW = {"data", *NETWORK, "common"}
ROOMS = {
    "scripts": {"flags", "training", "inference", "evaluation", "data", "download", *NETWORK, "common"},
    "flags": {"training", "inference", "evaluation", *BELOW},
    "training": {"inference", "evaluation", *BELOW},
    "inference": {"evaluation", *BELOW},
    "evaluation": {"data", "common"},
    "data": {"common"},
    "download": {"data", "common"},  # it checks recordings as they come, and names the data set's files
    "model": {"backbones", "frontends", "common"},
    "backbones": {"attention", "weight_files", "common"},
    "attention": {"window_attention"},
    "window_attention": set(),
    "weight_files": {"common"},
    "frontends": {"common"},
    "common": set(),
}
# What a room must not import of others' packages.
FORBIDDEN = {
    "common": {"torch", "transformers", "numpy", "h5py", "pandas", "scipy"},
    "download": {"torch", "transformers", "scipy"},
    "evaluation": {"transformers"},
    "data": {"transformers"},
}


def room(path):
    """`semg/data/shards.py` -> data; a script -> scripts."""
    parts = Path(path).with_suffix("").parts
    if parts[0] == "semg":
        return parts[1] if parts[1:] else "semg"
    return "model" if parts == ("model",) else "scripts"


def imports(path):
    """(line, module) of all imports in a source file, those inside functions too; packages by their modules."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: expected absolute imports"
            inside = [f"{node.module}.{name.name}" for name in node.names]
            known = [name for name in inside if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
            yield from ((node.lineno, name) for name in known or [str(node.module)])


def imported(node):
    """The modules that a statement imports; none for one that holds others."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) else []


def texts(path):
    """(line, text) of every string and comment in a source file."""
    source = (ROOT / path).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), 1):
        comment = line.strip() if line.strip().startswith("#") else line.partition("  # ")[2]
        yield number, comment


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS])
def test_imports_go_one_way(path):
    here, wrong = room(path), []
    if Path(path).name == "__init__.py":
        top = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        paid = {name.split(".")[0] for node in top for name in imported(node)}
        assert paid <= {"typing"}, "whoever imports one module must not pay for its neighbours"
        return
    for line, module in imports(path):
        top, _, rest = module.partition(".")
        if top == "semg" or module == "model":
            there = rest.partition(".")[0] if top == "semg" else "model"
            if there not in ROOMS[here] and there != here:
                wrong.append(f"{path}:{line}: {here} imports {module}")
        elif f"{top}.py" in SCRIPTS:
            wrong.append(f"{path}:{line}: imports the script {module}")
        elif top in FORBIDDEN.get(here, ()):
            wrong.append(f"{path}:{line}: {here} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in LIBRARY if path not in SHELL])
def test_no_flag_is_known_below_the_scripts(path):
    """A flag's name there is wrong as soon as another script, or a notebook, calls the function."""
    named = [f"{path}:{line}: {text}" for line, text in texts(path) if re.search(r"(?<![\w-])--[a-z]", text)]
    assert named == []
    known = {"argparse", "semg.common.cli"}
    assert [f"{path}:{line}: {module}" for line, module in imports(path) if module in known] == []


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("common/*.py", "numpy torch transformers scipy pandas h5py sklearn"),
        ("download/*.py", "torch transformers scipy sklearn matplotlib"),
        ("__init__.py", "numpy torch pandas h5py"),
        ("data/putemg.py", "numpy torch pandas h5py"),
        ("evaluation/metrics.py", "torch transformers matplotlib sklearn scipy pandas"),
        ("evaluation/comparison.py", "torch transformers matplotlib sklearn scipy"),
        ("inference/*.py", "transformers.modeling_utils torch._dynamo matplotlib scipy.stats"),
        ("training/*.py", "transformers.modeling_utils torch._dynamo"),
    ],
)
def test_nobody_waits_for_what_a_room_does_not_need(modules, absent):
    """In a process of its own: what an import brings with it, at any depth."""
    names = [path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "semg").glob(modules)]
    names = [name.replace("/", ".") for name in names if not name.endswith("__init__")] or ["semg"]
    code = f"import sys, {', '.join(names)}; print(*sorted(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
