"""Apply migrations, or roll them back, each in one transaction with its entry in the ledger."""

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
from migrated.engine.sqlite.history import HistoryDetails, read_record
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
        self.kept: RowRestoreReport | None = None


class SqliteSession:
    """The database open for changing. Each step is one transaction: wholly done and recorded, or not at all.

    `preparation` is called for each, before its first statement. `taken` are the steps that were done,
    `touched` the tables that they wrote, dropped or altered.
    """

    def __init__(
        self,
        name: str,
        patience: BusyHandler,
        connect: Callable[[], Opened],
        observer: Observer,
        preparation: Preparation,
        *,
        statement_timeout: float,
        shared: bool,
    ) -> None:
        self.name = name
        self.oversight = ProgressMonitor(patience.supervision, statement_timeout, observer.progress)
        self.taken: list[Step] = []
        self.touched: set[str] = set()
        self.dropped: set[str] = set()
        self._patience = patience
        self._connect = connect
        self._preparation = preparation
        self._is_shared = shared
        self._open: apsw.Connection | None = None
        self._seen: Opened | None = None
        self._data_version: int | None = None
        self._ledger: list[AppliedMigration] = []
        self._unfinished: Unfinished | None = None
        self._repeatables: Sequence[AppliedRepeatable] = ()
        self._has_ledger = False
        self._keys: ForeignKeyGraph | None = None
        self._began_empty: str | None = None
        self._batch: Batch | None = None

    def look(self) -> LedgerState:
        """Read the record. The next steps hold only while nobody else changes it."""
        connection = self._connection()
        # First the counter, then the ledger: a change in between is then noticed, at the cost of one more look.
        self._data_version = connection.pragma("data_version")
        seen, self._seen = self._seen, None
        unmoved = seen is not None and seen.data_version == self._data_version
        record = (seen.record if seen and unmoved else None) or read_record(connection, self.name)
        self._ledger, self._unfinished, self._repeatables = list(record.applied), *record[1:]
        return record

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """As `SqliteDatabase.recorded`."""
        with as_database_error(self.name):
            return history.stored_migrations(self._connection(), versions, self.name)

    def is_new(self) -> bool:
        """Whether there is nothing at all in the database yet."""
        return not has_objects(self._connection())

    def create_ledger(self) -> None:
        """Make the two tables where they are missing."""
        connection = self._connection()
        with self.transaction(connection):
            ledger.create(connection, self.name)

    def execute(self, step: Step) -> StepResult:
        """Apply a migration or roll it back, and record it, in one transaction, or in that of the batch.

        Raises `LedgerChangedError` when somebody else changed the record since `look()`, `ExecutionFailedError`
        or `RollbackFailedError` when the SQL is at fault or was interrupted, `DatabaseError` when the file, the
        disk or another connection is. In each case nothing of it remains; of a migration without a transaction,
        the statements that it was recorded for do.
        """
        connection = self._connection()
        directives = step.directives
        if self._batch is not None:
            # The batch has seen to the foreign keys before it began, and it is what has to finish.
            with as_database_error(self.name):
                done, guard = self._run(connection, step, directives)
        else:
            enforced = Directive.FOREIGN_KEYS_ON in directives
            with (
                as_database_error(self.name),
                self._finishing(),
                self._foreign_keys(connection, enforced=enforced),
            ):
                done, guard = self._run(connection, step, directives)
        self._remember(done, step, guard)
        return done

    def _run(
        self, connection: apsw.Connection, step: Step, directives: frozenset[Directive]
    ) -> tuple[StepResult, Authorizer]:
        if Directive.NO_TRANSACTION in directives and has_statement(step.sql):
            self._keys = None
            work = NonTransactionalStep(self, connection, step)
            return work.run(), work.guard
        with self.transaction(connection):
            self.require_ledger_unchanged(connection)
            self.prepare(connection, step)
            self._keys = self._keys or ForeignKeyGraph(connection)
            checks = StepChecks(connection, Authorizer(), self._keys)
            done = run_step(connection, step, checks, self.oversight, self.name, reason=self._began_empty)
        return done, checks.guard

    @contextlib.contextmanager
    def together(
        self, *, commit_on_failure: bool, foreign_keys: bool, restore_rows: bool = False
    ) -> Iterator[Batch]:
        """Do every `execute` within the `with` in one transaction.

        If one fails, those before it are committed (`commit_on_failure`) or undone too. `foreign_keys` says if
        they are enforced, which cannot change inside. With `restore_rows` a snapshot is taken first, and rows that
        the steps removed from tables they were not about are restored at the end.
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
                    batch.snapshot = afterwards.enter_context(self._preparation.redoing(connection))
                yield batch
                if batch.snapshot is not None:
                    batch.kept = self._put_back(connection, batch.snapshot)
                self._commit(connection)
                batch.is_committed = True
            except MigrationError as error:
                if commit_on_failure and batch.steps and not connection.in_transaction:
                    # Its settings must not be met by those that are done once more.
                    batch.is_full = True
                    raise BatchLostError from error
                if commit_on_failure and batch.steps:
                    self._commit(connection)
                    batch.is_committed = True
                raise
            finally:
                self._batch = None
                self._patience.wait_for_commit = False
                self._roll_back(connection)
                detach(connection)
                if not batch.is_committed:
                    self._ledger, self._has_ledger = before, False
                if batch.is_full:
                    afterwards.callback(self._forget_connection)

    def _put_back(self, connection: apsw.Connection, snapshot: Snapshot) -> RowRestoreReport:
        return RowRestorer(connection, snapshot, changes_by(self.taken, self.touched, self.dropped)).run()

    def undo_repeatables(self, entries: Sequence[AppliedRepeatable]) -> None:
        """Drop what they made, and forget them. Raises `LedgerChangedError`."""
        connection = self._connection()
        with as_database_error(self.name), self.transaction(connection):
            self.require_ledger_unchanged(connection)
            repeatables.undo(connection, entries)
            self._repeatables = repeatables.read(connection, self.name)

    def update(self, migrations: Sequence[Migration]) -> None:
        """Record the present name, down text and header of applied migrations. Raises `LedgerChangedError`."""
        connection = self._connection()
        with as_database_error(self.name), self.transaction(connection):
            self.require_ledger_unchanged(connection)
            ledger.create(connection, self.name)
            for migration in migrations:
                history.record_update(connection, migration)
            self._ledger = ledger.read(connection, self.name)

    def settle(self, unfinished: Unfinished, migration: Migration, how: Repair, reason: str | None) -> None:
        """Do and record what a person decided about `unfinished`; `migration` is its text as it is now.

        Raises as `execute`.
        """
        connection = self._connection()
        with as_database_error(self.name), self._finishing():
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
                course = HistoryDetails(0, 0, unfinished.statement, unfinished.statements, reason)
                history.record(connection, how.value, migration, course)

    def correct(self, migration: Migration, how: Repair, reason: str | None) -> None:
        """Record that an applied migration has this text (`MARK_APPLIED`), or is not applied (`FORGET`).

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
        """Close the connection, unless it is the caller's."""
        if self._open is not None and not self._is_shared:
            self._open.close()
        self._open = None

    def require_ledger_unchanged(self, connection: apsw.Connection) -> None:
        """Raise `LedgerChangedError` when somebody else changed the record since `look()`.

        The write lock is ours by now. The counter moves with every commit of anybody, the application's too;
        only a record that differs makes the plan void.
        """
        if self._batch is not None and self._batch.steps:
            # It was looked at when the transaction began, and nobody else can have written since.
            return
        data_version = connection.pragma("data_version")
        if data_version != self._data_version:
            self._has_ledger, self._keys = False, None
            if read_record(connection, self.name) != (self._ledger, self._unfinished, self._repeatables):
                raise LedgerChangedError
            self._data_version = data_version

    def prepare(self, connection: apsw.Connection, step: Step) -> None:
        """Keep the content as it is, as far as that is asked for, and see to the ledger."""
        if wrong := history.too_long(connection, step.migration):
            raise failure(step, wrong, hint="make it several migrations", code="SQLITE_TOOBIG")
        goes_on = self._batch is not None and self._batch.steps > 0
        is_kept = self._batch is not None and self._batch.snapshot is not None
        is_new = self._preparation(connection, step, goes_on=goes_on, is_kept=is_kept)
        self._began_empty = history.BEGAN_EMPTY if is_new else None
        if not self._has_ledger:
            ledger.create(connection, self.name)
            self._has_ledger = True

    def retry_while_busy(self, action: Callable[[], object]) -> None:
        """As `Patience.retry`."""
        self._patience.retry(action)

    @contextlib.contextmanager
    def transaction(self, connection: apsw.Connection) -> Iterator[None]:
        """Begin, and commit; or roll back what is left of it. In a batch: a part of the batch's."""
        had_ledger = self._has_ledger
        if self._batch is not None:
            connection.execute("SAVEPOINT step")
        else:
            # IMMEDIATE: a deferred transaction that read first is refused, whatever the timeout, when it wants
            # to write after somebody else has (https://www.sqlite.org/rescode.html#busy_snapshot). Patiently: a
            # migration without a transaction may have set a busy_timeout of its own.
            self.retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"))
        self._patience.wait_for_commit = True
        try:
            yield
            if self._batch is not None:
                connection.execute("RELEASE step")
                self._batch.steps += 1
            else:
                self._commit(connection)
        except BaseException:
            # Nor is the ledger there where another connection was found to have dropped it meanwhile.
            self._has_ledger, self._keys = had_ledger and self._has_ledger, None
            # RAISE(ROLLBACK), ON CONFLICT ROLLBACK and a full disk have ended the transaction already.
            if self._batch is None:
                self._roll_back(connection)
            elif connection.in_transaction:
                connection.execute("ROLLBACK TO step; RELEASE step").fetchall()
            raise

    def _remember(self, done: StepResult, step: Step, guard: Authorizer) -> None:
        self.taken.append(step)
        self.touched |= guard.touched
        self.dropped |= guard.dropped
        if step.migration.is_repeatable:
            self._repeatables = repeatables.read(self._connection(), self.name)
            return
        # At the end, nearly always.
        version, newest = step.migration.version, self._ledger[-1].version if self._ledger else 0
        place = len(self._ledger)
        if version <= newest:
            place = bisect_left(self._ledger, version, key=lambda entry: entry.version)
        if step.direction is MigrationDirection.UP:
            self._ledger.insert(place, done.entry)
        else:
            del self._ledger[place]
        if guard.pollutes_connection and self._batch is not None:
            self._batch.is_full = True
        elif guard.pollutes_connection:
            self._forget_connection()

    def _connection(self) -> apsw.Connection:
        if self._open is None:
            self._seen = self._connect()
            self._open = self._seen.connection
        return self._open

    def _forget_connection(self) -> None:
        # Temporary tables and pragmas of one migration must not be met by the next; a connection that is not
        # ours to close keeps them.
        if not self._is_shared:
            self.close()
            self._data_version = self._keys = None

    @contextlib.contextmanager
    def _foreign_keys(self, connection: apsw.Connection, *, enforced: bool) -> Iterator[None]:
        # Outside of the transaction: inside, the pragma does nothing, and DROP TABLE would delete every row of
        # a child table that says ON DELETE CASCADE.
        was = bool(connection.pragma("foreign_keys"))
        if was != enforced:
            connection.pragma("foreign_keys", enforced)
        try:
            yield
        finally:
            # A migration without a transaction may have set it too.
            connection.pragma("foreign_keys", was)

    @contextlib.contextmanager
    def _finishing(self) -> Iterator[None]:
        """What began is waited for longer than what has not, when we are told to stop."""
        try:
            yield
        finally:
            self._patience.wait_for_commit = False

    def _commit(self, connection: apsw.Connection) -> None:
        # A reader holds on in rollback-journal mode; the transaction stands and may be committed yet.
        self._patience.retry(lambda: connection.execute("COMMIT").fetchall())

    def _roll_back(self, connection: apsw.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
