"""`_migrations`, what is applied, and `_migrations_history`, everything that ever happened."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import apsw

from migrated.about import VERSION
from migrated.directives import Directive
from migrated.errors import DatabaseError
from migrated.model import AppliedMigration, Migration
from migrated.sqlite.guard import LEDGER_PREFIX

_CREATE = """
CREATE TABLE IF NOT EXISTS main._migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (datetime('now')),
    execution_time_ms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS main._migrations_history (
    id INTEGER PRIMARY KEY,
    happened_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    action TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    directives TEXT NOT NULL DEFAULT '',
    up_sql TEXT,
    down_sql TEXT,
    execution_time_ms INTEGER NOT NULL,
    rows_changed INTEGER NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    program_version TEXT NOT NULL
);
"""
_OURS = (len(LEDGER_PREFIX), LEDGER_PREFIX)
_OUR_NAME = re.compile(rf"(?<![\w$]){LEDGER_PREFIX}", re.IGNORECASE)
_EXISTS = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?"
_READ = "SELECT version, name, checksum, applied_at, execution_time_ms FROM main._migrations"
_RECORDED = """
SELECT version, name, up_sql, down_sql, checksum, directives FROM main._migrations_history
WHERE version = ? AND action = 'apply' ORDER BY id DESC LIMIT 1
"""
_COLUMNS = (
    "action, version, name, checksum, directives, up_sql, down_sql, execution_time_ms, rows_changed,"
    " host, pid, program_version"
)
_HISTORY_COLUMNS = f"SELECT {_COLUMNS} FROM main._migrations_history LIMIT 0"
_HISTORY = f"INSERT INTO main._migrations_history ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def create(connection: apsw.Connection, database: str) -> None:
    """Make both tables where they are not there yet.

    Raises `DatabaseError` when something else has one of their names.
    """
    try:
        if not (_has(connection, "_migrations") and _has(connection, "_migrations_history")):
            connection.execute(_CREATE).fetchall()
        connection.execute(_HISTORY_COLUMNS)
        # CREATE TABLE IF NOT EXISTS is content with a view; a view has no rows of its own to insert into.
        connection.execute("EXPLAIN INSERT INTO main._migrations DEFAULT VALUES").fetchall()
    except apsw.SQLError as error:
        raise _not_ours("_migrations or _migrations_history", error, database) from error


def names_taken(connection: apsw.Connection) -> set[str]:
    """Every name in the database that begins as ours do."""
    rows = connection.execute("SELECT name FROM main.sqlite_schema WHERE lower(substr(name, 1, ?)) = ?", _OURS)
    return {str(name) for (name,) in rows}


def meddlers(connection: apsw.Connection) -> set[str]:
    """The triggers that speak of our tables: the authorizer sees what they do only once they fire."""
    rows = connection.execute("SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'")
    return {str(name) for name, sql in rows if _OUR_NAME.search(str(sql))}


def read(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """What is applied, ascending; nothing where the table is not there yet.

    Raises `DatabaseError` when the table is there but is another tool's, or holds what we never write.
    """
    if not _has(connection, "_migrations"):
        return []
    try:
        rows = connection.execute(f"{_READ} ORDER BY version").fetchall()
        return [_entry(row) for row in rows]
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise _not_ours("_migrations", error, database) from error


def recorded(connection: apsw.Connection, versions: Iterable[int], database: str) -> dict[int, Migration]:
    """The migrations as they were when they were last applied, by version; only those that were recorded."""
    if not _has(connection, "_migrations_history"):
        return {}
    found = {}
    for wanted in versions:
        for version, name, up_sql, down_sql, checksum, directives in connection.execute(_RECORDED, (wanted,)):
            try:
                header = frozenset(Directive(value) for value in directives.split(",") if value)
            except ValueError as error:
                raise DatabaseError(
                    f"the record of migration {version} cannot be used: {error}",
                    database=database,
                    hint="a newer version of migrated made it; use that one",
                ) from error
            found[version] = Migration(version, name, up_sql or "", down_sql, checksum=checksum, header=header)
    return found


def record_applied(
    connection: apsw.Connection, migration: Migration, *, execution_time_ms: int, rows_changed: int
) -> AppliedMigration:
    """Enter a migration, in the transaction that it ran in, and return the entry as the table has it."""
    connection.execute(
        "INSERT INTO main._migrations (version, name, checksum, execution_time_ms) VALUES (?, ?, ?, ?)",
        (migration.version, migration.name, migration.checksum, execution_time_ms),
    )
    _record(connection, "apply", migration, execution_time_ms, rows_changed)
    return _entry(connection.execute(f"{_READ} WHERE version = ?", (migration.version,)).fetchall()[0])


def record_rolled_back(
    connection: apsw.Connection, migration: Migration, *, execution_time_ms: int, rows_changed: int
) -> AppliedMigration:
    """Strike out a migration, in the transaction that undid it, and return the entry as it was."""
    was = _entry(connection.execute(f"{_READ} WHERE version = ?", (migration.version,)).fetchall()[0])
    connection.execute("DELETE FROM main._migrations WHERE version = ?", (migration.version,))
    _record(connection, "rollback", migration, execution_time_ms, rows_changed)
    return was


def _record(
    connection: apsw.Connection, action: str, migration: Migration, execution_time_ms: int, rows_changed: int
) -> None:
    connection.execute(
        _HISTORY,
        (
            action,
            migration.version,
            migration.name,
            migration.checksum,
            ",".join(sorted(migration.header)),
            migration.up_sql,
            migration.down_sql,
            execution_time_ms,
            rows_changed,
            os.uname().nodename,
            os.getpid(),
            VERSION,
        ),
    )


def _not_ours(table: str, error: Exception, database: str) -> DatabaseError:
    return DatabaseError(
        f"the table {table} is not as expected: {error}",
        database=database,
        hint="it may be another tool's; rename that one, or use another database",
    )


def _has(connection: apsw.Connection, table: str) -> bool:
    return bool(connection.execute(_EXISTS, (table,)).fetchall())


def _entry(row: tuple[Any, ...]) -> AppliedMigration:
    version, name, checksum, applied_at, execution_time_ms = row
    if not isinstance(version, int) or not isinstance(execution_time_ms, int):
        raise TypeError(f"version {version!r}, execution_time_ms {execution_time_ms!r}: expected whole numbers")
    when = datetime.fromisoformat(str(applied_at))
    # datetime('now') writes UTC and does not say so.
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return AppliedMigration(version, str(name), str(checksum), when, execution_time_ms)
