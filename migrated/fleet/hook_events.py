"""Collect the outcomes of one pass into hook events: at most one for each hook."""

from collections.abc import Iterable
from typing import NamedTuple

from migrated.config.settings import HookName
from migrated.core.errors import INTERRUPTED, MigrationError
from migrated.fleet.hooks import HookEvent
from migrated.fleet.outcome import Outcome, OutcomeKind

_WORST_FIRST = [OutcomeKind.FAILED, OutcomeKind.REFUSED, OutcomeKind.UNAVAILABLE, OutcomeKind.APPLIED]


class _Event(NamedTuple):
    """One change or failure of the pass."""

    databases: tuple[str, ...]
    result: OutcomeKind
    versions: tuple[int, ...]
    error: MigrationError | None = None


class HookCollector:
    """Collects the outcomes of one pass as they arrive."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._changes: list[_Event] = []
        self._failures: list[_Event] = []

    def add(self, outcome: Outcome, *, is_new: bool = True) -> None:
        """Add an outcome. Its error is added only if `is_new`; changes are always added."""
        databases = (outcome.database.path,)
        if outcome.versions:
            self._changes.append(_Event(databases, outcome.result, outcome.versions))
        if outcome.error is not None and is_new:
            self.add_failure(outcome.result, outcome.error, databases)

    def add_failure(self, result: OutcomeKind, error: MigrationError, databases: Iterable[str]) -> None:
        """Add one error that concerns all these databases, unless the user interrupted the run."""
        # The user pressed Ctrl-C or stopped the service: no hook has to report that.
        if error.code != INTERRUPTED:
            self._failures.append(_Event(tuple(databases), result, _failing(error), error))

    def hook_events(self) -> list[HookEvent]:
        """Return the hook events of the pass, changes first."""
        found = []
        if self._changes:
            found.append(self._hook_event(HookName.AFTER_APPLY, self._changes))
        if self._failures:
            found.append(self._hook_event(HookName.ON_FAILURE, self._failures))
        return found

    def _hook_event(self, hook: HookName, events: list[_Event]) -> HookEvent:
        """Merge events into one, with the result and the error of the event whose result is worst."""
        worst = min(events, key=lambda event: _WORST_FIRST.index(event.result))
        return HookEvent(
            hook,
            self._run_id,
            worst.result.value,
            tuple(dict.fromkeys(path for event in events for path in event.databases)),
            tuple(sorted({version for event in events for version in event.versions})),
            worst.error.message if worst.error else None,
            worst.error.file if worst.error else None,
        )


def _failing(error: MigrationError) -> tuple[int, ...]:
    """Return the versions that an error concerns: all offenders of a refusal."""
    offenders = tuple(offender.version for offender in getattr(error, "offenders", ()))
    return offenders or (() if error.version is None else (error.version,))
