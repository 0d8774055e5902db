"""What the worker is at, for whoever wants to see it while it lasts."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from migrated.core.migration import MigrationDirection, Step
from migrated.engine.backend import Done, Observer, Progress

WORTH_TELLING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Doing:
    """One piece of work on a database, begun at `since` of the monotonic clock."""

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
    """Written by the threads that work, read by the loop's: each value is replaced whole."""

    def __init__(self) -> None:
        self._began = 0.0
        self._thread: int | None = None
        self._doing: dict[int, Doing] = {}

    @property
    def now(self) -> Doing | None:
        """What has been going on for longest; None where nothing is done."""
        # A copy, made at one stroke: others put in and take out meanwhile.
        return min([*self._doing.copy().values()], key=lambda doing: doing.since, default=None)

    def begin(self) -> None:
        """A pass begins, in the calling thread."""
        self._began, self._thread = time.monotonic(), threading.get_native_id()

    def visit(self, database: str) -> None:
        """A database's turn has come, in the calling thread."""
        self._doing[threading.get_native_id()] = Doing(database, time.monotonic())

    def leave(self) -> None:
        """It is over."""
        self._doing.pop(threading.get_native_id(), None)

    def end(self) -> None:
        """Nothing is done any more."""
        self._doing.clear()

    def worth_telling(self, now: float) -> Doing | None:
        """What is being done, where the pass has been changing something, or waiting, for more than a second."""
        doing = self.now
        if doing is None:
            return None
        since = doing.since if doing.step is None else self._began
        return doing if now - since >= WORTH_TELLING_SECONDS else None

    def signs(self) -> tuple[bytes, ...]:
        """What the threads have read and written, which goes on within a single long step of SQLite's."""
        return tuple(_io_of(thread) for thread in (self._thread, *self._doing.copy()))

    def lock_waiting(self, holder: str) -> None:
        self._change(lambda doing: Doing(doing.database, time.monotonic(), waiting_for=holder))

    def beginning(self, step: Step, *, late: bool) -> None:
        del late
        self._change(lambda doing: Doing(doing.database, time.monotonic(), step))

    def progress(self, progress: Progress) -> None:
        self._change(lambda doing: replace(doing, statement=progress.statement, statements=progress.statements))

    def done(self, done: Done, direction: MigrationDirection) -> None:
        del done, direction
        self._change(lambda doing: Doing(doing.database, time.monotonic()))

    def _change(self, change: Callable[[Doing], Doing]) -> None:
        thread = threading.get_native_id()
        if thread in self._doing:
            self._doing[thread] = change(self._doing[thread])


def _io_of(thread: int | None) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/self/task/{thread}/io").read_bytes()
    return b""
