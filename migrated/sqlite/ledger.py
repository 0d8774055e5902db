"""`_migrations`, what is applied; and the making of both tables."""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import apsw

from migrated.errors import DatabaseError
from migrated.model import AppliedMigration, Migration
from migrated.sqlite.content import schema_text
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
    statement INTEGER,
    statements INTEGER,
    reason TEXT,
    violations TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    program_version TEXT NOT NULL
);
"""
# Of the history, and not there in databases that the first builds of 0.1.0 made.
_LATER_COLUMNS = {"statement": "INTEGER", "statements": "INTEGER", "reason": "TEXT", "violations": "TEXT"}
_OURS = (len(LEDGER_PREFIX), LEDGER_PREFIX)
_OUR_NAME = re.compile(rf"(?<![\w$]){LEDGER_PREFIX}", re.IGNORECASE)
_EXISTS = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?"
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND substr(name, 1, ?) = ?"
HISTORY_COLUMNS = (
    *("action", "version", "name", "checksum", "directives", "up_sql", "down_sql", "execution_time_ms"),
    *("rows_changed", "statement", "statements", "reason", "violations", "host", "pid", "program_version"),
)
"""Those that are written with an entry."""
TABLE = "_migrations"
_READ_HISTORY = f"SELECT {', '.join(HISTORY_COLUMNS)} FROM main._migrations_history LIMIT 0"
_READ = "SELECT version, name, checksum, applied_at, execution_time_ms FROM main._migrations"


def create(connection: apsw.Connection, database: str) -> None:
    """Make both tables where they are not there yet.

    Raises `DatabaseError` when something else has one of their names.
    """
    try:
        if not (has(connection, "_migrations") and has(connection, "_migrations_history")):
            connection.execute(_CREATE).fetchall()
        _complete(connection)
        connection.execute(_READ_HISTORY)
        # CREATE TABLE IF NOT EXISTS is content with a view; a view has no rows of its own to insert into.
        connection.execute("EXPLAIN INSERT INTO main._migrations DEFAULT VALUES").fetchall()
    except apsw.SQLError as error:
        raise not_ours("_migrations or _migrations_history", error, database) from error


def _complete(connection: apsw.Connection) -> None:
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('_migrations_history')")}
    for name in _LATER_COLUMNS.keys() - columns if "program_version" in columns else ():
        connection.execute(f"ALTER TABLE main._migrations_history ADD COLUMN {name} {_LATER_COLUMNS[name]}")


def names_taken(connection: apsw.Connection) -> set[str]:
    """Every name in the database that begins as ours do."""
    rows = connection.execute("SELECT name FROM main.sqlite_schema WHERE lower(substr(name, 1, ?)) = ?", _OURS)
    return {str(name) for (name,) in rows}


def meddlers(connection: apsw.Connection) -> set[str]:
    """The triggers that speak of our tables: the authorizer sees what they do only once they fire."""
    query = "SELECT name, CAST(sql AS BLOB) FROM main.sqlite_schema WHERE type = 'trigger'"
    rows: list[Any] = connection.execute(query).fetchall()
    return {name for name, sql in rows if _OUR_NAME.search(schema_text(connection, sql))}


def read(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """What is applied, ascending; nothing where the table is not there yet.

    Raises `DatabaseError` when the table is there but is another tool's, or holds what we never write.
    """
    return entries(connection, database) if has(connection, TABLE) else []


def entries(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """The same where the table is known to be there."""
    try:
        rows = connection.execute(f"{_READ} ORDER BY version").fetchall()
        return [_entry(row) for row in rows]
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise not_ours("_migrations", error, database) from error


def enter(connection: apsw.Connection, migration: Migration, execution_time_ms: int) -> AppliedMigration:
    """Make the ledger say that a migration is applied."""
    connection.execute(
        "INSERT INTO main._migrations (version, name, checksum, execution_time_ms) VALUES (?, ?, ?, ?)",
        (migration.version, migration.name, migration.checksum, execution_time_ms),
    )
    return entry_of(connection, migration.version)


def rename(connection: apsw.Connection, migration: Migration) -> None:
    """Give the entry of an applied migration its present name."""
    connection.execute(
        "UPDATE main._migrations SET name = ? WHERE version = ?", (migration.name, migration.version)
    )


def strike_out(connection: apsw.Connection, migration: Migration, _time: int = 0) -> AppliedMigration:
    """Make the ledger say that a migration is not applied; return the entry as it was."""
    was = entry_of(connection, migration.version)
    connection.execute("DELETE FROM main._migrations WHERE version = ?", (migration.version,))
    return was


def entry_of(connection: apsw.Connection, version: int) -> AppliedMigration:
    """The entry of an applied migration."""
    return _entry(connection.execute(f"{_READ} WHERE version = ?", (version,)).fetchall()[0])


def not_ours(table: str, error: Exception, database: str) -> DatabaseError:
    """The error for a table of our name that is not as we make it."""
    return DatabaseError(
        f"the table {table} is not as expected: {error}",
        database=database,
        hint="it may be another tool's; rename that one, or use another database",
    )


def has(connection: apsw.Connection, table: str) -> bool:
    """Whether there is a table of this name."""
    return bool(connection.execute(_EXISTS, (table,)).fetchall())


def tables(connection: apsw.Connection) -> set[str]:
    """Which of our tables are there."""
    return {str(name) for (name,) in connection.execute(_TABLES, _OURS)}


def _entry(row: tuple[Any, ...]) -> AppliedMigration:
    version, name, checksum, applied_at, execution_time_ms = row
    if not isinstance(version, int) or not isinstance(execution_time_ms, int):
        raise TypeError(f"version {version!r}, execution_time_ms {execution_time_ms!r}: expected whole numbers")
    return AppliedMigration(version, str(name), str(checksum), _moment(str(applied_at)), execution_time_ms)


# Most of what is applied was applied in the same second as something else, here or in the next database.
@lru_cache(256)
def _moment(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    # datetime('now') writes UTC and does not say so.
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
