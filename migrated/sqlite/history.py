"""`_migrations_history`, everything that ever happened: it is only added to."""

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import apsw

from migrated.about import VERSION
from migrated.directives import Directive
from migrated.errors import DatabaseError
from migrated.model import AppliedMigration, Migration, MigrationDirection, Snapshot, Step, Unfinished
from migrated.sqlite import ledger

_RECORDED = """
SELECT version, name, up_sql, down_sql, checksum, directives FROM main._migrations_history
WHERE version = ? AND up_sql IS NOT NULL AND action IN ({actions}) ORDER BY id DESC LIMIT 1
"""
_APPLYING = ("apply", "mark-applied")
_PARTS = {MigrationDirection.UP: "apply-statement", MigrationDirection.DOWN: "rollback-statement"}
_WHOLE = {MigrationDirection.UP: "apply", MigrationDirection.DOWN: "rollback"}
_LAST = "SELECT id, action FROM main._migrations_history ORDER BY id DESC LIMIT 1"
_LAST_PART = """
SELECT version, statement, statements, happened_at, host, pid FROM main._migrations_history WHERE id = ?
"""
_ADD = (
    f"INSERT INTO main._migrations_history ({', '.join(ledger.HISTORY_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(ledger.HISTORY_COLUMNS))})"
)


class Course(NamedTuple):
    """How a step went: its time, the rows it changed; of one without a transaction, the statement of how many.

    `reason` is what a person gave for it; `violations` is a JSON object with the number of old violations of
    foreign keys in each table touched until then.
    """

    execution_time_ms: int = 0
    rows_changed: int = 0
    statement: int | None = None
    statements: int | None = None
    reason: str | None = None
    violations: str | None = None


def unfinished(connection: apsw.Connection, database: str) -> Unfinished | None:
    """The migration without a transaction that stopped half way, if one did.

    Nothing else can have been done since: so it is what the last entry of the history speaks of.
    """
    if not ledger.has(connection, "_migrations_history"):
        return None
    try:
        for row, action in connection.execute(_LAST):
            for direction, part in _PARTS.items():
                if action == part:
                    return _unfinished(connection, int(row), direction, database)
    except (apsw.SQLError, ValueError, TypeError) as error:
        raise ledger.not_ours("_migrations_history", error, database) from error
    return None


def _unfinished(
    connection: apsw.Connection, row: int, direction: MigrationDirection, database: str
) -> Unfinished | None:
    for version, statement, statements, happened_at, host, pid in connection.execute(_LAST_PART, (row,)):
        text = _recorded(connection, int(version), (_PARTS[direction],), database)
        if text is not None:
            when = datetime.fromisoformat(str(happened_at))
            return Unfinished(text, direction, int(statement), int(statements), when, str(host), int(pid))
    return None


def last_entry(connection: apsw.Connection) -> int | None:
    """The number of the history's last entry."""
    return next((int(row) for row, _ in connection.execute(_LAST)), None)


def recorded(connection: apsw.Connection, versions: Iterable[int], database: str) -> dict[int, Migration]:
    """The migrations as they were when they were last applied, by version; only those that were recorded."""
    if not ledger.has(connection, "_migrations_history"):
        return {}
    found = {version: _recorded(connection, version, _APPLYING, database) for version in versions}
    return {version: migration for version, migration in found.items() if migration}


def _recorded(
    connection: apsw.Connection, version: int, actions: Sequence[str], database: str
) -> Migration | None:
    query = _RECORDED.format(actions=", ".join("?" * len(actions)))
    for _, name, up_sql, down_sql, checksum, directives in connection.execute(query, (version, *actions)):
        try:
            header = frozenset(Directive(value) for value in directives.split(",") if value)
        except ValueError as error:
            raise DatabaseError(
                f"the record of migration {version} cannot be used: {error}",
                database=database,
                hint="a newer version of migrated made it; use that one",
            ) from error
        return Migration(version, name, up_sql or "", down_sql, checksum=checksum, header=header)
    return None


def record_step(connection: apsw.Connection, step: Step, course: Course) -> AppliedMigration:
    """Enter a migration, or strike it out, in the transaction that did it.

    Returns the entry as the table has it, or had it.
    """
    up = step.direction is MigrationDirection.UP
    entry = (ledger.enter if up else ledger.strike_out)(connection, step.migration, course.execution_time_ms)
    record(connection, _WHOLE[step.direction], step.migration, course)
    return entry


def violations(connection: apsw.Connection) -> dict[str, int]:
    """Those that the last entry speaks of, by table."""
    rows = connection.execute("SELECT violations FROM main._migrations_history ORDER BY id DESC LIMIT 1")
    for (text,) in rows:
        found: dict[str, int] = json.loads(str(text or "{}"))
        return found
    return {}


def record_part(connection: apsw.Connection, step: Step, course: Course, *, with_texts: bool) -> None:
    """Record that a statement of a migration without a transaction is done; the texts once in a run."""
    record(connection, _PARTS[step.direction], step.migration, course, with_texts=with_texts)


def record_restore(connection: apsw.Connection, snapshot: Snapshot, reason: str | None) -> None:
    """Add that the content is that of a snapshot, whose name is the entry's."""
    what = ("restore", snapshot.version or 0, snapshot.id, "", "", None, None)
    _add(connection, what, Course(reason=reason))


def record(
    connection: apsw.Connection,
    action: str,
    migration: Migration,
    course: Course = Course(),  # noqa: B008 - immutable
    *,
    with_texts: bool = True,
) -> None:
    """Add to the history."""
    what = (
        action,
        migration.version,
        migration.name,
        migration.checksum,
        ",".join(sorted(migration.header)),
        migration.up_sql if with_texts else None,
        migration.down_sql if with_texts else None,
    )
    _add(connection, what, course)


def _add(connection: apsw.Connection, what: tuple[str | int | None, ...], course: Course) -> None:
    connection.execute(_ADD, (*what, *course, os.uname().nodename, os.getpid(), VERSION))
