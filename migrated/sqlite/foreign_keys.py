"""Which rows point at a parent that is not there."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw

_SHOWN = 20
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"
_CHILDREN = f"SELECT DISTINCT child.name FROM ({_TABLES}) AS child, pragma_foreign_key_list(child.name)"


class Violation(NamedTuple):
    """A row without its parent; or, where `fault` is given, a key that SQLite cannot check at all."""

    table: str
    row: int | None
    parent: str
    key: tuple[object, ...] = ()
    fault: str = ""


class Look(NamedTuple):
    """The violations at one moment, each with how many of the row's keys it is, and the tables there were."""

    violations: Counter[Violation]
    tables: frozenset[str]


def look(connection: apsw.Connection) -> Look:
    """Check every foreign key.

    A key that cannot be checked (its parent's column is not unique) counts as one violation, so that an old
    fault of that kind does not stop a migration that has nothing to do with it.
    """
    tables = frozenset(str(name) for (name,) in connection.execute(_TABLES))
    try:
        return Look(_check(connection, "PRAGMA main.foreign_key_check"), tables)
    except apsw.SQLError:
        found: Counter[Violation] = Counter()
        for (table,) in connection.execute(_CHILDREN).fetchall():
            try:
                found += _check(connection, f"PRAGMA main.foreign_key_check({_quoted(str(table))})")
            except apsw.SQLError as error:
                found[Violation(str(table), None, "", fault=str(error))] += 1
        return Look(found, tables)


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
        columns = ", ".join(_quoted(str(name)) for (name,) in connection.execute(listed, (table, number)))
        queries[table, number] = f"SELECT {columns} FROM main.{_quoted(table)} WHERE rowid = ?"
    # Nothing is found where a column of the table's own is called rowid.
    rows: list[Any] = connection.execute(queries[table, number], (row,)).fetchall()
    return tuple(rows[0]) if rows else ()


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def new_violations(before: Look, after: Look) -> list[Violation]:
    """Those that were not there before.

    A table may have been renamed, and rebuilding one may give its rows other numbers. So what is not the same
    row as before may still be the same reference to the same parent that is not there.
    """
    gone, come = before.tables - after.tables, after.tables - before.tables
    old = [_anonymous(violation, gone) for violation in before.violations.elements()]
    new = [(_anonymous(violation, come), violation) for violation in after.violations.elements()]
    rest, unknown = _unmatched(old, new, lambda violation: violation)
    return [
        violation for _, violation in _unmatched(rest, unknown, lambda violation: violation._replace(row=None))[1]
    ]


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


def _anonymous(violation: Violation, renamed: frozenset[str]) -> Violation:
    """The same with the names of tables that came or went left out: one that went may be one that came."""
    return violation._replace(
        table="" if violation.table in renamed else violation.table,
        parent="" if violation.parent in renamed else violation.parent,
        fault="unchecked" if violation.fault else "",
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
