"""semg/common/provenance.py: the commit that an output names is that of this code."""

import subprocess

import pytest

from semg.common import provenance


@pytest.fixture
def git(tmp_path):
    """Runs git in a repository of its own."""

    def run(*words: str) -> str:
        identity = ("-c", "user.name=N", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    run("init", "-q")
    return run


def test_an_installed_package_does_not_name_the_commit_of_the_repository_around_it(git, tmp_path, monkeypatch):
    package = tmp_path / ".venv" / "semg"
    (package / "common").mkdir(parents=True)
    (package / "common" / "provenance.py").write_text("")
    (tmp_path / "thesis.tex").write_text("")
    git("add", "thesis.tex")
    git("commit", "-q", "-m", "another project")
    monkeypatch.setattr(provenance, "_ROOT", package)
    assert provenance.commit() == "unknown"

    git("add", ".")
    git("commit", "-q", "-m", "with a copy of the code")
    assert provenance.commit() == git("rev-parse", "HEAD")
    (tmp_path / "thesis.tex").write_text("changed")
    assert provenance.commit() == git("rev-parse", "HEAD") + "+changes"
