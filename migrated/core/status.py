"""Compute the state of every migration from the available migrations and the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from migrated.core.migration import ChecksumMismatch, Migration
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Unfinished

LookUpStored = Callable[[list[int]], Mapping[int, Migration]]
"""Maps versions to the migrations as they were applied, as far as the history has them."""


def nothing_stored(_versions: Iterable[int]) -> dict[int, Migration]:
    """A `LookUpStored` that knows no applied text."""
    return {}


class MigrationState(StrEnum):
    """State of one migration in one database.

    `LATE` is pending below the highest applied version, `MISSING` applied without a file, `STOPPED` a migration
    without a transaction that did not finish.
    """

    DRAFT = "draft"
    PENDING = "pending"
    APPLIED = "applied"
    CHANGED = "changed"
    MISSING = "missing"
    LATE = "late"
    STOPPED = "stopped"


_WAITING = (MigrationState.PENDING, MigrationState.LATE)


class OnChanged(StrEnum):
    """Reaction to a changed text of an applied migration."""

    REFUSE = "refuse"
    REDO = "redo"


class OnMissing(StrEnum):
    """Reaction to an applied migration that no longer exists."""

    REFUSE = "refuse"
    IGNORE = "ignore"
    ROLLBACK = "rollback"


class OnLate(StrEnum):
    """Reaction to a pending migration below the highest applied version."""

    APPLY = "apply"
    REFUSE = "refuse"


class Policy(NamedTuple):
    """Reactions to differences between a database and the migrations."""

    on_changed: OnChanged = OnChanged.REFUSE
    on_missing: OnMissing = OnMissing.REFUSE
    on_late: OnLate = OnLate.APPLY


class MigrationStatus(NamedTuple):
    """One version in the migrations and in the ledger; at least one of them has it.

    `unfinished` is set if the migration has no transaction and stopped in the middle.
    """

    version: int
    state: MigrationState
    migration: Migration | None
    applied: AppliedMigration | None
    unfinished: Unfinished | None = None

    @property
    def mismatch(self) -> ChecksumMismatch | None:
        """The two checksums if an applied migration was changed; otherwise None."""
        if self.migration is None or self.applied is None or self.migration.checksum == self.applied.checksum:
            return None
        return ChecksumMismatch(self.version, self.name, self.applied.checksum, self.migration.checksum)

    @property
    def _known(self) -> Migration | AppliedMigration | None:
        return self.migration or self.applied or (self.unfinished.recorded if self.unfinished else None)

    @property
    def name(self) -> str:
        """The present name; the applied one if the migration no longer exists."""
        return self._known.name if self._known else ""

    @property
    def label(self) -> str:
        """`<version>_<name>`."""
        return self._known.label if self._known else str(self.version)


class RepeatableStatus(NamedTuple):
    """One repeatable migration in the migrations and in the ledger; at least one has it."""

    name: str
    state: MigrationState
    migration: Migration | None
    applied: AppliedRepeatable | None


def examine_repeatables(
    available: Iterable[Migration], applied: Iterable[AppliedRepeatable]
) -> list[RepeatableStatus]:
    """Return the state of every repeatable migration, sorted by name; `pending` if its text is new."""
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
    """Return the state of every version in the migrations or the ledger, ascending."""
    migrations = {migration.version: migration for migration in available if not migration.is_repeatable}
    ledger = {entry.version: entry for entry in applied}
    stopped = {unfinished.version: unfinished} if unfinished else {}
    # Missing versions count too: a migration below one of them is late.
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
    # Before the check for drafts: an applied migration whose file was emptied is changed, not a draft.
    if applied is not None:
        return MigrationState.APPLIED if migration.checksum == applied.checksum else MigrationState.CHANGED
    if migration.is_draft:
        return MigrationState.DRAFT
    return MigrationState.LATE if migration.version < highest else MigrationState.PENDING


def pending(statuses: Iterable[MigrationStatus]) -> list[Migration]:
    """Return the migrations that can be applied, ascending, including late ones."""
    return [status.migration for status in statuses if status.migration and status.state in _WAITING]


def missing_versions(statuses: Iterable[MigrationStatus]) -> list[int]:
    """Return the applied versions that no longer exist among the migrations."""
    return [status.version for status in statuses if status.state is MigrationState.MISSING]


def names(named: Iterable[MigrationStatus | Migration]) -> str:
    """Join the labels with commas, for messages."""
    return ", ".join(each.label for each in named)


class DatabaseStatus(NamedTuple):
    """The states of all migrations in one database."""

    statuses: Sequence[MigrationStatus]
    repeatables: Sequence[RepeatableStatus] = ()

    @property
    def pending(self) -> int:
        """Number of migrations that can be applied, including repeatable ones."""
        repeatables = sum(each.state is MigrationState.PENDING for each in self.repeatables)
        return len(pending(self.statuses)) + repeatables


def evaluate(available: Iterable[Migration], ledger: LedgerState) -> DatabaseStatus:
    """Compare the available migrations with the ledger."""
    migrations = list(available)
    return DatabaseStatus(
        examine(migrations, ledger.applied, ledger.unfinished),
        examine_repeatables(migrations, ledger.repeatables),
    )
