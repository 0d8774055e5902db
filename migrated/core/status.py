"""The state of every migration: the files that are available, compared with what the ledger has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from migrated.core.migration import ChecksumMismatch, Migration
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Unfinished

LookUpStored = Callable[[list[int]], Mapping[int, Migration]]
"""Asked for versions: those migrations as they were applied, as far as that is known."""


def nothing_recorded(_versions: Iterable[int]) -> dict[int, Migration]:
    """For those who do not know what was applied."""
    return {}


class MigrationState(StrEnum):
    """State of one migration in one database."""

    DRAFT = "draft"
    PENDING = "pending"
    APPLIED = "applied"
    CHANGED = "changed"
    MISSING = "missing"
    LATE = "late"
    STOPPED = "stopped"


_WAITING = (MigrationState.PENDING, MigrationState.LATE)


class OnChanged(StrEnum):
    """What to do when an applied migration's text has changed."""

    REFUSE = "refuse"
    REDO = "redo"


class OnMissing(StrEnum):
    """What to do when an applied migration is no longer there."""

    REFUSE = "refuse"
    IGNORE = "ignore"
    ROLLBACK = "rollback"


class OnLate(StrEnum):
    """What to do when a pending migration lies below the highest applied one."""

    APPLY = "apply"
    REFUSE = "refuse"


class Policy(NamedTuple):
    """How a database that does not agree with the directory is dealt with."""

    on_changed: OnChanged = OnChanged.REFUSE
    on_missing: OnMissing = OnMissing.REFUSE
    on_late: OnLate = OnLate.APPLY


class MigrationStatus(NamedTuple):
    """One version, as the directory and the record of the database have it; at least one of them does.

    The record says what is applied, and which migration, if any, is `unfinished`.
    """

    version: int
    state: MigrationState
    migration: Migration | None
    applied: AppliedMigration | None
    unfinished: Unfinished | None = None

    @property
    def mismatch(self) -> ChecksumMismatch | None:
        """How the checksums differ; None unless the migration is applied, is there, and they do."""
        if self.migration is None or self.applied is None or self.migration.checksum == self.applied.checksum:
            return None
        return ChecksumMismatch(self.version, self.name, self.applied.checksum, self.migration.checksum)

    @property
    def _known(self) -> Migration | AppliedMigration | None:
        return self.migration or self.applied or (self.unfinished.recorded if self.unfinished else None)

    @property
    def name(self) -> str:
        """The directory's where there is one."""
        return self._known.name if self._known else ""

    @property
    def label(self) -> str:
        """`<version>_<name>`."""
        return self._known.label if self._known else str(self.version)


class RepeatableStatus(NamedTuple):
    """One repeatable migration, as the directory and the database have it; at least one of them does."""

    name: str
    state: MigrationState
    migration: Migration | None
    applied: AppliedRepeatable | None


def examine_repeatables(
    available: Iterable[Migration], applied: Iterable[AppliedRepeatable]
) -> list[RepeatableStatus]:
    """The state of every repeatable migration that either side knows, by name; `pending` when its text is new."""
    migrations = {migration.name: migration for migration in available if migration.is_repeatable}
    ledger = {entry.name: entry for entry in applied}
    return [
        RepeatableStatus(
            name, _repeatable_state(migrations.get(name), ledger.get(name)), migrations.get(name), ledger.get(name)
        )
        for name in sorted(migrations.keys() | ledger.keys())
    ]


def _repeatable_state(migration: Migration | None, applied: AppliedRepeatable | None) -> MigrationState:
    if migration is None:
        return MigrationState.MISSING
    if migration.is_draft:
        return MigrationState.DRAFT
    return MigrationState.APPLIED if applied and applied.checksum == migration.checksum else MigrationState.PENDING


def examine(
    available: Iterable[Migration], applied: Iterable[AppliedMigration], unfinished: Unfinished | None = None
) -> list[MigrationStatus]:
    """The state of every version that either side knows, ascending."""
    migrations = {migration.version: migration for migration in available if not migration.is_repeatable}
    ledger = {entry.version: entry for entry in applied}
    stopped = {unfinished.version: unfinished} if unfinished else {}
    highest = max(ledger, default=0)
    statuses = []
    for version in sorted(migrations.keys() | ledger.keys() | stopped.keys()):
        migration, entry = migrations.get(version), ledger.get(version)
        state = MigrationState.STOPPED if version in stopped else _state(migration, entry, highest)
        statuses.append(MigrationStatus(version, state, migration, entry, stopped.get(version)))
    return statuses


def _state(migration: Migration | None, applied: AppliedMigration | None, highest: int) -> MigrationState:
    if migration is None:
        return MigrationState.MISSING
    if applied is not None:
        return MigrationState.APPLIED if migration.checksum == applied.checksum else MigrationState.CHANGED
    if migration.is_draft:
        return MigrationState.DRAFT
    return MigrationState.LATE if migration.version < highest else MigrationState.PENDING


def pending(statuses: Iterable[MigrationStatus]) -> list[Migration]:
    """What is not applied and could be, ascending, late ones included."""
    return [status.migration for status in statuses if status.migration and status.state in _WAITING]


def missing_versions(statuses: Iterable[MigrationStatus]) -> list[int]:
    """Versions that are applied and that no migration has."""
    return [status.version for status in statuses if status.state is MigrationState.MISSING]


def names(named: Iterable[MigrationStatus | Migration]) -> str:
    """Their labels, for people."""
    return ", ".join(each.label for each in named)


class DatabaseStatus(NamedTuple):
    """The states of all migrations in one database."""

    statuses: Sequence[MigrationStatus]
    repeatables: Sequence[RepeatableStatus] = ()

    @property
    def pending(self) -> int:
        """How many could be applied, repeatable ones included."""
        repeatables = sum(each.state is MigrationState.PENDING for each in self.repeatables)
        return len(pending(self.statuses)) + repeatables


def evaluate(available: Iterable[Migration], record: LedgerState) -> DatabaseStatus:
    """Compare what there is with what the database says."""
    migrations = list(available)
    return DatabaseStatus(
        examine(migrations, record.applied, record.unfinished),
        examine_repeatables(migrations, record.repeatables),
    )
