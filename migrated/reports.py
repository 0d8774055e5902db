"""What came of work on databases, told to the log: by database, and by cause where many have the same."""

import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from migrated.core.errors import DatabaseError, LockHeldError, RefusedError
from migrated.core.migration import MigrationDirection
from migrated.core.status import State, Status
from migrated.fleet import Outcome, Result
from migrated.logs import events
from migrated.logs.log import Log, failure_keys
from migrated.rollout import Halt

FEW = 3
"""How many databases that have one cause are told of one by one."""

_STATE_EVENTS = {
    State.CHANGED: events.CHECKSUM_MISMATCH,
    State.MISSING: events.MIGRATION_MISSING,
    State.LATE: events.MIGRATION_LATE,
}


def report(outcome: Outcome, log: Log) -> None:
    """Log what an outcome came to: its error, by kind, then `run.finished`."""
    log = log.bind(database=outcome.database.name)
    report_error(outcome, log)
    if isinstance(outcome.error, RefusedError) and outcome.error.offenders:
        log.failure(events.DATABASE_BLOCKED, outcome.error)
    report_end(outcome, log)


def report_error(outcome: Outcome, log: Log) -> None:
    """Log the error of an outcome, if it has one; a refusal with a line for each migration concerned."""
    match outcome.error:
        case None:
            return
        case RefusedError() as refusal if not refusal.offenders:
            log.failure(events.MIGRATION_MISSING._replace(sentence="{reason}"), refusal)
        case RefusedError() as refusal:
            for offender in refusal.offenders:
                _report_offender(offender, refusal, log, outcome.changes.get(offender.version))
        case LockHeldError() as held:
            log.failure(events.LOCK_HELD, held)
        case DatabaseError() as unavailable:
            log.failure(events.DATABASE_UNAVAILABLE, unavailable)
        case failed:
            log.failure(events.MIGRATION_FAILED, failed)


def _report_offender(status: Status, refusal: RefusedError, log: Log, change: Mapping[str, object] | None) -> None:
    if status.state not in _STATE_EVENTS:
        return
    keys = dict(change or {})
    event = _STATE_EVENTS[status.state]
    if what := keys.pop("what", None):
        event = event._replace(sentence=f"{{migration}} {what} to {{database}}: {{reason}}")
    log(
        event,
        version=status.version,
        name=status.name,
        file=status.migration.file if status.migration else None,
        expected=status.applied.checksum if status.applied else None,
        found=status.migration.checksum if status.migration and status.applied else None,
        hint=refusal.hint,
        **keys,
    )


def report_end(outcome: Outcome, log: Log) -> None:
    """Log `run.finished` where something was done or refused."""
    if outcome.did_something:
        went_down = outcome.rolled_back and not outcome.applied
        sentence = f"{{database}}: {outcome.rolled_back} rolled back, {{pending}} pending"
        down = events.RUN_FINISHED._replace(sentence=sentence)
        log(
            down if went_down else events.RUN_FINISHED,
            applied=outcome.applied,
            pending=outcome.pending,
            execution_time_ms=outcome.execution_time_ms,
            outcome=outcome.result.value,
            direction=MigrationDirection.DOWN.value if went_down else None,
        )


class Cause(NamedTuple):
    """What databases have in common that are in trouble for one reason, whatever its exact words."""

    result: Result
    error: str
    code: str | None
    versions: tuple[int | None, ...]


def cause_of(outcome: Outcome) -> Cause | None:
    """Why a database is in trouble; None where it is not."""
    error = outcome.error
    if error is None:
        return None
    offenders = tuple(offender.version for offender in error.offenders) if isinstance(error, RefusedError) else ()
    return Cause(outcome.result, type(error).__name__, error.code, offenders or (error.version,))


def report_others(example: Outcome, number: int, log: Log) -> None:
    """Log in one line that `number` more databases are in the trouble of this one."""
    if example.error is None:
        return
    is_unavailable = example.result is Result.UNAVAILABLE
    event = events.DATABASE_UNAVAILABLE if is_unavailable else events.DATABASE_BLOCKED
    keys = failure_keys(example.error) | {"excerpt": None, "statement": None}
    log(event._replace(sentence="{databases} more databases: {reason}"), **keys, databases=number)


class Crowds:
    """The causes in one run: the first few databases that have one are told of one by one, the others together."""

    def __init__(self) -> None:
        self._sizes: Counter[Cause] = Counter()
        self._examples: dict[Cause, Outcome] = {}

    def is_told_alone(self, outcome: Outcome) -> bool:
        """Whether to tell of it by itself; else it is counted, and told of by `report`."""
        cause = cause_of(outcome)
        if cause is None:
            return True
        self._sizes[cause] += 1
        self._examples[cause] = outcome
        return self._sizes[cause] <= FEW

    def report(self, log: Log) -> None:
        """Tell of those that were counted."""
        for cause, size in self._sizes.items():
            if size > FEW:
                report_others(self._examples[cause], size - FEW, log)


class Tally:
    """What became of the databases of one run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._results: Counter[Result] = Counter()
        self._pending = 0
        self._untouched = 0
        self._applied = 0
        self._rolled_back = 0

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self._results[outcome.result] += 1
        self._pending += bool(outcome.pending and outcome.error is None)
        self._applied += outcome.applied
        self._rolled_back += outcome.rolled_back

    def add_untouched(self, number: int) -> None:
        """So many were not reached."""
        self._untouched += number

    def report(self, log: Log) -> None:
        """Log the sum, if something was done or refused in one of several databases."""
        total = self._results.total() + self._untouched
        if total <= 1 or total == self._results[Result.CURRENT]:
            return
        well = self._results[Result.APPLIED] + self._results[Result.CURRENT]
        log(
            events.FLEET_FINISHED,
            databases=total,
            current=well - self._pending,
            blocked=self._results[Result.FAILED] + self._results[Result.REFUSED],
            unavailable=self._results[Result.UNAVAILABLE],
            untouched=self._untouched or None,
            applied=self._applied,
            execution_time_ms=round((time.monotonic() - self._began) * 1000),
        )


def report_halt(halt: Halt, total: int, log: Log) -> None:
    """Log that a roll-out does not go on."""
    log(
        events.FLEET_HALTED,
        **{key: value for key, value in failure_keys(halt.error).items() if key != "excerpt"}
        | {"reason": f"{halt.error.label} failed: {halt.error.message}"},
        databases=total,
        blocked=halt.failures,
        untouched=len(halt.untouched),
    )
