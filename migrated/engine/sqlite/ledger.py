"""`_migrations`, what is applied: creating, reading and changing it, and a summary of it by one query."""

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
# Of the history, and not there in databases that the first builds of 0.1.0 made.
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
"""Those that are written with an entry."""
TABLE = "_migrations"
_READ_HISTORY = f"SELECT {', '.join(HISTORY_COLUMNS)} FROM main._migrations_history LIMIT 0"
_COLUMNS = "version, name, checksum, applied_at, execution_time_ms"
_READ = f"SELECT {_COLUMNS} FROM main._migrations ORDER BY version"
_INSERT = f"INSERT INTO main._migrations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
_DELETE = f"DELETE FROM main._migrations WHERE version = ? RETURNING {_COLUMNS}"


def create(connection: apsw.Connection, database: str) -> None:
    """Make both tables where they are not there yet.

    Raises `DatabaseError` when something else has one of their names.
    """
    try:
        if not {"_migrations", "_migrations_history"} <= existing_tables(connection):
            connection.execute(_CREATE).fetchall()
        elif _is_complete(connection):
            return
        _complete(connection)
        connection.execute(_READ_HISTORY)
        # CREATE TABLE IF NOT EXISTS is content with a view; a view has no rows of its own to insert into.
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
    """Every name in the database that begins as ours do."""
    rows = connection.execute("SELECT name FROM main.sqlite_schema WHERE lower(substr(name, 1, ?)) = ?", _OURS)
    return {str(name) for (name,) in rows}


def triggers_on_our_tables(connection: apsw.Connection) -> set[str]:
    """The triggers that speak of our tables: the authorizer sees what they do only once they fire."""
    # Of many triggers nearly none does: SQLite passes over the others a hundred times as fast as we.
    rows: list[Any] = connection.execute(_TRIGGERS, (LEDGER_PREFIX,)).fetchall()
    return {name for name, sql in rows if _OUR_NAME.search(schema_text(connection, sql))}


def read(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """What is applied, ascending; nothing where the table is not there yet.

    Raises `DatabaseError` when the table is there but is another tool's, or holds what we never write.
    """
    return read_existing(connection, database) if has(connection, "_migrations") else []


def read_existing(connection: apsw.Connection, database: str) -> list[AppliedMigration]:
    """As `read`, of a table that is known to be there."""
    try:
        rows = connection.execute(_READ).fetchall()
        return [_entry(row) for row in rows]
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise unexpected_table("_migrations", error, database) from error


def insert(connection: apsw.Connection, migration: Migration, execution_time_ms: int) -> AppliedMigration:
    """Make the ledger say that a migration is applied."""
    # The time as datetime('now') has it; written here, it need not be read back.
    now = datetime.now(UTC).replace(microsecond=0)
    applied_at = now.replace(tzinfo=None).isoformat(" ")
    entered = (migration.version, migration.name, migration.checksum, applied_at, execution_time_ms)
    connection.execute(_INSERT, entered)
    return AppliedMigration(migration.version, migration.name, migration.checksum, now, execution_time_ms)


def rename(connection: apsw.Connection, migration: Migration) -> None:
    """Give the entry of an applied migration its present name."""
    connection.execute(
        "UPDATE main._migrations SET name = ? WHERE version = ?", (migration.name, migration.version)
    )


def correct(connection: apsw.Connection, migration: Migration) -> None:
    """Give the entry of an applied migration its present name and checksum."""
    corrected = (migration.name, migration.checksum, migration.version)
    connection.execute("UPDATE main._migrations SET name = ?, checksum = ? WHERE version = ?", corrected)


def delete(connection: apsw.Connection, migration: Migration, _time: int = 0) -> AppliedMigration:
    """Make the ledger say that a migration is not applied; return the entry as it was."""
    return _entry(connection.execute(_DELETE, (migration.version,)).fetchall()[0])


def unexpected_table(table: str, error: Exception, database: str) -> DatabaseError:
    """The error for a table of our name that is not as we make it."""
    return DatabaseError(
        f"unexpected columns in table {table}: {error}",
        database=database,
        hint="the table may belong to another tool: rename it, or use another database",
    )


def existing_tables(connection: apsw.Connection) -> set[str]:
    """Which of our tables there are. One look through the schema, as it may be long."""
    return {str(name) for (name,) in connection.execute(_EXISTING)}


def has(connection: apsw.Connection, table: str) -> bool:
    """Whether there is a table of this name."""
    return bool(connection.execute(_EXISTS, (table,)).fetchall())


def _entry(row: tuple[Any, ...]) -> AppliedMigration:
    version, name, checksum, applied_at, execution_time_ms = row
    if not isinstance(version, int) or not isinstance(execution_time_ms, int):
        raise TypeError(f"version {version!r}, execution_time_ms {execution_time_ms!r}: expected whole numbers")
    return AppliedMigration(version, str(name), str(checksum), _time(str(applied_at)), execution_time_ms)


# Where there are many databases, they have their migrations from the same few seconds.
@lru_cache(maxsize=1000)
def _time(applied_at: str) -> datetime:
    when = datetime.fromisoformat(applied_at)
    # datetime('now') writes UTC and does not say so.
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


# What is applied in one text; what the history ends with, for a migration may have stopped half way; whether there
# are repeatable migrations, which only a real look tells of.
_SUMMARY = """
SELECT
    (SELECT group_concat(version || ' ' || checksum || ' ' || name, char(10))
        FROM (SELECT version, checksum, name FROM main._migrations ORDER BY version)),
    (SELECT action FROM main._migrations_history ORDER BY id DESC LIMIT 1),
    (SELECT count(*) FROM main.sqlite_schema WHERE name = '_migrations_repeatable')
"""


class LedgerSummary(NamedTuple):
    """Two databases with the same one have the same applied, and nothing else on record that matters."""

    applied: str
    last_action: str


def summary(path: str, application_id: int) -> LedgerSummary | None:
    """What a database looks like; None where a real look has to be taken, for whatever reason.

    For a process of ours alone: it is not seen to whether another library has the database open in it.
    """
    if application_id:
        return None
    try:
        # For writing, as by `open_for_reading`, though nothing is written.
        with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            row: Any = connection.execute(_SUMMARY).fetchall()[0]
    except (apsw.Error, UnicodeError):
        return None
    applied, last_action, repeatables = row
    if repeatables or not isinstance(applied, str) or not isinstance(last_action, str):
        return None
    return LedgerSummary(applied, last_action)
