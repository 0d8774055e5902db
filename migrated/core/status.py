"""The state of every migration: the files that are available, compared with what the ledger has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from migrated.core.migration import ChecksumMismatch, Migration
from migrated.core.records import AppliedMigration, AppliedRepeatable, Record, Unfinished

Recorded = Callable[[list[int]], Mapping[int, Migration]]
"""Asked for versions: those migrations as they were applied, as far as that is known."""


def nothing_recorded(_versions: Iterable[int]) -> dict[int, Migration]:
    """For those who do not know what was applied."""
    return {}


class State(StrEnum):
    """State of one migration in one database."""

    DRAFT = "draft"
    PENDING = "pending"
    APPLIED = "applied"
    CHANGED = "changed"
    MISSING = "missing"
    LATE = "late"
    STOPPED = "stopped"


_WAITING = (State.PENDING, State.LATE)


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


class Status(NamedTuple):
    """One version, as the directory and the record of the database have it; at least one of them does.

    The record says what is applied, and which migration, if any, is `unfinished`.
    """

    version: int
    state: State
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
    state: State
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


def _repeatable_state(migration: Migration | None, applied: AppliedRepeatable | None) -> State:
    if migration is None:
        return State.MISSING
    if migration.is_draft:
        return State.DRAFT
    return State.APPLIED if applied and applied.checksum == migration.checksum else State.PENDING


def examine(
    available: Iterable[Migration], applied: Iterable[AppliedMigration], unfinished: Unfinished | None = None
) -> list[Status]:
    """The state of every version that either side knows, ascending."""
    migrations = {migration.version: migration for migration in available if not migration.is_repeatable}
    ledger = {entry.version: entry for entry in applied}
    stopped = {unfinished.version: unfinished} if unfinished else {}
    highest = max(ledger, default=0)
    statuses = []
    for version in sorted(migrations.keys() | ledger.keys() | stopped.keys()):
        migration, entry = migrations.get(version), ledger.get(version)
        state = State.STOPPED if version in stopped else _state(migration, entry, highest)
        statuses.append(Status(version, state, migration, entry, stopped.get(version)))
    return statuses


def _state(migration: Migration | None, applied: AppliedMigration | None, highest: int) -> State:
    if migration is None:
        return State.MISSING
    if applied is not None:
        return State.APPLIED if migration.checksum == applied.checksum else State.CHANGED
    if migration.is_draft:
        return State.DRAFT
    return State.LATE if migration.version < highest else State.PENDING


def pending(statuses: Iterable[Status]) -> list[Migration]:
    """What is not applied and could be, ascending, late ones included."""
    return [status.migration for status in statuses if status.migration and status.state in _WAITING]


def missing_versions(statuses: Iterable[Status]) -> list[int]:
    """Versions that are applied and that no migration has."""
    return [status.version for status in statuses if status.state is State.MISSING]


def names(named: Iterable[Status | Migration]) -> str:
    """Their labels, for people."""
    return ", ".join(each.label for each in named)


class Findings(NamedTuple):
    """The states of all migrations in one database."""

    statuses: Sequence[Status]
    repeatables: Sequence[RepeatableStatus] = ()

    @property
    def pending(self) -> int:
        """How many could be applied, repeatable ones included."""
        repeatables = sum(each.state is State.PENDING for each in self.repeatables)
        return len(pending(self.statuses)) + repeatables


def find(available: Iterable[Migration], record: Record) -> Findings:
    """Compare what there is with what the database says."""
    migrations = list(available)
    return Findings(
        examine(migrations, record.applied, record.unfinished),
        examine_repeatables(migrations, record.repeatables),
    )
