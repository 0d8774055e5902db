"""The commands `up`, `down` and `redo`: apply migrations, roll them back, or both."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.progress import ProgressBar
from migrated.cli.terminal import FleetBar
from migrated.cli.worker import in_worker
from migrated.config.settings import Config, Target, WavePolicy, without_waves
from migrated.core.errors import DatabaseError, MigrationError, combined_exit_code
from migrated.core.migration import Migration
from migrated.fleet.discovery import DatabasePath, assign, require_some
from migrated.fleet.hook_events import HookCollector
from migrated.fleet.hooks import run_hook, within_a_hook
from migrated.fleet.job import DatabaseJob, Operation, Prototype
from migrated.fleet.locks import SharedLocks
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.reporting import FailureGroups, RunTotals, report, report_end, report_halt
from migrated.fleet.rollout import BUSY_SECONDS, Rollout, Visit
from migrated.fleet.schema_dump import SchemaFiles
from migrated.fleet.waves import SMALLEST_FLEET, Waves
from migrated.logs import events, logger
from migrated.logs.logger import Log
from migrated.sources.directory import read_finished
from migrated.system.cancellation import CancelToken
from migrated.system.permissions import Trust


def configure_up(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--to", type=options.version, metavar="V", help="apply nothing above this version")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    parser.add_argument("--no-waves", action="store_true", help="try every database of a fleet, even if many fail")
    options.add_lock_timeout(parser)


def execute_up(arguments: argparse.Namespace) -> int:
    """Apply pending migrations. The log goes to standard error."""
    config = options.configuration(arguments)
    target: int | None = arguments.to
    if arguments.dry_run:
        # Imported here: applying does not need the plan command, and start-up stays short.
        from migrated.cli.commands.plan import show_plans

        return show_plans(config, target, as_json=False, never_down=True)

    if arguments.no_waves:
        config = without_waves(config)
    if target is None:
        return on_every_database(config, lambda runner: runner.run(), applies_all=True, in_waves=True)
    version = target
    return on_every_database(config, lambda runner: runner.run_up_to(version), in_waves=True)


Wrapper = Callable[[DatabasePath, Callable[[], Outcome]], Outcome]


def on_every_database(
    config: Config,
    operation: Operation,
    around: Wrapper | None = None,
    *,
    applies_all: bool = False,
    in_waves: bool = False,
) -> int:
    """Run `operation` on each database and return the exit code.

    Every database is tried, even if others fail. With `in_waves` several are migrated at the same time, and a
    rollout halts if too many fail. `around` wraps the operation on each database when they are migrated one after
    another. Worker threads do the work: a signal stops it between two migrations, a second signal at once.
    `applies_all` is as in `DatabaseJob`.
    """
    up_options = UpOptions(operation, around, applies_all, in_waves)
    return in_worker(lambda cancel_token: _Run(config, up_options, cancel_token).run(), config.stop_grace)


class UpOptions(NamedTuple):
    """The arguments of `on_every_database`."""

    operation: Operation
    around: Wrapper | None
    applies_all: bool
    in_waves: bool


class _Run:
    """One operation on every database of the configuration."""

    def __init__(self, config: Config, up_options: UpOptions, cancel_token: CancelToken) -> None:
        self._config = config
        self._options = up_options
        self._cancel_token = cancel_token
        run_id = logger.new_run_id()
        self._log = logger.configure(config.log_format, config.log_level).bind(run_id=run_id)
        self._hooks = HookCollector(run_id)
        self._failure_groups = FailureGroups()
        self._totals = RunTotals()
        self._codes: list[int] = []

    def run(self) -> int:
        """Run the operation and then the hooks; return the exit code."""
        for target, databases in assign(self._config.targets):
            try:
                migrations = _read(target, self._config.trust(), self._log)
                require_some(target, databases)
            except MigrationError as error:
                self._report_target(error, target, databases)
                continue
            self._migrate(target, databases, migrations)
        self._failure_groups.report(self._log)
        self._totals.report(self._log)
        # `migrated up` in a hook would otherwise run the hook again, without end.
        if not within_a_hook():
            for event in self._hooks.hook_events():
                run_hook(self._config, event, self._log, self._cancel_token)
        return combined_exit_code(self._codes)

    def _report_target(self, error: MigrationError, target: Target, databases: list[DatabasePath]) -> None:
        is_file_error = not isinstance(error, DatabaseError)
        if is_file_error:
            self._log.failure(events.FILE_INVALID, error)
        else:
            self._log.failure(events.DATABASE_UNAVAILABLE, error, database=", ".join(target.databases))
        for database in databases:
            refused = Outcome(database, OutcomeKind.REFUSED, error=error)
            self._totals.add(refused)
            if self._failure_groups.should_report(refused):
                report_end(refused, self._log.bind(database=database.name))
        result = OutcomeKind.REFUSED if is_file_error else OutcomeKind.UNAVAILABLE
        self._hooks.add_failure(result, error, [database.path for database in databases])
        self._codes.append(error.exit_code)

    def _migrate(self, target: Target, databases: list[DatabasePath], migrations: list[Migration]) -> None:
        is_fleet = self._options.in_waves and len(databases) > 1
        policy = target.waves if self._options.in_waves else WavePolicy(())
        with (
            SharedLocks() as locks,
            ProgressBar(self._log) as bar,
            FleetBar(len(databases), self._log, is_wanted=is_fleet) as fleet_bar,
        ):
            job = DatabaseJob(
                target,
                migrations,
                self._options.operation,
                self._log,
                lock_timeout=self._config.lock_timeout,
                cancel_token=self._cancel_token,
                lock_factory=locks.acquire if is_fleet else None,
                applies_all=self._options.applies_all,
                in_fleet=is_fleet,
                prototype=Prototype(target, migrations) if self._options.applies_all else None,
            )

            def run_visit(visit: Visit) -> Outcome:
                if is_fleet:
                    # A first visit waits briefly; the last one waits as long as the target is configured to.
                    busy_timeout = None if visit.is_last else BUSY_SECONDS
                    return job.run(visit.database, busy_timeout=busy_timeout, verbose=visit.verbose)
                work = partial(job.run, visit.database, bar)
                return self._options.around(visit.database, work) if self._options.around else work()

            outcomes: dict[DatabasePath, tuple[Outcome, bool]] = {}

            def on_done(outcome: Outcome) -> None:
                # The schema file shows the schema of the first database only.
                if outcome.database is databases[0]:
                    SchemaFiles().update(target, outcome, self._log, self._cancel_token)
                outcomes[outcome.database] = outcome, not cancelled_while_waiting(outcome, self._cancel_token)
                self._count_and_report(outcome)
                fleet_bar.advance()

            workers = self._config.workers if is_fleet else 1
            waves = Waves(len(databases), policy)
            rollout = Rollout(run_visit, on_done, waves, workers, self._cancel_token, retry_busy=is_fleet)
            halt = rollout.run(databases)
        if halt is not None:
            self._totals.add_untouched(len(halt.untouched))
            report_halt(halt, len(databases), self._log)
        # Hooks list databases in configured order; threads finish in any order.
        for outcome, is_new in (outcomes[database] for database in databases if database in outcomes):
            self._hooks.add(outcome, is_new=is_new)
        if sys.stdout.isatty():
            _show_idle([database for database in outcomes if outcomes[database][0].result is OutcomeKind.CURRENT])

    def _count_and_report(self, outcome: Outcome) -> None:
        self._totals.add(outcome)
        if self._failure_groups.should_report(outcome):
            report(outcome, self._log)
        self._codes.append(outcome.error.exit_code if outcome.error else 0)


def _show_idle(databases: Sequence[DatabasePath]) -> None:
    if len(databases) >= SMALLEST_FLEET:
        print(f"{len(databases)} databases: nothing to do")
        return
    for database in databases:
        print(f"{database.name}: nothing to do")


def cancelled_while_waiting(outcome: Outcome, cancel_token: CancelToken) -> bool:
    """True if the user stopped the run while this database waited for a lock: that is no failure."""
    return cancel_token.stop_requested() and outcome.error is not None and outcome.error.transient


def _read(target: Target, trust: Trust | None, log: Log) -> list[Migration]:
    listing = read_finished(target.migrations, trust)
    for remark in listing.ignored:
        log(events.FILE_IGNORED, file=remark.file, reason=remark.reason)
    for migration in listing.migrations:
        if migration.is_draft and migration.origin:
            log(events.FILE_DRAFT, file=migration.file, version=migration.version, name=migration.name)
    # The first error is raised below, and logged by the caller.
    for error in listing.invalid[1:]:
        log.failure(events.FILE_INVALID, error)
    if listing.invalid:
        raise listing.invalid[0]
    return listing.migrations


def configure_rollback(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_rollback_range(parser)
    options.add_lock_timeout(parser)


def execute_down(arguments: argparse.Namespace) -> int:
    """Roll back. The log goes to standard error."""
    from migrated.cli.alone import with_daemon_lock
    from migrated.fleet.job import Operation

    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    operation: Operation = (
        (lambda runner: runner.roll_back(steps))
        if target is None
        else (lambda runner: runner.roll_back_to(target))
    )
    return on_every_database(config, operation, with_daemon_lock)


def execute_redo(arguments: argparse.Namespace) -> int:
    """Redo, in one transaction for each database. The log goes to standard error."""
    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    if target is None:
        return on_every_database(config, lambda runner: runner.redo(steps))
    version = target
    return on_every_database(config, lambda runner: runner.redo_above(version))


COMMANDS = {
    "up": Command("migrated up -d app.db --to 20240101120000", configure_up, execute_up),
    "down": Command("migrated down -d app.db --to 20240101120000", configure_rollback, execute_down),
    "redo": Command("migrated redo -d app.db --steps 2", configure_rollback, execute_redo),
}
