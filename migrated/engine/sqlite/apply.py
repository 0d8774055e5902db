"""Apply one step: prepare it, then run it in one transaction, or statement by statement without one.

Without a transaction around the step, each statement gets an entry in the history when it is done. A statement
that can run in a transaction shares one with its entry. VACUUM and PRAGMA cannot: they run first, and their entry
is written after them. A crash in between leaves them recorded as not done; that is harmless, since both can run
again. The entry of the last statement is that of the whole migration.
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
    """The part of `SqliteSession` that this module uses."""

    name: str
    monitor: ProgressMonitor

    def transaction(self, connection: apsw.Connection) -> AbstractContextManager[None]:
        """Begin a transaction; commit it at the end of the `with`, or roll it back on an exception."""

    def require_ledger_unchanged(self, connection: apsw.Connection) -> None:
        """Raise `LedgerChangedError` if another process changed the ledger."""

    def prepare(self, connection: apsw.Connection, step: Step) -> None:
        """Prepare the step, in a transaction, before its first statement."""

    def retry_while_busy(self, action: Callable[[], object]) -> None:
        """Repeat `action` while the database is busy."""


class NonTransactionalStep:
    """Runs one migration without a transaction around it.

    With `finished`, it resumes after that many statements; `reason`, given by a person, goes into the history.
    """

    def __init__(
        self,
        session: SessionPort,
        connection: apsw.Connection,
        step: Step,
        *,
        finished: int = 0,
        reason: str | None = None,
    ) -> None:
        self._session = session
        self._connection = connection
        self._step = step
        self._text = step.sql
        self._spans = list(session.monitor.heartbeat(each_statement(self._text)))
        self._finished = self._finished_before = finished
        self._reason = reason
        self._last_entry: int | None = None
        self.authorizer = Authorizer()
        # The process that began counted the old violations; now they cannot be told from new ones.
        known = history.violations(connection) if finished else None
        # Other connections may change the schema between two statements, so this step shares no cached keys.
        self._checks = StepChecks(connection, self.authorizer, ForeignKeyGraph(connection), known)
        self._started = time.monotonic()
        self._rows_changed = 0

    def run(self) -> StepResult:
        """Run the remaining statements. The message of a failure says how many are done."""
        self._refuse_before_running()
        done: StepResult | None = None
        try:
            with as_database_error(self._session.name):
                with self._session.transaction(self._connection):
                    self._session.require_ledger_unchanged(self._connection)
                    self._session.prepare(self._connection, self._step)
                with self._session.monitor.watch(self._connection, self._step, lambda: self._rows_changed):
                    for number, span in enumerate(self._spans, 1):
                        done = self._take(number, span)
        except MigrationError as error:
            raise self._with_position(error) from error.__cause__
        if done is None:
            raise failure(self._step, "there is no statement left to run")
        return done

    def _take(self, number: int, span: tuple[int, int]) -> StepResult | None:
        first = next(words(self._text[span[0] : span[0] + 20]), "").upper()
        self.authorizer.is_outside_transaction, self.authorizer.is_vacuuming = first in _ALONE, first == "VACUUM"
        if number <= self._finished_before:
            if first == "PRAGMA":
                # Run again, as it was a setting of the connection that ended with the earlier process.
                self._session.retry_while_busy(lambda: self._run(span))
            return None
        if first in _ALONE:
            # Outside a transaction there is no BEGIN that waits, so the statement itself is repeated.
            self._session.retry_while_busy(lambda: self._run(span))
        with self._session.transaction(self._connection):
            self._require_history_unchanged()
            if first not in _ALONE:
                self._run(span)
            done = self._record(number)
        self._finished = number
        return done

    def _run(self, span: tuple[int, int]) -> None:
        self.authorizer.pragma = None
        changes = self._connection.total_changes()
        try:
            row = run_script(self._connection, self._text, self.authorizer, self._before, span)
            self._require_effect(row, span)
            self._rows_changed += self._connection.total_changes() - changes
        except StatementError as error:
            # Unwrapped, as retry_while_busy repeats only after a BusyError.
            if isinstance(error.__cause__, apsw.BusyError):
                raise error.__cause__ from None
            raise self._translated(error) from error.__cause__

    def _before(self, offset: int, text: str) -> None:
        self._session.monitor.statement_begins(offset)
        with self._session.monitor.paused():
            self._checks.before(text)

    def _require_effect(self, row: tuple[object, ...], span: tuple[int, int]) -> None:
        # If the mode cannot change, SQLite returns the current one instead of an error.
        name, value = self.authorizer.pragma or ("", None)
        if name == "journal_mode" and value is not None and row and str(row[0]).lower() != value.lower():
            message = f"the journal mode did not change: it is still {row[0]!r}"
            raise StatementError(message, None, script=self._text, start=span[0], offset=span[0])
        if name == "wal_checkpoint" and row and row[0]:
            # SQLite reports a checkpoint that other connections block in its result row, not as an error.
            message = "the checkpoint did not complete"
            hint = "another connection is using the database"
            raise StatementError(message, hint, script=self._text, start=span[0], offset=span[0])

    def _record(self, number: int) -> StepResult | None:
        elapsed = round((time.monotonic() - self._started) * 1000)
        details = HistoryDetails(elapsed, self._rows_changed, number, len(self._spans), self._reason)
        is_last = number == len(self._spans)
        try:
            with self._session.monitor.paused():
                (self._checks.require_acceptable if is_last else self._checks.require_record_untouched)()
        except UnacceptableError as error:
            raise failure(self._step, error.message, hint=error.hint, code=error.code) from None
        if not is_last:
            details = details._replace(violations=json.dumps(self._checks.violations()))
            # The SQL texts are stored with the first statement of each run only.
            with_texts = number == self._finished_before + 1
            history.record_part(self._connection, self._step, details, with_texts=with_texts)
            self._last_entry = history.last_entry(self._connection)
            return None
        dropped = self._checks.dropped()
        entry = history.record_step(self._connection, self._step, details)
        return StepResult(entry, elapsed, self._rows_changed, dropped)

    def _require_history_unchanged(self) -> None:
        if self._last_entry is None:
            self._session.require_ledger_unchanged(self._connection)
        elif history.last_entry(self._connection) != self._last_entry:
            raise DatabaseError(
                "another process changed the migrations table during the migration",
                database=self._session.name,
                hint="run `migrated status` and `migrated repair` to see the current state",
            )

    def _refuse_before_running(self) -> None:
        for start, end in self._session.monitor.heartbeat(self._spans[self._finished :]):
            if refusal := refusal_at_sight(self._text[start:end]):
                error = StatementError(*refusal, script=self._text, start=start, offset=start)
                raise self._translated(error)

    def _translated(self, error: StatementError) -> MigrationError:
        return translated(error, self._step, self._session.name, self._session.monitor)

    def _with_position(self, error: MigrationError) -> MigrationError:
        if self._finished:
            error.message += f"; stopped after statement {self._finished} of {len(self._spans)}"
            repair = f"run `migrated repair {self._step.migration.version}`"
            # The hint for an interruption says to run the migration again; here it has to be resumed instead.
            error.hint = f"{error.hint}; {repair}" if error.hint and error.code != INTERRUPTED else repair
        return error


class Preparation:
    """Before each step: take a snapshot if the policy asks, check disk space, set application_id.

    One object serves one run on one database. A new database gets the `application_id`, unless that is 0.
    """

    def __init__(self, database: str, snapshotter: Snapshotter, application_id: int) -> None:
        self._database = database
        self._snapshotter = snapshotter
        self._application_id = application_id
        self._is_first = True

    @contextlib.contextmanager
    def take_before_redo(self, connection: apsw.Connection) -> Iterator[Snapshot | None]:
        """Take a snapshot whatever the policy says; None if the database is empty or not a file."""
        if not connection.filename or not has_objects(connection):
            yield None
            return
        with self._snapshotter.take_before_redo(
            highest_version(ledger.read(connection, self._database))
        ) as snapshot:
            yield snapshot

    def __call__(
        self, connection: apsw.Connection, step: Step, *, is_continued: bool, has_snapshot: bool = False
    ) -> bool:
        """Prepare a step; return True if the database is new.

        With `is_continued` the step runs in a transaction that an earlier step began. No snapshot is taken then,
        nor if the run `has_snapshot` already. Raises `DatabaseError` if the disk lacks space or the
        snapshot fails.
        """
        is_new = not is_continued and not has_objects(connection)
        if is_new and self._application_id:
            connection.pragma("application_id", self._application_id)
        if connection.filename and not is_new and not is_continued and not has_snapshot:
            self._take_snapshot(connection, step)
        if connection.filename and not is_new:
            # After the snapshot, which needs space on the same disk.
            require_room(connection, step, self._database)
        self._is_first = False
        return is_new

    def _take_snapshot(self, connection: apsw.Connection, step: Step) -> None:
        try:
            self._snapshotter.take_before_step(connection, is_first=self._is_first)
        except DatabaseError as error:
            if error.code != INTERRUPTED:
                raise
            # Observers saw the step begin, so its failure has to name the migration.
            raise failure(step, error.message, hint=error.hint, code=INTERRUPTED, transient=True) from error


def run_step(
    connection: apsw.Connection,
    step: Step,
    checks: StepChecks,
    monitor: ProgressMonitor,
    database: str,
    *,
    reason: str | None = None,
) -> StepResult:
    """Run the SQL of a step and update the ledger; the caller commits or rolls back both."""
    started, changes = time.monotonic(), connection.total_changes()

    def before(offset: int, text: str) -> None:
        monitor.statement_begins(offset)
        # The statements of a long script mostly do the same: only new effects are checked.
        if checks.authorizer.has_new_effects:
            with monitor.paused():
                checks.before(text)

    try:
        with monitor.watch(connection, step):
            run_script(connection, step.sql, checks.authorizer, before)
            if not connection.in_transaction:
                raise failure(step, "the migration ended its own transaction")
            with monitor.paused():
                checks.require_acceptable()
    except StatementError as error:
        raise translated(error, step, database, monitor) from error.__cause__
    except UnacceptableError as error:
        raise failure(step, error.message, hint=error.hint, code=error.code) from None
    except apsw.InterruptError as error:
        # Interrupted while the foreign keys were checked, which no statement of the script explains.
        raise interrupted(step, monitor) or error from error
    rows_changed = connection.total_changes() - changes
    elapsed = round((time.monotonic() - started) * 1000)
    dropped = checks.dropped()
    details = HistoryDetails(elapsed, rows_changed, reason=reason)
    if step.migration.is_repeatable:
        entry = repeatables.insert(connection, step.migration, elapsed, checks.authorizer.made)
        history.record_repeatable(connection, step.migration, details)
    else:
        entry = history.record_step(connection, step, details)
    return StepResult(entry, elapsed, rows_changed, dropped)
