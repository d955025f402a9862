"""What the pages of docs/ say is so: messages quoted are printed, versions are pinned, links and flags are there."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

SOURCES = [*ROOT.glob("*.py"), *(ROOT / "semg").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
ANY = ""  # what an f-string puts in place of a value


def templates() -> Iterator[tuple[str, ...]]:
    """Every text in the sources, as its characters, ANY for a value."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = re.split(r"\{\w*\}", node.value)  # a limit or a setting's name takes the place of braces
                yield sum(((ANY, *text) for text in texts[1:]), tuple(texts[0]))
            if isinstance(node, ast.JoinedStr):
                parts = [tuple(p.value) if isinstance(p, ast.Constant) else (ANY,) for p in node.values]
                yield sum(parts, ())


def said(text: str, template: tuple[str, ...]) -> bool:
    """Whether `text` is a part of what the template can say, most of it in the template's own words."""
    states = dict.fromkeys(range(len(template)), 0)  # place in the template -> its own characters so far
    for letter in text:
        after: dict[int, int] = {}
        for place, own in states.items():
            if place == len(template):
                continue
            if template[place] == letter:
                after[place + 1] = max(own + 1, after.get(place + 1, 0))
            if template[place] == ANY:  # takes this letter, and perhaps the next
                for goes_on in (place, place + 1):
                    after[goes_on] = max(own, after.get(goes_on, 0))
        states = after
    return max(states.values(), default=0) > 0.5 * len(text)


ROWS = [
    line.split(" | ")[0]
    for name in ("troubleshooting.md", "live.md")
    for line in (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()
]
QUOTED = [quote for row in ROWS if row.startswith("| ") for quote in re.findall(r"`([^`]+)`", row)]
MESSAGES = [quote for quote in QUOTED if len(quote.split()) > 3 and not quote.startswith("python ")]
KNOWN = list(templates())


def test_the_check_itself_sees_what_is_not_said():
    template = (*"file: expected ", ANY, *" there, found none; make it")
    assert said("expected a shard there, found none", template)
    assert not said("expected a shard here, found none", template)
    assert not said("a shard of another device, which nobody wrote", (ANY, *" x ", ANY))
    assert len(MESSAGES) >= 17


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_quoted_are_messages_printed(message):
    message = re.sub(r"^--[a-z-]+( \S+)?: ", "", message)  # the flag, and what was typed there
    for clause in re.split(r"; |\.\.\.|(?:: )?expected |, found ", message):
        if len(words := clause.strip(" :;,.")) > 7:
            assert any(said(words, template) for template in KNOWN), f"no program says {words!r}"


def pinned_requirements() -> list[Requirement]:
    """Those of the pipeline and of its development."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")]
    return [Requirement(line) for text in texts for line in text.splitlines() if "==" in line]


def test_dependencies_are_those_that_are_installed_and_asked_for():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    required = pinned_requirements()
    pinned = {one.name: str(one.specifier).removeprefix("==") for one in required}
    output: dict[str, str] = {}
    for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE):
        if not row[1][0].isdigit():  # the header
            continue
        names, versions = (cell.split(", ") for cell in row)
        output |= dict(zip(names, versions, strict=True))
    assert output == pinned
    for one in required:
        if one.marker is None or one.marker.evaluate():
            assert metadata.version(one.name).split("+")[0] == pinned[one.name], one.name


def test_the_lock_file_pins_with_checksums_what_the_requirements_pin():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, re.MULTILINE))
    for one in pinned_requirements():
        assert f"=={locked[one.name.lower()]}" == str(one.specifier), one.name
    blocks = re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)[1:]
    assert [block.split("==")[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "https://" not in lock


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_are_there(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|md))`", text):
        actual = [ROOT / name, ROOT / "semg" / name, page.parent / name]
        assert name.startswith("results/") or any(path.exists() for path in actual), name


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may end with, as GitHub makes it from the heading's words."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_linked_to_are_there(page: Path):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        assert heading in anchors(page.parent / target if target else page), f"{target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_named_are_flags(page: Path):
    """Flags in prose: some script, or a tool that is named beside them, knows each."""
    known = {"--help", "--nproc-per-node", "--logdir", "--test-subjects", "--val-subjects", "--train-subjects"}
    for path in [*SOURCES, *(ROOT / "benchmarks").glob("*.py")]:
        known |= set(re.findall(r"\"(--[a-z][a-z0-9-]*)\"", path.read_text(encoding="utf-8")))
    known |= {"--job-name", "--array", "--cpus-per-task", "--mem", "--time"}  # SLURM's
    known |= {"--require-hashes", "--generate-hashes", "--universal", "--python-version", "--no-header"}  # pip's, uv's
    known |= {"--index-url", "--rm", "--build-arg"}  # pip's, Docker's
    wrong = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text(encoding="utf-8"))) - known
    assert not wrong


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and words of every command in the pages that begins with `python`."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("python "):
                    yield page.name, shlex.split(line, comments=True)[1:]


def test_commands_have_flags_that_their_scripts_take(capsys):
    seen = 0
    for page, (script, *words) in commands():
        if "/" in script or "..." in words or any("$" in word for word in words):  # test_scale.py runs those
            continue
        module = importlib.import_module(script.removesuffix(".py"))
        own, after = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
        try:
            module.arguments().parse_args(own)
            importlib.import_module("train").arguments().parse_args(after)
        except SystemExit:
            pytest.fail(f"{page}: python {script} {' '.join(words)}\n{capsys.readouterr().err}")
        seen += 1
    assert seen > 30
