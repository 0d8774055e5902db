"""Where the lines of the log go: a descriptor, or a queue before it that keeps a stuck reader from stopping us."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

LONGEST_LINE = 4096
"""In bytes. A pipe takes so much at one stroke, whoever else writes to it."""
QUEUED_LINES = 2000
_PATIENCE_SECONDS = 1.0
Line = MutableMapping[str, Any]


class Sink:
    """structlog's logger: writes lines to a descriptor. Its failures end here; what is lost is counted.

    With a thread, a line waits in a queue for it. A reader that is stuck fills the queue; the one line that
    finds it full waits a second, those after it are dropped until a line gets through.
    """

    def __init__(self, render: Callable[[Line], bytes], descriptor: int) -> None:
        self._render = render
        self._descriptor = descriptor
        self.through: Callable[[str], object] | None = None
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._lost = 0
        self._torn = False
        self._stuck = False
        self._queue: queue.Queue[Line | None] | None = None
        self._thread: threading.Thread | None = None

    def start_thread(self) -> None:
        """From now on, lines go through the queue."""
        self._queue = queue.Queue(QUEUED_LINES)
        self._thread = threading.Thread(target=self._drain, args=(self._queue,), name="migrated-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is queued, as far as that goes within a second."""
        if self._queue is not None and self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_PATIENCE_SECONDS)
            self._thread.join(_PATIENCE_SECONDS)

    def emit(self, line: Line) -> None:
        """Write a line, or queue it."""
        if self._queue is None:
            self._write(line)
            return
        try:
            self._queue.put(line, timeout=0 if self._stuck else _PATIENCE_SECONDS)
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
            # What follows half a line begins on a line of its own.
            left = b"\n" + data if self._torn else data
            try:
                if self.through is not None:
                    self.through(left.decode(errors="backslashreplace"))
                    left = b""
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                # A full disk or a closed pipe: the daemon's work is worth more than its log.
                self._torn = self._torn or len(left) < len(data)
                self._count(1)
            else:
                self._torn = False
                self._count(-lost)

    def _count(self, more: int) -> None:
        with self._counting:
            self._lost += more
