"""Apply one step: prepare it, then run it in one transaction, or statement by statement without one.

Without a transaction around the step, each statement is recorded when it is done. A statement that can run in a
transaction gets one of its own, together with its record. What cannot (VACUUM and PRAGMA) runs first and is
recorded next: these two may be run again without harm, so that after a crash in between it is right to say that
they are not done. The record of the last statement is that of the whole migration.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import apsw

from migrated.core.errors import INTERRUPTED, DatabaseError, MigrationError
from migrated.core.migration import Step
from migrated.core.records import Snapshot, highest_version
from migrated.core.sql import each_statement, words
from migrated.engine.backend import StepResult
from migrated.engine.sqlite import history, ledger, repeatables
from migrated.engine.sqlite.authorizer import Authorizer, refusal_at_sight
from migrated.engine.sqlite.connection import as_database_error, has_objects
from migrated.engine.sqlite.disk_space import require_room
from migrated.engine.sqlite.foreign_keys import ForeignKeyGraph
from migrated.engine.sqlite.history import HistoryDetails
from migrated.engine.sqlite.progress import ProgressMonitor
from migrated.engine.sqlite.snapshots.snapshots import Snapshotter
from migrated.engine.sqlite.statements import StatementError, failure, interrupted, run_script, translated
from migrated.engine.sqlite.step_checks import StepChecks, UnacceptableError

_ALONE = {"PRAGMA", "VACUUM"}


class SessionPort(Protocol):
    """What the session lends."""

    name: str
    oversight: ProgressMonitor

    def transaction(self, connection: apsw.Connection) -> AbstractContextManager[None]:
        """Begin, and commit or roll back."""

    def require_ledger_unchanged(self, connection: apsw.Connection) -> None:
        """Raise `LedgerChangedError` when somebody else changed the record."""

    def prepare(self, connection: apsw.Connection, step: Step) -> None:
        """What comes before the first statement, in a transaction."""

    def retry_while_busy(self, action: Callable[[], object]) -> None:
        """Repeat while somebody else keeps the database busy."""


class NonTransactionalStep:
    """One migration on one connection. `finished` of its statements are done already: it is resumed.

    What `reason` a person gave for that is recorded.
    """

    def __init__(
        self,
        means: SessionPort,
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
        self._spans = list(means.oversight.heartbeat(each_statement(self._text)))
        self._finished = self._finished_before = finished
        self._reason = reason
        self._last_entry: int | None = None
        self.guard = Authorizer()
        known = history.violations(connection) if finished else None
        # Others may change the schema between two statements: no keys are known from before, or to those after.
        self._checks = StepChecks(connection, self.guard, ForeignKeyGraph(connection), known)
        self._started = time.monotonic()
        self._rows_changed = 0

    def run(self) -> StepResult:
        """Run what is not done yet. A failure says how many statements are."""
        self._refuse_at_sight()
        done: StepResult | None = None
        try:
            with as_database_error(self._means.name):
                with self._means.transaction(self._connection):
                    self._means.require_ledger_unchanged(self._connection)
                    self._means.prepare(self._connection, self._step)
                with self._means.oversight.watch(self._connection, self._step, lambda: self._rows_changed):
                    for number, span in enumerate(self._spans, 1):
                        done = self._take(number, span)
        except MigrationError as error:
            raise self._stopped(error) from error.__cause__
        if done is None:
            raise failure(self._step, "there is no statement left to run")
        return done

    def _take(self, number: int, span: tuple[int, int]) -> StepResult | None:
        first = next(words(self._text[span[0] : span[0] + 20]), "").upper()
        self.guard.is_alone, self.guard.is_vacuuming = first in _ALONE, first == "VACUUM"
        if number <= self._finished_before:
            if first == "PRAGMA":
                # A setting of the connection that is gone.
                self._means.retry_while_busy(lambda: self._run(span))
            return None
        if first in _ALONE:
            self._means.retry_while_busy(lambda: self._run(span))
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
        with self._means.oversight.paused():
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

    def _record(self, number: int) -> StepResult | None:
        elapsed = round((time.monotonic() - self._started) * 1000)
        course = HistoryDetails(elapsed, self._rows_changed, number, len(self._spans), self._reason)
        is_last = number == len(self._spans)
        try:
            with self._means.oversight.paused():
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
        return StepResult(entry, elapsed, self._rows_changed, dropped)

    def _require_ours(self) -> None:
        if self._last_entry is None:
            self._means.require_ledger_unchanged(self._connection)
        elif history.last_entry(self._connection) != self._last_entry:
            raise DatabaseError(
                "another process changed the record of the migrations meanwhile",
                database=self._means.name,
                hint="`migrated status` and `migrated repair` show how things stand",
            )

    def _refuse_at_sight(self) -> None:
        for start, end in self._means.oversight.heartbeat(self._spans[self._finished :]):
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


class Preparation:
    """For one database and one run: the first step is prepared otherwise than those after it.

    `application_id` is given to a database that is new; 0 leaves it alone.
    """

    def __init__(self, database: str, keeper: Snapshotter, application_id: int) -> None:
        self._database = database
        self._keeper = keeper
        self._application_id = application_id
        self._is_first = True

    @contextlib.contextmanager
    def redoing(self, connection: apsw.Connection) -> Iterator[Snapshot | None]:
        """Keep the content in any case; None where there is none, or no file."""
        if not connection.filename or not has_objects(connection):
            yield None
            return
        with self._keeper.redoing(highest_version(ledger.read(connection, self._database))) as snapshot:
            yield snapshot

    def __call__(self, connection: apsw.Connection, step: Step, *, goes_on: bool, is_kept: bool = False) -> bool:
        """Prepare a step that begins a transaction, or that `goes_on` in one; return whether the database is new.

        The content `is_kept` already, or is kept as the policy says. Raises `DatabaseError` when there is no room
        for what will be written, or the snapshot fails.
        """
        is_new = not goes_on and not has_objects(connection)
        if is_new and self._application_id:
            connection.pragma("application_id", self._application_id)
        if connection.filename and not is_new and not goes_on and not is_kept:
            self._keep(connection, step)
        if connection.filename and not is_new:
            require_room(connection, step, self._database)
        self._is_first = False
        return is_new

    def _keep(self, connection: apsw.Connection, step: Step) -> None:
        try:
            self._keeper.keep_before(connection, is_first=self._is_first)
        except DatabaseError as error:
            if error.code != INTERRUPTED:
                raise
            # The step has begun as far as anybody else can tell.
            raise failure(step, error.message, hint=error.hint, code=INTERRUPTED, transient=True) from error


def run_step(
    connection: apsw.Connection,
    step: Step,
    checks: StepChecks,
    oversight: ProgressMonitor,
    database: str,
    *,
    reason: str | None = None,
) -> StepResult:
    """Run the text of a migration to its end and enter it in the ledger; the caller commits or undoes both."""
    started, changes = time.monotonic(), connection.total_changes()

    def before(offset: int, text: str) -> None:
        oversight.statement_begins(offset)
        # A statement of a long script does what those before it did.
        if checks.guard.has_touched:
            with oversight.paused():
                checks.before(text)

    try:
        with oversight.watch(connection, step):
            run_script(connection, step.sql, checks.guard, before)
            if not connection.in_transaction:
                raise failure(step, "the migration ended its own transaction")
            with oversight.paused():
                checks.require_acceptable()
    except StatementError as error:
        raise translated(error, step, database, oversight) from error.__cause__
    except UnacceptableError as error:
        raise failure(step, error.message, hint=error.hint, code=error.code) from None
    except apsw.InterruptError as error:
        # While we looked at the foreign keys.
        raise interrupted(step, oversight) or error from error
    rows_changed = connection.total_changes() - changes
    elapsed = round((time.monotonic() - started) * 1000)
    dropped = checks.dropped()
    course = HistoryDetails(elapsed, rows_changed, reason=reason)
    if step.migration.is_repeatable:
        entry = repeatables.enter(connection, step.migration, elapsed, checks.guard.made)
        history.record_repeatable(connection, step.migration, course)
    else:
        entry = history.record_step(connection, step, course)
    return StepResult(entry, elapsed, rows_changed, dropped)
