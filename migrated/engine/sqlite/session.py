"""Apply or roll back migrations, each in one transaction with its ledger entry."""

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

import apsw

from migrated.core.errors import MigrationError
from migrated.core.migration import Directive, Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Repair, Snapshot, Unfinished
from migrated.core.sql import has_statement
from migrated.engine.backend import BatchLostError, LedgerChangedError, Observer, RowRestoreReport, StepResult
from migrated.engine.sqlite import history, ledger, repeatables
from migrated.engine.sqlite.apply import NonTransactionalStep, Preparation, run_step
from migrated.engine.sqlite.authorizer import Authorizer
from migrated.engine.sqlite.connection import BusyHandler, Opened, as_database_error, has_objects
from migrated.engine.sqlite.foreign_keys import ForeignKeyGraph
from migrated.engine.sqlite.history import HistoryDetails, read_ledger_state
from migrated.engine.sqlite.progress import ProgressMonitor
from migrated.engine.sqlite.snapshots.carry_over import RowRestorer, changes_by, detach
from migrated.engine.sqlite.statements import failure
from migrated.engine.sqlite.step_checks import StepChecks


class Batch:
    """Several steps in one transaction."""

    def __init__(self) -> None:
        self.is_committed = False
        self.is_full = False
        self.steps = 0
        self.snapshot: Snapshot | None = None
        self.row_report: RowRestoreReport | None = None


class SqliteSession:
    """A database open for changing. A step is one transaction: executed and recorded, or nothing.

    `preparation` is called for each step, before its first statement. `taken` are the steps that were executed,
    `touched` the tables that they wrote, dropped or altered, `dropped` the tables that they dropped.
    """

    def __init__(
        self,
        name: str,
        busy_handler: BusyHandler,
        connect: Callable[[], Opened],
        observer: Observer,
        preparation: Preparation,
        *,
        statement_timeout: float,
        shared: bool,
    ) -> None:
        self.name = name
        self.monitor = ProgressMonitor(busy_handler.cancel_token, statement_timeout, observer.progress)
        self.taken: list[Step] = []
        self.touched: set[str] = set()
        self.dropped: set[str] = set()
        self._busy_handler = busy_handler
        self._connect = connect
        self._preparation = preparation
        self._is_borrowed = shared
        self._open: apsw.Connection | None = None
        self._opened: Opened | None = None
        self._data_version: int | None = None
        self._ledger: list[AppliedMigration] = []
        self._unfinished: Unfinished | None = None
        self._repeatables: Sequence[AppliedRepeatable] = ()
        self._has_ledger = False
        self._keys: ForeignKeyGraph | None = None
        self._start_reason: str | None = None
        self._batch: Batch | None = None

    def look(self) -> LedgerState:
        """Read the ledger. Steps planned from it are valid until another process changes it."""
        connection = self._connection()
        # The counter is read before the ledger: a change in between is then noticed, at the cost of one more read.
        self._data_version = connection.pragma("data_version")
        opened, self._opened = self._opened, None
        is_unchanged = opened is not None and opened.data_version == self._data_version
        state = (opened.state if opened and is_unchanged else None) or read_ledger_state(connection, self.name)
        self._ledger, self._unfinished, self._repeatables = list(state.applied), *state[1:]
        return state

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """As `SqliteDatabase.stored_migrations`."""
        with as_database_error(self.name):
            return history.stored_migrations(self._connection(), versions, self.name)

    def is_new(self) -> bool:
        """True if the database has no objects yet."""
        return not has_objects(self._connection())

    def create_ledger(self) -> None:
        """Create the ledger and the history if they are missing."""
        connection = self._connection()
        with self.transaction(connection):
            ledger.create(connection, self.name)

    def execute(self, step: Step) -> StepResult:
        """Apply or roll back a migration and record it, in one transaction or in that of the batch.

        Raises `LedgerChangedError` if another process changed the ledger since `look()`, `ExecutionFailedError`
        or `RollbackFailedError` if the SQL is at fault or was interrupted, `DatabaseError` if the file, the disk
        or another connection is. The step then leaves nothing; a migration without a transaction leaves the
        statements that are recorded as done.
        """
        connection = self._connection()
        directives = step.directives
        if self._batch is not None:
            # The batch set the foreign keys before its BEGIN, and resets the busy handler when it ends.
            with as_database_error(self.name):
                done, authorizer = self._run(connection, step, directives)
        else:
            enforced = Directive.FOREIGN_KEYS_ON in directives
            with (
                as_database_error(self.name),
                self._reset_busy_handler(),
                self._foreign_keys(connection, enforced=enforced),
            ):
                done, authorizer = self._run(connection, step, directives)
        self._remember(done, step, authorizer)
        return done

    def _run(
        self, connection: apsw.Connection, step: Step, directives: frozenset[Directive]
    ) -> tuple[StepResult, Authorizer]:
        if Directive.NO_TRANSACTION in directives and has_statement(step.sql):
            # Other connections may change the schema between its statements, so the cached graph becomes invalid.
            self._keys = None
            work = NonTransactionalStep(self, connection, step)
            return work.run(), work.authorizer
        with self.transaction(connection):
            self.require_ledger_unchanged(connection)
            self.prepare(connection, step)
            self._keys = self._keys or ForeignKeyGraph(connection)
            checks = StepChecks(connection, Authorizer(), self._keys)
            done = run_step(connection, step, checks, self.monitor, self.name, reason=self._start_reason)
        return done, checks.authorizer

    @contextlib.contextmanager
    def batch(self, *, commit_on_failure: bool, foreign_keys: bool, restore_rows: bool = False) -> Iterator[Batch]:
        """Run every `execute` within the `with` in one transaction.

        If a step fails, those before it are committed (`commit_on_failure`) or rolled back too. `foreign_keys`
        says if they are enforced, which cannot change inside a transaction. With `restore_rows` a snapshot is
        taken first, and rows of tables that the changed migrations do not write to are restored at the end.
        """
        connection = self._connection()
        batch = Batch()
        before = list(self._ledger)
        with (
            contextlib.ExitStack() as afterwards,
            as_database_error(self.name),
            self._foreign_keys(connection, enforced=foreign_keys),
        ):
            connection.execute("BEGIN IMMEDIATE")
            self._batch = batch
            try:
                if restore_rows:
                    self.require_ledger_unchanged(connection)
                    batch.snapshot = afterwards.enter_context(self._preparation.take_before_redo(connection))
                yield batch
                if batch.snapshot is not None:
                    batch.row_report = self._restore_rows(connection, batch.snapshot)
                self._commit(connection)
                batch.is_committed = True
            except MigrationError as error:
                if commit_on_failure and batch.steps and not connection.in_transaction:
                    # The steps are executed again: they must not run with settings that the failed one left.
                    batch.is_full = True
                    raise BatchLostError from error
                if commit_on_failure and batch.steps:
                    self._commit(connection)
                    batch.is_committed = True
                raise
            finally:
                self._batch = None
                self._busy_handler.wait_for_commit = False
                self._roll_back(connection)
                # Not before the rollback: SQLite cannot detach a database inside a transaction.
                detach(connection)
                # The steps of the batch were rolled back, and our copy of the ledger has to follow.
                if not batch.is_committed:
                    self._ledger, self._has_ledger = before, False
                if batch.is_full:
                    # Closed last: foreign_keys is reset on this connection first.
                    afterwards.callback(self._forget_connection)

    def _restore_rows(self, connection: apsw.Connection, snapshot: Snapshot) -> RowRestoreReport:
        return RowRestorer(connection, snapshot, changes_by(self.taken, self.touched, self.dropped)).run()

    def undo_repeatables(self, entries: Sequence[AppliedRepeatable]) -> None:
        """Drop their objects and delete their entries. Raises `LedgerChangedError`."""
        connection = self._connection()
        with as_database_error(self.name), self.transaction(connection):
            self.require_ledger_unchanged(connection)
            repeatables.undo(connection, entries)
            self._repeatables = repeatables.read(connection, self.name)

    def update(self, migrations: Sequence[Migration]) -> None:
        """Store the current name, down text and header of applied migrations.

        Raises `LedgerChangedError`.
        """
        connection = self._connection()
        with as_database_error(self.name), self.transaction(connection):
            self.require_ledger_unchanged(connection)
            ledger.create(connection, self.name)
            for migration in migrations:
                history.record_update(connection, migration)
            self._ledger = ledger.read(connection, self.name)

    def repair(self, unfinished: Unfinished, migration: Migration, how: Repair, reason: str | None) -> None:
        """Carry out and record a repair of `unfinished`; `migration` is its current text.

        Raises as `execute`.
        """
        connection = self._connection()
        with as_database_error(self.name), self._reset_busy_handler():
            if how is Repair.RESUME:
                step = Step(migration, unfinished.direction)
                with self._foreign_keys(connection, enforced=Directive.FOREIGN_KEYS_ON in step.directives):
                    NonTransactionalStep(
                        self, connection, step, finished=unfinished.statement, reason=reason
                    ).run()
                return
            with self.transaction(connection):
                self.require_ledger_unchanged(connection)
                ledger.create(connection, self.name)
                is_applied = any(entry.version == unfinished.version for entry in self._ledger)
                if how is Repair.MARK_APPLIED and not is_applied:
                    ledger.insert(connection, migration, 0)
                if how is Repair.FORGET and is_applied:
                    ledger.delete(connection, migration)
                details = HistoryDetails(0, 0, unfinished.statement, unfinished.statements, reason)
                history.record(connection, how.value, migration, details)

    def correct(self, migration: Migration, how: Repair, reason: str | None) -> None:
        """Store this text for an applied migration (`MARK_APPLIED`), or delete its entry (`FORGET`).

        Raises `LedgerChangedError`.
        """
        connection = self._connection()
        with as_database_error(self.name), self.transaction(connection):
            self.require_ledger_unchanged(connection)
            ledger.create(connection, self.name)
            (ledger.delete if how is Repair.FORGET else ledger.correct)(connection, migration)
            history.record(connection, how.value, migration, HistoryDetails(reason=reason))
            self._ledger = ledger.read(connection, self.name)

    def close(self) -> None:
        """Close the connection, unless it belongs to the caller."""
        if self._open is not None and not self._is_borrowed:
            self._open.close()
        self._open = None

    def require_ledger_unchanged(self, connection: apsw.Connection) -> None:
        """Raise `LedgerChangedError` if another process changed the ledger since `look()`.

        The caller has the write lock. `data_version` changes with every commit of another connection, also with
        those of the application; only a different ledger makes the plan invalid.
        """
        if self._batch is not None and self._batch.steps:
            # Checked by the first step of this transaction, and nobody else can have written since.
            return
        data_version = connection.pragma("data_version")
        if data_version != self._data_version:
            self._has_ledger, self._keys = False, None
            if read_ledger_state(connection, self.name) != (self._ledger, self._unfinished, self._repeatables):
                raise LedgerChangedError
            self._data_version = data_version

    def prepare(self, connection: apsw.Connection, step: Step) -> None:
        """Take a snapshot if the policy asks for one, and create the ledger if it is missing."""
        if wrong := history.too_long(connection, step.migration):
            raise failure(step, wrong, hint="split it into several migrations", code="SQLITE_TOOBIG")
        is_continued = self._batch is not None and self._batch.steps > 0
        has_snapshot = self._batch is not None and self._batch.snapshot is not None
        is_new = self._preparation(connection, step, is_continued=is_continued, has_snapshot=has_snapshot)
        self._start_reason = history.BEGAN_EMPTY if is_new else None
        if not self._has_ledger:
            ledger.create(connection, self.name)
            self._has_ledger = True

    def retry_while_busy(self, action: Callable[[], object]) -> None:
        """As `BusyHandler.retry`."""
        self._busy_handler.retry(action)

    @contextlib.contextmanager
    def transaction(self, connection: apsw.Connection) -> Iterator[None]:
        """Begin and commit, or roll back on an error; inside a batch, with a savepoint."""
        had_ledger = self._has_ledger
        if self._batch is not None:
            connection.execute("SAVEPOINT step")
        else:
            # IMMEDIATE: a deferred transaction that reads first gets SQLITE_BUSY_SNAPSHOT, whatever the timeout,
            # if another connection wrote before its first write (https://www.sqlite.org/rescode.html#busy_snapshot).
            # Retried by us: PRAGMA busy_timeout in a migration without a transaction replaces our busy handler.
            self.retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
        self._busy_handler.wait_for_commit = True
        try:
            yield
            if self._batch is not None:
                connection.execute("RELEASE step")
                self._batch.steps += 1
            else:
                self._commit(connection)
        except BaseException:
            # The ledger exists only if it did before, and if no other connection was found to have dropped it.
            self._has_ledger, self._keys = had_ledger and self._has_ledger, None
            # After RAISE(ROLLBACK), ON CONFLICT ROLLBACK or a full disk SQLite has ended the transaction already.
            if self._batch is None:
                self._roll_back(connection)
            elif connection.in_transaction:
                connection.execute("ROLLBACK TO step; RELEASE step").fetchall()
            raise

    def _remember(self, done: StepResult, step: Step, authorizer: Authorizer) -> None:
        self.taken.append(step)
        self.touched |= authorizer.touched
        self.dropped |= authorizer.dropped
        if step.migration.is_repeatable:
            self._repeatables = repeatables.read(self._connection(), self.name)
            return
        # Almost always appended at the end; a late migration is inserted in its place.
        version, newest = step.migration.version, self._ledger[-1].version if self._ledger else 0
        place = len(self._ledger)
        if version <= newest:
            place = bisect_left(self._ledger, version, key=lambda entry: entry.version)
        if step.direction is MigrationDirection.UP:
            self._ledger.insert(place, done.entry)
        else:
            del self._ledger[place]
        if authorizer.pollutes_connection and self._batch is not None:
            self._batch.is_full = True
        elif authorizer.pollutes_connection:
            self._forget_connection()

    def _connection(self) -> apsw.Connection:
        if self._open is None:
            self._opened = self._connect()
            self._open = self._opened.connection
        return self._open

    def _forget_connection(self) -> None:
        # The next migration must not see temporary tables and pragmas of this one. A connection of the caller is
        # not ours to close, and keeps them.
        if not self._is_borrowed:
            self.close()
            self._data_version = self._keys = None

    @contextlib.contextmanager
    def _foreign_keys(self, connection: apsw.Connection, *, enforced: bool) -> Iterator[None]:
        # Set outside the transaction, as the pragma does nothing inside one. With keys enforced, DROP TABLE would
        # delete every row of a child table that has ON DELETE CASCADE.
        was = bool(connection.pragma("foreign_keys"))
        if was != enforced:
            connection.pragma("foreign_keys", enforced)
        try:
            yield
        finally:
            # Always reset: a migration without a transaction may have set it too.
            connection.pragma("foreign_keys", was)

    @contextlib.contextmanager
    def _reset_busy_handler(self) -> Iterator[None]:
        """Reset the busy handler to 'abort on stop' when the step is over."""
        try:
            yield
        finally:
            self._busy_handler.wait_for_commit = False

    def _commit(self, connection: apsw.Connection) -> None:
        # In rollback-journal mode a reader makes COMMIT fail with SQLITE_BUSY. The transaction stays open, and
        # COMMIT can be repeated.
        self._busy_handler.retry(lambda: connection.execute("COMMIT").fetchall())

    def _roll_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
