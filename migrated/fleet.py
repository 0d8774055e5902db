"""One piece of work done on one database after another, with everything told to the log."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from migrated import events
from migrated.backend import Done
from migrated.discovery import DatabasePath
from migrated.errors import DatabaseError, LockHeldError, MigrationError, RefusedError
from migrated.logs import Log
from migrated.model import AppliedMigration, Migration, MigrationDirection
from migrated.planning import State, Status
from migrated.runner import MigrationRunner, Observer
from migrated.settings import Target

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
    """What one piece of work on one database came to. `pending` is what is left; 0 where it cannot be told."""

    database: DatabasePath
    result: Result
    applied: int = 0
    rolled_back: int = 0
    pending: int = 0
    execution_time_ms: int = 0
    error: MigrationError | None = None

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
    cancelled: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do `action` with a runner for the database. Never raises a `MigrationError`: it is in the outcome.

    Each step is logged as it happens; the outcome itself is for `report`.
    """
    reporter = _Reporter(log.bind(database=database.name))
    started = time.monotonic()
    runner = MigrationRunner(
        database.path,
        policy=target.policy,
        create=database.may_be_made(target),
        lock_timeout=lock_timeout,
        busy_timeout=target.busy_timeout,
        observer=reporter,
        cancelled=cancelled,
    )
    was_there = os.path.exists(database.path)
    error: MigrationError | None = None
    try:
        runner.add_migrations(migrations)
        action(runner)
    except MigrationError as failure:
        error = failure
    if not was_there and os.path.exists(database.path):
        reporter.log(events.DATABASE_CREATED)
    result = _result(error, reporter)
    # Nothing is left where nothing had to be done; a database that is busy would be waited for once more.
    readable = result is not Result.CURRENT and not isinstance(error, DatabaseError)
    return Outcome(
        database,
        result,
        reporter.applied,
        reporter.rolled_back,
        _pending(runner) if readable else 0,
        round((time.monotonic() - started) * 1000),
        error,
    )


def _result(error: MigrationError | None, reporter: "_Reporter") -> Result:
    match error:
        case None:
            return Result.APPLIED if reporter.applied or reporter.rolled_back else Result.CURRENT
        case RefusedError():
            return Result.REFUSED
        case DatabaseError() | LockHeldError():
            return Result.UNAVAILABLE
        case _:
            return Result.FAILED


def _pending(runner: MigrationRunner) -> int:
    try:
        return len(runner.pending())
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
                _report_offender(offender, refusal, log)
        case LockHeldError() as held:
            log.failure(events.LOCK_HELD, held)
        case DatabaseError() as unavailable:
            log.failure(events.DATABASE_UNAVAILABLE, unavailable)
        case failed:
            log.failure(events.MIGRATION_FAILED, failed)


def _report_offender(status: Status, refusal: RefusedError, log: Log) -> None:
    known = status.migration or status.applied
    log(
        _STATE_EVENTS[status.state],
        version=status.version,
        name=known.name if known else None,
        file=status.migration.origin.file if status.migration and status.migration.origin else None,
        expected=status.applied.checksum if status.applied else None,
        found=status.migration.checksum if status.migration and status.applied else None,
        hint=refusal.hint,
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


class _Reporter(Observer):
    """Logs the steps of a run as they happen, and counts them."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.applied = 0
        self.rolled_back = 0

    def lock_waiting(self, holder: str) -> None:
        self.log(events.LOCK_WAITING, holder=holder)

    def beginning(self, migration: Migration, direction: MigrationDirection, *, late: bool) -> None:
        keys = {
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "file": migration.origin.file if migration.origin else None,
            "direction": direction.value,
        }
        if late:
            self.log(events.MIGRATION_LATE, **keys)
        up = direction is MigrationDirection.UP
        self.log(events.MIGRATION_APPLYING if up else events.MIGRATION_ROLLING_BACK, **keys)

    def done(self, done: Done, direction: MigrationDirection) -> None:
        up = direction is MigrationDirection.UP
        self.applied += up
        self.rolled_back += not up
        self.log(
            events.MIGRATION_APPLIED if up else events.MIGRATION_ROLLED_BACK,
            version=done.entry.version,
            name=done.entry.name,
            checksum=done.entry.checksum,
            direction=direction.value,
            execution_time_ms=done.execution_time_ms,
            rows_changed=done.rows_changed,
        )
