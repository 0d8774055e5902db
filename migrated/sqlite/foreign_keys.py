"""Which rows point at a parent that is not there."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import apsw

from migrated.sqltext import folded, quoted

_SHOWN = 20
_REFERENCED = re.compile(r' referencing "(.*)"$', re.DOTALL)
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"
# Reading the keys of every table is dear where there are thousands; few of them have any.
_KEYS = """
SELECT child.name, key."table" FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
WHERE child.type = 'table' AND instr(lower(child.sql), 'references')
"""


class Violation(NamedTuple):
    """A row without its parent; or, where `fault` is given, a key that SQLite cannot check at all."""

    table: str
    row: int | None
    parent: str
    key: tuple[object, ...] = ()
    fault: str = ""


class ForeignKeys:
    """Finds the violations that a migration makes, looking only where it can have made any.

    Those are the tables that it wrote to or dropped, and the children of these. Each is checked once before the
    first statement that touches it, so that old violations are known, and once at the end. `touch` must be
    called before the statement runs. `known` says of tables that were touched earlier, in another process, how
    many old violations they had.
    """

    def __init__(self, connection: apsw.Connection, known: Mapping[str, int] | None = None) -> None:
        self._connection = connection
        self._known = dict(known or {})
        self._at_first = self._tables()
        self._children: dict[str, set[str]] | None = None
        self._touched: set[str] = set()
        self._renamed: set[str] = set()
        self._checked: set[str] = set()
        self._before: Counter[Violation] = Counter()

    def touch(self, tables: Iterable[str], renamed: Iterable[str] = ()) -> None:
        """Take into account that rows of these tables are about to come, go or change.

        Those that are `renamed` may have any name afterwards.
        """
        self._renamed |= {folded(table) for table in renamed}
        new = {folded(table) for table in tables} - self._touched
        if not new:
            return
        if self._children is None:
            self._children = self._find_children()
        self._touched |= new
        # A table that was not there at first has no old violations, though it may hold the rows of one that has;
        # and all that pointed at it was one.
        concerned = new.union(*(self._children.get(table, set()) for table in new & self._at_first.keys()))
        for table in (concerned & self._at_first.keys()) - self._checked - self._known.keys():
            self._checked.add(table)
            self._before += _violations(self._connection, self._at_first[table])

    def counts(self) -> dict[str, int]:
        """How many old violations the tables have that were touched until now."""
        found = dict.fromkeys(self._checked, 0) | self._known
        for violation, count in self._before.items():
            found[folded(violation.table)] += count
        return found

    def new_violations(self) -> list[Violation]:
        """Those that were not there before, by table and row."""
        tables = self._tables()
        come, gone = tables.keys() - self._at_first.keys(), self._at_first.keys() - tables.keys()
        children = self._find_children() if self._touched or come else {}
        concerned = self._touched | come
        concerned = concerned.union(*(children.get(table, set()) for table in concerned | gone))
        after: Counter[Violation] = Counter()
        # What was not checked before can have no new violations: none of its rows, nor of its parents', changed.
        for table in concerned & tables.keys() & (self._checked | come) - self._known.keys():
            after += _violations(self._connection, tables[table])
        # But a parent that came may be one that no key can point at.
        for table in set().union(*(children.get(table, set()) for table in come)) - self._checked - come:
            after += _faults(self._connection, tables[table], come)
        found = _difference(self._before, after, self._renamed | come | gone)
        return sorted(found + self._more_than_known(tables), key=lambda each: (each.table, each.row or 0))

    def _more_than_known(self, tables: Mapping[str, str]) -> list[Violation]:
        found: list[Violation] = []
        for table in self._known.keys() & tables.keys():
            # Only their number is known: which of them are new cannot be told.
            there = _violations(self._connection, tables[table]).elements()
            found += list(there)[self._known[table] :]
        return found

    def _tables(self) -> dict[str, str]:
        return {folded(str(name)): str(name) for (name,) in self._connection.execute(_TABLES)}

    def _find_children(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for child, parent in self._connection.execute(_KEYS):
            found.setdefault(folded(str(parent)), set()).add(folded(str(child)))
        return found


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
    for same in (_itself, lambda each: _anonymous(each, renamed), lambda each: _nowhere(each, renamed)):
        old, new = _unmatched(old, new, same)
    return [violation for _, violation in new]


def _itself(violation: Violation) -> Violation:
    return violation


def _folded(violation: Violation) -> Violation:
    fault = "unchecked" if violation.fault else ""
    return violation._replace(table=folded(violation.table), parent=folded(violation.parent), fault=fault)


def _nowhere(violation: Violation, renamed: AbstractSet[str]) -> Violation:
    return _anonymous(violation, renamed)._replace(row=None)


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


def _anonymous(violation: Violation, renamed: AbstractSet[str]) -> Violation:
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
    return f"{row} of {violation.table} points at no row of {violation.parent}"
