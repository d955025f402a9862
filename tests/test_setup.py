"""The Dockerfile and docs/setup.md name files, users, versions and flags that there are."""

import importlib
import re
import shlex
from fnmatch import fnmatch
from itertools import pairwise

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "setup.md").read_text(encoding="utf-8")


def instructions(name, text=None):
    """The words behind each instruction `name` of the Dockerfile, one list for each."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8") if text is None else text
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.split(" ")[0] == name]


def copied():
    """What the Dockerfile copies, without its flags and its last word, the target."""
    return [path for words in instructions("COPY") for path in words[:-1] if not path.startswith("--")]


def sent(path):
    """Whether .dockerignore lets `path` through: the last line that matches it, or a folder above it, decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        pattern = line.lstrip("!")
        above = [path, *path.parents][:-1]  # without the root itself
        if any(fnmatch(one.as_posix(), pattern) and one.as_posix().count("/") == pattern.count("/") for one in above):
            verdict = line.startswith("!")
    return verdict


def test_instructions_are_read_as_docker_reads_them():
    text = "# COPY none /\nFROM a\nRUN b \\\n  && c\nCOPY --chown=d e/ f g/\n"
    assert instructions("COPY", text) == [["--chown=d", "e/", "f", "g/"]]
    assert instructions("RUN", text) == [["b", "&&", "c"]]


def test_what_the_image_copies_is_there_and_sent():
    assert {"requirements.txt", "*.py", "semg/"} <= set(copied())
    for pattern in copied():
        actual = [path.relative_to(ROOT) for path in ROOT.glob(pattern.rstrip("/"))]
        assert actual, pattern
        assert all(map(sent, actual)), pattern
    for name in ("README.md", "data/raw", ".git", "checkpoints/mine/last.ckpt", ".venv"):
        assert not sent((ROOT / name).relative_to(ROOT)), name


def test_requirements_are_copied_before_they_are_installed():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (named,) = {word for line in lines for word in re.findall(r"requirements[\w-]*\.txt", line)}
    assert (ROOT / named).is_file()
    copy = next(n for n, line in enumerate(lines) if line.startswith("COPY") and named in line)
    install = next(n for n, line in enumerate(lines) if line.startswith("RUN pip install"))
    assert copy < install
    assert re.search(r"^torch==\S+$", (ROOT / named).read_text(encoding="utf-8"), re.MULTILINE)  # what grep finds


def test_the_image_runs_a_script_that_it_has_as_a_user_that_it_makes():
    assert instructions("USER")[-1] == ["$USER_ID"]  # by number: a cluster's check for root can't look names up
    uid = re.search(r"^ARG USER_ID=(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    assert int(uid) > 0
    assert any("useradd" in words and "$USER_ID" in words for words in instructions("RUN"))
    python, script, flag = [word.strip("[],") for word in instructions("CMD")[-1]]
    assert (python, flag) == ("python", "--help")
    assert (ROOT / script).is_file()


def test_the_image_has_a_python_that_the_project_takes():
    ((base,),) = instructions("FROM")
    tag = re.fullmatch(r"python:(3\.\d+)-slim", base)
    wanted = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert int(wanted[1]) <= int(tag[1].split(".")[1]) < int(wanted[2])


def test_the_page_installs_the_torch_that_is_required():
    (pinned,) = re.findall(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert re.findall(r"torch==\S+", PAGE) == [pinned]
    index = re.search(r"--index-url (\S+)", PAGE)[1]
    assert index in (ROOT / "Dockerfile").read_text()


def test_commands_run_in_docker_are_commands_of_the_scripts(capsys):
    (folder,) = instructions("WORKDIR")[-1]
    (tag,) = re.findall(r"docker build .*-t (\S+) \.", PAGE)
    seen = 0
    for line in re.findall(r"^docker run .*", PAGE, re.MULTILINE):
        words = shlex.split(line)
        at = words.index(tag)
        mounts = [after for word, after in pairwise(words[:at]) if word == "-v"]
        assert all(mount.split(":")[1].startswith(f"{folder}/") for mount in mounts)
        if at + 1 == len(words):  # the default command
            continue
        assert words[at + 1] == "python"
        script, *flags = words[at + 2 :]
        try:
            importlib.import_module(script.removesuffix(".py")).arguments().parse_args(flags)
        except SystemExit:
            pytest.fail(f"{line}\n{capsys.readouterr().err}")
        seen += 1
    assert seen
