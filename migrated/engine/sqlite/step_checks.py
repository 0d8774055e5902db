"""Checks around the statements of one step, before it may be committed."""

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

# What makes ALTER TABLE more than a change of columns that no key speaks of.
_CONCERNS_KEYS = re.compile(r"\b(?:REFERENCES|RENAME|DROP)\b", re.IGNORECASE)
_REFERS = re.compile("REFERENCES", re.IGNORECASE)
_RENAMES = re.compile(r"\bRENAME\b", re.IGNORECASE)


class UnacceptableError(Exception):
    """The statements ran, and what they came to is not allowed."""

    def __init__(self, message: str, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class StepChecks:
    """Made before the first statement, told of each before it runs, and asked at the end.

    `keys` are those of the connection's tables; `violations` are those of an earlier process, for a migration that
    is resumed. What costs a look at the whole schema is only done once a statement gives reason for it.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        guard: Authorizer,
        keys: ForeignKeyGraph,
        violations: Mapping[str, int] | None = None,
    ) -> None:
        self._connection = connection
        self.guard = guard
        self._keys = ForeignKeys(connection, keys, violations)
        self._belongings = DependentObjects(connection)
        self._names: set[str] | None = None
        self._meddlers: set[str] | None = None

    def before(self, text: str) -> None:
        """Look at what the statement that is about to run is going to touch."""
        touch = self.guard.pop_effects()
        if touch is None:
            return
        # Our own statements are none of the migration's.
        self.guard.is_resting = True
        try:
            self._look_at(touch, text)
        finally:
            self.guard.is_resting = False

    def _look_at(self, touch: StatementEffects, text: str) -> None:
        altered = touch.altered if touch.altered and _CONCERNS_KEYS.search(text) else set()
        renamed = altered if altered and _RENAMES.search(text) else set()
        if touch.is_virtual:
            self._keys.list_all()
        if touch.created:
            self._keys.before_create(touch.created, with_keys=_REFERS.search(text) is not None)
        self._keys.before_redefine(altered)
        self._keys.before_write(touch.written | touch.dropped | altered, renamed)
        if touch.dropped or renamed:
            self._belongings.remember(touch.dropped | renamed)
        if touch.removed and not touch.dropped:
            # The authorizer is told of the triggers that go with their table as if they were dropped by name.
            self._belongings.removed(touch.removed)
        if renamed and self._names is None:
            self._names = ledger.reserved_names(self._connection)
        if touch.adds_trigger and self._meddlers is None:
            self._meddlers = ledger.triggers_on_our_tables(self._connection)

    def require_acceptable(self) -> None:
        """Raise `UnacceptableError` for what the migration must not have done."""
        self.require_record_untouched()
        if new := self._keys.new_violations():
            raise UnacceptableError(
                describe(new),
                "the migration would leave rows without their parent",
                "SQLITE_CONSTRAINT_FOREIGNKEY",
            )

    def require_record_untouched(self) -> None:
        """Raise `UnacceptableError` when a statement took a name of ours, or lies in wait for our tables."""
        if taken := self._come(self._names, ledger.reserved_names):
            # The authorizer is not told the new name of a table that is renamed.
            raise UnacceptableError(
                f"the name {min(taken)} is not allowed in a migration",
                f"names that begin with {LEDGER_PREFIX} are migrated's own",
            )
        if come := self._come(self._meddlers, ledger.triggers_on_our_tables):
            raise UnacceptableError(
                f"the trigger {min(come)} would write to migrated's own record, which is not allowed",
                f"tables whose names begin with {LEDGER_PREFIX} are migrated's own",
            )

    def violations(self) -> dict[str, int]:
        """How many old violations of foreign keys there are in the tables that were touched until now."""
        return self._keys.counts()

    def dropped(self) -> list[str]:
        """The indexes and triggers that went with a table which is there again."""
        return self._belongings.dropped()

    def _come(self, before: set[str] | None, now: Callable[[apsw.Connection], set[str]]) -> set[str]:
        return set() if before is None else now(self._connection) - before


_OF_TABLE = """
SELECT type, name, CAST(sql AS BLOB) FROM main.sqlite_schema
WHERE lower(tbl_name) = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name
"""
_TABLE = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND lower(name) = ?"


class _Thing(NamedTuple):
    kind: str
    name: str
    definition: tuple[str, ...]


class DependentObjects:
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
