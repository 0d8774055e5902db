"""What the worker is at, for whoever wants to see it while it lasts."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from migrated.backend import Done, Observer, Progress
from migrated.model import MigrationDirection, Step

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
    """Written by the worker's thread, read by the loop's: each value is replaced whole."""

    def __init__(self) -> None:
        self.now: Doing | None = None
        self._began = 0.0
        self._thread: int | None = None

    def begin(self) -> None:
        """A pass begins, in the calling thread."""
        self._began, self._thread = time.monotonic(), threading.get_native_id()

    def visit(self, database: str) -> None:
        """A database's turn has come."""
        self.now = Doing(database, time.monotonic())

    def end(self) -> None:
        """Nothing is done any more."""
        self.now = None

    def worth_telling(self, now: float) -> Doing | None:
        """What is being done, where the pass has been changing something, or waiting, for more than a second."""
        doing = self.now
        if doing is None:
            return None
        since = doing.since if doing.step is None else self._began
        return doing if now - since >= WORTH_TELLING_SECONDS else None

    def signs(self) -> bytes:
        """What the worker's thread has read and written, which goes on within a single long step of SQLite's."""
        with suppress(OSError):
            return Path(f"/proc/self/task/{self._thread}/io").read_bytes()
        return b""

    def lock_waiting(self, holder: str) -> None:
        if self.now is not None:
            self.now = Doing(self.now.database, time.monotonic(), waiting_for=holder)

    def beginning(self, step: Step, *, late: bool) -> None:
        del late
        if self.now is not None:
            self.now = Doing(self.now.database, time.monotonic(), step)

    def progress(self, progress: Progress) -> None:
        if self.now is not None:
            self.now = replace(self.now, statement=progress.statement, statements=progress.statements)

    def done(self, done: Done, direction: MigrationDirection) -> None:
        del done, direction
        if self.now is not None:
            self.visit(self.now.database)
