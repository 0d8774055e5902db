"""What `up` and `down` share: work on every database, tell the log, find the exit code."""

import sys
from collections.abc import Callable
from functools import partial

from migrated import events, logs
from migrated.cli.progress import ProgressBar
from migrated.cli.worker import in_worker
from migrated.discovery import DatabasePath, assign, require_some
from migrated.dumping import SchemaFiles
from migrated.errors import DatabaseError, MigrationError, combined_exit_code
from migrated.fleet import Action, Outcome, Result, report, report_end, work_on
from migrated.logs import Log
from migrated.model import Migration
from migrated.settings import Config, Target
from migrated.sources.directory import read_finished
from migrated.supervision import Supervision

Work = Callable[[DatabasePath, Callable[[], Outcome]], Outcome]


def on_every_database(config: Config, action: Action, around: Work = lambda _database, work: work()) -> int:
    """Do `action` on each database and return the exit code. Every database is tried, whatever befell others.

    The work is done in a thread of its own; a signal stops it between two migrations, a second one at once.
    """
    return in_worker(partial(_work_on_every, config, action, around), config.stop_grace)


def _work_on_every(config: Config, action: Action, around: Work, supervision: Supervision) -> int:
    log = logs.configure(config.log_format, config.log_level).bind(run_id=logs.new_run_id())
    codes: list[int] = []
    for target, databases in assign(config.targets):
        try:
            migrations = _read(target, log)
            require_some(target, databases)
        except MigrationError as error:
            is_of_files = not isinstance(error, DatabaseError)
            if is_of_files:
                log.failure(events.FILE_INVALID, error)
            else:
                log.failure(events.DATABASE_UNAVAILABLE, error, database=", ".join(target.databases))
            for database in databases:
                report_end(Outcome(database, Result.REFUSED, error=error), log.bind(database=database.name))
            codes.append(error.exit_code)
            continue
        for database in databases:
            if supervision.stop_requested():
                break
            work = partial(
                work_on,
                database,
                target,
                migrations,
                action,
                log,
                lock_timeout=config.lock_timeout,
                supervision=supervision,
            )
            with ProgressBar(log) as bar:
                outcome = around(database, partial(work, also=bar))
            if database is databases[0]:
                SchemaFiles().update(target, outcome, log, supervision)
            report(outcome, log)
            codes.append(outcome.error.exit_code if outcome.error else 0)
            if outcome.result is Result.CURRENT and sys.stdout.isatty():
                print(f"{database.name}: nothing to do")
    return combined_exit_code(codes)


def _read(target: Target, log: Log) -> list[Migration]:
    listing = read_finished(target.migrations)
    for remark in listing.ignored:
        log(events.FILE_IGNORED, file=remark.file, reason=remark.reason)
    for migration in listing.migrations:
        if migration.is_draft and migration.origin:
            log(events.FILE_DRAFT, file=migration.file, version=migration.version, name=migration.name)
    for error in listing.invalid[1:]:
        log.failure(events.FILE_INVALID, error)
    if listing.invalid:
        raise listing.invalid[0]
    return listing.migrations
