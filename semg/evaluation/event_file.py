"""TensorBoard's event file, written at once by whoever has something to show, and allowed to fail."""

import time
from collections.abc import Callable
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """A new event file in a folder. `warn` is told once if it can't be written any more, and the run goes on.

    tensorboardX's SummaryWriter writes in a thread of its own, which an error such as of a full disk ends; the run
    would then wait forever for room in its queue.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], purge_step: int) -> None:
        """purge_step: from there on, what an earlier process wrote is void."""
        self._folder, self._warn = folder, warn
        self._writer: EventsWriter | None = None
        self._attempt(lambda: self._open(purge_step))

    def _open(self, purge_step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"))
        self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, summary: Summary, step: int = 0) -> None:
        """Write what is to be shown at a step."""
        self._attempt(lambda: self._write(Event(step=step, summary=summary)))

    def _write(self, event: Event) -> None:
        if self._writer is not None:
            event.wall_time = time.time()
            self._writer.write_event(event)

    def flush(self) -> None:
        """Let a reader see what was written."""
        self._attempt(lambda: self._writer and self._writer.flush())

    def close(self) -> None:
        """Nothing more is written."""
        self._attempt(lambda: self._writer and self._writer.close())
        self._writer = None

    def _attempt(self, change: Callable[[], object]) -> None:
        try:
            change()
        except OSError as error:
            self._writer = None
            reason = error.strerror or error
            self._warn(f"{self._folder}: TensorBoard's log ends here ({reason}); metrics.jsonl has all numbers")
