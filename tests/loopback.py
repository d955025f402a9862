"""Streams of the Lab Streaming Layer on this machine alone, for tests: found at once, and by no other test."""

import atexit
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import numpy as np
from waiting import wait_for

_SETTINGS = """
[multicast]
ResolveScope = machine
[lab]
KnownPeers = {{127.0.0.1}}
SessionID = {session}
[ports]
PortRange = 128
IPv6 = disable
[log]
level = -3
"""


def on_this_machine_alone() -> None:
    """Set liblsl up, which reads its settings when the first stream is made; scripts that are started inherit them."""
    if "SEMG_TEST_LSL" in os.environ:
        return
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "lsl_api.cfg"
    file.write_text(_SETTINGS.format(session=f"semg-test-{uuid.uuid4()}"))
    os.environ["LSLAPICFG"] = os.environ["SEMG_TEST_LSL"] = str(file)


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


class Device:
    """A device's program: a stream of samples with exact time stamps. numbers: their kind, as LSL names it."""

    def __init__(
        self,
        name: str,
        rate: float,
        labels: list[str],
        unit: str = "microvolts",
        *,
        channels: int = 0,
        kind: str = "EMG",
        numbers: str = "float32",
    ) -> None:
        import pylsl

        self.name, self.rate = name, rate
        self._info = pylsl.StreamInfo(name, kind, channels or len(labels), rate, numbers, f"{name}-source")
        if labels:
            self._info.set_channel_labels(labels)
        if unit:
            self._info.set_channel_units(unit)
        self._clock, self._outlet_of = pylsl.local_clock, pylsl.StreamOutlet
        self.begin: float | None = None  # time stamp of sample 0
        self.on()

    def on(self) -> None:
        self.outlet = self._outlet_of(self._info)

    def off(self) -> None:
        del self.outlet  # nobody else has it: the stream ends now, and with its device

    def send(self, samples: np.ndarray, at: int = 0) -> None:
        """(n, channels) at once, once somebody reads; `at`: number of the first one."""
        wait_for(self.outlet.have_consumers, f"a reader of {self.name}")
        if self.begin is None:  # stamps lie in the past, as a device's do
            self.begin = self._clock() - len(samples) / self.rate
        for start in range(0, len(samples), 100):
            part = samples[start : start + 100]
            self.outlet.push_chunk(part, self.begin + (at + start + len(part) - 1) / self.rate)
