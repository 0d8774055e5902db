"""The daemon's status as JSON-compatible values and as short texts."""

import math
import os
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from migrated.core import VERSION
from migrated.core.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationError,
    MigrationNotFoundError,
    RefusedError,
    UnfinishedError,
)
from migrated.core.migration import MigrationDirection, Step
from migrated.daemon.databases import DatabaseState
from migrated.engine.backend import Observer, Progress, StepResult
from migrated.fleet.outcome import Outcome, OutcomeKind

SHOW_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CurrentWork:
    """What a thread is doing with a database, since time `since` of the monotonic clock."""

    database: str
    since: float
    step: Step | None = None
    statement: int | None = None
    statements: int | None = None
    waiting_for: str | None = None

    def __str__(self) -> str:
        if self.waiting_for is not None:
            return f"waiting for the lock of {self.database}, held by {self.waiting_for}"
        if self.step is None:
            return f"working on {self.database}"
        up = self.step.direction is MigrationDirection.UP
        text = f"{'applying' if up else 'rolling back'} {self.step.migration.label} "
        text += f"{'to' if up else 'in'} {self.database}"
        return text if self.statement is None else f"{text}, statement {self.statement} of {self.statements}"


class Activity(Observer):
    """What the worker's threads are doing.

    The working threads write, the main thread reads, without a lock: every value is immutable and replaced whole.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._thread: int | None = None
        self._current: dict[int, CurrentWork] = {}

    @property
    def now(self) -> CurrentWork | None:
        """The work that began first; None while there is none."""
        # Copy the dict atomically: iterating over it fails if another thread adds or removes an entry meanwhile.
        return min([*self._current.copy().values()], key=lambda work: work.since, default=None)

    def begin(self) -> None:
        """Note that a pass begins in the calling thread."""
        self._began, self._thread = time.monotonic(), threading.get_native_id()

    def visit(self, database: str) -> None:
        """Note that the calling thread starts with a database."""
        self._current[threading.get_native_id()] = CurrentWork(database, time.monotonic())

    def leave(self) -> None:
        """Note that the calling thread is done with its database."""
        self._current.pop(threading.get_native_id(), None)

    def end(self) -> None:
        """Note that the pass has ended."""
        self._current.clear()

    def long_running(self, now: float) -> CurrentWork | None:
        """Return the current work if it takes longer than a second; None otherwise.

        For a migration the time counts from the start of the pass, so that many short ones show up too.
        """
        work = self.now
        if work is None:
            return None
        since = work.since if work.step is None else self._began
        return work if now - since >= SHOW_AFTER_SECONDS else None

    def progress_token(self) -> tuple[bytes, ...]:
        """Return the I/O counters of all working threads.

        They also advance within a single long step of SQLite, such as a VACUUM, during which no callback runs.
        """
        return tuple(_io_of(thread) for thread in (self._thread, *self._current.copy()))

    def lock_waiting(self, holder: str) -> None:
        self._change(lambda work: CurrentWork(work.database, time.monotonic(), waiting_for=holder))

    def beginning(self, step: Step, *, late: bool) -> None:
        del late
        self._change(lambda work: CurrentWork(work.database, time.monotonic(), step))

    def progress(self, progress: Progress) -> None:
        self._change(lambda work: replace(work, statement=progress.statement, statements=progress.statements))

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        del done, direction
        self._change(lambda work: CurrentWork(work.database, time.monotonic()))

    def _change(self, change: Callable[[CurrentWork], CurrentWork]) -> None:
        thread = threading.get_native_id()
        if thread in self._current:
            self._current[thread] = change(self._current[thread])


def _io_of(thread: int | None) -> bytes:
    # The thread may have ended meanwhile, and not every kernel has I/O accounting.
    with suppress(OSError):
        return Path(f"/proc/self/task/{thread}/io").read_bytes()
    return b""


def daemon_view(now: float, began: float, work: CurrentWork | None, **more: object) -> dict[str, Any]:
    """Describe the daemon. `began` is its start, by the same monotonic clock as `now`."""
    return {
        "pid": os.getpid(),
        "program_version": VERSION,
        "since": _moment(began, now),
        "uptime": round(now - began, 3),
        "running": None if work is None else _running(work, now),
        **more,
    }


def database_view(state: DatabaseState, now: float, retry_at: float | None) -> dict[str, Any]:
    """Describe one database. `retry_in` is in seconds; None if only an outside change leads to a retry."""
    tried = retry_at is not None and not math.isinf(retry_at)
    return {
        "database": state.database.name,
        "path": state.database.path,
        "state": state.state,
        "since": _moment(state.since, now),
        "pending": state.pending,
        "error": None if state.error is None else _error(state.error),
        "waiting_for": state.unfinished,
        "retry_in": round(max(0.0, retry_at - now), 3) if tried and retry_at is not None else None,
    }


def _running(work: CurrentWork, now: float) -> dict[str, Any]:
    step = work.step
    return {
        "text": str(work),
        "database": work.database,
        "seconds": round(now - work.since, 3),
        "version": step.migration.version if step else None,
        "name": step.migration.name if step else None,
        "direction": step.direction.value if step else None,
        "statement": work.statement,
        "statements": work.statements,
        "holder": work.waiting_for,
    }


def _error(error: MigrationError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "version": error.version,
        "name": error.name,
        "exit_code": error.exit_code,
    }


def _moment(at: float, now: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=now - at)).isoformat(timespec="seconds")


_STATUS_WIDTH = 100
_KINDS = {
    ChecksumMismatchError.code: "checksum mismatch in",
    MigrationNotFoundError.code: "missing file of",
    LateMigrationError.code: "late migration",
    UnfinishedError.code: "stopped:",
}


def is_not_a_database(outcome: Outcome) -> bool:
    """True if a glob pattern matched a file that is no database. That is logged once and never repeated."""
    return outcome.database.matched and outcome.error is not None and outcome.error.code == "SQLITE_NOTADB"


def failure_summary(outcome: Outcome) -> str:
    """Return one short line about a failure, with the most important words first: `systemctl status` cuts it."""
    error = outcome.error
    if error is None:
        return outcome.database.name
    if isinstance(error, RefusedError) and error.code in _KINDS:
        text = f"{_KINDS[error.code]} {_labels(error)} ({outcome.database.name})"
    elif outcome.result is OutcomeKind.FAILED and error.version is not None:
        text = f"{_labels(error)} failed ({outcome.database.name}): {error.message}"
    else:
        text = f"{outcome.database.name}: {error.message}"
    return textwrap.shorten(text, _STATUS_WIDTH, placeholder=" ...")


def _labels(error: MigrationError) -> str:
    offenders = error.offenders if isinstance(error, RefusedError) else ()
    first = f"{error.version}_{error.name}" if error.version is not None else offenders[0].label
    return first if len(offenders) <= 1 else f"{first} and {len(offenders) - 1} more"
