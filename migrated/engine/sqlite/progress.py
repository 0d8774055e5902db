"""Watching a step while its statements run: how far it is, and whether it has to end."""

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
"""How often long work is told of."""

_OPCODES = 10_000
"""Of SQLite's virtual machine, between two looks at the clock: some tenths of a millisecond."""

_SLICE = 1000
"""Statements that are counted, or looked at, between two signs of life: a few milliseconds."""

_Item = TypeVar("_Item")


class ProgressMonitor:
    """SQLite's progress handler for one step: it is asked every so often whether to interrupt the statement.

    `cause` says, after an interruption, why, and `was_told_to_stop` whether it was asked for. `report` is called
    every few seconds.
    """

    def __init__(
        self, supervision: CancelToken, statement_timeout: float, report: Callable[[Progress], None]
    ) -> None:
        self.cause: str | None = None
        self._supervision = supervision
        self._timeout = statement_timeout
        self._report = report
        self._count: Callable[[], int] = lambda: 0
        self._step: Step | None = None
        self._offset = 0
        self._began = self._statement_began = self._tell_at = 0.0
        self._ends: array[int] | None = None
        self._is_checking = False
        self.was_told_to_stop = False

    @contextmanager
    def watch(
        self, connection: apsw.Connection, step: Step, rows: Callable[[], int] | None = None
    ) -> Iterator[None]:
        """Watch over a step on this connection for the length of a `with`.

        `rows` says how many the step has changed; without it, all that are changed meanwhile count.
        """
        self._step = step
        changes = connection.total_changes()
        self._count = rows or (lambda: connection.total_changes() - changes)
        self._began = self._statement_began = time.monotonic()
        self._tell_at = self._began + PROGRESS_SECONDS
        self._ends, self.cause, self.was_told_to_stop = None, None, False
        connection.set_progress_handler(self, _OPCODES, id=self)
        try:
            yield
        finally:
            connection.set_progress_handler(None, id=self)

    def statement_begins(self, offset: int) -> None:
        """The statement at this offset of the step's text is about to run. Raises `InterruptError`.

        SQLite asks us within a statement only, and not within a short one: a thousand of them can take long.
        """
        self._offset = offset
        self._statement_began = now = time.monotonic()
        if self._must_end(now):
            raise apsw.InterruptError(self.cause)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs within the `with` is ours, and no part of a statement."""
        self._is_checking = True
        try:
            yield
        finally:
            self._is_checking = False
            self._statement_began = time.monotonic()

    def heartbeat(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Give what may be a million items, with signs of life in between."""
        for number, item in enumerate(items):
            if number % _SLICE == _SLICE - 1:
                self._supervision.beat()
            yield item

    def __call__(self) -> bool:
        return self._must_end(time.monotonic())

    def _must_end(self, now: float) -> bool:
        self._supervision.beat()
        if self._is_told_to_end(now):
            return True
        if self._timeout and not self._is_checking and now - self._statement_began >= self._timeout:
            self.cause = f"the statement took longer than statement_timeout, {self._timeout:g} s"
        elif now >= self._tell_at:
            self._tell_at = now + PROGRESS_SECONDS
            self._tell(now)
        return self.cause is not None

    def _is_told_to_end(self, now: float) -> bool:
        if not self._supervision.deadline_passed(now):
            return False
        self.was_told_to_stop = True
        self.cause = f"it was interrupted: {self._supervision.reason or 'told to stop'}"
        return True

    def _tell(self, now: float) -> None:
        if self._step is None:
            return
        text = self._step.sql
        # Counted only for what takes long: most steps are over before anybody asks.
        ends = self._ends = self._counted(text) if self._ends is None else self._ends
        if not ends:
            return
        # Behind the last statement we are still busy with it.
        number = min(bisect_right(ends, self._offset), len(ends) - 1)
        start = first_token(text, ends[number - 1] if number else 0)
        line = self._step.place.line + text.count("\n", 0, start)
        elapsed = round((now - self._began) * 1000)
        self._report(Progress(self._step, number + 1, len(ends), line, elapsed, self._count()))

    def _counted(self, text: str) -> "array[int] | None":
        """Where each statement ends; None when we were told to end meanwhile: of 100 MB it takes seconds."""
        begun = time.monotonic()
        ends = array("Q")
        for number, (_, end) in enumerate(each_statement(text)):
            if number % _SLICE == _SLICE - 1:
                self._supervision.beat()
                if self._is_told_to_end(time.monotonic()):
                    return None
            ends.append(end)
        # None of this time is the running statement's, nor of the pause until the next report.
        took = time.monotonic() - begun
        self._statement_began += took
        self._tell_at += took
        return ends
