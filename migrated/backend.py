"""What the runner asks of any kind of database. It knows nothing of files, pragmas or cursors."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from migrated.model import AppliedMigration, Migration, MigrationDirection


class LedgerMovedError(Exception):
    """Somebody else changed the database since the ledger was read; what was planned from it is void."""


class Done:
    """What one step came to: the ledger's entry (struck out by a rollback), its time and the rows it changed."""

    def __init__(self, entry: AppliedMigration, execution_time_ms: int, rows_changed: int) -> None:
        self.entry = entry
        self.execution_time_ms = execution_time_ms
        self.rows_changed = rows_changed


class Session(Protocol):
    """A database open for changing. A step is done wholly and recorded, or not at all."""

    def applied(self) -> list[AppliedMigration]:
        """Read the ledger; steps planned from it are valid until somebody else changes it."""

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when last applied."""

    def create_ledger(self) -> None:
        """Make the ledger where it is missing."""

    def execute(self, migration: Migration, direction: MigrationDirection) -> Done:
        """Apply or roll back one migration; `LedgerMovedError` when the plan is void."""


class Database(Protocol):
    """What the runner asks of any kind of database."""

    @property
    def name(self) -> str:
        """As people know it."""

    @property
    def lockable(self) -> bool:
        """Whether `name` is a path that other processes could migrate."""

    def applied(self) -> list[AppliedMigration]:
        """Read the ledger, changing nothing."""

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when last applied, changing nothing."""

    def session(self) -> AbstractContextManager[Session]:
        """Open it for changing."""
