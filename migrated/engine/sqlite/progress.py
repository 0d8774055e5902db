"""Watch a step while its statements run: report its progress, and interrupt it if it has to end."""

import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import apsw

from migrated.core.migration import Step
from migrated.core.sql import each_statement, first_token
from migrated.engine.backend import Progress
from migrated.system.cancellation import CancelToken

PROGRESS_SECONDS = 3.0
"""Seconds between two progress reports of a step."""

_OPCODES = 10_000
"""Opcodes of SQLite's virtual machine between two calls of the handler: some tenths of a millisecond."""

_SLICE = 1000
"""Statements split or checked between two heartbeats: a few milliseconds."""

_Item = TypeVar("_Item")


class ProgressMonitor:
    """SQLite's progress handler for one step, which can interrupt the running statement.

    After an interruption `cause` is the reason, and `stopped_on_request` is true if it was a stop request and not
    the timeout. `report` is called every `PROGRESS_SECONDS`. `statement_timeout` is in seconds; 0 means no limit.
    """

    def __init__(
        self, cancel_token: CancelToken, statement_timeout: float, report: Callable[[Progress], None]
    ) -> None:
        self.cause: str | None = None
        self._cancel_token = cancel_token
        self._timeout = statement_timeout
        self._report = report
        self._count: Callable[[], int] = lambda: 0
        self._step: Step | None = None
        self._offset = 0
        self._began = self._statement_began = self._report_at = 0.0
        self._ends: array[int] | None = None
        self._is_checking = False
        self.stopped_on_request = False

    @contextmanager
    def watch(
        self, connection: apsw.Connection, step: Step, rows: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Watch a step on this connection within a `with`.

        `rows` returns the number of rows that the step has changed; by default all changes since the start count.
        """
        self._step = step
        changes = connection.total_changes()
        self._count = rows or (lambda: connection.total_changes() - changes)
        self._began = self._statement_began = time.monotonic()
        self._report_at = self._began + PROGRESS_SECONDS
        self._ends, self.cause, self.stopped_on_request = None, None, False
        # With an id: a handler that the caller installed stays in place.
        connection.set_progress_handler(self, _OPCODES, id=self)
        try:
            yield
        finally:
            connection.set_progress_handler(None, id=self)

    def statement_begins(self, offset: int) -> None:
        """Report that the statement at this offset of the step's SQL is about to run.

        Raises `apsw.InterruptError` if the step has to end. SQLite calls the progress handler only within long
        statements, so a thousand short ones would never be stopped without this check.
        """
        self._offset = offset
        self._statement_began = now = time.monotonic()
        if self._must_end(now):
            raise apsw.InterruptError(self.cause)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent in our own checks does not count towards statement_timeout."""
        self._is_checking = True
        try:
            yield
        finally:
            self._is_checking = False
            self._statement_began = time.monotonic()

    def heartbeat(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Iterate over what may be a million items, with heartbeats in between."""
        for number, item in enumerate(items):
            if number % _SLICE == _SLICE - 1:
                self._cancel_token.beat()
            yield item

    def __call__(self) -> bool:
        return self._must_end(time.monotonic())

    def _must_end(self, now: float) -> bool:
        self._cancel_token.beat()
        if self._deadline_passed(now):
            return True
        if self._timeout and not self._is_checking and now - self._statement_began >= self._timeout:
            self.cause = f"the statement took longer than statement_timeout, {self._timeout:g} s"
        elif now >= self._report_at:
            self._report_at = now + PROGRESS_SECONDS
            self._report_progress(now)
        return self.cause is not None

    def _deadline_passed(self, now: float) -> bool:
        if not self._cancel_token.deadline_passed(now):
            return False
        self.stopped_on_request = True
        self.cause = f"the migration was interrupted: {self._cancel_token.reason or 'stop requested'}"
        return True

    def _report_progress(self, now: float) -> None:
        if self._step is None:
            return
        text = self._step.sql
        # Split only for a long-running step: most steps end before the first report.
        ends = self._ends = self._statement_ends(text) if self._ends is None else self._ends
        if not ends:
            return
        # After the last statement the step is still being checked: report the last one.
        number = min(bisect_right(ends, self._offset), len(ends) - 1)
        start = first_token(text, ends[number - 1] if number else 0)
        line = self._step.place.line + text.count("\n", 0, start)
        elapsed = round((now - self._began) * 1000)
        self._report(Progress(self._step, number + 1, len(ends), line, elapsed, self._count()))

    def _statement_ends(self, text: str) -> "array[int] | None":
        """Return the end of each statement; None if the step has to end meanwhile (100 MB take seconds)."""
        begun = time.monotonic()
        ends = array("Q")
        for number, (_, end) in enumerate(each_statement(text)):
            if number % _SLICE == _SLICE - 1:
                self._cancel_token.beat()
                if self._deadline_passed(time.monotonic()):
                    return None
            ends.append(end)
        # This time counts neither towards statement_timeout nor towards the pause until the next report.
        took = time.monotonic() - begun
        self._statement_began += took
        self._report_at += took
        return ends
