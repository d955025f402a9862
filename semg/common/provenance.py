"""How an output was made: arguments, versions, commit. No time stamps: the same inputs give the same bytes."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
# Flags that do not affect the output: those for messages, and those for where and how many jobs run.
_OF_NO_MATTER = (
    "quiet",
    "json",
    "debug",
    "launch",
    "parallel",
    "partition",
    "cores",
    "gpus",
    "hours",
    "memory",
    "only_folds",
)
_PACKAGES = ("numpy", "scipy", "pandas", "scikit-learn", "h5py", "torch", "transformers", "peft")


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python and of `packages` (default: all that a result can depend on)."""
    installed = {"python": platform.python_version()}
    for name in packages or _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def commit() -> str:
    """The checkout's git commit, followed by `+changes` if tracked files differ from it; `unknown` if this package is
    in no repository, or is an untracked copy inside another one, such as an installed package."""
    try:
        if not _git("ls-files", "common/provenance.py"):
            return "unknown"
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "-s", "-uno")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def plain(value: Any) -> Any:
    """`value` as JSON types: paths and lengths become text, tuples become lists."""
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def how_made(script: str, arguments: object) -> dict[str, Any]:
    """What every output records about its making: script, arguments, versions, commit."""
    values = arguments if isinstance(arguments, dict) else vars(arguments)
    recorded = {key: plain(value) for key, value in values.items() if key not in _OF_NO_MATTER}
    return {"script": script, "arguments": recorded, "versions": versions(), "commit": commit()}
