"""Detect foreign-key violations that a migration introduces, as opposed to those that existed before."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import apsw

from migrated.core.sql import folded, quoted

_SHOWN = 20
_REFERENCED = re.compile(r' referencing "(.*)"$', re.DOTALL)
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"


class Violation(NamedTuple):
    """A row that references a missing parent; with `fault`, a key that SQLite cannot check at all."""

    table: str
    row: int | None
    parent: str
    key: tuple[object, ...] = ()
    fault: str = ""


class ForeignKeyGraph:
    """Cached foreign-key graph of one connection, by folded table names.

    May contain stale edges, never lacks one, provided every CREATE and ALTER is reported with `learn`. If that is
    not possible, `forget` makes the next use read all keys again.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._children: dict[str, set[str]] | None = None
        self._pointing: set[str] = set()

    def forget(self) -> None:
        """Drop the cache: any table may have other keys now."""
        self._children = None

    def learn(self, tables: Iterable[str]) -> None:
        """Add the keys of tables that were created or altered."""
        if self._children is None:
            return
        for table in tables:
            for (parent,) in self._connection.execute(_KEYS_OF, (table,)):
                self._add(table, str(parent), self._children)

    def children(self, tables: Iterable[str]) -> set[str]:
        """Return the tables that have a key to one of these."""
        known = self._known()
        found: set[str] = set()
        for table in tables:
            found |= known.get(table, _NONE)
        return found

    def points(self, table: str) -> bool:
        """True if the table has a foreign key."""
        self._known()
        return table in self._pointing

    def _known(self) -> dict[str, set[str]]:
        if self._children is None:
            self._children, self._pointing = {}, set()
            for child, parent in self._connection.execute(_KEYS):
                self._add(folded(str(child)), str(parent), self._children)
        return self._children

    def _add(self, child: str, parent: str, children: dict[str, set[str]]) -> None:
        children.setdefault(folded(parent), set()).add(child)
        self._pointing.add(child)


class ForeignKeys:
    """Finds the violations that a migration introduces, checking only tables that it can affect.

    These are the tables that it writes to or drops, and their children. Each is checked once before the first
    statement that touches it, to know the old violations, and once at the end. `before_write` must be called
    before the statement runs. `known` has the numbers of old violations in tables that an earlier process touched.
    """

    def __init__(
        self, connection: apsw.Connection, keys: ForeignKeyGraph, known: Mapping[str, int] | None = None
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._known = dict(known or {})
        self._existed: dict[str, bool] = {}
        self._has_all = False
        self._touched: set[str] = set()
        self._redefined: set[str] = set()
        self._renamed: set[str] = set()
        self._checked: set[str] = set()
        self._before: Counter[Violation] = Counter()

    def before_write(self, tables: Iterable[str], renamed: Iterable[str] = ()) -> None:
        """Note that rows of these tables are about to change.

        Tables that are `renamed` may have any name afterwards.
        """
        if renamed:
            self._renamed |= {folded(table) for table in renamed}
            self.list_all()
        new = {folded(table) for table in tables} - self._touched
        if not new:
            return
        self._touched |= new
        # A table that did not exist at the start has no old violations of its own, and its children are not
        # checked either: every key to it was a violation before. It may get the rows of a table that had some.
        at_first = {table for table in new if self._did_exist(table)}
        unknown = (new | self._keys.children(at_first)) - self._checked - self._known.keys()
        first_seen = {table for table in unknown if self._did_exist(table)}
        self._checked |= first_seen
        self._before += self._violations(first_seen)

    def before_create(self, tables: Iterable[str], *, with_keys: bool) -> None:
        """Note that these tables are about to be created, if they do not exist.

        `with_keys` if the statement declares foreign keys.
        """
        for table in map(folded, tables):
            self._did_exist(table)
            if with_keys:
                self._redefined.add(table)

    def before_redefine(self, tables: Iterable[str]) -> None:
        """Note that the keys of these tables are about to change."""
        self._redefined |= {folded(table) for table in tables}

    def list_all(self) -> None:
        """Note all existing tables; needed before tables appear under names that are not known beforehand."""
        if not self._has_all:
            for table in self._tables():
                self._existed.setdefault(table, True)
            self._has_all = True

    def counts(self) -> dict[str, int]:
        """Count the old violations in each table touched so far."""
        found = dict.fromkeys(self._checked, 0) | self._known
        for violation, count in self._before.items():
            found[folded(violation.table)] += count
        return found

    def new_violations(self) -> list[Violation]:
        """Return the violations that did not exist before, by table and row."""
        existing = self._tables() if self._has_all else {table for table in self._existed if self._exists(table)}
        created = {table for table in existing if not self._did_exist(table)}
        dropped = {table for table, existed in self._existed.items() if existed} - existing
        if self._has_all:
            self._keys.forget()
        else:
            self._keys.learn(self._redefined)
        concerned = self._touched | created
        if not concerned and not self._known:
            return []
        concerned |= self._keys.children(concerned | dropped)
        # A table that was not checked before has no new violations: neither its rows nor its parents changed.
        after = self._violations((concerned & (self._checked | created)) - self._known.keys())
        # But a created parent may lack the unique column that a key needs.
        for table in self._keys.children(created) - self._checked - created:
            if self._exists(table):
                after += _faults(self._connection, table, created)
        found = _difference(self._before, after, self._renamed | created | dropped) if after else []
        return sorted(found + self._more_than_known(), key=lambda each: (each.table, each.row or 0))

    def _more_than_known(self) -> list[Violation]:
        found: list[Violation] = []
        for table in self._known:
            # Only the number of old ones is known, not which of these are new.
            found += list(self._violations([table]).elements())[self._known[table] :]
        return found

    def _violations(self, tables: Iterable[str]) -> Counter[Violation]:
        found: Counter[Violation] = Counter()
        for table in tables:
            # The graph may still have keys of a dropped table.
            if self._keys.points(table) and self._exists(table):
                found += _violations(self._connection, table)
        return found

    def _did_exist(self, table: str) -> bool:
        """True if the table existed at the start of the step.

        Must be asked first before a statement touches the table.
        """
        if table not in self._existed:
            self._existed[table] = not self._has_all and self._exists(table)
        return self._existed[table]

    def _exists(self, table: str) -> bool:
        # Answered from SQLite's schema cache, which is up to date once our transaction has read anything.
        return self._connection.table_exists("main", table)

    def _tables(self) -> set[str]:
        return {folded(str(name)) for (name,) in self._connection.execute(_TABLES)}


def _violations(connection: apsw.Connection, table: str) -> Counter[Violation]:
    """Return the violations of a table, counted, as a row may violate several equal keys.

    A key that cannot be checked (its parent's column is not unique) counts as one violation, so that an old fault
    of that kind does not stop an unrelated migration.
    """
    try:
        return _check(connection, f"PRAGMA main.foreign_key_check({quoted(table)})")
    except apsw.SQLError as error:
        return Counter([Violation(table, None, "", fault=str(error))])


def _faults(connection: apsw.Connection, table: str, parents: AbstractSet[str]) -> Counter[Violation]:
    """Find a key to one of `parents` that cannot be checked; EXPLAIN reports it without reading rows.

    SQLite reports only one key, which may be an old fault that does not concern `parents`.
    """
    try:
        connection.execute(f"EXPLAIN PRAGMA main.foreign_key_check({quoted(table)})").fetchall()
    except apsw.SQLError as error:
        named = _REFERENCED.search(str(error))
        if named is None or folded(named[1].replace('""', '"')) in parents:
            return Counter([Violation(table, None, "", fault=str(error))])
    return Counter()


def _check(connection: apsw.Connection, pragma: str) -> Counter[Violation]:
    found: list[Any] = connection.execute(pragma).fetchall()
    queries: dict[tuple[str, int], str] = {}
    return Counter(
        Violation(table, row, parent, _key(connection, queries, table, row, number))
        for table, row, parent, number in found
    )


def _key(
    connection: apsw.Connection, queries: dict[tuple[str, int], str], table: str, row: int | None, number: int
) -> tuple[object, ...]:
    """Return the values of the row in the columns of its foreign key."""
    if row is None:
        return ()
    if (table, number) not in queries:
        listed = 'SELECT "from" FROM pragma_foreign_key_list(?) WHERE id = ? ORDER BY seq'
        names = [quoted(str(name)) for (name,) in connection.execute(listed, (table, number))]
        # As hex: apsw cannot fetch a text that is not valid UTF-8.
        columns = ", ".join(f"hex({name})" for name in names)
        queries[table, number] = f"SELECT {columns} FROM main.{quoted(table)} WHERE rowid = ?"
    # Finds nothing if the table has a column of its own called rowid.
    rows: list[Any] = connection.execute(queries[table, number], (row,)).fetchall()
    return tuple(rows[0]) if rows else ()


def _difference(
    before: Counter[Violation], after: Counter[Violation], renamed: AbstractSet[str]
) -> list[Violation]:
    """Return the violations in `after` that are not in `before`.

    A migration may rename a table, and a rebuild may give its rows other row ids. So old violations are matched in
    three passes: first those equal in everything; then those equal but for the names of tables that were created,
    dropped or renamed; then those equal but for the row id too.
    """
    old = [_folded(violation) for violation in before.elements()]
    new = [(_folded(violation), violation) for violation in after.elements()]
    for same in (
        _exact,
        lambda each: _ignore_table_names(each, renamed),
        lambda each: _ignore_row_ids(each, renamed),
    ):
        old, new = _unmatched(old, new, same)
    return [violation for _, violation in new]


def _exact(violation: Violation) -> Violation:
    return violation


def _folded(violation: Violation) -> Violation:
    fault = "unchecked" if violation.fault else ""
    return violation._replace(table=folded(violation.table), parent=folded(violation.parent), fault=fault)


def _ignore_row_ids(violation: Violation, renamed: AbstractSet[str]) -> Violation:
    return _ignore_table_names(violation, renamed)._replace(row=None)


def _unmatched(
    old: list[Violation], new: list[tuple[Violation, Violation]], same: Callable[[Violation], Violation]
) -> tuple[list[Violation], list[tuple[Violation, Violation]]]:
    """Remove pairs that are equal under `same`; return the rest of both sides."""
    unmatched = Counter(same(violation) for violation in old)
    unknown = []
    for violation, shown in new:
        if unmatched[same(violation)] > 0:
            unmatched[same(violation)] -= 1
        else:
            unknown.append((violation, shown))
    left = []
    for violation in old:
        if unmatched[same(violation)] > 0:
            unmatched[same(violation)] -= 1
            left.append(violation)
    return left, unknown


def _ignore_table_names(violation: Violation, renamed: AbstractSet[str]) -> Violation:
    """Blank the names of tables that were renamed, created or dropped.

    A rebuilt table then compares equal.
    """
    return violation._replace(
        table="" if violation.table in renamed else violation.table,
        parent="" if violation.parent in renamed else violation.parent,
    )


def describe(violations: Sequence[Violation]) -> str:
    """Describe the violations for users: their number, and at most 20 of them."""
    count = len(violations)
    shown = "; ".join(_sentence(violation) for violation in violations[:_SHOWN])
    more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"{count} new foreign-key violation{'s' * (count != 1)}: {shown}{more}"


def _sentence(violation: Violation) -> str:
    if violation.fault:
        return violation.fault
    # SQLite reports no row id for a table WITHOUT ROWID.
    row = "a row" if violation.row is None else f"row {violation.row}"
    return f"{row} of {violation.table} references a missing row of {violation.parent}"


_NONE: frozenset[str] = frozenset()
# Reading the keys of thousands of tables is slow, so tables without the word REFERENCES are skipped.
_KEYS = """
SELECT child.name, key."table" FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
WHERE child.type = 'table' AND instr(lower(child.sql), 'references')
"""
_KEYS_OF = "SELECT \"table\" FROM pragma_foreign_key_list(?, 'main')"
