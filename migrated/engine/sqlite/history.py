"""The append-only table `_migrations_history`; and reading the whole ledger state at once."""

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import apsw

from migrated.core import VERSION
from migrated.core.errors import DatabaseError
from migrated.core.migration import Directive, Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration, LedgerState, Snapshot, Unfinished
from migrated.engine.sqlite import ledger, repeatables

TABLE = "_migrations_history"
_RECORDED = """
SELECT version, name, up_sql, down_sql, checksum, directives FROM main._migrations_history
WHERE version = ? AND up_sql IS NOT NULL AND action = ? ORDER BY id DESC LIMIT 1
"""
# For each version the last entry, but one with the ledger's checksum is preferred: after a restore the history
# also has entries that were made after the snapshot. SQLite takes the other columns from the row with the maximum
# (https://www.sqlite.org/lang_select.html#bareagg).
_RECORDED_AS_APPLIED = """
SELECT h.version, h.name, h.up_sql, h.down_sql, h.checksum, h.directives,
    max((h.checksum IS m.checksum) * (1 << 60) + h.id)
FROM main._migrations_history AS h LEFT JOIN main._migrations AS m USING (version)
WHERE h.up_sql IS NOT NULL AND h.action IN ('apply', 'redo', 'mark-applied', 'update') GROUP BY h.version
"""
UPDATE = "update"
BEGAN_EMPTY = "the database was new"
"""The `reason` of the first entry in a database that was empty before."""
_ENTRY_SIZE = 4096
"""An upper bound for the bytes of an entry without its SQL texts."""
_PARTS = {MigrationDirection.UP: "apply-statement", MigrationDirection.DOWN: "rollback-statement"}
_WHOLE = {MigrationDirection.UP: "apply", MigrationDirection.DOWN: "rollback"}
_LAST = "SELECT id, action FROM main._migrations_history ORDER BY id DESC LIMIT 1"
_LAST_PART = """
SELECT version, statement, statements, happened_at, host, pid FROM main._migrations_history WHERE id = ?
"""
_COLUMNS = "SELECT name FROM pragma_table_info('_migrations_history')"
_ADD = (
    f"INSERT INTO main._migrations_history ({', '.join(ledger.HISTORY_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(ledger.HISTORY_COLUMNS))})"
)


def violations(connection: apsw.Connection) -> dict[str, int]:
    """Return the old foreign-key violations stored with the last entry, by table."""
    import json

    rows = connection.execute("SELECT violations FROM main._migrations_history ORDER BY id DESC LIMIT 1")
    for (text,) in rows:
        found: dict[str, int] = json.loads(str(text or "{}"))
        return found
    return {}


class HistoryDetails(NamedTuple):
    """Details of a history entry: duration, changed rows and, without a transaction, the statement of how many.

    `reason` was given by a person. `violations` is a JSON object with the number of old foreign-key violations in
    each table touched so far.
    """

    execution_time_ms: int = 0
    rows_changed: int = 0
    statement: int | None = None
    statements: int | None = None
    reason: str | None = None
    violations: str | None = None


def unfinished(connection: apsw.Connection, database: str) -> Unfinished | None:
    """Return the stopped migration, or None.

    Only the last entry of the history is read: nothing else can run until a stopped migration is repaired.
    """
    return read_unfinished(connection, database) if ledger.has(connection, "_migrations_history") else None


def read_unfinished(connection: apsw.Connection, database: str) -> Unfinished | None:
    """Like `unfinished`, for a history table that is known to exist."""
    try:
        for row, action in connection.execute(_LAST):
            for direction, part in _PARTS.items():
                if action == part:
                    return _unfinished(connection, int(row), direction, database)
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise ledger.unexpected_table(TABLE, error, database) from error
    return None


def _unfinished(
    connection: apsw.Connection, row: int, direction: MigrationDirection, database: str
) -> Unfinished | None:
    for version, statement, statements, happened_at, host, pid in connection.execute(_LAST_PART, (row,)):
        for text in connection.execute(_RECORDED, (version, _PARTS[direction])):
            when = datetime.fromisoformat(str(happened_at))
            return Unfinished(
                _migration(text, database), direction, int(statement), int(statements), when, str(host), int(pid)
            )
    return None


def last_entry(connection: apsw.Connection) -> int | None:
    """Return the id of the last entry in the history; None if there is none."""
    return next((int(row) for row, _ in connection.execute(_LAST)), None)


def stored_migrations(connection: apsw.Connection, versions: Iterable[int], database: str) -> dict[int, Migration]:
    """Return the migrations as they were when last applied, by version; only those in the history."""
    if not ledger.has(connection, TABLE):
        return {}
    wanted = set(versions)
    if not wanted:
        return {}
    # The last column is only the maximum that selects the row.
    rows: list[Any] = [row[:-1] for row in connection.execute(_RECORDED_AS_APPLIED) if row[0] in wanted]
    return {row[0]: _migration(row, database) for row in rows}


def _migration(row: tuple[Any, ...], database: str) -> Migration:
    version, name, up_sql, down_sql, checksum, directives = row
    try:
        header = frozenset(Directive(value) for value in directives.split(",") if value)
    except ValueError as error:
        raise DatabaseError(
            f"cannot read the stored record of migration {version}: {error}",
            database=database,
            hint="a newer version of migrated wrote it; use that version",
        ) from error
    return Migration(version, name, up_sql or "", down_sql, checksum=checksum, header=header)


def too_long(connection: apsw.Connection, migration: Migration) -> str | None:
    """Return an error message if the SQL exceeds SQLITE_LIMIT_LENGTH and could not be stored in the history.

    Checked first, because the history row is written last, perhaps after an hour of statements.
    """
    limit = connection.limit(apsw.SQLITE_LIMIT_LENGTH)
    texts = migration.up_sql, migration.down_sql or ""
    room = limit - _ENTRY_SIZE
    # A character takes at most four bytes in any encoding, so most texts need not be encoded to be measured.
    if 4 * sum(map(len, texts)) <= room:
        return None
    encoding = str(connection.pragma("encoding"))
    size = sum(len(text.encode(encoding)) for text in texts)
    if size <= room:
        return None
    return f"its SQL has {size:,} bytes, and one row of the history holds at most {limit:,}"


def record_step(connection: apsw.Connection, step: Step, details: HistoryDetails) -> AppliedMigration:
    """Insert or delete the ledger entry of a step, and add it to the history, in the step's transaction.

    Returns the inserted or deleted entry.
    """
    up = step.direction is MigrationDirection.UP
    entry = (ledger.insert if up else ledger.delete)(connection, step.migration, details.execution_time_ms)
    record(connection, "redo" if step.is_redo else _WHOLE[step.direction], step.migration, details)
    return entry


def began_empty(connection: apsw.Connection) -> bool:
    """True if the database was empty before its first history entry."""
    first = "SELECT reason FROM main._migrations_history ORDER BY id LIMIT 1"
    return ledger.has(connection, TABLE) and connection.execute(first).get == BEGAN_EMPTY


def append_from(connection: apsw.Connection, other: apsw.Connection) -> None:
    """Append the later entries of another history, of which this one is the beginning."""
    if not ledger.has(other, TABLE):
        return
    # Only columns that both tables have: an older build may have created one of them.
    known = {name for (name,) in connection.execute(_COLUMNS)}
    names = ", ".join(str(name) for (name,) in other.execute(_COLUMNS) if name in known)
    rows = other.execute(
        f"SELECT {names} FROM main._migrations_history WHERE id > ? ORDER BY id", (last_entry(connection) or 0,)
    )
    places = ", ".join("?" * (names.count(",") + 1))
    connection.executemany(f"INSERT INTO main._migrations_history ({names}) VALUES ({places})", rows)


def record_repeatable(connection: apsw.Connection, migration: Migration, details: HistoryDetails) -> None:
    """Add that a repeatable migration was applied, under its label and version 0."""
    what = ("repeat", 0, migration.label, migration.checksum, "", migration.up_sql, None)
    _add(connection, what, details)


def record_part(connection: apsw.Connection, step: Step, details: HistoryDetails, *, with_texts: bool) -> None:
    """Add that one statement of a migration without a transaction is done; the SQL texts once per run."""
    record(connection, _PARTS[step.direction], step.migration, details, with_texts=with_texts)


def record_restore(connection: apsw.Connection, snapshot: Snapshot, reason: str | None) -> None:
    """Add that a snapshot was restored; its id is the name of the entry."""
    what = ("restore", snapshot.version or 0, snapshot.id, "", "", None, None)
    _add(connection, what, HistoryDetails(reason=reason))


def record_update(connection: apsw.Connection, migration: Migration) -> None:
    """Store the current name, down text and header of an applied migration."""
    ledger.rename(connection, migration)
    record(connection, UPDATE, migration)


def record(
    connection: apsw.Connection,
    action: str,
    migration: Migration,
    details: HistoryDetails = HistoryDetails(),  # noqa: B008 - immutable
    *,
    with_texts: bool = True,
) -> None:
    """Add an entry to the history."""
    what = (
        action,
        migration.version,
        migration.name,
        migration.checksum,
        ",".join(sorted(migration.header)),
        migration.up_sql if with_texts else None,
        migration.down_sql if with_texts else None,
    )
    _add(connection, what, details)


def _add(connection: apsw.Connection, what: tuple[str | int | None, ...], details: HistoryDetails) -> None:
    connection.execute(_ADD, (*what, *details, os.uname().nodename, os.getpid(), VERSION))


def read_ledger_state(connection: apsw.Connection, database: str) -> LedgerState:
    """Read what is applied and what is unfinished.

    Raises `DatabaseError` if a table with one of our names has unexpected columns.
    """
    existing = ledger.existing_tables(connection)
    return LedgerState(
        ledger.read_existing(connection, database) if "_migrations" in existing else [],
        read_unfinished(connection, database) if "_migrations_history" in existing else None,
        repeatables.read_existing(connection, database) if repeatables.TABLE in existing else [],
    )
