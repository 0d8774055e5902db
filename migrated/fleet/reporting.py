"""Log outcomes as events: for each database, or once per cause if many share it."""

import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from migrated.core.errors import DatabaseError, LockHeldError, RefusedError
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.status import MigrationState, MigrationStatus
from migrated.engine.backend import EarlierState, Observer, Progress, RowRestoreReport, StepResult
from migrated.fleet.outcome import FailureCause, Outcome, OutcomeKind, cause_of
from migrated.fleet.rollout import Halt
from migrated.logs import events
from migrated.logs.events import Event
from migrated.logs.logger import Log, failure_keys

FEW = 3
"""How many databases with one cause are logged individually."""
_STATE_EVENTS = {
    MigrationState.CHANGED: events.CHECKSUM_MISMATCH,
    MigrationState.MISSING: events.MIGRATION_MISSING,
    MigrationState.LATE: events.MIGRATION_LATE,
}


def report(outcome: Outcome, log: Log) -> None:
    """Log an outcome: its error, by kind, then `run.finished`."""
    log = log.bind(database=outcome.database.name)
    report_error(outcome, log)
    if isinstance(outcome.error, RefusedError) and outcome.error.offenders:
        log.failure(events.DATABASE_BLOCKED, outcome.error)
    report_end(outcome, log)


def report_error(outcome: Outcome, log: Log) -> None:
    """Log the error of an outcome, if any; a refusal has one line for each migration concerned."""
    match outcome.error:
        case None:
            return
        case internal if internal.traceback:
            log.failure(events.INTERNAL_ERROR, internal)
        # A refusal without offenders has its whole text in the reason.
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


def _report_offender(
    status: MigrationStatus, refusal: RefusedError, log: Log, change: Mapping[str, object] | None
) -> None:
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
    """Log `run.finished` if something was done, failed or was refused."""
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


def report_others(example: Outcome, number: int, log: Log) -> None:
    """Log in one line that `number` more databases failed for the same cause as `example`."""
    if example.error is None:
        return
    if example.error.traceback:
        event = events.INTERNAL_ERROR
    elif example.result is OutcomeKind.UNAVAILABLE:
        event = events.DATABASE_UNAVAILABLE
    else:
        event = events.DATABASE_BLOCKED
    # These keys belong to the example; this line is about other databases.
    keys = failure_keys(example.error) | {"excerpt": None, "statement": None, "traceback": None}
    log(event._replace(sentence="{databases} more databases: {reason}"), **keys, databases=number)


class FailureGroups:
    """The causes of failures in one run.

    The first `FEW` databases with a cause are logged individually, the others in one line.
    """

    def __init__(self) -> None:
        self._sizes: Counter[FailureCause] = Counter()
        self._examples: dict[FailureCause, Outcome] = {}

    def should_report(self, outcome: Outcome) -> bool:
        """Return True if the outcome is to be logged individually; otherwise `report` will count it."""
        cause = cause_of(outcome)
        if cause is None:
            return True
        self._sizes[cause] += 1
        self._examples[cause] = outcome
        return self._sizes[cause] <= FEW

    def report(self, log: Log) -> None:
        """Log one line for each cause that more databases have."""
        for cause, size in self._sizes.items():
            if size > FEW:
                report_others(self._examples[cause], size - FEW, log)


class RunTotals:
    """Counts the outcomes of one run."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._results: Counter[OutcomeKind] = Counter()
        self._pending = 0
        self._untouched = 0
        self._applied = 0
        self._rolled_back = 0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self._results[outcome.result] += 1
        # A failed database counts as blocked or unavailable, not as pending.
        self._pending += bool(outcome.pending and outcome.error is None)
        self._applied += outcome.applied
        self._rolled_back += outcome.rolled_back

    def add_untouched(self, number: int) -> None:
        """Count databases that a halted rollout did not reach."""
        self._untouched += number

    def report(self, log: Log) -> None:
        """Log `fleet.finished` if there are several databases and something was done or refused in one."""
        total = self._results.total() + self._untouched
        if total <= 1 or total == self._results[OutcomeKind.CURRENT]:
            return
        succeeded = self._results[OutcomeKind.APPLIED] + self._results[OutcomeKind.CURRENT]
        log(
            events.FLEET_FINISHED,
            databases=total,
            current=succeeded - self._pending,
            blocked=self._results[OutcomeKind.FAILED] + self._results[OutcomeKind.REFUSED],
            unavailable=self._results[OutcomeKind.UNAVAILABLE],
            untouched=self._untouched or None,
            applied=self._applied,
            execution_time_ms=round((time.monotonic() - self._began) * 1000),
        )


def report_halt(halt: Halt, total: int, log: Log) -> None:
    """Log that a rollout was halted."""
    log(
        events.FLEET_HALTED,
        **{key: value for key, value in failure_keys(halt.error).items() if key != "excerpt"}
        | {"reason": f"{halt.error.label} failed: {halt.error.message}"},
        databases=total,
        blocked=halt.failures,
        untouched=len(halt.untouched),
    )


_EMPTIED = events.SNAPSHOT_RESTORED._replace(sentence="restored {database} to an empty database")


class LoggingObserver(Observer):
    """Logs and counts the steps of a run, and passes every notification to `also`.

    Unless `verbose`, expected steps are logged at level debug: in a fleet there are thousands of them.
    """

    def __init__(self, log: Log, also: Observer | None = None, *, verbose: bool = True) -> None:
        self.log = log
        self._verbose = verbose
        self.applied = 0
        self.rolled_back = 0
        self.updates = 0
        self.versions: list[int] = []
        self._also = also or Observer()

    def lock_waiting(self, holder: str) -> None:
        self.log(events.LOCK_WAITING, holder=holder)
        self._also.lock_waiting(holder)

    def planned(self, steps: int) -> None:
        self._also.planned(steps)

    def beginning(self, step: Step, *, late: bool) -> None:
        migration = step.migration
        keys = _of(step) | {"checksum": migration.checksum}
        if late:
            self.log(events.MIGRATION_LATE, **keys)
        up = step.direction is MigrationDirection.UP
        self._log_expected(events.MIGRATION_APPLYING if up else events.MIGRATION_ROLLING_BACK, **keys)
        self._also.beginning(step, late=late)

    def progress(self, progress: Progress) -> None:
        self.log(
            events.MIGRATION_PROGRESS,
            **_of(progress.step),
            line=progress.line,
            statement_number=progress.statement,
            statement_count=progress.statements,
            execution_time_ms=progress.elapsed_ms,
            rows_changed=progress.rows_changed,
        )
        self._also.progress(progress)

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        up = direction is MigrationDirection.UP
        self.applied += up
        self.rolled_back += not up
        self.versions.append(done.entry.version)
        # Repeatable migrations have version 0 in the ledger; the log omits the key.
        keys = {"version": done.entry.version or None, "name": done.entry.name, "direction": direction.value}
        if done.dropped:
            self.log(events.SCHEMA_OBJECTS_DROPPED, **keys, reason=", ".join(done.dropped))
        self._log_expected(
            events.MIGRATION_APPLIED if up else events.MIGRATION_ROLLED_BACK,
            **keys,
            checksum=done.entry.checksum,
            execution_time_ms=done.execution_time_ms,
            rows_changed=done.rows_changed,
        )
        self._also.done(done, direction)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self._log_expected(
            events.SNAPSHOT_TAKEN, snapshot=identifier, size=size, execution_time_ms=execution_time_ms
        )
        self._also.snapshot_taken(identifier, size, execution_time_ms)

    def snapshot_skipped(self, reason: str) -> None:
        self._log_expected(events.SNAPSHOT_SKIPPED, reason=reason)
        self._also.snapshot_skipped(reason)

    def restored_snapshot(self, earlier: EarlierState) -> None:
        snapshot = earlier.snapshot
        self.log(
            events.SNAPSHOT_RESTORED if snapshot else _EMPTIED,
            snapshot=snapshot.id if snapshot else None,
            version=snapshot.version if snapshot else None,
            reason="a changed or missing migration has no down text",
        )
        self._also.restored_snapshot(earlier)

    def updated(self, migration: Migration) -> None:
        self.updates += 1
        self.log(events.MIGRATION_UPDATED, version=migration.version, name=migration.name, file=migration.file)
        self._also.updated(migration)

    def rows_restored(self, restored: RowRestoreReport) -> None:
        if restored.restored:
            rows = ", ".join(f"{table} ({count})" for table, count in restored.restored.items())
            self.log(events.ROWS_PUT_BACK, snapshot=restored.snapshot, reason=rows)
        if restored.not_restored:
            why = "; ".join(f"{table}: {reason}" for table, reason in restored.not_restored.items())
            self.log(events.ROWS_LEFT_OUT, snapshot=restored.snapshot, reason=why)
        self._also.rows_restored(restored)

    def _log_expected(self, event: Event, **keys: object) -> None:
        self.log(event if self._verbose else _at_debug_level(event), **keys)


@lru_cache
def _at_debug_level(event: Event) -> Event:
    return event._replace(level="debug")


def _of(step: Step) -> dict[str, object]:
    version, name = step.migration.known_as
    return {
        "version": version,
        "name": name,
        "file": step.migration.file,
        "direction": step.direction.value,
    }
