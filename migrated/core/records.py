"""Values stored in a database: applied, repeatable and stopped migrations, and snapshots."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from migrated.core.errors import label_of
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.sql import statements


class AppliedMigration(NamedTuple):
    """One row of the ledger. `applied_at` is timezone-aware, in UTC."""

    version: int
    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int

    @property
    def label(self) -> str:
        """`<version>_<name>`."""
        return label_of(self.version, self.name)


def highest_version(applied: Iterable[AppliedMigration]) -> int | None:
    """Return the highest applied version; None if nothing is applied."""
    return max((entry.version for entry in applied), default=None)


class AppliedRepeatable(NamedTuple):
    """The last application of a repeatable migration. `applied_at` is in UTC.

    `objects` are the views and triggers that it created, each as type and name.
    """

    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int
    objects: tuple[tuple[str, str], ...] = ()


class Unfinished(NamedTuple):
    """A migration without a transaction that stopped after `statement` of its `statements`.

    The executed statements stay in effect. `recorded` is the migration as it was at its start; `happened_at` is
    the time of the last executed statement.
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
        """The version of the migration."""
        return self.recorded.version

    @property
    def text(self) -> str:
        """The text that was being executed."""
        return Step(self.recorded, self.direction).sql

    @property
    def next_statement(self) -> str:
        """The first statement that was not executed, from the recorded text."""
        spans = statements(self.text)
        start, end = spans[self.statement] if self.statement < len(spans) else (0, 0)
        return self.text[start:end]

    def __str__(self) -> str:
        going = "" if self.direction is MigrationDirection.UP else "the rollback of "
        return f"{going}{self.recorded.label} stopped after statement {self.statement} of {self.statements}"


class LedgerState(NamedTuple):
    """The ledger of a database: applied, unfinished and repeatable migrations."""

    applied: list[AppliedMigration]
    unfinished: Unfinished | None = None
    repeatables: Sequence[AppliedRepeatable] = ()


class Snapshot(NamedTuple):
    """A copy of a database at `taken_at` (timezone-aware, UTC).

    `version` is the highest version applied then, None for none. `size` is in bytes; `reason` is "before-run",
    "before-each", "before-restore" or "before-redo".
    """

    id: str
    database: str
    path: str
    taken_at: datetime
    version: int | None
    size: int
    reason: str


class Repair(StrEnum):
    """How `migrated repair` resolves a stopped migration."""

    RESUME = "resume"
    MARK_APPLIED = "mark-applied"
    FORGET = "forget"
