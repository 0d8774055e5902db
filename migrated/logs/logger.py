"""Structured logs: JSON lines for programs, short lines for a person at a terminal.

A log call never raises. Every value is converted to a simple type before it is encoded. A line that cannot be
written is counted, and the next line has the count as `lost_lines`.
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
    """Structlog's logger and its sink."""

    logger: Any
    sink: Sink


class Log:
    """Writes events. `bind` returns a log that adds keys to every line.

    `output` is called for every line and creates the output at the first call: commands that log nothing do not
    load structlog.
    """

    def __init__(self, output: Callable[[], _Output], keys: Mapping[str, object]) -> None:
        self._output = output
        self._keys = keys

    def bind(self, **keys: object) -> "Log":
        """Return a log that adds `keys` to every line."""
        return Log(self._output, {**self._keys, **keys})

    def write_through(self, write: Callable[[str], object] | None) -> None:
        """Pass every line to `write` instead of the descriptor; None restores the descriptor.

        A progress bar uses this to print lines above itself.
        """
        self._output().sink.through = write

    def close(self) -> None:
        """Write the queued lines, waiting at most two seconds for a stuck reader."""
        self._output().sink.close()

    def __call__(self, event: Event, **keys: object) -> None:
        """Write one line. Keys with the value None are omitted."""
        write = getattr(self._output().logger, event.level)
        write(event.name, **{"sentence": event.sentence, **self._keys, **keys})

    def failure(self, event: Event, error: MigrationError, **keys: object) -> None:
        """Write one line about an error, with its place, hint and `error` object."""
        self(event, **failure_keys(error), **keys)


def new_run_id() -> str:
    """Return a random id that all lines of one run share."""
    return os.urandom(8).hex()


def failure_keys(error: MigrationError) -> dict[str, object]:
    """Return the log keys that describe an error."""
    return {
        "version": error.version,
        "name": error.name,
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "statement": error.statement,
        "traceback": error.traceback,
        "reason": error.message,
        "hint": error.hint,
        "holder": getattr(error, "holder", None),
        "expected": getattr(error, "expected", None),
        "found": getattr(error, "found", None),
        "excerpt": error.excerpt,
        "error": {"type": type(error).__name__, "message": error.message, "code": error.code},
    }


def configure(log_format: str, level: str, descriptor: int = 2, *, queued: bool = False) -> Log:
    """Create the log of this process. `auto` means console on a terminal, JSON otherwise.

    `json`, `ecs` and `otel` are JSON with the keys defined in `formats`. The console omits lines that are only for
    programs, unless the level is debug. With `queued`, a separate thread writes the lines, so that a stuck reader
    does not stop the process; `Log.close` ends the thread.
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
        # Create the output now: `cache` does not lock, and several threads may log at once for the first time.
        output()
    return Log(output, {})
