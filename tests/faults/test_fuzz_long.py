"""`make fuzz` finds what it is for: errors that nobody expects, crashes, hangs, and memory."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from math import inf
from pathlib import Path

import fuzz_long
import pytest
from fuzz_long import fuzz

WRONG = 2  # the input that something is wrong with


class Target:
    """Accepts input after input, and refuses every second one, but for one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, seed: int) -> bool:
        assert self.folder.is_dir()
        if seed == WRONG:
            self.fail()
        if seed % 2:
            raise ValueError("refused")
        return True

    def fail(self) -> None: ...


class Raises(Target):
    def fail(self) -> None:
        raise KeyError("width")


class Crashes(Target):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Target):
    def fail(self) -> None:
        threading.Event().wait()


class Starves(Target):
    """Others keep it from computing for as long as an input may take."""

    def fail(self) -> None:
        subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)


class Swells(Target):
    def fail(self) -> None:
        bytearray(fuzz_long.MOST_MEMORY + (1 << 27))[::4096] = bytes((fuzz_long.MOST_MEMORY + (1 << 27)) >> 12)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (Raises, "KeyError: 'width' at test_fuzz_long.py:"),
        (Crashes, f"the process ended with -{int(signal.SIGSEGV)}"),
        (Hangs, "no answer for 3 s"),
        (Swells, "memory grew by 1"),
    ],
)
def test_a_finding_names_its_input_and_the_others_go_on(target, told, capsys) -> None:
    actual = fuzz("x", target, (ValueError,), seconds=inf, longest=3 if target is Hangs else inf)
    (counts,) = itertools.islice((one for one in actual if one.accepted > 3), 1)
    actual.close()
    findings = dict(counts.findings)
    assert told in findings[WRONG]
    assert len(findings) == 1 or target is Hangs  # on a busy machine others may take 3 s too
    assert counts.refused >= 2
    assert f"finding: x {WRONG}: {told}" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how long a process has computed")
def test_an_input_that_others_keep_from_being_read_is_none() -> None:
    actual = fuzz("x", Starves, (ValueError,), seconds=inf, longest=3)
    (counts,) = itertools.islice((one for one in actual if one.accepted > 3), 1)
    actual.close()
    assert counts.findings == []


def test_the_targets_accept_and_refuse(tmp_path) -> None:
    """A target that refused all, or accepted all, would find nothing."""
    from fuzz_targets import EXPECTED, TARGETS

    for name, target in TARGETS.items():
        (tmp_path / name).mkdir()
        read = target(tmp_path / name)
        kinds: set[str] = set()
        for seed in range(200):
            if len(kinds) < 2:
                kinds.add(fuzz_long.attempt(read, seed, EXPECTED)[0])
        assert kinds == {"accepted", "refused"}, name
