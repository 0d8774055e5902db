"""Available migrations + what the ledger says + policy -> a plan, or a refusal.

Everything that decides is here, over plain values. Three rules hold throughout: what is pending is a set
difference, never a high-water mark; only what the ledger has can be rolled back; a refusal names every
offender and comes before the first step.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from migrated.errors import MigrationNotFoundError, RollbackFailedError
from migrated.model import (
    AppliedMigration,
    AppliedRepeatable,
    ChecksumMismatch,
    Migration,
    MigrationDirection,
    MigrationPlan,
    Step,
    Unfinished,
)

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


def plan_up(statuses: Sequence[Status], target: int | None = None, again: Collection[int] = ()) -> MigrationPlan:
    """Everything pending, at or below `target` where one is given; those in `again` whatever the target."""
    steps = [
        step for step in pending(statuses) if target is None or step.version <= target or step.version in again
    ]
    return MigrationPlan(MigrationDirection.UP, tuple(steps))


def plan_down(
    statuses: Sequence[Status], recorded: Mapping[int, Migration], versions: Iterable[int]
) -> MigrationPlan:
    """Roll back those of `versions` that are applied, newest first.

    The down text is the file's while the file still is what was applied, else the one that was `recorded`
    when it was. Raises `RollbackFailedError` naming every step that has none: before the first step.
    """
    wanted = set(versions)
    steps = [
        _undo(status, recorded) for status in reversed(statuses) if status.applied and status.version in wanted
    ]
    stuck = [step for step in steps if not step.is_reversible]
    if stuck:
        raise RollbackFailedError(
            f"cannot roll back {names(stuck)}: no down text",
            version=stuck[0].version,
            name=stuck[0].name,
            hint="add a DOWN section (`-- migrated: nothing-to-undo` in it if there is nothing to undo); "
            "nothing was rolled back",
        )
    return MigrationPlan(MigrationDirection.DOWN, tuple(steps))


def _undo(status: Status, recorded: Mapping[int, Migration]) -> Migration:
    if status.migration is not None and status.state is State.APPLIED and status.migration.is_reversible:
        return status.migration
    fallback = status.migration if status.state is State.APPLIED else None
    unknown = Migration(status.version, status.applied.name if status.applied else "unknown", "")
    return recorded.get(status.version) or fallback or unknown


def leading_group(steps: Sequence[Step], start: int = 0) -> Sequence[Step]:
    """The first steps from `start` on that may share one transaction; at least one where there are any."""
    end = start
    while end < len(steps) and not steps[end].needs_own_transaction:
        end += 1
    return steps[start : max(end, start + 1)]


def plan_to(statuses: Sequence[Status], target: int | None, recorded: Recorded) -> MigrationPlan:
    """The contract of `MigrationRunner.plan`. `recorded` is asked only for what a rollback needs."""
    if target is not None:
        require_known(statuses, target)
    upward = plan_up(statuses, target)
    above = applied_above(statuses, target)
    if upward or not above:
        return upward
    return plan_down(statuses, recorded(above), above)


def applied_above(statuses: Iterable[Status], target: int | None) -> list[int]:
    """The applied versions above `target`; none where there is no target."""
    return [s.version for s in statuses if target is not None and s.applied and s.version > target]


def newest_applied(statuses: Sequence[Status], steps: int) -> list[int]:
    """The `steps` highest applied versions."""
    applied = [status.version for status in statuses if status.applied]
    return applied[max(len(applied) - steps, 0) :]


def require_known(statuses: Iterable[Status], target: int) -> None:
    """Raise `MigrationNotFoundError` unless `target` is 0 (empty) or a version that either side knows."""
    if target != 0 and not any(status.version == target for status in statuses):
        raise MigrationNotFoundError(
            f"version {target} is unknown: neither the migrations nor the ledger have it",
            version=target,
            hint="`migrated status` lists the versions; 0 stands for an empty database",
        )


def missing_versions(statuses: Iterable[Status]) -> list[int]:
    """Versions that are applied and that no migration has."""
    return [status.version for status in statuses if status.state is State.MISSING]


def names(named: Iterable[Status | Migration]) -> str:
    """Their labels, for people."""
    return ", ".join(each.label for each in named)
