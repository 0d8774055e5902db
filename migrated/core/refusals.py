"""Checks that refuse a run before its first step; each error names every offender."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from migrated.core.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationError,
    MigrationNotFoundError,
    RefusedError,
    UnfinishedError,
)
from migrated.core.migration import Directive, Migration, Step
from migrated.core.misread import Misreading, misreadings
from migrated.core.records import Unfinished
from migrated.core.sql import statements
from migrated.core.status import (
    LookUpStored,
    MigrationState,
    MigrationStatus,
    OnChanged,
    OnLate,
    OnMissing,
    Policy,
    names,
    nothing_stored,
)


def refuse_unfinished(statuses: Iterable[MigrationStatus]) -> None:
    """Raise `UnfinishedError` if a migration without a transaction stopped in the middle."""
    _raise_first([_stopped(statuses)])


def refuse_other_beginning(unfinished: Unfinished, present: Migration) -> None:
    """Raise `ChecksumMismatchError` if executed statements of a stopped migration were changed."""
    was, now = unfinished.text, Step(present, unfinished.direction).sql
    # Without semicolons: the last statement of a section may have none.
    done = [was[start:end].rstrip(";") for start, end in statements(was)[: unfinished.statement]]
    there = [now[start:end].rstrip(";") for start, end in statements(now)]
    if there[: len(done)] == done and len(there) > len(done):
        return
    place = next((n for n, text in enumerate(done) if there[n : n + 1] != [text]), None)
    other = f"statement {(place or 0) + 1} has been executed and was changed since"
    found = "no statement is left to run" if place is None else other
    raise ChecksumMismatchError(
        f"{present.label} cannot be resumed: {found}",
        hint="restore the executed statements and change only those after them; or finish by hand and use "
        "--mark-applied",
        version=present.version,
        name=present.name,
        file=present.file,
        expected=unfinished.recorded.checksum,
        found=present.checksum,
    )


def refuse_mixture(steps: Sequence[Step], statuses: Sequence[MigrationStatus]) -> None:
    """Raise `RefusedError` if steps that must share one transaction cannot."""
    # PRAGMA foreign_keys has no effect inside a transaction, so all steps of one must agree.
    keys = {Directive.FOREIGN_KEYS_ON in step.directives for step in steps}
    none = [step for step in steps if Directive.NO_TRANSACTION in step.directives]
    if not none and len(keys) == 1:
        return
    odd = none or [step for step in steps if Directive.FOREIGN_KEYS_ON in step.directives]
    directive = Directive.NO_TRANSACTION if none else Directive.FOREIGN_KEYS_ON
    versions = {step.migration.version for step in odd}
    labels = ", ".join(step.migration.label for step in odd)
    raise RefusedError(
        f'with transaction = "run" {labels} cannot share a transaction: it has the directive {directive}',
        hint="apply those before it first (`migrated up --to V`), then it alone, then the rest",
        version=min(versions),
        offenders=[status for status in statuses if status.version in versions],
    )


def refuse_redo(
    statuses: Sequence[MigrationStatus],
    versions: Collection[int],
    stored_migrations: LookUpStored = nothing_stored,
) -> None:
    """Raise the refusal of a redo of `versions`, if any.

    A redo is refused if one of `versions` is missing, or if one of the other migrations was changed.
    """
    redone = set(versions)
    _raise_first(
        [
            _changed((status for status in statuses if status.version not in redone), stored_migrations),
            _missing(status for status in statuses if status.version in redone),
        ]
    )


def refuse_changed(statuses: Iterable[MigrationStatus], stored_migrations: LookUpStored = nothing_stored) -> None:
    """Raise `ChecksumMismatchError` that names every changed migration.

    The history is read only for those.
    """
    _raise_first([_changed(statuses, stored_migrations)])


def refuse_misread(
    statuses: Iterable[MigrationStatus], version: int | None, stored_migrations: LookUpStored
) -> None:
    """Raise `ChecksumMismatchError` if the whole file of `version` was executed as its UP section.

    Called when `version` has no recorded down text. The error names every such migration. The file does have a
    DOWN section, so the usual advice to add one would not help.
    """
    changed = _in_state(statuses, MigrationState.CHANGED)
    misread = misreadings(changed, _texts(changed, stored_migrations))
    if version in misread:
        _raise_first([_changed((status for status in changed if status.version in misread), stored_migrations)])


def refuse_by_policy(
    statuses: Sequence[MigrationStatus], policy: Policy, stored_migrations: LookUpStored = nothing_stored
) -> None:
    """Raise the refusal that `policy` demands, if any. The error names every offender.

    The history is read only for changed migrations. The class of the error is that of the most serious cause:
    stopped, then changed, missing, late.
    """
    _raise_first(
        [
            _stopped(statuses),
            _changed(statuses, stored_migrations) if policy.on_changed is OnChanged.REFUSE else None,
            _missing(statuses) if policy.on_missing is OnMissing.REFUSE else None,
            _late(statuses) if policy.on_late is OnLate.REFUSE else None,
        ]
    )


def _raise_first(refusals: Sequence[RefusedError | None]) -> None:
    found = [refusal for refusal in refusals if refusal]
    if not found:
        return
    # One error reports everything; the most serious refusal, which is first, gives its class and place.
    first = found[0]
    first.message = "; ".join(refusal.message for refusal in found)
    first.hint = "; ".join([*(refusal.hint for refusal in found if refusal.hint), "see `migrated help repair`"])
    offenders = [offender for refusal in found for offender in refusal.offenders]
    first.offenders = tuple(sorted(offenders, key=lambda status: status.version))
    first.recorded = {version: text for refusal in found for version, text in refusal.recorded.items()}
    raise first


def _stopped(statuses: Iterable[MigrationStatus]) -> RefusedError | None:
    stopped = _in_state(statuses, MigrationState.STOPPED)
    if not stopped:
        return None
    unfinished = stopped[0].unfinished
    return UnfinishedError(
        f"{unfinished}: the executed statements stay in effect" if unfinished else stopped[0].label,
        hint=f"`migrated repair` lists stopped migrations; `migrated repair {stopped[0].version}` resolves it "
        "with --resume (continue with the next statement), --mark-applied or --forget (finished or undone "
        "by hand)",
        **_attributes_of_first(stopped),
    )


def _changed(statuses: Iterable[MigrationStatus], stored_migrations: LookUpStored) -> RefusedError | None:
    changed = _in_state(statuses, MigrationState.CHANGED)
    if not changed:
        return None
    texts = _texts(changed, stored_migrations)
    misread = misreadings(changed, texts)
    refusal = ChecksumMismatchError(
        "; ".join(_mismatch(status, misread.get(status.version)) for status in changed),
        hint="; ".join(_remedies(changed, misread)),
        expected=changed[0].applied.checksum if changed[0].applied else "",
        found=changed[0].migration.checksum if changed[0].migration else "",
        **_attributes_of_first(changed),
    )
    refusal.recorded = texts
    return refusal


def _texts(changed: Sequence[MigrationStatus], stored_migrations: LookUpStored) -> dict[int, Migration]:
    # A history that cannot be read, or has the format of a later version, must not hide the refusal.
    with suppress(MigrationError):
        return dict(stored_migrations([status.version for status in changed]))
    return {}


def _mismatch(status: MigrationStatus, misread: Misreading | None) -> str:
    if misread is None or status.mismatch is None:
        return str(status.mismatch)
    return (
        f"{status.label} was read wrongly by an earlier version of migrated when it was applied: {misread} "
        f"(expected checksum {status.mismatch.expected}, found {status.mismatch.found})"
    )


def _remedies(changed: Sequence[MigrationStatus], misread: Mapping[int, Misreading]) -> Iterator[str]:
    """Yield the hint for edited migrations, then one for each kind of misread migrations."""
    edited = [status for status in changed if status.version not in misread]
    if edited:
        which = f" {edited[0].version}" if len(edited) == 1 else ""
        yield (
            f"`migrated diff{which}` shows what changed; restore the text that was applied (only the UP section "
            "counts) and make the change a new migration"
        )
    for what in Misreading:
        concerned = [status for status in changed if misread.get(status.version) is what]
        if concerned:
            yield _remedy(what, concerned)


def _remedy(what: Misreading, concerned: Sequence[MigrationStatus]) -> str:
    is_one = len(concerned) == 1
    repair = f"migrated repair {concerned[0].version if is_one else 'VERSION'}"
    accept = f"`{repair} --mark-applied` accepts the file as it is"
    whose = f"{names(concerned)}: " if is_one else f"for each of {names(concerned)}: "
    if what is Misreading.HARMLESS:
        return f"{whose}{accept}"
    return (
        f"{whose}look at the schema; if what UP makes is missing, `{repair} --forget` records it as not applied "
        f"and `migrated up` applies it; if it is there, repaired by hand, {accept}"
    )


def _missing(statuses: Iterable[MigrationStatus]) -> RefusedError | None:
    missing = _in_state(statuses, MigrationState.MISSING)
    if not missing:
        return None
    return MigrationNotFoundError(
        f"applied, but no longer among the migrations: {names(missing)}",
        hint="restore the file, roll it back with `migrated down` (its down text was recorded), "
        'or set on_missing = "ignore"',
        **_attributes_of_first(missing),
    )


def _late(statuses: Iterable[MigrationStatus]) -> RefusedError | None:
    late = _in_state(statuses, MigrationState.LATE)
    if not late:
        return None
    return LateMigrationError(
        f"pending below the highest applied version: {names(late)}",
        hint='give them a higher version, or set on_late = "apply"',
        **_attributes_of_first(late),
    )


def _in_state(statuses: Iterable[MigrationStatus], state: MigrationState) -> list[MigrationStatus]:
    return [status for status in statuses if status.state is state]


def _attributes_of_first(offenders: Sequence[MigrationStatus]) -> dict[str, Any]:
    migration = offenders[0].migration
    return {
        "version": offenders[0].version,
        "name": offenders[0].name,
        "file": migration.file if migration else None,
        "offenders": offenders,
    }
