"""Plan a run from the migrations' states and the policy: roll back, apply, update the ledger.

Pending migrations are a set difference, not everything above the highest applied version. Only versions in the
ledger can be rolled back.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from migrated.core import refusals
from migrated.core.errors import MigrationNotFoundError, RollbackFailedError
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import AppliedRepeatable
from migrated.core.status import (
    DatabaseStatus,
    LookUpStored,
    MigrationState,
    MigrationStatus,
    OnChanged,
    OnMissing,
    Policy,
    RepeatableStatus,
    examine,
    missing_versions,
    names,
    pending,
)


class MigrationPlan:
    """The migrations to run, in order, and their direction. True unless empty."""

    __slots__ = ("direction", "migrations")

    def __init__(self, direction: MigrationDirection, migrations: Sequence[Migration] = ()) -> None:
        self.direction = direction
        # A list whatever the type of the argument, so that two plans of the same steps are equal.
        self.migrations: Sequence[Migration] = [*migrations]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MigrationPlan):
            return NotImplemented
        return (self.direction, self.migrations) == (other.direction, other.migrations)

    __hash__ = None  # type: ignore[assignment] # mutable, like a list

    def __repr__(self) -> str:
        return f"MigrationPlan({self.direction!r}, {self.migrations!r})"

    def __iter__(self) -> Iterator[Migration]:
        return iter(self.migrations)

    def __len__(self) -> int:
        return len(self.migrations)

    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not self.migrations


_NO_WAY_DOWN = MigrationPlan(MigrationDirection.DOWN)
_NO_WAY_UP = MigrationPlan(MigrationDirection.UP)


class RunPlan(NamedTuple):
    """Everything that one run does: first `down`, then `up`, then `apply_repeatables`. True unless empty.

    The objects of the repeatable migrations in `drop_repeatables` are dropped first: they could block a change,
    and a new database would not have them. With `is_redo` the run is done completely or not at all, and rows that
    applications wrote are restored. `updates` are applied migrations whose name, down text or header has
    changed: only their rows in the ledger and the history change. `direction` is the requested direction: a
    rollback may only be the preparation for going up.
    """

    down: MigrationPlan = _NO_WAY_DOWN
    up: MigrationPlan = _NO_WAY_UP
    apply_repeatables: Sequence[Migration] = ()
    drop_repeatables: Sequence[AppliedRepeatable] = ()
    updates: Sequence[Migration] = ()
    is_redo: bool = False
    direction: MigrationDirection = MigrationDirection.UP

    def __bool__(self) -> bool:
        return bool(self.down or self.up or self.apply_repeatables or self.drop_repeatables or self.updates)

    @property
    def steps(self) -> list[Step]:
        """All steps, in order."""
        return self.versioned_steps + self.repeatable_steps

    @property
    def repeatable_steps(self) -> list[Step]:
        """The steps of repeatable migrations."""
        return [Step(migration, MigrationDirection.UP) for migration in self.apply_repeatables]

    @property
    def versioned_steps(self) -> list[Step]:
        """The steps of versioned migrations."""
        back = {migration.version for migration in self.down}
        down = [Step(migration, MigrationDirection.DOWN) for migration in self.down]
        return down + [Step(each, MigrationDirection.UP, each.version in back) for each in self.up]

    @property
    def needs_copy(self) -> bool:
        """True if a redo contains a step that cannot share a transaction.

        The redo then runs on a copy of the database.
        """
        return self.is_redo and any(step.needs_own_transaction for step in self.steps)

    @classmethod
    def from_plan(cls, plan: MigrationPlan) -> "RunPlan":
        """Wrap a plan that was requested explicitly: nothing else is rolled back, updated or repeated."""
        if plan.direction is MigrationDirection.UP:
            return cls(up=plan)
        return cls(down=plan, direction=plan.direction)


def plan_run(
    status: DatabaseStatus,
    stored_migrations: LookUpStored,
    policy: Policy,
    target: int | None = None,
    again: Collection[int] = (),
) -> RunPlan:
    """Plan the run that makes the database match the migrations.

    With a `target`, only versions up to it and those in `again`, applied in the present content, are applied, and
    repeatable migrations only in a redo that starts from an earlier content. Raises the `RefusedError` that the
    policy demands, or `RollbackFailedError` if a required rollback is impossible.
    """
    statuses, repeatables = status
    refusals.refuse_by_policy(statuses, policy, stored_migrations)
    redoes = policy.on_changed is OnChanged.REDO
    back = versions_to_roll_back(statuses, policy)
    updates = _updates(statuses, stored_migrations, back) if redoes else ()
    # An earlier content lacks the views that were created after its time: apply them again, or they are lost.
    is_earlier = not {*again} <= {status.version for status in statuses if status.applied}
    apply_repeatables, drop_repeatables = (
        _changed_repeatables(repeatables, policy) if target is None or is_earlier else ([], [])
    )
    if not back:
        return RunPlan(
            up=plan_up(statuses, target, again),
            apply_repeatables=apply_repeatables,
            drop_repeatables=drop_repeatables,
            updates=updates,
        )
    down = plan_down(statuses, stored_migrations(back), back)
    up = plan_up(_without(statuses, back), target, {*back, *again})
    if redoes:
        apply_repeatables, drop_repeatables = _all_repeatables(
            repeatables, [each.migration for each in repeatables]
        )
    return RunPlan(down, up, apply_repeatables, drop_repeatables, updates, is_redo=redoes)


def plan_redo(
    status: DatabaseStatus,
    stored_migrations: LookUpStored,
    versions: Collection[int],
    again: Collection[int],
    repeatables_again: Collection[str] = (),
) -> RunPlan:
    """Plan to roll back the applied ones of `versions` and to apply those in `again` with their current text.

    All applied repeatable migrations are dropped and applied again, and those named in `repeatables_again`: an
    earlier content lacks what was created after its time. Raises `RollbackFailedError` if that is impossible.
    """
    statuses, repeatables = status
    if not versions:
        return RunPlan()
    down = plan_down(statuses, stored_migrations(list(versions)), versions)
    up = [each for each in pending(_without(statuses, versions)) if each.version in again]
    wanted = [each.migration for each in repeatables if each.applied or each.name in repeatables_again]
    apply_repeatables, drop_repeatables = _all_repeatables(repeatables, wanted)
    return RunPlan(
        down, MigrationPlan(MigrationDirection.UP, up), apply_repeatables, drop_repeatables, is_redo=True
    )


def _changed_repeatables(
    repeatables: Sequence[RepeatableStatus], policy: Policy
) -> tuple[list[Migration], list[AppliedRepeatable]]:
    """Return the new or changed repeatable migrations, and the applied ones to drop first."""
    undone = {MigrationState.PENDING} if policy.on_changed is OnChanged.REDO else set()
    if policy.on_missing is OnMissing.ROLLBACK:
        undone.add(MigrationState.MISSING)
    return (
        [each.migration for each in repeatables if each.migration and each.state is MigrationState.PENDING],
        [each.applied for each in repeatables if each.applied and each.state in undone],
    )


def _all_repeatables(
    repeatables: Sequence[RepeatableStatus], wanted: Iterable[Migration | None]
) -> tuple[list[Migration], list[AppliedRepeatable]]:
    """Drop every repeatable migration first and create it last.

    Views block ALTER TABLE, and dropping a table drops its triggers.
    """
    apply_repeatables = [migration for migration in wanted if migration and not migration.is_draft]
    return apply_repeatables, [each.applied for each in repeatables if each.applied]


def versions_to_roll_back(statuses: Sequence[MigrationStatus], policy: Policy) -> list[int]:
    """Return the versions to roll back by policy: missing ones; changed ones and all above them."""
    changed = [status.version for status in statuses if status.state is MigrationState.CHANGED]
    redone_from = min(changed) if changed and policy.on_changed is OnChanged.REDO else None
    missing = set(missing_versions(statuses))
    # Everything above a changed migration may depend on it.
    above = {s.version for s in statuses if s.applied and redone_from is not None and s.version >= redone_from}
    return sorted(above - missing | (missing if policy.on_missing is OnMissing.ROLLBACK else set()))


def _without(statuses: Sequence[MigrationStatus], versions: Collection[int]) -> list[MigrationStatus]:
    """Return the states after a rollback of `versions`."""
    gone = set(versions)
    return examine(
        [status.migration for status in statuses if status.migration],
        [status.applied for status in statuses if status.applied and status.version not in gone],
    )


def _updates(
    statuses: Sequence[MigrationStatus], stored_migrations: LookUpStored, back: Collection[int]
) -> list[Migration]:
    # Versions that are rolled back are applied again with their current text and need no update.
    leaving = set(back)
    unchanged = [
        (status.migration, status.applied.name)
        for status in statuses
        if status.state is MigrationState.APPLIED
        and status.migration
        and status.applied
        and status.version not in leaving
    ]
    texts = stored_migrations([migration.version for migration, _ in unchanged])
    return [present for present, name in unchanged if _is_outdated(present, name, texts.get(present.version))]


def _is_outdated(present: Migration, name: str, recorded: Migration | None) -> bool:
    if present.name != name or recorded is None:
        return True
    return (present.down_sql, present.header) != (recorded.down_sql, recorded.header)


def plan_up(
    statuses: Sequence[MigrationStatus], target: int | None = None, again: Collection[int] = ()
) -> MigrationPlan:
    """Plan all pending migrations up to `target` if given; those in `again` regardless of it."""
    steps = [
        step for step in pending(statuses) if target is None or step.version <= target or step.version in again
    ]
    return MigrationPlan(MigrationDirection.UP, tuple(steps))


def plan_down(
    statuses: Sequence[MigrationStatus], recorded: Mapping[int, Migration], versions: Iterable[int]
) -> MigrationPlan:
    """Plan the rollback of the applied ones of `versions`, newest first.

    The down text is the file's if the UP section is unchanged since it was applied, otherwise the one `recorded`
    then. Raises `RollbackFailedError` that names every step without a down text, before the first step is run.
    """
    wanted = set(versions)
    steps = [
        _down_step(status, recorded)
        for status in reversed(statuses)
        if status.applied and status.version in wanted
    ]
    stuck = [step for step in steps if not step.is_reversible]
    # Checked before the first step: a rollback that stops in the middle would leave a state that nobody planned.
    if stuck:
        raise RollbackFailedError(
            f"cannot roll back {names(stuck)}: no down text",
            version=stuck[0].version,
            name=stuck[0].name,
            hint="add a DOWN section (`-- migrated: nothing-to-undo` in it if there is nothing to undo); "
            "nothing was rolled back",
        )
    return MigrationPlan(MigrationDirection.DOWN, tuple(steps))


def _down_step(status: MigrationStatus, recorded: Mapping[int, Migration]) -> Migration:
    # The down text of a file whose UP section was changed would undo something other than what was applied.
    if status.migration is not None and status.state is MigrationState.APPLIED and status.migration.is_reversible:
        return status.migration
    fallback = status.migration if status.state is MigrationState.APPLIED else None
    unknown = Migration(status.version, status.applied.name if status.applied else "unknown", "")
    return recorded.get(status.version) or fallback or unknown


def leading_group(steps: Sequence[Step], start: int = 0) -> Sequence[Step]:
    """Return the first steps from `start` that may share one transaction; at least one if any is left."""
    end = start
    while end < len(steps) and not steps[end].needs_own_transaction:
        end += 1
    return steps[start : max(end, start + 1)]


def plan_to(
    statuses: Sequence[MigrationStatus], target: int | None, stored_migrations: LookUpStored
) -> MigrationPlan:
    """Plan as `MigrationRunner.plan` documents. The history is read only for a rollback."""
    if target is not None:
        require_known(statuses, target)
    upward = plan_up(statuses, target)
    above = applied_above(statuses, target)
    # A plan has one direction: pending migrations come first, and a second call then goes down.
    if upward or not above:
        return upward
    return plan_down(statuses, stored_migrations(above), above)


def applied_above(statuses: Iterable[MigrationStatus], target: int | None) -> list[int]:
    """Return the applied versions above `target`; none without a target."""
    return [s.version for s in statuses if target is not None and s.applied and s.version > target]


def newest_applied(statuses: Sequence[MigrationStatus], steps: int) -> list[int]:
    """Return the `steps` highest applied versions."""
    applied = [status.version for status in statuses if status.applied]
    # Not applied[-steps:], which is the whole list for steps == 0.
    return applied[max(len(applied) - steps, 0) :]


def require_known(statuses: Iterable[MigrationStatus], target: int) -> None:
    """Raise `MigrationNotFoundError` unless `target` is 0 (empty), a migration or an applied version."""
    if target != 0 and not any(status.version == target for status in statuses):
        raise MigrationNotFoundError(
            f"version {target} is unknown: it is neither among the migrations nor in the migrations table",
            version=target,
            hint="`migrated status` lists the versions; 0 means an empty database",
        )
