"""The indexes and triggers of tables, which a rebuild drops without a word."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import apsw

from migrated.core.sql import folded, significant
from migrated.sqlite.content import schema_text

_OF_TABLE = """
SELECT type, name, CAST(sql AS BLOB) FROM main.sqlite_schema
WHERE lower(tbl_name) = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name
"""
_TABLE = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = ?"


class _Thing(NamedTuple):
    kind: str
    name: str
    definition: tuple[str, ...]


class Belongings:
    """What tables have before they are dropped or renamed, to be compared with what there is in the end."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._before: dict[str, list[_Thing]] = {}
        self._removed: set[str] = set()

    def remember(self, tables: Iterable[str]) -> None:
        """Note what these tables have, before the first statement that may take it from them."""
        for table in {folded(name) for name in tables} - self._before.keys():
            self._before[table] = self._of(table)

    def removed(self, names: Iterable[str]) -> None:
        """Take into account what is dropped by its own name: that is meant."""
        self._removed |= {folded(name) for name in names}

    def dropped(self) -> list[str]:
        """What the tables that are there again (under their names) have no more, such as "index i"."""
        found: list[str] = []
        for table, before in self._before.items():
            if before and self._connection.execute(_TABLE, (table,)).fetchall():
                found += [f"{thing.kind} {thing.name}" for thing in self._lost(before, self._of(table))]
        return found

    def _lost(self, before: list[_Thing], now: list[_Thing]) -> list[_Thing]:
        names, names_now = {folded(thing.name) for thing in before}, {folded(thing.name) for thing in now}
        # The same thing may have come under another name; one new thing stands for one old one.
        others = Counter(thing.definition for thing in now if folded(thing.name) not in names)
        lost = []
        for thing in before:
            if folded(thing.name) in names_now | self._removed:
                continue
            if others[thing.definition] > 0:
                others[thing.definition] -= 1
            else:
                lost.append(thing)
        return lost

    def _of(self, table: str) -> list[_Thing]:
        return [
            _Thing(str(kind), str(name), _definition(str(kind), schema_text(self._connection, bytes(sql))))
            for kind, name, sql in self._connection.execute(_OF_TABLE, (table,))
        ]


def _definition(kind: str, sql: str) -> tuple[str, ...]:
    """What it is but for its name: the same thing under another name, or written otherwise, has the same."""
    tokens = significant(sql)
    start = tokens.index(kind) + 1
    # The name; SQLite keeps neither IF NOT EXISTS nor the name of the schema.
    return (*tokens[:start], *tokens[start + 1 :])
