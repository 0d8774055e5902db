"""One piece of work done on one database after another, with everything told to the log."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from migrated import differences, events
from migrated.backend import Observer
from migrated.discovery import DatabasePath
from migrated.errors import DatabaseError, LockHeldError, MigrationError, RefusedError
from migrated.logs import Log
from migrated.model import AppliedMigration, Migration, MigrationDirection
from migrated.planning import State, Status
from migrated.reporter import Reporter
from migrated.runner import MigrationRunner
from migrated.settings import Target
from migrated.supervision import Supervision

_STATE_EVENTS = {
    State.CHANGED: events.CHECKSUM_MISMATCH,
    State.MISSING: events.MIGRATION_MISSING,
    State.LATE: events.MIGRATION_LATE,
}

Action = Callable[[MigrationRunner], list[AppliedMigration]]


class Result(StrEnum):
    """What became of one database."""

    APPLIED = "applied"
    CURRENT = "current"
    FAILED = "failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one piece of work on one database came to. `pending` is what is left; 0 where it cannot be told.

    `versions` are those that were applied or rolled back, in that order. `changes` has, by version, what the log
    says of the text of each changed migration.
    """

    database: DatabasePath
    result: Result
    applied: int = 0
    rolled_back: int = 0
    pending: int = 0
    execution_time_ms: int = 0
    error: MigrationError | None = None
    changes: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    versions: tuple[int, ...] = ()

    @property
    def did_something(self) -> bool:
        """Whether there is anything to tell."""
        return self.result is not Result.CURRENT


def work_on(
    database: DatabasePath,
    target: Target,
    migrations: Iterable[Migration],
    action: Action,
    log: Log,
    *,
    lock_timeout: float,
    supervision: Supervision | None = None,
    also: Observer | None = None,
) -> Outcome:
    """Do `action` with a runner for the database. Never raises a `MigrationError`: it is in the outcome.

    Each step is logged as it happens, and told to `also`; the outcome itself is for `report`.
    """
    reporter = Reporter(log.bind(database=database.name), also)
    started = time.monotonic()
    runner = MigrationRunner(
        database.path,
        policy=target.policy,
        create=database.may_be_made(target),
        lock_timeout=lock_timeout,
        busy_timeout=target.busy_timeout,
        statement_timeout=target.statement_timeout,
        transaction=target.transaction,
        snapshots=target.snapshots,
        application_id=target.application_id,
        observer=reporter,
        supervision=supervision,
    )
    was_there = os.path.exists(database.path)
    error: MigrationError | None = None
    try:
        runner.add_migrations(migrations)
        action(runner)
    except MigrationError as failure:
        error = failure
    except Exception as surprise:  # noqa: BLE001 - one database's surprise must not stop the others
        error = DatabaseError(database=database.name, transient=True, **internal(surprise))
    if not was_there and os.path.exists(database.path):
        reporter.log(events.DATABASE_CREATED)
    result = _result(error, reporter)
    # Nothing is left where nothing had to be done; a database that is busy would be waited for once more.
    is_whole = result is Result.CURRENT and not (supervision and supervision.stop_requested())
    readable = not is_whole and not isinstance(error, DatabaseError)
    return Outcome(
        database,
        result,
        reporter.applied,
        reporter.rolled_back,
        _pending(runner) if readable else 0,
        round((time.monotonic() - started) * 1000),
        error,
        _changes(error) if isinstance(error, RefusedError) else {},
        tuple(reporter.versions),
    )


def _changes(refusal: RefusedError) -> dict[int, dict[str, object]]:
    """Whether each change matters and, for people, the difference; the texts themselves may be large, and go."""
    found: dict[int, dict[str, object]] = {}
    for status in refusal.offenders:
        if status.state is State.CHANGED:
            change = differences.change(status.applied, status.migration, refusal.recorded.get(status.version))
            shown = differences.excerpt(change.diff(change.up), status.version) if change.up else None
            found[status.version] = {"reason": change.reason, "difference": shown}
    refusal.recorded = {}
    return found


def internal(error: Exception) -> dict[str, str]:
    """What there is to say of a fault of our own."""
    import traceback

    return {
        "message": f"internal error: {error!r}",
        "hint": "this is a fault of migrated itself; please report it with this line",
        "statement": "".join(traceback.format_exception(error))[-1500:],
    }


def _result(error: MigrationError | None, reporter: Reporter) -> Result:
    match error:
        case None:
            did = reporter.applied or reporter.rolled_back or reporter.updates
            return Result.APPLIED if did else Result.CURRENT
        case RefusedError():
            return Result.REFUSED
        case DatabaseError() | LockHeldError():
            return Result.UNAVAILABLE
        case _:
            return Result.FAILED


def _pending(runner: MigrationRunner) -> int:
    try:
        return runner.count_pending()
    except MigrationError:
        # The outcome already says why the database cannot be read.
        return 0


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
            log.failure(replace(events.MIGRATION_MISSING, sentence="{reason}"), refusal)
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
    log(
        _STATE_EVENTS[status.state],
        version=status.version,
        name=status.name,
        file=status.migration.file if status.migration else None,
        expected=status.applied.checksum if status.applied else None,
        found=status.migration.checksum if status.migration and status.applied else None,
        hint=refusal.hint,
        **(change or {}),
    )


def report_end(outcome: Outcome, log: Log) -> None:
    """Log `run.finished` where something was done or refused."""
    if outcome.did_something:
        went_down = outcome.rolled_back and not outcome.applied
        down = replace(
            events.RUN_FINISHED, sentence=f"{{database}}: {outcome.rolled_back} rolled back, {{pending}} pending"
        )
        log(
            down if went_down else events.RUN_FINISHED,
            applied=outcome.applied,
            pending=outcome.pending,
            execution_time_ms=outcome.execution_time_ms,
            outcome=outcome.result.value,
            direction=MigrationDirection.DOWN.value if went_down else None,
        )
