"""What a live database has that a snapshot of it has not."""

import contextlib
from dataclasses import dataclass

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.records import AppliedMigration, Snapshot
from migrated.core.sql import quoted
from migrated.sqlite import ledger
from migrated.sqlite.connection import Patience, environment_errors, is_absent_or_empty, open_for_reading
from migrated.sqlite.copying import open_immutable
from migrated.sqlite.guard import LEDGER_PREFIX

# Tables that belong to a virtual table ("shadow") and SQLite's own are not what a person thinks in.
_OBJECTS = """
SELECT name, type FROM pragma_table_list
WHERE schema = 'main' AND type IN ('table', 'virtual', 'view') AND substr(name, 1, 7) != 'sqlite_'
AND lower(substr(name, 1, ?)) != ?
"""


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows a table has now, and had in the snapshot."""

    table: str
    now: int
    then: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What restoring would undo.

    `migrations` are applied now and not in the snapshot, ascending; `tables` and `views` exist now and not there;
    `rows` names the tables of both whose number of rows differs. A table whose rows cannot be counted (a virtual
    one, whose module is the application's) is not among the latter. Rows that only changed are not seen.
    """

    migrations: tuple[AppliedMigration, ...] = ()
    tables: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    rows: tuple[RowCount, ...] = ()


def lost_by_restoring(snapshot: Snapshot, database: str, patience: Patience) -> Loss:
    """Compare a database with a snapshot, and change neither. A missing or empty file has nothing to lose.

    Raises `DatabaseError` when one of them cannot be read.
    """
    if is_absent_or_empty(database):
        return Loss()
    with (
        contextlib.closing(open_for_reading(database, patience)) as live,
        environment_errors(database),
        contextlib.closing(_opened(snapshot, database)) as past,
    ):
        # One moment of the live database, whoever writes meanwhile.
        live.execute("BEGIN")
        return _compared(live, past, database)


def _opened(snapshot: Snapshot, database: str) -> apsw.Connection:
    try:
        return open_immutable(snapshot.path)
    except apsw.CantOpenError as error:
        raise DatabaseError(
            f"the snapshot {snapshot.id} cannot be opened: {error}",
            database=database,
            code="SQLITE_CANTOPEN",
            hint="it may have been removed; choose another",
        ) from error


def _compared(live: apsw.Connection, past: apsw.Connection, database: str) -> Loss:
    tables, views = _names(live)
    tables_then, views_then = _names(past)
    known = {entry.version for entry in ledger.read(past, database)}
    return Loss(
        migrations=tuple(entry for entry in ledger.read(live, database) if entry.version not in known),
        tables=tuple(sorted(tables - tables_then)),
        views=tuple(sorted(views - views_then)),
        rows=tuple(
            RowCount(table, *counts)
            for table in sorted(tables & tables_then)
            if (counts := _counts(live, past, table))
        ),
    )


def _names(connection: apsw.Connection) -> tuple[set[str], set[str]]:
    """The names of the tables and of the views."""
    names: tuple[set[str], set[str]] = set(), set()
    for name, kind in connection.execute(_OBJECTS, (len(LEDGER_PREFIX), LEDGER_PREFIX)):
        names[kind == "view"].add(str(name))
    return names


def _counts(live: apsw.Connection, past: apsw.Connection, table: str) -> tuple[int, int] | None:
    """Both numbers of rows, where they differ and can be told."""
    try:
        now, then = (int(side.execute(f"SELECT count(*) FROM {quoted(table)}").get) for side in (live, past))
    except apsw.SQLError:
        return None
    return None if now == then else (now, then)
