"""Outputs of live decisions: a CSV, an LSL stream, datagrams; and a recording of the incoming samples.

Tables are written under their final names and grow line by line: if the program is killed, at most the last second is
lost.
"""

import csv
import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from semg.common.errors import DataError
from semg.data.tables import LABELS
from semg.inference import lsl
from semg.inference.live_decoder import Chunk, LiveDecision

_FLUSH = 0.5  # seconds of a recording that are lost if the program is killed


class _Rows:
    """A file of complete rows: even on a full disk it ends with a complete row, and the error names the file."""

    def __init__(self, path: Path, mode: str) -> None:
        """mode: x, or w to replace a file. FileExistsError as from Path.open."""
        self._path, self._file = path, FileIO(path, mode)

    def write(self, rows: str) -> None:
        """Write rows immediately. OSError, naming the file, if the disk is full; the file then holds the rows that
        fit."""
        begin, data, written = self._file.tell(), rows.encode(), 0
        try:
            while written < len(data):
                written += self._file.write(data[written:]) or 0
        except OSError as error:
            error.filename = str(self._path)
            with suppress(OSError):
                self._file.truncate(begin + data.rfind(b"\n", 0, written) + 1)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DecisionTable:
    """A CSV with one row per decision, complete at every moment. `path`: its actual name."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        """path: the desired name; if another program uses it, a number is added."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._classes = classes
        self.path, self._file = _new_file(path)
        self._table = csv.writer(self._file, lineterminator="\n")
        names = [f"p_{name}" for name in classes]
        self._table.writerow(["time_s", "lsl_time", "gesture", *names, "delay_ms", "computing_ms", "lost"])

    def write(self, decision: LiveDecision, delay: float) -> None:
        """Write one decision. delay: seconds from the window's last sample to the decision."""
        gesture = self._classes[int(decision.probabilities.argmax())]
        shares = [f"{p:.6f}" for p in decision.probabilities]
        times = [f"{1000 * delay:.2f}", f"{1000 * decision.computing:.2f}"]
        self._table.writerow([f"{decision.time:.6f}", f"{decision.stamp:.6f}", gesture, *shares, *times, decision.lost])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _new_file(path: Path) -> tuple[Path, _Rows]:
    """A new file that no other program uses: two programs may start in the same second."""
    place, number = path, 1
    while True:
        try:
            return place, _Rows(place, "x")
        except FileExistsError:
            number += 1
            place = path.with_name(f"{path.stem}-{number}{path.suffix}")


class Recorder:
    """A CSV of the incoming samples: seconds since the first one, one column per channel, and an empty label.

    predict.py reads it as it is, import_csv.py once the labels are filled in.
    """

    def __init__(self, path: Path, channels: Sequence[str], *, overwrite: bool = False) -> None:
        """DataError if the file exists, unless it may be overwritten."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = _Rows(path, "w" if overwrite else "x")
        except FileExistsError:
            raise DataError(f"{path}: expected no recording there, found one", "{overwrite} replaces it") from None
        self.path, self.samples = path, 0
        csv.writer(self._file, lineterminator="\n").writerow(["time", *channels, LABELS])
        self._waiting: list[str] = []  # rows that wait for the next flush
        self._first: float | None = None
        self._flushed = time.monotonic()

    def write(self, chunk: Chunk) -> None:
        """Append the incoming samples with all digits of their type, except samples in which a channel is not finite.

        OSError, naming the file, if it cannot be written.
        """
        good = np.isfinite(chunk.samples).all(1)
        if not good.all():
            chunk = replace(chunk, samples=chunk.samples[good], stamps=chunk.stamps[good])
        if not len(chunk.samples):
            return
        if self._first is None:
            self._first = float(chunk.stamps[0])
        rows = np.column_stack([chunk.stamps - self._first, chunk.samples.astype(np.float64)])
        number = {"i": "%d", "u": "%d"}.get(
            chunk.samples.dtype.kind, "%.9g" if chunk.samples.itemsize <= 4 else "%.17g"
        )
        line = ",".join(["%.6f", *[number] * chunk.samples.shape[1]]) + ",\n"
        self._waiting.append(line * len(rows) % tuple(rows.ravel().tolist()))
        self.samples += len(rows)
        if time.monotonic() - self._flushed > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write waiting rows to the file; call it while nothing comes in."""
        self._flushed = time.monotonic()
        rows, self._waiting = "".join(self._waiting), []
        self._file.write(rows)

    def close(self) -> None:
        """Close the file."""
        try:
            self.flush()
        finally:
            self._file.close()


class Datagrams:
    """Decisions as JSON, one line per datagram (UDP). Nobody has to listen; datagrams that cannot be sent are
    counted."""

    def __init__(self, address: tuple[str, int], classes: Sequence[str]) -> None:
        """address: host and port. DataError for an unknown host."""
        self._classes, self.failed = classes, 0
        host, port = address
        try:
            family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise DataError(f"{host}: expected a host to send to, found: {error.strerror or error}") from None
        except UnicodeError:
            raise DataError(f"{host}: expected a host to send to, found: not the name of a host") from None
        self._address: Any = where
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)

    def send(self, decision: LiveDecision, delay: float) -> None:
        """Send one decision. delay: seconds from the window's last sample to the decision."""
        line = json.dumps(as_json(decision, self._classes, delay)) + "\n"
        try:
            self._socket.sendto(line.encode(), self._address)
        except OSError:
            self.failed += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def as_json(decision: LiveDecision, classes: Sequence[str], delay: float) -> dict[str, Any]:
    """A decision as plain types."""
    best = int(decision.probabilities.argmax())
    return {
        "time_s": round(decision.time, 6),
        "lsl_time": round(decision.stamp, 6),
        "gesture": classes[best],
        "probability": round(float(decision.probabilities[best]), 6),
        "probabilities": {name: round(float(p), 6) for name, p in zip(classes, decision.probabilities, strict=True)},
        "delay_ms": round(1000 * delay, 2),
        "lost": decision.lost,
    }


class Outputs:
    """All outputs of the decisions. Use it in a `with` block.

    path: of the table; delays, computing: seconds for each decision so far; latest: the last decision.
    """

    def __init__(
        self, table: DecisionTable, classes: Sequence[str], stream: lsl.StreamFacts, datagrams: Datagrams | None
    ) -> None:
        self._table, self.path = table, table.path
        name = f"{stream.name}-gestures"
        source = f"{name} {stream.source_id or stream.uid}"
        labels = ["gesture", *[f"p_{name}" for name in classes]]
        self._outlet = lsl.outlet(name, "Gestures", labels, 0.0, source_id=source, facts={"classes": classes})
        self._datagrams = datagrams
        self.delays: list[float] = []
        self.computing: list[float] = []
        self.latest: LiveDecision | None = None

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk has already been reported
            self._table.close()
        if self._datagrams:
            self._datagrams.close()
        self._outlet = None

    @property
    def failed(self) -> int:
        """Number of datagrams that could not be sent."""
        return self._datagrams.failed if self._datagrams else 0

    def send(self, decision: LiveDecision) -> None:
        """Send one decision to all outputs, the fastest first."""
        delay = lsl.clock() - decision.stamp
        values = [float(decision.probabilities.argmax()), *decision.probabilities.tolist()]
        self._outlet.push_sample(values, decision.stamp)
        if self._datagrams:
            self._datagrams.send(decision, delay)
        self._table.write(decision, delay)
        self.delays.append(delay)
        self.computing.append(decision.computing)
        self.latest = decision
