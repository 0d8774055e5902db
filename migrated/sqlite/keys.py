"""Which tables point at which by foreign keys."""

from collections.abc import Iterable

import apsw

from migrated.core.sql import folded

_NONE: frozenset[str] = frozenset()
# Reading the keys of every table is dear where there are thousands; few of them have any.
_KEYS = """
SELECT child.name, key."table" FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
WHERE child.type = 'table' AND instr(lower(child.sql), 'references')
"""
_KEYS_OF = "SELECT \"table\" FROM pragma_foreign_key_list(?, 'main')"


class Keys:
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
