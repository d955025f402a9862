"""TensorBoard's event file, without its power over the run that writes it."""

from collections.abc import Callable
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


def open_events(folder: str, warn: Callable[[str], None], purge_step: int) -> SummaryWriter:
    """A SummaryWriter whose file may fail: `warn` is told once, and nothing more is written.

    purge_step: from there on, what an earlier process wrote is void.

    Its events are written by a thread of its own, out of a short queue. An error, such as of a full disk, would end
    that thread, and the run would then wait forever for room in the queue.
    """
    writer = SummaryWriter(folder)  # not with purge_step: its thread would write at once, before errors are caught
    events = writer.file_writer.event_writer._ev_writer
    failed = False

    def spared(change: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*values: Any) -> Any:
            nonlocal failed
            if failed:
                return None
            try:
                return change(*values)
            except OSError as error:
                failed = True
                warn(
                    f"{folder}: TensorBoard's log ends here ({error.strerror or error}); metrics.jsonl has all numbers"
                )
                return None

        return attempt

    for name in ("write_event", "flush", "close"):
        setattr(events, name, spared(getattr(events, name)))
    writer.file_writer.add_event(Event(step=purge_step, file_version="brain.Event:2"))
    writer.file_writer.add_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
    return writer
