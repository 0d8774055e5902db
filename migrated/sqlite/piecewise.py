"""Running a migration without a transaction around it: statement by statement, each recorded when it is done.

A statement that can run in a transaction gets one of its own, together with its record. What cannot (VACUUM and
PRAGMA) runs first and is recorded next: these two may be run again without harm, so that after a crash in between
it is right to say that they are not done. The record of the last statement is that of the whole migration.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import apsw

from migrated.core.errors import INTERRUPTED, DatabaseError, MigrationError
from migrated.core.migration import Step
from migrated.core.sql import each_statement, words
from migrated.engine.backend import Done
from migrated.sqlite import history
from migrated.sqlite.checks import Checks, UnacceptableError
from migrated.sqlite.connection import environment_errors
from migrated.sqlite.failures import failure, translated
from migrated.sqlite.guard import Guard, refusal_at_sight
from migrated.sqlite.history import Course
from migrated.sqlite.keys import Keys
from migrated.sqlite.oversight import Oversight
from migrated.sqlite.script import StatementError, run_script

_ALONE = {"PRAGMA", "VACUUM"}


class Means(Protocol):
    """What the session lends."""

    name: str
    oversight: Oversight

    def transaction(self, connection: apsw.Connection) -> AbstractContextManager[None]:
        """Begin, and commit or roll back."""

    def require_unmoved(self, connection: apsw.Connection) -> None:
        """Raise `LedgerMovedError` when somebody else changed the record."""

    def prepare(self, connection: apsw.Connection, step: Step) -> None:
        """What comes before the first statement, in a transaction."""

    def patiently(self, action: Callable[[], object]) -> None:
        """Repeat while somebody else keeps the database busy."""


class Piecewise:
    """One migration on one connection. `finished` of its statements are done already: it is resumed.

    What `reason` a person gave for that is recorded.
    """

    def __init__(
        self,
        means: Means,
        connection: apsw.Connection,
        step: Step,
        *,
        finished: int = 0,
        reason: str | None = None,
    ) -> None:
        self._means = means
        self._connection = connection
        self._step = step
        self._text = step.sql
        self._spans = list(means.oversight.alive(each_statement(self._text)))
        self._finished = self._finished_before = finished
        self._reason = reason
        self._last_entry: int | None = None
        self.guard = Guard()
        known = history.violations(connection) if finished else None
        # Others may change the schema between two statements: no keys are known from before, or to those after.
        self._checks = Checks(connection, self.guard, Keys(connection), known)
        self._started = time.monotonic()
        self._rows_changed = 0

    def run(self) -> Done:
        """Run what is not done yet. A failure says how many statements are."""
        self._refuse_at_sight()
        done: Done | None = None
        try:
            with environment_errors(self._means.name):
                with self._means.transaction(self._connection):
                    self._means.require_unmoved(self._connection)
                    self._means.prepare(self._connection, self._step)
                with self._means.oversight.over(self._connection, self._step, lambda: self._rows_changed):
                    for number, span in enumerate(self._spans, 1):
                        done = self._take(number, span)
        except MigrationError as error:
            raise self._stopped(error) from error.__cause__
        if done is None:
            raise failure(self._step, "there is no statement left to run")
        return done

    def _take(self, number: int, span: tuple[int, int]) -> Done | None:
        first = next(words(self._text[span[0] : span[0] + 20]), "").upper()
        self.guard.is_alone, self.guard.is_vacuuming = first in _ALONE, first == "VACUUM"
        if number <= self._finished_before:
            if first == "PRAGMA":
                # A setting of the connection that is gone.
                self._means.patiently(lambda: self._run(span))
            return None
        if first in _ALONE:
            self._means.patiently(lambda: self._run(span))
        with self._means.transaction(self._connection):
            self._require_ours()
            if first not in _ALONE:
                self._run(span)
            done = self._record(number)
        self._finished = number
        return done

    def _run(self, span: tuple[int, int]) -> None:
        self.guard.pragma = None
        changes = self._connection.total_changes()
        try:
            row = run_script(self._connection, self._text, self.guard, self._before, span)
            self._require_effect(row, span)
            self._rows_changed += self._connection.total_changes() - changes
        except StatementError as error:
            if isinstance(error.__cause__, apsw.BusyError):
                raise error.__cause__ from None
            raise self._translated(error) from error.__cause__

    def _before(self, offset: int, text: str) -> None:
        self._means.oversight.statement_begins(offset)
        with self._means.oversight.checking():
            self._checks.before(text)

    def _require_effect(self, row: tuple[object, ...], span: tuple[int, int]) -> None:
        # SQLite answers with the mode that is in force, and calls that no error.
        name, value = self.guard.pragma or ("", None)
        if name == "journal_mode" and value is not None and row and str(row[0]).lower() != value.lower():
            message = f"the journal mode stayed {row[0]!r}"
            raise StatementError(message, None, script=self._text, start=span[0], offset=span[0])
        if name == "wal_checkpoint" and row and row[0]:
            # Nor is it an error to SQLite when others keep it from finishing.
            message = "the checkpoint could not be finished"
            hint = "another connection is using the database"
            raise StatementError(message, hint, script=self._text, start=span[0], offset=span[0])

    def _record(self, number: int) -> Done | None:
        elapsed = round((time.monotonic() - self._started) * 1000)
        course = Course(elapsed, self._rows_changed, number, len(self._spans), self._reason)
        is_last = number == len(self._spans)
        try:
            with self._means.oversight.checking():
                (self._checks.require_acceptable if is_last else self._checks.require_record_untouched)()
        except UnacceptableError as error:
            raise failure(self._step, error.message, hint=error.hint, code=error.code) from None
        if not is_last:
            course = course._replace(violations=json.dumps(self._checks.violations()))
            with_texts = number == self._finished_before + 1
            history.record_part(self._connection, self._step, course, with_texts=with_texts)
            self._last_entry = history.last_entry(self._connection)
            return None
        dropped = self._checks.dropped()
        entry = history.record_step(self._connection, self._step, course)
        return Done(entry, elapsed, self._rows_changed, dropped)

    def _require_ours(self) -> None:
        if self._last_entry is None:
            self._means.require_unmoved(self._connection)
        elif history.last_entry(self._connection) != self._last_entry:
            raise DatabaseError(
                "another process changed the record of the migrations meanwhile",
                database=self._means.name,
                hint="`migrated status` and `migrated repair` show how things stand",
            )

    def _refuse_at_sight(self) -> None:
        for start, end in self._means.oversight.alive(self._spans[self._finished :]):
            if refusal := refusal_at_sight(self._text[start:end]):
                error = StatementError(*refusal, script=self._text, start=start, offset=start)
                raise self._translated(error)

    def _translated(self, error: StatementError) -> MigrationError:
        return translated(error, self._step, self._means.name, self._means.oversight)

    def _stopped(self, error: MigrationError) -> MigrationError:
        if self._finished:
            error.message += f"; stopped after statement {self._finished} of {len(self._spans)}"
            settle = f"`migrated repair {self._step.migration.version}` settles it"
            # One that was interrupted would be told to be run again, which is not how it goes on.
            error.hint = f"{error.hint}; {settle}" if error.hint and error.code != INTERRUPTED else settle
        return error
