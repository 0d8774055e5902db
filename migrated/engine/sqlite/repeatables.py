"""The table `_migrations_repeatable`: the applied repeatable migrations, their checksums and objects.

The table is created with the first of them.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import apsw

from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration, AppliedRepeatable
from migrated.core.sql import quoted
from migrated.engine.sqlite import ledger

TABLE = "_migrations_repeatable"
_CREATE = f"""
CREATE TABLE IF NOT EXISTS main.{TABLE} (
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (datetime('now')),
    execution_time_ms INTEGER NOT NULL DEFAULT 0,
    objects TEXT NOT NULL DEFAULT '[]'
)
"""
_READ = f"SELECT name, checksum, applied_at, execution_time_ms, objects FROM main.{TABLE} ORDER BY name"
_INSERT = f"INSERT OR REPLACE INTO main.{TABLE} (name, checksum, execution_time_ms, objects) VALUES (?, ?, ?, ?)"
_KINDS = {"view", "trigger"}


def read(connection: apsw.Connection, database: str) -> list[AppliedRepeatable]:
    """Return what is applied, by name. Raises `DatabaseError` if the table has unexpected columns."""
    return read_existing(connection, database) if ledger.has(connection, TABLE) else []


def read_existing(connection: apsw.Connection, database: str) -> list[AppliedRepeatable]:
    """Like `read`, for a table that is known to exist."""
    try:
        return [_entry(*row) for row in connection.execute(_READ)]
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise ledger.unexpected_table(TABLE, error, database) from error


def create(connection: apsw.Connection) -> None:
    """Create the table if it is missing."""
    connection.execute(_CREATE).fetchall()


def insert(
    connection: apsw.Connection, migration: Migration, execution_time_ms: int, objects: Iterable[tuple[str, str]]
) -> AppliedMigration:
    """Record a repeatable migration as applied, with the objects it created. The entry has version 0."""
    # Imported here: most databases have no repeatable migrations, and start faster without it.
    import json

    create(connection)
    made = json.dumps(sorted(objects), ensure_ascii=False)
    connection.execute(_INSERT, (migration.name, migration.checksum, execution_time_ms, made))
    return AppliedMigration(0, migration.label, migration.checksum, datetime.now(UTC), execution_time_ms)


def undo(connection: apsw.Connection, entries: Iterable[AppliedRepeatable]) -> None:
    """Drop the objects that these migrations created, if they still exist, and delete their entries."""
    for entry in entries:
        for kind, name in entry.objects:
            # The table can be edited by anybody: only known words go into the SQL.
            if kind in _KINDS:
                connection.execute(f"DROP {kind} IF EXISTS main.{quoted(name)}").fetchall()
        connection.execute(f"DELETE FROM main.{TABLE} WHERE name = ?", (entry.name,))


def _entry(name: str, checksum: str, applied_at: str, execution_time_ms: int, objects: str) -> AppliedRepeatable:
    import json

    when = datetime.fromisoformat(applied_at).replace(tzinfo=UTC)
    made = tuple((str(kind), str(thing)) for kind, thing in json.loads(objects))
    return AppliedRepeatable(str(name), str(checksum), when, int(execution_time_ms), made)
