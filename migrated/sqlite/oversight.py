"""Watching a step while its statements run: how far it is, and whether it has to end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

from migrated.backend import Progress
from migrated.model import Step
from migrated.sqltext import first_token, statements
from migrated.supervision import Supervision

PROGRESS_SECONDS = 3.0
"""How often long work is told of."""

_OPCODES = 10_000
"""Of SQLite's virtual machine, between two looks at the clock: some tenths of a millisecond."""


class Oversight:
    """SQLite's progress handler for one step: it is asked every so often whether to interrupt the statement.

    `cause` says, after an interruption, why. `report` is called every few seconds.
    """

    def __init__(
        self, supervision: Supervision, statement_timeout: float, report: Callable[[Progress], None]
    ) -> None:
        self.cause: str | None = None
        self._supervision = supervision
        self._timeout = statement_timeout
        self._report = report
        self._count: Callable[[], int] = lambda: 0
        self._step: Step | None = None
        self._offset = 0
        self._began = self._statement_began = self._tell_at = 0.0
        self._ends: list[int] | None = None

    @contextmanager
    def over(self, connection: apsw.Connection, step: Step) -> Iterator[None]:
        """Watch over a step on this connection for the length of a `with`."""
        self._step = step
        changes = connection.total_changes()
        self._count = lambda: connection.total_changes() - changes
        self._began = self._statement_began = time.monotonic()
        self._tell_at = self._began + PROGRESS_SECONDS
        self._ends, self.cause = None, None
        connection.set_progress_handler(self, _OPCODES, id=self)
        try:
            yield
        finally:
            connection.set_progress_handler(None, id=self)

    def statement_begins(self, offset: int) -> None:
        """The statement at this offset of the step's text is about to run."""
        self._supervision.beat()
        self._offset = offset
        self._statement_began = time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        self._supervision.beat()
        if self._supervision.must_end(now):
            self.cause = f"it was interrupted: {self._supervision.reason or 'told to stop'}"
        elif self._timeout and now - self._statement_began >= self._timeout:
            self.cause = f"the statement took longer than statement_timeout, {self._timeout:g} s"
        elif now >= self._tell_at:
            self._tell_at = now + PROGRESS_SECONDS
            self._tell(now)
        return self.cause is not None

    @property
    def was_told_to_stop(self) -> bool:
        """Whether the interruption was asked for from outside."""
        return self.cause is not None and self._supervision.must_end(time.monotonic())

    def _tell(self, now: float) -> None:
        if self._step is None:
            return
        text = self._step.sql
        if self._ends is None:
            # Counted only for what takes long: most steps are over before anybody asks.
            self._ends = [end for _, end in statements(text)]
        start = first_token(text, self._offset) or 0
        number = sum(end <= start for end in self._ends) + 1
        line = self._step.place.line + text.count("\n", 0, start)
        elapsed = round((now - self._began) * 1000)
        self._report(
            Progress(self._step, min(number, len(self._ends)), len(self._ends), line, elapsed, self._count())
        )
