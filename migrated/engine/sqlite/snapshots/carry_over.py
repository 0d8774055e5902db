"""Putting rows back that rolling migrations back and applying them again took from their tables.

What a migration itself means to do with rows must not be undone. So a table is left alone when a migration that is
another than before has any statement but pure DDL in which the table is named; of every other table the rows are
exactly those that the snapshot has, since the migrations that stayed the same had done their work on them.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple
from urllib.parse import quote

import apsw

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import Snapshot
from migrated.core.sql import folded, quoted, statements, words
from migrated.engine.backend import RowRestoreReport
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX

_SCHEMA = "_migrated_snapshot"
_TABLES = f"""
SELECT name, type, wr FROM pragma_table_list WHERE schema = ? AND type IN ('table', 'virtual')
AND substr(name, 1, 7) != 'sqlite_' AND lower(substr(name, 1, {len(LEDGER_PREFIX)})) != '{LEDGER_PREFIX}'
ORDER BY type, name
"""
_COLUMNS = "SELECT name FROM pragma_table_xinfo(?, ?) WHERE hidden = 0 ORDER BY cid"
_NO_ROWS = {"ALTER", "ANALYZE", "CREATE", "DROP", "PRAGMA", "REINDEX", "VACUUM"}
# All else speaks of the disk, and has ended the transaction perhaps.
_OF_THE_TABLE = (apsw.SQLError, apsw.ConstraintError, apsw.MismatchError)
_ROW_NUMBERS = {"rowid", "_rowid_", "oid"}


def detach(connection: apsw.Connection) -> None:
    """Let go of the snapshot, if there is one beside the database; not possible inside the transaction."""
    if any(row[1] == _SCHEMA for row in connection.execute("PRAGMA database_list")):
        connection.execute(f"DETACH {_SCHEMA}").fetchall()


class Changes(NamedTuple):
    """Migrations that were as in `before` were made what they are in `after`.

    Only the tables in `touched` are concerned; all, where it is None. Those in `dropped` had lost their rows.
    """

    before: Sequence[Migration]
    after: Sequence[Migration]
    touched: AbstractSet[str] | None
    dropped: AbstractSet[str]


def changes_by(
    steps: Iterable[Step],
    touched: AbstractSet[str] | None,
    dropped: AbstractSet[str],
    undone: Sequence[Migration] = (),
) -> Changes:
    """What steps came to, after the `undone` had been made what they were before they were applied."""
    versioned = [step for step in steps if not step.migration.is_repeatable]
    before = [step.migration for step in versioned if step.direction is MigrationDirection.DOWN]
    after = [step.migration for step in versioned if step.direction is MigrationDirection.UP]
    return Changes([*undone, *before], after, touched, dropped)


def tables(connection: apsw.Connection, schema: str = "main") -> dict[str, tuple[str, str, bool]]:
    """The tables of people's, by folded name: name, kind, and whether they are without row numbers."""
    rows = connection.execute(_TABLES, (schema,))
    return {folded(str(name)): (str(name), str(kind), bool(wr)) for name, kind, wr in rows}


class RowRestorer:
    """From `snapshot`, which was taken before the changes."""

    def __init__(
        self,
        connection: apsw.Connection,
        snapshot: Snapshot,
        changes: Changes,
    ) -> None:
        self._connection = connection
        self._snapshot = snapshot
        self._concerned = None if changes.touched is None else {folded(name) for name in changes.touched}
        self._dropped = {folded(name) for name in changes.dropped}
        self._meant = {name for text in _changed_texts(changes.before, changes.after) for name in _written(text)}
        self._restored: dict[str, int] = {}
        self._not_restored: dict[str, str] = {}

    def run(self) -> RowRestoreReport:
        """Do it, inside the transaction that is open; nothing, where rows would then be without their parent."""
        path = quote(self._snapshot.path)
        self._connection.execute(f"ATTACH ? AS {_SCHEMA}", (f"file:{path}?immutable=1",)).fetchall()
        with self._without_triggers():
            then, now = tables(self._connection, _SCHEMA), tables(self._connection)
            for name, table in then.items():
                if self._concerned is None or name in self._concerned:
                    self._look_at(name, table, now)
            self._require_keys()
        return RowRestoreReport(self._snapshot.id, self._restored, self._not_restored)

    @contextlib.contextmanager
    def _without_triggers(self) -> Iterator[None]:
        # What they did when the rows first came is among the rows that are put back.
        before = self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, -1)
        self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        self._connection.execute("SAVEPOINT rows")
        try:
            yield
            self._connection.execute("RELEASE rows")
        finally:
            self._connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, before)

    def _look_at(self, name: str, table: tuple[str, str, bool], now: dict[str, tuple[str, str, bool]]) -> None:
        shown, kind, _ = table
        try:
            rows = self._count(_SCHEMA, shown)
            if rows and name not in now:
                self._not_restored[shown] = f"{_rows(rows)}; the table does not exist any more"
            elif rows and name in self._meant:
                if (there := self._count("main", shown)) < rows:
                    self._not_restored[shown] = (
                        f"{_rows(rows)}, {there} now; a changed migration writes to the table"
                    )
            elif rows and kind == now[name][1]:
                self._replace(shown, rows, table, is_virtual=kind == "virtual")
        except _OF_THE_TABLE as error:
            self._not_restored[shown] = f"cannot read or write the table: {error}"

    def _replace(self, table: str, rows: int, about: tuple[str, str, bool], *, is_virtual: bool) -> None:
        then, now = (self._columns(table, schema) for schema in (_SCHEMA, "main"))
        common = [then[name] for name in now if name in then]
        gone = [then[name] for name in then if name not in now]
        # Where the rows were never away, what a column had may be in another one now, which has its name.
        may_be_renamed = folded(table) not in self._dropped and gone and now.keys() - then.keys()
        if not common or may_be_renamed or (is_virtual and self._count("main", table)):
            self._leave(table, rows, gone)
            return
        if not about[2] and not any(folded(column) in _ROW_NUMBERS for column in common):
            common.insert(0, "rowid")
        self._copy(table, common, empty_first=not is_virtual)
        self._put_sequence_back(table)
        there = self._count("main", table)
        self._restored[table] = there
        if there < rows:
            self._not_restored[table] = (
                f"{rows - there} of {_rows(rows)}; they do not fit the new table definition"
            )
        elif gone:
            self._not_restored[table] = (
                f"{_rows(rows)}; values of dropped columns were not restored: {', '.join(gone)}"
            )

    def _leave(self, table: str, rows: int, gone: Sequence[str]) -> None:
        there = self._count("main", table)
        if there < rows:
            self._not_restored[table] = f"{_rows(rows)}, {there} now; the table was redefined"
        elif gone:
            self._not_restored[table] = (
                f"{_rows(rows)}; values of dropped columns were not restored: {', '.join(gone)}"
            )

    def _copy(self, table: str, columns: Sequence[str], *, empty_first: bool) -> None:
        listed = ", ".join(column if column == "rowid" else quoted(column) for column in columns)
        source, target = (f"{schema}.{quoted(table)}" for schema in (_SCHEMA, "main"))
        self._connection.execute("SAVEPOINT one")
        try:
            if empty_first:
                self._connection.execute(f"DELETE FROM {target}").fetchall()
            self._connection.execute(
                f"INSERT OR IGNORE INTO {target} ({listed}) SELECT {listed} FROM {source}"
            ).fetchall()
        except _OF_THE_TABLE:
            self._connection.execute("ROLLBACK TO one; RELEASE one").fetchall()
            raise
        self._connection.execute("RELEASE one").fetchall()

    def _columns(self, table: str, schema: str) -> dict[str, str]:
        return {folded(str(name)): str(name) for (name,) in self._connection.execute(_COLUMNS, (table, schema))}

    def _put_sequence_back(self, table: str) -> None:
        exists = "SELECT 1 FROM {}.sqlite_schema WHERE name = 'sqlite_sequence'"
        if all(self._connection.execute(exists.format(schema)).fetchall() for schema in ("main", _SCHEMA)):
            then = f"SELECT seq FROM {_SCHEMA}.sqlite_sequence WHERE name = ?1"
            self._connection.execute(
                f"UPDATE main.sqlite_sequence SET seq = max(seq, ifnull(({then}), 0)) WHERE name = ?1", (table,)
            ).fetchall()

    def _count(self, schema: str, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {schema}.{quoted(table)}").get)

    def _require_keys(self) -> None:
        if not self._restored or not (self._orphans("main") - self._orphans(_SCHEMA)):
            return
        self._connection.execute("ROLLBACK TO rows").fetchall()
        for table, rows in self._restored.items():
            self._not_restored[table] = f"{_rows(rows)}; some would reference missing rows"
        self._restored.clear()

    def _orphans(self, schema: str) -> Counter[tuple[str, str]]:
        try:
            found = self._connection.execute(f"PRAGMA {schema}.foreign_key_check").fetchall()
        except apsw.SQLError:
            # A key that cannot be checked at all; it was so before, or the migrations would have been refused.
            return Counter()
        return Counter((folded(str(row[0])), folded(str(row[2]))) for row in found)


def _changed_texts(before: Sequence[Migration], after: Sequence[Migration]) -> Iterator[str]:
    """The texts of what is not the same on both sides."""
    then, now = ({(each.version, each.checksum) for each in side} for side in (before, after))
    for migration in (*before, *after):
        if (migration.version, migration.checksum) not in then & now:
            yield migration.up_sql
            yield migration.down_sql or ""


def _written(sql: str) -> set[str]:
    """The names in all statements of a text that may write rows; more than are written, and never fewer."""
    found: set[str] = set()
    for start, end in statements(sql):
        named = [folded(word) for word in words(sql[start:end])]
        makes_rows = named[:1] == ["create"] and "table" in named[1:3] and "select" in named
        if named and (named[0].upper() not in _NO_ROWS or makes_rows):
            found.update(named)
    return found


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"
