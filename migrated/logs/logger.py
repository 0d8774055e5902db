"""Structured logs: lines of JSON for programs, short ones for a person at a terminal.

A log call never raises. Every value is made plain before it is encoded; a line that cannot be written is
counted, and the next one that can be says how many were lost.
"""

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from migrated.core.errors import MigrationError
from migrated.logs.events import Event
from migrated.logs.sink import LONGEST_LINE, Sink

__all__ = ["LONGEST_LINE", "Log", "configure", "failure_keys", "new_run_id"]


class _Output(NamedTuple):
    """Structlog's logger, and where it writes to."""

    logger: Any
    sink: Sink


class Log:
    """Where events go. `bind` gives one that adds its keys to every line.

    `output` is asked for whenever something is to be written, and makes what it gives when it is first asked.
    """

    def __init__(self, output: Callable[[], _Output], keys: Mapping[str, object]) -> None:
        self._output = output
        self._keys = keys

    def bind(self, **keys: object) -> "Log":
        """Return a log whose every line carries `keys`."""
        return Log(self._output, {**self._keys, **keys})

    def write_through(self, write: Callable[[str], object] | None) -> None:
        """Hand every line to `write` from now on: who draws on the terminal must put it above the drawing.

        None ends that.
        """
        self._output().sink.through = write

    def close(self) -> None:
        """Write what is still queued, waiting no more than a second or two for a reader that is stuck."""
        self._output().sink.close()

    def __call__(self, event: Event, **keys: object) -> None:
        """Write one line. Keys that are None are left out."""
        write = getattr(self._output().logger, event.level)
        write(event.name, **{"sentence": event.sentence, **self._keys, **keys})

    def failure(self, event: Event, error: MigrationError, **keys: object) -> None:
        """Write one line about an error, with its place, hint and `error` object."""
        self(event, **failure_keys(error), **keys)


def new_run_id() -> str:
    """What the lines of one run have in common."""
    return os.urandom(8).hex()


def failure_keys(error: MigrationError) -> dict[str, object]:
    """The keys that tell of an error."""
    return {
        "version": error.version,
        "name": error.name,
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "statement": error.statement,
        "reason": error.message,
        "hint": error.hint,
        "holder": getattr(error, "holder", None),
        "expected": getattr(error, "expected", None),
        "found": getattr(error, "found", None),
        "excerpt": error.excerpt,
        "error": {"type": type(error).__name__, "message": error.message, "code": error.code},
    }


def configure(log_format: str, level: str, descriptor: int = 2, *, queued: bool = False) -> Log:
    """Set the log up for this process. `auto` is console on a terminal, JSON otherwise.

    `json`, `ecs` and `otel` are JSON with the keys that `formats` gives them.
    The console leaves out what is only for programs, unless the level is debug.
    `queued` is for a process that must not wait for whoever reads its log: a thread of its own writes, and
    `Log.close` ends it.
    """

    @cache
    def output() -> _Output:
        from migrated.logs import rendering

        sink = Sink(rendering.renderer(log_format, descriptor), descriptor)
        if queued:
            sink.start_thread()
        for_people = rendering.is_console(log_format, descriptor)
        return _Output(rendering.logger(sink, level, for_people=for_people), sink)

    if queued:
        # Its threads may all begin to log at once.
        output()
    return Log(output, {})
