"""What the tests of the downloader share: a small share with real recordings, and ways to run the script."""

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import recordings
from conftest import ROOT
from share_server import ShareServer

from semg.common import cli

NAMES = [recordings.record_name(subject) for subject in (3, 4, 5)]
FORCE = "emg_force-03-repeats_long-2018-05-11-11-05-00-695"
QUICK = ("--retry-wait", "0.01", "--timeout", "5", "--retries", "2")


def path_of(number: int) -> str:
    """The place of a recording under the share and under OUTDIR."""
    return f"Data-HDF5/{NAMES[number]}.hdf5"


PATHS = [path_of(number) for number in range(len(NAMES))]


def stock(share: ShareServer, *, sums: bool = True) -> dict[str, bytes]:
    """Three recordings, the list of records, and with `sums` their MD5SUMS; returns path -> bytes."""
    files = {path_of(i): recordings.recording_bytes(3 + i) for i in range(3)}
    for path, data in files.items():
        share.put(path, data)
    share.put("records.txt", "\r\n".join([*NAMES, FORCE, ""]).encode())
    if sums:
        share.put("Data-HDF5/MD5SUMS", md5sums(files))
    return files


def md5sums(files: dict[str, bytes]) -> bytes:
    lines = [
        f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}  {Path(path).name}\n" for path, data in files.items()
    ]
    return "".join(lines).encode()


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on standard output: what a script reads."""
        return self.out.strip().rpartition("\n")[2]


def download(*arguments: object) -> Done:
    """Run the downloader in this process: quicker than a subprocess, the same from flags to exit code."""
    import download_putemg

    out, err = io.StringIO(), io.StringIO()
    words = ["download_putemg.py", *map(str, arguments)]
    previous = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", words):
            cli.run(download_putemg.main)
    except SystemExit as stop:
        assert "Traceback" not in err.getvalue()
        return Done(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        signal.signal(signal.SIGTERM, previous)
    raise AssertionError("cli.run returned")


def from_mirror(share: ShareServer, folder: Path, *arguments: object) -> Done:
    """Fetch from `share` as a mirror, with short waits."""
    return download(folder, "--base-url", share.mirror, *QUICK, *arguments)


def started(share: ShareServer, folder: Path, *arguments: object) -> subprocess.Popen:
    """The script as a process of its own."""
    command = [sys.executable, ROOT / "download_putemg.py", folder, "--base-url", share.mirror, *QUICK, *arguments]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def tree(folder: Path) -> dict[str, bytes]:
    """All files under `folder`: path -> bytes."""
    actual = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            actual[path.relative_to(folder).as_posix()] = path.read_bytes()
    return actual


def undisturbed(share: ShareServer, *arguments: object) -> dict[str, bytes]:
    """What a run that nothing goes wrong in leaves behind."""
    key = repr((arguments, sorted((path, stored.etag, stored.modified) for path, stored in share.files.items())))
    if key not in _undisturbed:
        with tempfile.TemporaryDirectory() as folder:
            assert from_mirror(share, Path(folder), *arguments).code == 0
            _undisturbed[key] = tree(Path(folder))
    return _undisturbed[key]


_undisturbed: dict[str, dict[str, bytes]] = {}
