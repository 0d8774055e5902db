"""Which rows point at a parent that is not there."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import apsw

_SHOWN = 20
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"
_CHILDREN = f"SELECT DISTINCT child.name FROM ({_TABLES}) AS child, pragma_foreign_key_list(child.name)"


class Violation(NamedTuple):
    """A row without its parent; or, where `fault` is given, a key that SQLite cannot check at all."""

    table: str
    row: int | None
    parent: str
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
            quoted = str(table).replace('"', '""')
            try:
                found += _check(connection, f'PRAGMA main.foreign_key_check("{quoted}")')
            except apsw.SQLError as error:
                found[Violation(str(table), None, "", str(error))] += 1
        return Look(found, tables)


def _check(connection: apsw.Connection, pragma: str) -> Counter[Violation]:
    rows = connection.execute(pragma)
    return Counter(Violation(str(table), row, str(parent)) for table, row, parent, _key in rows)


def new_violations(before: Look, after: Look) -> list[Violation]:
    """Those that were not there before, a table being renamed not counting as a change."""
    gone, come = before.tables - after.tables, after.tables - before.tables
    old = Counter({_anonymous(violation, gone): count for violation, count in before.violations.items()})
    new = []
    for violation in after.violations.elements():
        known = _anonymous(violation, come)
        if old[known]:
            old[known] -= 1
        else:
            new.append(violation)
    return new


def _anonymous(violation: Violation, renamed: frozenset[str]) -> Violation:
    """The same with the names of tables that came or went left out: one that went may be one that came."""
    table = "" if violation.table in renamed else violation.table
    parent = "" if violation.parent in renamed else violation.parent
    return Violation(table, violation.row, parent, "unchecked" if violation.fault else "")


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
