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
    """A row without its parent; or, where `fault` is given, a key that SQLite cannot check at all."""

    table: str
    row: int | None
    parent: str
    key: tuple[object, ...] = ()
    fault: str = ""


class ForeignKeyGraph:
    """Which tables point at which, by their folded names; kept from step to step on one connection.

    A key that is gone may still be known, and none is missing, as long as it is told of every table that is made
    or altered. Where that cannot be told it has to `forget`, and all are read again once they are asked for.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._children: dict[str, set[str]] | None = None
        self._pointing: set[str] = set()

    def forget(self) -> None:
        """Any table may have other keys by now."""
        self._children = None

    def learn(self, tables: Iterable[str]) -> None:
        """These tables were made, or may have more keys by now."""
        if self._children is None:
            return
        for table in tables:
            for (parent,) in self._connection.execute(_KEYS_OF, (table,)):
                self._add(table, str(parent), self._children)

    def children(self, tables: Iterable[str]) -> set[str]:
        """The tables that point at one of these."""
        known = self._known()
        found: set[str] = set()
        for table in tables:
            found |= known.get(table, _NONE)
        return found

    def points(self, table: str) -> bool:
        """Whether the table has any key."""
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
    """Finds the violations that a migration makes, looking only where it can have made any.

    Those are the tables that it wrote to or dropped, and the children of these. Each is checked once before the
    first statement that touches it, so that old violations are known, and once at the end. `touch` must be
    called before the statement runs. `known` says of tables that were touched earlier, in another process, how
    many old violations they had.
    """

    def __init__(
        self, connection: apsw.Connection, keys: ForeignKeyGraph, known: Mapping[str, int] | None = None
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._known = dict(known or {})
        self._was_there: dict[str, bool] = {}
        self._has_all = False
        self._touched: set[str] = set()
        self._redefined: set[str] = set()
        self._renamed: set[str] = set()
        self._checked: set[str] = set()
        self._before: Counter[Violation] = Counter()

    def before_write(self, tables: Iterable[str], renamed: Iterable[str] = ()) -> None:
        """Take into account that rows of these tables are about to come, go or change.

        Those that are `renamed` may have any name afterwards.
        """
        if renamed:
            self._renamed |= {folded(table) for table in renamed}
            self.list_all()
        new = {folded(table) for table in tables} - self._touched
        if not new:
            return
        self._touched |= new
        # A table that was not there at first has no old violations, though it may hold the rows of one that has;
        # and all that pointed at it was one.
        at_first = {table for table in new if self._was(table)}
        unknown = (new | self._keys.children(at_first)) - self._checked - self._known.keys()
        first_seen = {table for table in unknown if self._was(table)}
        self._checked |= first_seen
        self._before += self._violations(first_seen)

    def before_create(self, tables: Iterable[str], *, with_keys: bool) -> None:
        """Take into account that these are about to be made, if they are not there."""
        for table in map(folded, tables):
            self._was(table)
            if with_keys:
                self._redefined.add(table)

    def before_redefine(self, tables: Iterable[str]) -> None:
        """Take into account that these are about to get other keys."""
        self._redefined |= {folded(table) for table in tables}

    def list_all(self) -> None:
        """Any table may come under a name that nobody tells us before: then all that are there must be known."""
        if not self._has_all:
            for table in self._tables():
                self._was_there.setdefault(table, True)
            self._has_all = True

    def counts(self) -> dict[str, int]:
        """How many old violations the tables have that were touched until now."""
        found = dict.fromkeys(self._checked, 0) | self._known
        for violation, count in self._before.items():
            found[folded(violation.table)] += count
        return found

    def new_violations(self) -> list[Violation]:
        """Those that were not there before, by table and row."""
        there = self._tables() if self._has_all else {table for table in self._was_there if self._exists(table)}
        come = {table for table in there if not self._was(table)}
        gone = {table for table, was_there in self._was_there.items() if was_there} - there
        if self._has_all:
            self._keys.forget()
        else:
            self._keys.learn(self._redefined)
        concerned = self._touched | come
        if not concerned and not self._known:
            return []
        concerned |= self._keys.children(concerned | gone)
        # What was not checked before can have no new violations: none of its rows, nor of its parents', changed.
        after = self._violations((concerned & (self._checked | come)) - self._known.keys())
        # But a parent that came may be one that no key can point at.
        for table in self._keys.children(come) - self._checked - come:
            if self._exists(table):
                after += _faults(self._connection, table, come)
        found = _difference(self._before, after, self._renamed | come | gone) if after else []
        return sorted(found + self._more_than_known(), key=lambda each: (each.table, each.row or 0))

    def _more_than_known(self) -> list[Violation]:
        found: list[Violation] = []
        for table in self._known:
            # Only their number is known: which of them are new cannot be told.
            found += list(self._violations([table]).elements())[self._known[table] :]
        return found

    def _violations(self, tables: Iterable[str]) -> Counter[Violation]:
        found: Counter[Violation] = Counter()
        for table in tables:
            # A key may be known of a table that is gone.
            if self._keys.points(table) and self._exists(table):
                found += _violations(self._connection, table)
        return found

    def _was(self, table: str) -> bool:
        """Whether the table was there at first: as it is now, where no statement has touched it yet."""
        if table not in self._was_there:
            self._was_there[table] = not self._has_all and self._exists(table)
        return self._was_there[table]

    def _exists(self, table: str) -> bool:
        # Asked of the schema in SQLite's memory, which is the file's once our transaction has read any of it.
        return self._connection.table_exists("main", table)

    def _tables(self) -> set[str]:
        return {folded(str(name)) for (name,) in self._connection.execute(_TABLES)}


def _violations(connection: apsw.Connection, table: str) -> Counter[Violation]:
    """Each with how many of the row's keys it is.

    A key that cannot be checked (its parent's column is not unique) counts as one violation, so that an old
    fault of that kind does not stop a migration that has nothing to do with it.
    """
    try:
        return _check(connection, f"PRAGMA main.foreign_key_check({quoted(table)})")
    except apsw.SQLError as error:
        return Counter([Violation(table, None, "", fault=str(error))])


def _faults(connection: apsw.Connection, table: str, parents: AbstractSet[str]) -> Counter[Violation]:
    """A key to one of `parents` that cannot be checked, without looking at a row: SQLite says so before it begins.

    It tells of one key only, and another may have been at fault long before.
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
    """What the row has in the columns that point at the parent."""
    if row is None:
        return ()
    if (table, number) not in queries:
        listed = 'SELECT "from" FROM pragma_foreign_key_list(?) WHERE id = ? ORDER BY seq'
        names = [quoted(str(name)) for (name,) in connection.execute(listed, (table, number))]
        # Not the value itself: a text in another encoding than UTF-8 cannot be fetched.
        columns = ", ".join(f"hex({name})" for name in names)
        queries[table, number] = f"SELECT {columns} FROM main.{quoted(table)} WHERE rowid = ?"
    # Nothing is found where a column of the table's own is called rowid.
    rows: list[Any] = connection.execute(queries[table, number], (row,)).fetchall()
    return tuple(rows[0]) if rows else ()


def _difference(
    before: Counter[Violation], after: Counter[Violation], renamed: AbstractSet[str]
) -> list[Violation]:
    """What is new in `after`.

    A table may have been renamed, and rebuilding one may give its rows other numbers. So what is not the same
    row as before may still be the same reference to the same parent that is not there: first what is the same
    in everything is crossed out, then what is but for the names of tables that came, went or were renamed, then
    but for the row's number too.
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
    """Cross out, one for one, what is the same on both sides, and return what is left of each."""
    there = Counter(same(violation) for violation in old)
    unknown = []
    for violation, shown in new:
        if there[same(violation)] > 0:
            there[same(violation)] -= 1
        else:
            unknown.append((violation, shown))
    left = []
    for violation in old:
        if there[same(violation)] > 0:
            there[same(violation)] -= 1
            left.append(violation)
    return left, unknown


def _ignore_table_names(violation: Violation, renamed: AbstractSet[str]) -> Violation:
    """The same with the names of these tables left out: one that went may be one that came."""
    return violation._replace(
        table="" if violation.table in renamed else violation.table,
        parent="" if violation.parent in renamed else violation.parent,
    )


def describe(violations: Sequence[Violation]) -> str:
    """For people: at most 20 of them, and how many there are."""
    count = len(violations)
    shown = "; ".join(_sentence(violation) for violation in violations[:_SHOWN])
    more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
    return f"{count} new foreign-key violation{'s' * (count != 1)}: {shown}{more}"


def _sentence(violation: Violation) -> str:
    if violation.fault:
        return violation.fault
    # A table WITHOUT ROWID has no number to tell its rows by.
    row = "a row" if violation.row is None else f"row {violation.row}"
    return f"{row} of {violation.table} references a missing row of {violation.parent}"


_NONE: frozenset[str] = frozenset()
# Reading the keys of every table is dear where there are thousands; few of them have any.
_KEYS = """
SELECT child.name, key."table" FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
WHERE child.type = 'table' AND instr(lower(child.sql), 'references')
"""
_KEYS_OF = "SELECT \"table\" FROM pragma_foreign_key_list(?, 'main')"
