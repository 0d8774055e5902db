"""The ledger table `_migrations`: create, read and change it; and a summary of it by one query."""

import contextlib
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX
from migrated.engine.sqlite.connection import schema_text

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
# Columns of the history that databases created by the first builds of 0.1.0 lack.
_LATER_COLUMNS = {"statement": "INTEGER", "statements": "INTEGER", "reason": "TEXT", "violations": "TEXT"}
_OURS = (len(LEDGER_PREFIX), LEDGER_PREFIX)
_OUR_NAME = re.compile(rf"(?<![\w$]){LEDGER_PREFIX}", re.IGNORECASE)
_TRIGGERS = """
SELECT name, CAST(sql AS BLOB) FROM main.sqlite_schema WHERE type = 'trigger' AND instr(lower(sql), ?)
"""
_EXISTS = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ? LIMIT 1"
_EXISTING = """
SELECT name FROM main.sqlite_schema
WHERE type = 'table' AND name IN ('_migrations', '_migrations_history', '_migrations_repeatable')
"""
HISTORY_COLUMNS = (
    *("action", "version", "name", "checksum", "directives", "up_sql", "down_sql", "execution_time_ms"),
    *("rows_changed", "statement", "statements", "reason", "violations", "host", "pid", "program_version"),
)
"""The columns that an INSERT into the history sets."""
TABLE = "_migrations"
_READ_HISTORY = f"SELECT {', '.join(HISTORY_COLUMNS)} FROM main._migrations_history LIMIT 0"
_COLUMNS = "version, name, checksum, applied_at, execution_time_ms"
_READ = f"SELECT {_COLUMNS} FROM main._migrations ORDER BY version"
_INSERT = f"INSERT INTO main._migrations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
_DELETE = f"DELETE FROM main._migrations WHERE version = ? RETURNING {_COLUMNS}"


def create(connection: apsw.Connection, database: str) -> None:
    """Create the ledger and the history if they are missing.

    Raises `DatabaseError` if something else has one of their names.
    """
    try:
        if not {"_migrations", "_migrations_history"} <= existing_tables(connection):
            connection.execute(_CREATE).fetchall()
        elif _is_complete(connection):
            return
        _complete(connection)
        connection.execute(_READ_HISTORY)
        # CREATE TABLE IF NOT EXISTS accepts a view of that name; preparing an INSERT into the view fails.
        connection.execute("EXPLAIN INSERT INTO main._migrations DEFAULT VALUES").fetchall()
    except apsw.SQLError as error:
        raise unexpected_table("_migrations or _migrations_history", error, database) from error


def _is_complete(connection: apsw.Connection) -> bool:
    try:
        connection.execute(_READ_HISTORY)
    except apsw.SQLError:
        return False
    return True


def _complete(connection: apsw.Connection) -> None:
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('_migrations_history')")}
    for name in _LATER_COLUMNS.keys() - columns if "program_version" in columns else ():
        connection.execute(f"ALTER TABLE main._migrations_history ADD COLUMN {name} {_LATER_COLUMNS[name]}")


def reserved_names(connection: apsw.Connection) -> set[str]:
    """Return every name in the database that begins with `_migrations`, in any case."""
    rows = connection.execute("SELECT name FROM main.sqlite_schema WHERE lower(substr(name, 1, ?)) = ?", _OURS)
    return {str(name) for (name,) in rows}


def triggers_on_our_tables(connection: apsw.Connection) -> set[str]:
    """Return the triggers that name our tables; the authorizer sees their writes only when they fire."""
    # Almost no trigger names our tables: instr() in SQLite skips the others a hundred times as fast as Python.
    rows: list[Any] = connection.execute(_TRIGGERS, (LEDGER_PREFIX,)).fetchall()
    return {name for name, sql in rows if _OUR_NAME.search(schema_text(connection, sql))}


def read(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """Return the applied migrations, ascending; an empty list if the table does not exist.

    Raises `DatabaseError` if the table belongs to another tool, or holds values that we never write.
    """
    return read_existing(connection, database) if has(connection, "_migrations") else []


def read_existing(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """Like `read`, for a table that is known to exist."""
    try:
        rows = connection.execute(_READ).fetchall()
        return [_entry(row) for row in rows]
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise unexpected_table("_migrations", error, database) from error


def insert(connection: apsw.Connection, migration: Migration, execution_time_ms: int) -> AppliedMigration:
    """Insert the entry of a migration that was applied."""
    # The format of datetime('now'), made here so that the entry need not be read back.
    now = datetime.now(UTC).replace(microsecond=0)
    applied_at = now.replace(tzinfo=None).isoformat(" ")
    entered = (migration.version, migration.name, migration.checksum, applied_at, execution_time_ms)
    connection.execute(_INSERT, entered)
    return AppliedMigration(migration.version, migration.name, migration.checksum, now, execution_time_ms)


def rename(connection: apsw.Connection, migration: Migration) -> None:
    """Store the current name of an applied migration."""
    connection.execute(
        "UPDATE main._migrations SET name = ? WHERE version = ?", (migration.name, migration.version)
    )


def correct(connection: apsw.Connection, migration: Migration) -> None:
    """Store the current name and checksum of an applied migration."""
    corrected = (migration.name, migration.checksum, migration.version)
    connection.execute("UPDATE main._migrations SET name = ?, checksum = ? WHERE version = ?", corrected)


def delete(connection: apsw.Connection, migration: Migration, _time: int = 0) -> AppliedMigration:
    """Delete the entry of a migration that was rolled back, and return it."""
    return _entry(connection.execute(_DELETE, (migration.version,)).fetchall()[0])


def unexpected_table(table: str, error: Exception, database: str) -> DatabaseError:
    """Return the error for a table that has our name and other columns or values."""
    return DatabaseError(
        f"unexpected columns in table {table}: {error}",
        database=database,
        hint="the table may belong to another tool: rename it, or use another database",
    )


def existing_tables(connection: apsw.Connection) -> set[str]:
    """Return which of our tables exist, with one query, as the schema may be large."""
    return {str(name) for (name,) in connection.execute(_EXISTING)}


def has(connection: apsw.Connection, table: str) -> bool:
    """True if the table exists."""
    return bool(connection.execute(_EXISTS, (table,)).fetchall())


def _entry(row: tuple[Any, ...]) -> AppliedMigration:
    version, name, checksum, applied_at, execution_time_ms = row
    if not isinstance(version, int) or not isinstance(execution_time_ms, int):
        raise TypeError(f"version {version!r}, execution_time_ms {execution_time_ms!r}: expected whole numbers")
    return AppliedMigration(version, str(name), str(checksum), _time(str(applied_at)), execution_time_ms)


# The databases of a fleet are migrated within the same few seconds, so most times repeat.
@lru_cache(maxsize=1000)
def _time(applied_at: str) -> datetime:
    when = datetime.fromisoformat(applied_at)
    # datetime('now') writes UTC without a time zone.
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


# All ledger entries as one text; the last action of the history, as a migration may be unfinished; and if the
# table of repeatable migrations exists, which this summary does not cover.
_SUMMARY = """
SELECT
    (SELECT group_concat(version || ' ' || checksum || ' ' || name, char(10))
        FROM (SELECT version, checksum, name FROM main._migrations ORDER BY version)),
    (SELECT action FROM main._migrations_history ORDER BY id DESC LIMIT 1),
    (SELECT count(*) FROM main.sqlite_schema WHERE name = '_migrations_repeatable')
"""


class LedgerSummary(NamedTuple):
    """The ledger as one value: databases with equal summaries have the same migrations applied."""

    applied: str
    last_action: str


def summary(path: str, application_id: int) -> LedgerSummary | None:
    """Return the summary of a ledger; None if the ledger has to be read in full, for whatever reason.

    Only for a process in which nothing but apsw has the database open: this is not checked here.
    """
    if application_id:
        return None
    try:
        # Opened for writing, for the reason given in `open_for_reading`; nothing is written.
        with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            row: Any = connection.execute(_SUMMARY).fetchall()[0]
    except (apsw.Error, UnicodeError):
        return None
    applied, last_action, repeatables = row
    if repeatables or not isinstance(applied, str) or not isinstance(last_action, str):
        return None
    return LedgerSummary(applied, last_action)
