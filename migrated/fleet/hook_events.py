"""Which hooks the outcomes of one pass over the databases call for: each at most once."""

from collections.abc import Iterable
from typing import NamedTuple

from migrated.config.settings import HookName
from migrated.core.errors import INTERRUPTED, MigrationError
from migrated.fleet.hooks import HookEvent
from migrated.fleet.outcome import Outcome, OutcomeKind

_WORST_FIRST = [OutcomeKind.FAILED, OutcomeKind.REFUSED, OutcomeKind.UNAVAILABLE, OutcomeKind.APPLIED]


class _Event(NamedTuple):
    databases: tuple[str, ...]
    result: OutcomeKind
    versions: tuple[int, ...]
    error: MigrationError | None = None


class HookCollector:
    """Takes the outcomes of one pass as they come."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._changes: list[_Event] = []
        self._troubles: list[_Event] = []

    def add(self, outcome: Outcome, *, is_news: bool = True) -> None:
        """Take an outcome. What is wrong counts only when `is_news`."""
        databases = (outcome.database.path,)
        if outcome.versions:
            self._changes.append(_Event(databases, outcome.result, outcome.versions))
        if outcome.error is not None and is_news:
            self.add_trouble(outcome.result, outcome.error, databases)

    def add_trouble(self, result: OutcomeKind, error: MigrationError, databases: Iterable[str]) -> None:
        """Take what is wrong with several databases at once. What was interrupted on demand is no trouble."""
        if error.code != INTERRUPTED:
            self._troubles.append(_Event(tuple(databases), result, _failing(error), error))

    def occasions(self) -> list[HookEvent]:
        """What to run hooks for, in order."""
        found = []
        if self._changes:
            found.append(self._occasion(HookName.AFTER_APPLY, self._changes))
        if self._troubles:
            found.append(self._occasion(HookName.ON_FAILURE, self._troubles))
        return found

    def _occasion(self, hook: HookName, events: list[_Event]) -> HookEvent:
        """All of it in one, named after the worst."""
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
    """The versions that an error is about: all offenders of a refusal."""
    offenders = tuple(offender.version for offender in getattr(error, "offenders", ()))
    return offenders or (() if error.version is None else (error.version,))
