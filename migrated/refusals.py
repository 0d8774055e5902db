"""What would be wrong to go on with: the refusals, each with every offender, before anything ran."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from migrated.directives import Directive
from migrated.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationNotFoundError,
    RefusedError,
    UnfinishedError,
)
from migrated.model import Migration, Step, Unfinished
from migrated.planning import OnChanged, OnLate, OnMissing, Policy, State, Status, names
from migrated.sqltext import statements


def refuse_unfinished(statuses: Iterable[Status]) -> None:
    """Raise `UnfinishedError` when a migration without a transaction stopped half way: nothing else is sure."""
    _raise_first([_stopped(statuses)])


def refuse_other_beginning(unfinished: Unfinished, present: Migration) -> None:
    """Raise `ChecksumMismatchError` when what is done of an unfinished migration is no longer its beginning."""
    was, now = unfinished.text, Step(present, unfinished.direction).sql
    done = [was[start:end].rstrip(";") for start, end in statements(was)[: unfinished.statement]]
    there = [now[start:end].rstrip(";") for start, end in statements(now)]
    if there[: len(done)] == done and len(there) > len(done):
        return
    place = next((n for n, text in enumerate(done) if there[n : n + 1] != [text]), None)
    other = f"statement {(place or 0) + 1} is done and is another one now"
    found = "nothing follows what is done" if place is None else other
    raise ChecksumMismatchError(
        f"{present.label} cannot be resumed: {found}",
        hint="restore the statements that are done and change only those after them; or finish by hand and use "
        "--mark-applied",
        version=present.version,
        name=present.name,
        file=present.file,
        expected=unfinished.recorded.checksum,
        found=present.checksum,
    )


def refuse_mixture(steps: Sequence[Step], statuses: Sequence[Status]) -> None:
    """Raise `RefusedError` when steps that are to be one transaction cannot be."""
    keys = {Directive.FOREIGN_KEYS_ON in step.directives for step in steps}
    none = [step for step in steps if Directive.NO_TRANSACTION in step.directives]
    if not none and len(keys) == 1:
        return
    odd = none or [step for step in steps if Directive.FOREIGN_KEYS_ON in step.directives]
    directive = Directive.NO_TRANSACTION if none else Directive.FOREIGN_KEYS_ON
    versions = {step.migration.version for step in odd}
    labels = ", ".join(step.migration.label for step in odd)
    raise RefusedError(
        f'with transaction = "run" {labels} cannot be applied together with others: it says {directive}',
        hint="apply those before it first (`migrated up --to V`), then it alone, then the rest",
        version=min(versions),
        offenders=[status for status in statuses if status.version in versions],
    )


def refuse_redo(statuses: Sequence[Status], versions: Collection[int]) -> None:
    """Raise what stands against rolling back `versions` and applying them again: among these, what is missing;
    among the others, what was changed.
    """  # noqa: D205 - one sentence
    redone = set(versions)
    _raise_first(
        [
            _changed(status for status in statuses if status.version not in redone),
            _missing(status for status in statuses if status.version in redone),
        ]
    )


def refuse_changed(statuses: Iterable[Status]) -> None:
    """Raise `ChecksumMismatchError` naming every applied migration whose text is no longer what was applied."""
    _raise_first([_changed(statuses)])


def refuse_by_policy(statuses: Sequence[Status], policy: Policy) -> None:
    """Raise the refusal that `policy` asks for, if any, naming every offender.

    Its class is that of the gravest: stopped before changed before missing before late.
    """
    _raise_first(
        [
            _stopped(statuses),
            _changed(statuses) if policy.on_changed is OnChanged.REFUSE else None,
            _missing(statuses) if policy.on_missing is OnMissing.REFUSE else None,
            _late(statuses) if policy.on_late is OnLate.REFUSE else None,
        ]
    )


def _raise_first(refusals: Sequence[RefusedError | None]) -> None:
    found = [refusal for refusal in refusals if refusal]
    if not found:
        return
    first = found[0]
    first.message = "; ".join(refusal.message for refusal in found)
    first.hint = "; ".join(refusal.hint for refusal in found if refusal.hint)
    offenders = [offender for refusal in found for offender in refusal.offenders]
    first.offenders = tuple(sorted(offenders, key=lambda status: status.version))
    raise first


def _stopped(statuses: Iterable[Status]) -> RefusedError | None:
    stopped = _in_state(statuses, State.STOPPED)
    if not stopped:
        return None
    unfinished = stopped[0].unfinished
    return UnfinishedError(
        f"{unfinished}: what was done stays done, and the rest is not" if unfinished else stopped[0].label,
        hint=f"`migrated repair` shows what is open; `migrated repair {stopped[0].version}` settles it, with "
        "--resume (go on with the next statement), --mark-applied or --forget (finished or undone by hand)",
        **_of_first(stopped),
    )


def _changed(statuses: Iterable[Status]) -> RefusedError | None:
    changed = _in_state(statuses, State.CHANGED)
    if not changed:
        return None
    message = "; ".join(str(status.mismatch) for status in changed)
    which = f" {changed[0].version}" if len(changed) == 1 else ""
    return ChecksumMismatchError(
        message,
        hint=f"`migrated diff{which}` shows what changed; restore the text that was applied (only the UP section "
        "counts) and make the change a new migration",
        expected=_expected(changed[0]),
        found=_found(changed[0]),
        **_of_first(changed),
    )


def _missing(statuses: Iterable[Status]) -> RefusedError | None:
    missing = _in_state(statuses, State.MISSING)
    if not missing:
        return None
    return MigrationNotFoundError(
        f"applied, but no migration has it any more: {names(missing)}",
        hint="bring the file back, roll it back with `migrated down` (its down text was recorded), "
        'or set on_missing = "ignore"',
        **_of_first(missing),
    )


def _late(statuses: Iterable[Status]) -> RefusedError | None:
    late = _in_state(statuses, State.LATE)
    if not late:
        return None
    return LateMigrationError(
        f"pending below the highest applied version: {names(late)}",
        hint='give them a version above, or set on_late = "apply"',
        **_of_first(late),
    )


def _in_state(statuses: Iterable[Status], state: State) -> list[Status]:
    return [status for status in statuses if status.state is state]


def _of_first(offenders: Sequence[Status]) -> dict[str, Any]:
    migration = offenders[0].migration
    return {
        "version": offenders[0].version,
        "name": offenders[0].name,
        "file": migration.file if migration else None,
        "offenders": offenders,
    }


def _expected(status: Status) -> str:
    return status.applied.checksum if status.applied else ""


def _found(status: Status) -> str:
    return status.migration.checksum if status.migration else ""
