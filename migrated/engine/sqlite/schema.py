"""The schema of a database as SQL that creates an empty copy, and what restoring a snapshot would lose."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.records import AppliedMigration, Snapshot
from migrated.core.sql import folded, quoted, terminated
from migrated.engine.sqlite import history, ledger, repeatables
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX
from migrated.engine.sqlite.connection import BusyHandler, as_database_error, is_absent_or_empty, open_for_reading
from migrated.engine.sqlite.snapshots.copying import open_immutable

# Other words here would rewrite, and so show as changed, the schema file of every user.
_HEADING = "-- Written by migrated after each change of the schema: what is edited here will be lost."
_RECORD = "-- The record of migrated: what is applied."
_ROWS_KEPT = {
    "_migrations": ("version", "name", "checksum"),
    repeatables.TABLE: ("name", "checksum", "objects"),
}
"""Our own tables whose rows are written, with the columns; all other columns get their defaults.

The script must be the same wherever the same migrations were applied, so it has no times and no host.
"""
_NUMBERS = ("application_id", "user_version")
_ORDER = ("table", "index", "view", "virtual", "trigger")
"""The order of creation: later kinds may depend on earlier ones."""
# An index without SQL belongs to a constraint. Texts are read as BLOBs, as they may not be valid UTF-8.
# MATERIALIZED: SQLite would otherwise run pragma_table_list again for each object.
_OBJECTS = """
WITH listed AS MATERIALIZED (SELECT name, type FROM pragma_table_list WHERE schema = 'main')
SELECT coalesce(l.type, o.type), CAST(o.name AS BLOB), CAST(o.tbl_name AS BLOB), CAST(o.sql AS BLOB)
FROM main.sqlite_schema AS o
LEFT JOIN listed AS l ON o.type = 'table' AND l.name = o.name
WHERE o.sql IS NOT NULL AND substr(o.name, 1, 7) != 'sqlite_'
"""


class _Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def read_schema(database: str, busy_handler: BusyHandler) -> bytes | None:
    """Return the schema of a database as a script. Changes nothing.

    None if there is no database, or while a migration is stopped. The script is UTF-8,
    unless the database has texts that are not. Raises `DatabaseError`.
    """
    if is_absent_or_empty(database):
        return None
    with (
        contextlib.closing(open_for_reading(database, busy_handler)) as connection,
        as_database_error(database),
    ):
        # One transaction: all reads see the same state.
        connection.execute("BEGIN")
        if history.unfinished(connection, database):
            return None
        return "\n\n".join(_paragraphs(connection, database)).encode(errors="surrogateescape")


def _paragraphs(connection: apsw.Connection, database: str) -> Iterator[str]:
    yield _HEADING
    encoding = str(connection.pragma("encoding"))
    if encoding != "UTF-8":
        yield f"PRAGMA encoding = '{encoding}';"
    yield "BEGIN;"
    numbers = {name: connection.pragma(name) for name in _NUMBERS}
    yield from (f"PRAGMA {name} = {number};" for name, number in numbers.items() if number)
    yield from (terminated(each.sql) for each in _objects(connection, encoding))
    if ledger.has(connection, "_migrations"):
        yield _RECORD
        yield from _bookkeeping(has_repeatables=ledger.has(connection, repeatables.TABLE))
        yield from _rows(connection, database)
    yield "COMMIT;\n"


def _objects(connection: apsw.Connection, encoding: str) -> list[_Object]:
    """Return the objects of the application, in an order in which they can be created."""
    # surrogateescape keeps invalid UTF-8 byte for byte; there is nothing like it for UTF-16.
    errors = "surrogateescape" if encoding == "UTF-8" else "replace"
    found = [
        _Object(str(kind), *(bytes(text).decode(encoding, errors) for text in texts))
        for kind, *texts in connection.execute(_OBJECTS)
    ]
    shadows = _shadows(found)
    found = [each for each in found if folded(each.table) not in shadows and not _is_ours(each)]
    return sorted(found, key=lambda each: (_rank(each), each.name))


def _rank(each: _Object) -> int:
    # SQLite lists it as a shadow table by its name, but no virtual table creates it.
    return _ORDER.index("table" if each.kind == "shadow" else each.kind)


def _is_ours(each: _Object) -> bool:
    return any(folded(name).startswith(LEDGER_PREFIX) for name in (each.name, each.table))


def _shadows(found: Iterable[_Object]) -> set[str]:
    """Return the names of the shadow tables, which virtual tables create themselves.

    SQLite decides by the name alone. A table `docs_content` of the application, from which the virtual table
    `docs` reads, would count as one. So the virtual tables are created in memory to see which tables they make.
    """
    suspected = {folded(each.name) for each in found if each.kind == "shadow"}
    if not suspected:
        return set()
    made: set[str] = set()
    with contextlib.closing(apsw.Connection(":memory:")) as trial:
        for each in sorted((each for each in found if each.kind in {"table", "view", "virtual"}), key=_rank):
            try:
                trial.execute(each.sql).fetchall()
            except (apsw.Error, UnicodeEncodeError):
                # It needs a module or tokenizer of the application, so only the name can decide.
                made |= {name for name in suspected if name.startswith(f"{folded(each.name)}_")}
        made |= {folded(str(name)) for (name,) in trial.execute("SELECT name FROM sqlite_schema")}
    return suspected & made


def _bookkeeping(*, has_repeatables: bool) -> Iterator[str]:
    """Yield our own tables as this version creates them, whatever version created those in the database."""
    with contextlib.closing(apsw.Connection(":memory:")) as fresh:
        ledger.create(fresh, ":memory:")
        if has_repeatables:
            repeatables.create(fresh)
        for (sql,) in fresh.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"):
            yield terminated(str(sql))


def _rows(connection: apsw.Connection, database: str) -> Iterator[str]:
    for table, columns in _ROWS_KEPT.items():
        if not ledger.has(connection, table):
            continue
        values = ", ".join(f"quote({column})" for column in columns)
        try:
            rows = connection.execute(f"SELECT {values} FROM main.{table} ORDER BY {columns[0]}").fetchall()
        except apsw.SQLError as error:
            raise ledger.unexpected_table(table, error, database) from error
        beginning = f"INSERT INTO {table} ({', '.join(columns)}) VALUES"
        if rows:
            yield "\n".join(f"{beginning} ({', '.join(map(str, row))});" for row in rows)


# Without shadow tables and SQLite's own tables, which users do not know about.
_COMPARING_OBJECTS = """
SELECT name, type FROM pragma_table_list
WHERE schema = 'main' AND type IN ('table', 'virtual', 'view') AND substr(name, 1, 7) != 'sqlite_'
AND lower(substr(name, 1, ?)) != ?
"""


@dataclass(frozen=True, slots=True)
class RowCount:
    """The number of rows of a table now, and in the snapshot."""

    table: str
    now: int
    then: int


@dataclass(frozen=True, slots=True)
class Loss:
    """What restoring a snapshot would lose.

    `migrations` are applied now but not in the snapshot, ascending; `tables` and `views` exist only now; `rows`
    has the common tables whose numbers of rows differ. Tables whose rows cannot be counted (virtual ones, whose
    module the application has) are left out of `rows`. Rows that were only updated are not noticed.
    """

    migrations: tuple[AppliedMigration, ...] = ()
    tables: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    rows: tuple[RowCount, ...] = ()


def lost_by_restoring(snapshot: Snapshot, database: str, busy_handler: BusyHandler) -> Loss:
    """Compare a database with a snapshot. Changes neither; a missing or empty file has nothing to lose.

    Raises `DatabaseError` if one of them cannot be read.
    """
    if is_absent_or_empty(database):
        return Loss()
    with (
        contextlib.closing(open_for_reading(database, busy_handler)) as live,
        as_database_error(database),
        contextlib.closing(_opened(snapshot, database)) as past,
    ):
        # One transaction: all reads see the same state of the live database.
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
            hint="it may have been removed; choose another snapshot",
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
    """Return the names of the tables and of the views."""
    names: tuple[set[str], set[str]] = set(), set()
    for name, kind in connection.execute(_COMPARING_OBJECTS, (len(LEDGER_PREFIX), LEDGER_PREFIX)):
        names[kind == "view"].add(str(name))
    return names


def _counts(live: apsw.Connection, past: apsw.Connection, table: str) -> tuple[int, int] | None:
    """Return both numbers of rows if they can be counted and differ."""
    try:
        now, then = (int(side.execute(f"SELECT count(*) FROM {quoted(table)}").get) for side in (live, past))
    except apsw.SQLError:
        return None
    return None if now == then else (now, then)
