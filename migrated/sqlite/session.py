"""Apply one migration, or roll one back, in one transaction with its entry in the ledger."""

import contextlib
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator

import apsw

from migrated.backend import Done, LedgerMovedError
from migrated.directives import Directive
from migrated.errors import ExecutionFailedError, MigrationError, RollbackFailedError
from migrated.model import AppliedMigration, Migration, MigrationDirection, Place
from migrated.sqlite import foreign_keys, ledger
from migrated.sqlite.connection import Patience, environment_error, environment_errors, result_name
from migrated.sqlite.guard import LEDGER_PREFIX, Guard
from migrated.sqlite.script import StatementError, excerpt, run_script


class SqliteSession:
    """The database open for changing. Each step is one transaction: wholly done and recorded, or not at all."""

    def __init__(
        self, name: str, patience: Patience, connect: Callable[[], apsw.Connection], *, shared: bool
    ) -> None:
        self._name = name
        self._patience = patience
        self._connect = connect
        self._is_shared = shared
        self._open: apsw.Connection | None = None
        self._data_version: int | None = None
        self._ledger: list[AppliedMigration] = []

    def applied(self) -> list[AppliedMigration]:
        """Read the ledger. The next steps hold only while nobody else changes it."""
        connection = self._connection()
        # First the counter, then the ledger: a change in between is then noticed, at the cost of one more look.
        self._data_version = connection.pragma("data_version")
        self._ledger = ledger.read(connection, self._name)
        return list(self._ledger)

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
        """As `SqliteDatabase.recorded`."""
        return ledger.recorded(self._connection(), versions, self._name)

    def create_ledger(self) -> None:
        """Make the two tables where they are missing."""
        connection = self._connection()
        with self._transaction(connection):
            ledger.create(connection, self._name)

    def execute(self, migration: Migration, direction: MigrationDirection) -> Done:
        """Apply a migration or roll it back, and record it, in one transaction.

        Raises `LedgerMovedError` when somebody else changed the ledger since `applied()`, `ExecutionFailedError`
        or `RollbackFailedError` when the SQL is at fault, `DatabaseError` when the file, the disk or another
        connection is. In each case nothing of it remains.
        """
        up = direction is MigrationDirection.UP
        directives = migration.up_directives if up else migration.down_directives
        if Directive.NO_TRANSACTION in directives:
            raise _failure(
                migration,
                direction,
                "the directive no-transaction is not supported by this version",
                hint="nothing was run; take the migration out, or run its statements by hand",
            )
        connection = self._connection()
        guard = Guard()
        with (
            environment_errors(self._name),
            self._foreign_keys(connection, enforced=Directive.FOREIGN_KEYS_ON in directives),
            self._transaction(connection),
        ):
            self._require_unmoved(connection)
            done = self._run(connection, migration, direction, guard)
        self._ledger = [entry for entry in self._ledger if entry.version != migration.version]
        if direction is MigrationDirection.UP:
            insort(self._ledger, done.entry, key=lambda entry: entry.version)
        if guard.leaves_traces:
            self._forget_connection()
        return done

    def close(self) -> None:
        """Close the connection, unless it is the caller's."""
        if self._open is not None and not self._is_shared:
            self._open.close()
        self._open = None

    def _require_unmoved(self, connection: apsw.Connection) -> None:
        # The write lock is ours by now. The counter moves with every commit of anybody, the application's too;
        # only a ledger that differs makes the plan void.
        data_version = connection.pragma("data_version")
        if data_version != self._data_version:
            if ledger.read(connection, self._name) != self._ledger:
                raise LedgerMovedError
            self._data_version = data_version

    def _run(
        self, connection: apsw.Connection, migration: Migration, direction: MigrationDirection, guard: Guard
    ) -> Done:
        up = direction is MigrationDirection.UP
        ledger.create(connection, self._name)
        names, meddlers = ledger.names_taken(connection), ledger.meddlers(connection)
        before = foreign_keys.look(connection)
        started, changes = time.monotonic(), connection.total_changes()
        sql = migration.up_sql if up else migration.down_sql or ""
        try:
            run_script(connection, sql, guard)
        except StatementError as error:
            raise self._translated(error, migration, direction) from error.__cause__
        if not connection.in_transaction:
            raise _failure(migration, direction, "the migration ended its own transaction")
        if taken := ledger.names_taken(connection) - names:
            # The authorizer is not told the new name of a table that is renamed.
            raise _failure(
                migration,
                direction,
                f"the name {min(taken)} is not allowed in a migration",
                hint=f"names that begin with {LEDGER_PREFIX} are migrated's own",
            )
        if come := ledger.meddlers(connection) - meddlers:
            raise _failure(
                migration,
                direction,
                f"the trigger {min(come)} would write to migrated's own record, which is not allowed",
                hint=f"tables whose names begin with {LEDGER_PREFIX} are migrated's own",
            )
        if new := foreign_keys.new_violations(before, foreign_keys.look(connection)):
            raise _failure(
                migration,
                direction,
                foreign_keys.describe(new),
                hint="the migration would leave rows without their parent; everything was undone",
                code="SQLITE_CONSTRAINT_FOREIGNKEY",
            )
        rows_changed = connection.total_changes() - changes
        elapsed = round((time.monotonic() - started) * 1000)
        record = ledger.record_applied if up else ledger.record_rolled_back
        entry = record(connection, migration, execution_time_ms=elapsed, rows_changed=rows_changed)
        return Done(entry, elapsed, rows_changed)

    def _translated(
        self, error: StatementError, migration: Migration, direction: MigrationDirection
    ) -> MigrationError:
        place = _place(migration, direction)
        cause = error.__cause__
        known = cause if isinstance(cause, apsw.Error) else None
        translated: MigrationError | None = environment_error(known, self._name) if known else None
        if translated is None:
            code = result_name(known) if known else None
            translated = _failure(migration, direction, error.message, hint=error.hint, code=code)
        translated.version, translated.name = migration.version, migration.name
        translated.file = migration.origin.file if migration.origin else None
        translated.line = place.line + error.line - 1
        translated.column = error.column + (place.column - 1 if error.line == 1 else 0)
        translated.statement = error.statement
        translated.excerpt = excerpt(error, place.line)
        return translated

    def _connection(self) -> apsw.Connection:
        if self._open is None:
            self._open = self._connect()
        return self._open

    def _forget_connection(self) -> None:
        # Temporary tables and pragmas of one migration must not be met by the next; a connection that is not
        # ours to close keeps them.
        if not self._is_shared:
            self.close()
            self._data_version = None

    @contextlib.contextmanager
    def _foreign_keys(self, connection: apsw.Connection, *, enforced: bool) -> Iterator[None]:
        # Outside of the transaction: inside, the pragma does nothing, and DROP TABLE would delete every row of
        # a child table that says ON DELETE CASCADE.
        was = connection.pragma("foreign_keys")
        connection.pragma("foreign_keys", enforced)
        try:
            yield
        finally:
            connection.pragma("foreign_keys", was)

    @contextlib.contextmanager
    def _transaction(self, connection: apsw.Connection) -> Iterator[None]:
        # IMMEDIATE: a deferred transaction that read first is refused, whatever the timeout, when it wants to
        # write after somebody else has (https://www.sqlite.org/rescode.html#busy_snapshot).
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._commit(connection)
        finally:
            # RAISE(ROLLBACK), ON CONFLICT ROLLBACK and a full disk have ended the transaction already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _commit(self, connection: apsw.Connection) -> None:
        deadline = time.monotonic() + self._patience.timeout
        while True:
            try:
                connection.execute("COMMIT")
            except apsw.BusyError:
                # A reader holds on in rollback-journal mode; the transaction stands and may be committed yet.
                if time.monotonic() >= deadline or not self._patience(0):
                    raise
            else:
                return


def _place(migration: Migration, direction: MigrationDirection) -> Place:
    if migration.origin is None:
        return Place()
    return migration.origin.up if direction is MigrationDirection.UP else migration.origin.down


def _failure(
    migration: Migration,
    direction: MigrationDirection,
    message: str,
    *,
    hint: str | None = None,
    code: str | None = None,
) -> MigrationError:
    kind = ExecutionFailedError if direction is MigrationDirection.UP else RollbackFailedError
    return kind(
        message,
        hint=hint,
        code=code,
        version=migration.version,
        name=migration.name,
        file=migration.origin.file if migration.origin else None,
    )
