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
from migrated.hooks import run_hook, within_a_hook
from migrated.logs import Log
from migrated.model import Migration
from migrated.occasions import Gathering
from migrated.settings import Config, Target
from migrated.sources.directory import read_finished
from migrated.supervision import Supervision
from migrated.trust import Trust

Work = Callable[[DatabasePath, Callable[[], Outcome]], Outcome]


def on_every_database(config: Config, action: Action, around: Work = lambda _database, work: work()) -> int:
    """Do `action` on each database and return the exit code. Every database is tried, whatever befell others.

    The work is done in a thread of its own; a signal stops it between two migrations, a second one at once.
    """
    return in_worker(lambda supervision: _Run(config, action, around, supervision).do(), config.stop_grace)


class _Run:
    """One piece of work on every database of the configuration."""

    def __init__(self, config: Config, action: Action, around: Work, supervision: Supervision) -> None:
        self._config = config
        self._action = action
        self._around = around
        self._supervision = supervision
        run_id = logs.new_run_id()
        self._log = logs.configure(config.log_format, config.log_level).bind(run_id=run_id)
        self._gathering = Gathering(run_id)
        self._codes: list[int] = []

    def do(self) -> int:
        """Do it, run the hooks that this asks for, and return the exit code."""
        for target, databases in assign(self._config.targets):
            try:
                migrations = _read(target, self._config.trust(), self._log)
                require_some(target, databases)
            except MigrationError as error:
                self._report_target(error, target, databases)
                continue
            for database in databases:
                if not self._supervision.stop_requested():
                    self._visit(target, database, migrations, is_first=database is databases[0])
        if not within_a_hook():
            for occasion in self._gathering.occasions():
                run_hook(self._config, occasion, self._log, self._supervision)
        return combined_exit_code(self._codes)

    def _report_target(self, error: MigrationError, target: Target, databases: list[DatabasePath]) -> None:
        is_of_files = not isinstance(error, DatabaseError)
        if is_of_files:
            self._log.failure(events.FILE_INVALID, error)
        else:
            self._log.failure(events.DATABASE_UNAVAILABLE, error, database=", ".join(target.databases))
        for database in databases:
            refused = Outcome(database, Result.REFUSED, error=error)
            report_end(refused, self._log.bind(database=database.name))
        result = Result.REFUSED if is_of_files else Result.UNAVAILABLE
        self._gathering.add_trouble(result, error, [database.path for database in databases])
        self._codes.append(error.exit_code)

    def _visit(
        self, target: Target, database: DatabasePath, migrations: list[Migration], *, is_first: bool
    ) -> None:
        work = partial(
            work_on,
            database,
            target,
            migrations,
            self._action,
            self._log,
            lock_timeout=self._config.lock_timeout,
            supervision=self._supervision,
        )
        with ProgressBar(self._log) as bar:
            outcome = self._around(database, partial(work, also=bar))
        if is_first:
            SchemaFiles().update(target, outcome, self._log, self._supervision)
        report(outcome, self._log)
        self._gathering.add(outcome, is_news=not _is_given_up(outcome, self._supervision))
        self._codes.append(outcome.error.exit_code if outcome.error else 0)
        if outcome.result is Result.CURRENT and sys.stdout.isatty():
            print(f"{database.name}: nothing to do")


def _is_given_up(outcome: Outcome, supervision: Supervision) -> bool:
    """Whether it only waited for something, and was told to stop."""
    return supervision.stop_requested() and outcome.error is not None and outcome.error.transient


def _read(target: Target, trust: Trust | None, log: Log) -> list[Migration]:
    listing = read_finished(target.migrations, trust)
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
