"""The indexes and triggers of tables, which a rebuild drops without a word."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import apsw

_OF_TABLE = """
SELECT type, name, CAST(sql AS BLOB) FROM main.sqlite_schema
WHERE lower(tbl_name) = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name
"""
_TABLE = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = ?"


class _Thing(NamedTuple):
    kind: str
    name: str
    definition: str


class Belongings:
    """What tables have before they are dropped or renamed, to be compared with what there is in the end."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._before: dict[str, list[_Thing]] = {}
        self._removed: set[str] = set()

    def remember(self, tables: Iterable[str]) -> None:
        """Note what these tables have, before the first statement that may take it from them."""
        for table in {name.lower() for name in tables} - self._before.keys():
            self._before[table] = self._of(table)

    def removed(self, names: Iterable[str]) -> None:
        """Take into account what is dropped by its own name: that is meant."""
        self._removed |= {name.lower() for name in names}

    def dropped(self) -> list[str]:
        """What the tables that are there again (under their names) have no more, such as "index i"."""
        found = []
        for table, before in self._before.items():
            if not before or not self._connection.execute(_TABLE, (table,)).fetchall():
                continue
            now = self._of(table)
            names, definitions = {thing.name.lower() for thing in now}, {thing.definition for thing in now}
            found += [
                f"{thing.kind} {thing.name}"
                for thing in before
                if thing.name.lower() not in names | self._removed and thing.definition not in definitions
            ]
        return found

    def _of(self, table: str) -> list[_Thing]:
        return [
            _Thing(str(kind), str(name), _without_name(bytes(sql).decode(errors="replace")))
            for kind, name, sql in self._connection.execute(_OF_TABLE, (table,))
        ]


def _without_name(sql: str) -> str:
    """A definition such that the same thing under another name has the same."""
    return re.sub(r"\s+", " ", re.split(r"\bON\b", sql, maxsplit=1, flags=re.IGNORECASE)[-1]).lower()
