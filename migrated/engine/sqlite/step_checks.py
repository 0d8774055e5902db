"""Check the statements of one step before it is committed."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import apsw

from migrated.core.sql import folded, significant
from migrated.engine.sqlite import ledger
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX, Authorizer, StatementEffects
from migrated.engine.sqlite.connection import schema_text
from migrated.engine.sqlite.foreign_keys import ForeignKeyGraph, ForeignKeys, describe

# ALTER TABLE without any of these words cannot change a foreign key.
_CONCERNS_KEYS = re.compile(r"\b(?:REFERENCES|RENAME|DROP)\b", re.IGNORECASE)
_REFERS = re.compile("REFERENCES", re.IGNORECASE)
_RENAMES = re.compile(r"\bRENAME\b", re.IGNORECASE)


class UnacceptableError(Exception):
    """All statements ran, but their result is not allowed."""

    def __init__(self, message: str, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class StepChecks:
    """The checks of one step: `before` each statement, `require_acceptable` at its end.

    `keys` is the foreign-key graph of the connection. `violations` are the old ones that an earlier process
    counted, for a migration that is resumed. The whole schema is read only once a statement makes that necessary.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        authorizer: Authorizer,
        keys: ForeignKeyGraph,
        violations: Mapping[str, int] | None = None,
    ) -> None:
        self._connection = connection
        self.authorizer = authorizer
        self._keys = ForeignKeys(connection, keys, violations)
        self._dependents = DependentObjects(connection)
        self._reserved_before: set[str] | None = None
        self._triggers_before: set[str] | None = None

    def before(self, text: str) -> None:
        """Note the state of the tables that the next statement changes, before it runs."""
        effects = self.authorizer.pop_effects()
        if effects is None:
            return
        # The authorizer must not count our own statements as those of the migration.
        self.authorizer.is_paused = True
        try:
            self._inspect(effects, text)
        finally:
            self.authorizer.is_paused = False

    def _inspect(self, effects: StatementEffects, text: str) -> None:
        altered = effects.altered if effects.altered and _CONCERNS_KEYS.search(text) else set()
        renamed = altered if altered and _RENAMES.search(text) else set()
        if effects.is_virtual:
            # A virtual table creates and drops shadow tables under names that the authorizer does not report.
            self._keys.list_all()
        if effects.created:
            self._keys.before_create(effects.created, with_keys=_REFERS.search(text) is not None)
        self._keys.before_redefine(altered)
        self._keys.before_write(effects.written | effects.dropped | altered, renamed)
        if effects.dropped or renamed:
            self._dependents.remember(effects.dropped | renamed)
        if effects.removed and not effects.dropped:
            # With DROP TABLE the authorizer reports the triggers of the table as if they were dropped by name.
            self._dependents.removed(effects.removed)
        if renamed and self._reserved_before is None:
            self._reserved_before = ledger.reserved_names(self._connection)
        if effects.adds_trigger and self._triggers_before is None:
            self._triggers_before = ledger.triggers_on_our_tables(self._connection)

    def require_acceptable(self) -> None:
        """Raise `UnacceptableError` if the migration changed our tables or broke foreign keys."""
        self.require_record_untouched()
        if new := self._keys.new_violations():
            raise UnacceptableError(
                describe(new),
                "insert the parent rows, or delete the rows that reference them, in the same migration",
                "SQLITE_CONSTRAINT_FOREIGNKEY",
            )

    def require_record_untouched(self) -> None:
        """Raise if a table got a reserved name, or a trigger that writes to the ledger was created."""
        # min(): the same failure must always have the same message.
        if added := self._added(self._reserved_before, ledger.reserved_names):
            # The authorizer does not report the new name of a renamed table.
            raise UnacceptableError(
                f"the name {min(added)} is not allowed in a migration",
                f"names that begin with {LEDGER_PREFIX} are reserved for migrated",
            )
        if added := self._added(self._triggers_before, ledger.triggers_on_our_tables):
            raise UnacceptableError(
                f"the trigger {min(added)} would write to the migrations table, which is not allowed",
                f"tables whose names begin with {LEDGER_PREFIX} are reserved for migrated",
            )

    def violations(self) -> dict[str, int]:
        """Count the old foreign-key violations in the tables touched so far."""
        return self._keys.counts()

    def dropped(self) -> list[str]:
        """Return the indexes and triggers that a table rebuild lost."""
        return self._dependents.dropped()

    def _added(self, before: set[str] | None, now: Callable[[apsw.Connection], set[str]]) -> set[str]:
        return set() if before is None else now(self._connection) - before


_OF_TABLE = """
SELECT type, name, CAST(sql AS BLOB) FROM main.sqlite_schema
WHERE lower(tbl_name) = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name
"""
_TABLE = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = ?"


class _Dependent(NamedTuple):
    kind: str
    name: str
    definition: tuple[str, ...]


class DependentObjects:
    """The indexes and triggers of tables before they are dropped or renamed, to compare at the end."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._before: dict[str, list[_Dependent]] = {}
        self._removed: set[str] = set()

    def remember(self, tables: Iterable[str]) -> None:
        """Note the indexes and triggers of these tables, before the first statement that may drop them."""
        for table in {folded(name) for name in tables} - self._before.keys():
            self._before[table] = self._of(table)

    def removed(self, names: Iterable[str]) -> None:
        """Exclude objects that a statement drops by name: their loss is intended."""
        self._removed |= {folded(name) for name in names}

    def dropped(self) -> list[str]:
        """Return what the tables that exist again have lost, such as "index i"."""
        found: list[str] = []
        for table, before in self._before.items():
            if before and self._connection.execute(_TABLE, (table,)).fetchall():
                found += [
                    f"{dependent.kind} {dependent.name}" for dependent in self._lost(before, self._of(table))
                ]
        return found

    def _lost(self, before: list[_Dependent], now: list[_Dependent]) -> list[_Dependent]:
        names, names_now = (
            {folded(dependent.name) for dependent in before},
            {folded(dependent.name) for dependent in now},
        )
        # The same object may have got another name; each new object replaces one old one.
        others = Counter(dependent.definition for dependent in now if folded(dependent.name) not in names)
        lost = []
        for dependent in before:
            if folded(dependent.name) in names_now | self._removed:
                continue
            if others[dependent.definition] > 0:
                others[dependent.definition] -= 1
            else:
                lost.append(dependent)
        return lost

    def _of(self, table: str) -> list[_Dependent]:
        return [
            _Dependent(str(kind), str(name), _definition(str(kind), schema_text(self._connection, bytes(sql))))
            for kind, name, sql in self._connection.execute(_OF_TABLE, (table,))
        ]


def _definition(kind: str, sql: str) -> tuple[str, ...]:
    """Return the tokens of a definition without its name, equal for a renamed or reformatted object."""
    tokens = significant(sql)
    start = tokens.index(kind) + 1
    # The next token is the name: SQLite stores neither IF NOT EXISTS nor the schema's name.
    return (*tokens[:start], *tokens[start + 1 :])
