"""Write log lines to a descriptor, optionally through a queue that survives a stuck reader."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

LONGEST_LINE = 4096
"""In bytes. Writes of up to this size (PIPE_BUF) to a pipe are atomic."""
QUEUED_LINES = 2000
_TIMEOUT_SECONDS = 1.0
Line = MutableMapping[str, Any]


class Sink:
    """structlog's logger: writes lines to a descriptor. Write errors are not raised; lost lines are counted.

    With a thread, lines wait in a queue. A stuck reader fills the queue: the first line that finds it full waits a
    second, later lines are dropped until a line has been written.
    """

    def __init__(self, render: Callable[[Line], bytes], descriptor: int) -> None:
        self._render = render
        self._descriptor = descriptor
        self.through: Callable[[str], object] | None = None
        # Two locks: counting a dropped line must not wait for a write that blocks on a stuck reader.
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._lost = 0
        self._torn = False
        self._stuck = False
        self._queue: queue.Queue[Line | None] | None = None
        self._thread: threading.Thread | None = None

    def start_thread(self) -> None:
        """Start the thread; from now on lines go through the queue."""
        self._queue = queue.Queue(QUEUED_LINES)
        # A daemon thread: a stuck reader must not keep the process from exiting.
        self._thread = threading.Thread(target=self._drain, args=(self._queue,), name="migrated-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the queued lines, as far as possible within two seconds, and end the thread."""
        if self._queue is not None and self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_TIMEOUT_SECONDS)
            self._thread.join(_TIMEOUT_SECONDS)

    def emit(self, line: Line) -> None:
        """Write or queue a line."""
        if self._queue is None:
            self._write(line)
            return
        # Only the first line waits for a stuck reader; otherwise each log call would stop the daemon for a second.
        try:
            self._queue.put(line, timeout=0 if self._stuck else _TIMEOUT_SECONDS)
        except queue.Full:
            self._stuck = True
            self._count(1)

    debug = info = warning = error = critical = emit

    def _drain(self, lines: "queue.Queue[Line | None]") -> None:
        while (line := lines.get()) is not None:
            self._write(line)
            self._stuck = False

    def _write(self, line: Line) -> None:
        with self._writing:
            lost = self._lost
            if lost:
                line["lost_lines"] = lost
            data = self._render(line) + b"\n"
            # After a partly written line, start on a new line, so that this one stays parseable.
            left = b"\n" + data if self._torn else data
            try:
                if self.through is not None:
                    self.through(left.decode(errors="backslashreplace"))
                    left = b""
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                # A full disk or a closed pipe must not stop the daemon.
                self._torn = self._torn or len(left) < len(data)
                self._count(1)
            else:
                self._torn = False
                self._count(-lost)

    def _count(self, more: int) -> None:
        with self._counting:
            self._lost += more
