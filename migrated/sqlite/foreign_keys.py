"""Which rows point at a parent that is not there."""

from collections import Counter
from collections.abc import Iterable

import apsw

_SHOWN = 20

Violation = tuple[str, int | None, str]
_CHILDREN = """
SELECT DISTINCT child.name FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name)
WHERE child.type = 'table'
"""


def violations(connection: apsw.Connection) -> Counter[Violation]:
    """Every violation as (table, rowid, parent), with how many of a table's keys it breaks.

    A key that SQLite cannot check at all (its parent's column is not unique) counts as one violation, so that
    an old fault of that kind does not stop a migration that has nothing to do with it.
    """
    try:
        return _check(connection, "PRAGMA main.foreign_key_check")
    except apsw.SQLError:
        found: Counter[Violation] = Counter()
        for (table,) in connection.execute(_CHILDREN).fetchall():
            quoted = str(table).replace('"', '""')
            try:
                found += _check(connection, f'PRAGMA main.foreign_key_check("{quoted}")')
            except apsw.SQLError as error:
                found[str(table), None, str(error)] += 1
        return found


def _check(connection: apsw.Connection, pragma: str) -> Counter[Violation]:
    return Counter((str(row[0]), row[1], str(row[2])) for row in connection.execute(pragma))


def describe(found: Iterable[Violation]) -> str:
    """For people: at most 20 of them, and how many there are."""
    listed = list(found)
    shown = "; ".join(_sentence(*violation) for violation in listed[:_SHOWN])
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{len(listed)} new foreign-key violation{'s' * (len(listed) != 1)}: {shown}{more}"


def _sentence(table: str, rowid: int | None, parent: str) -> str:
    row = f"row {rowid} of {table}" if rowid is not None else f"a row of {table}"
    return f"{row} points at no row of {parent}"
