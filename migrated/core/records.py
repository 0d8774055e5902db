"""What a database has on record: applied, repeatable and unfinished migrations; and its snapshots."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from migrated.core.errors import label_of
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.sql import statements


class AppliedMigration(NamedTuple):
    """What the ledger of one database says. `applied_at` is aware and in UTC."""

    version: int
    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int

    @property
    def label(self) -> str:
        """`<version>_<name>`, as people name it."""
        return label_of(self.version, self.name)


def highest_version(applied: Iterable[AppliedMigration]) -> int | None:
    """That of the newest; None where nothing is applied."""
    return max((entry.version for entry in applied), default=None)


class AppliedRepeatable(NamedTuple):
    """What a database says of a repeatable migration: when it was applied last, with which text.

    `objects` are the views and triggers that it made then, each as its kind and its name.
    """

    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int
    objects: tuple[tuple[str, str], ...] = ()


class Unfinished(NamedTuple):
    """A migration without a transaction that stopped: `statement` of its `statements` are done, for good.

    `recorded` is the migration as it was when it began; `happened_at` is when the last statement was done.
    """

    recorded: Migration
    direction: MigrationDirection
    statement: int
    statements: int
    happened_at: datetime
    host: str
    pid: int

    @property
    def version(self) -> int:
        """That of the migration."""
        return self.recorded.version

    @property
    def text(self) -> str:
        """What was being run."""
        return Step(self.recorded, self.direction).sql

    @property
    def next_statement(self) -> str:
        """The first that is not done, as it was when the migration began."""
        spans = statements(self.text)
        start, end = spans[self.statement] if self.statement < len(spans) else (0, 0)
        return self.text[start:end]

    def __str__(self) -> str:
        going = "" if self.direction is MigrationDirection.UP else "the rollback of "
        return f"{going}{self.recorded.label} stopped after statement {self.statement} of {self.statements}"


class LedgerState(NamedTuple):
    """What a database says of itself: what is applied, and what stopped half way, if anything did."""

    applied: list[AppliedMigration]
    unfinished: Unfinished | None = None
    repeatables: Sequence[AppliedRepeatable] = ()


class Snapshot(NamedTuple):
    """A copy of a database as it was at `taken_at` (aware, UTC); `version` was the highest applied, if any was.

    `size` is in bytes; `reason` is "before-run", "before-each", "before-restore" or "before-redo".
    """

    id: str
    database: str
    path: str
    taken_at: datetime
    version: int | None
    size: int
    reason: str


class Repair(StrEnum):
    """How a person settles an unfinished migration."""

    RESUME = "resume"
    MARK_APPLIED = "mark-applied"
    FORGET = "forget"
