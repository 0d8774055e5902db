"""migrated up, down and redo."""

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
from migrated.fleet.job import Action, DatabaseJob, Prototype
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
    """Apply; the log goes to standard error."""
    config = options.configuration(arguments)
    target: int | None = arguments.to
    if arguments.dry_run:
        from migrated.cli.commands.plan import show_plans

        return show_plans(config, target, as_json=False, never_down=True)

    if arguments.no_waves:
        config = without_waves(config)
    if target is None:
        return on_every_database(config, lambda runner: runner.run(), applies_all=True, in_waves=True)
    version = target
    return on_every_database(config, lambda runner: runner.run_up_to(version), in_waves=True)


Around = Callable[[DatabasePath, Callable[[], Outcome]], Outcome]


def on_every_database(
    config: Config,
    action: Action,
    around: Around | None = None,
    *,
    applies_all: bool = False,
    in_waves: bool = False,
) -> int:
    """Do `action` on each database and return the exit code. Every database is tried, whatever befell others.

    But with `in_waves` several are worked on at once, and a migration that fails in too many is not brought to the
    others; `around` is for work on one after another. The work is done in threads of its own; a signal stops it
    between two migrations, a second one at once. `applies_all` as in `Job`.
    """
    errand = UpOptions(action, around, applies_all, in_waves)
    return in_worker(lambda supervision: _Run(config, errand, supervision).do(), config.stop_grace)


class UpOptions(NamedTuple):
    action: Action
    around: Around | None
    applies_all: bool
    in_waves: bool


class _Run:
    """One piece of work on every database of the configuration."""

    def __init__(self, config: Config, errand: UpOptions, supervision: CancelToken) -> None:
        self._config = config
        self._errand = errand
        self._supervision = supervision
        run_id = logger.new_run_id()
        self._log = logger.configure(config.log_format, config.log_level).bind(run_id=run_id)
        self._gathering = HookCollector(run_id)
        self._crowds = FailureGroups()
        self._tally = RunTotals()
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
            self._work_on(target, databases, migrations)
        self._crowds.report(self._log)
        self._tally.report(self._log)
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
            refused = Outcome(database, OutcomeKind.REFUSED, error=error)
            self._tally.add(refused)
            if self._crowds.is_told_alone(refused):
                report_end(refused, self._log.bind(database=database.name))
        result = OutcomeKind.REFUSED if is_of_files else OutcomeKind.UNAVAILABLE
        self._gathering.add_trouble(result, error, [database.path for database in databases])
        self._codes.append(error.exit_code)

    def _work_on(self, target: Target, databases: list[DatabasePath], migrations: list[Migration]) -> None:
        is_fleet = self._errand.in_waves and len(databases) > 1
        policy = target.waves if self._errand.in_waves else WavePolicy(())
        with (
            SharedLocks() as locks,
            ProgressBar(self._log) as bar,
            FleetBar(len(databases), self._log, is_wanted=is_fleet) as fleet_bar,
        ):
            job = DatabaseJob(
                target,
                migrations,
                self._errand.action,
                self._log,
                lock_timeout=self._config.lock_timeout,
                supervision=self._supervision,
                hold=locks.hold if is_fleet else None,
                applies_all=self._errand.applies_all,
                in_fleet=is_fleet,
                prototype=Prototype(target, migrations) if self._errand.applies_all else None,
            )

            def visit(turn: Visit) -> Outcome:
                if is_fleet:
                    patience = None if turn.is_last else BUSY_SECONDS
                    return job.run(turn.database, busy_timeout=patience, in_full=turn.verbose)
                work = partial(job.run, turn.database, bar)
                return self._errand.around(turn.database, work) if self._errand.around else work()

            news: dict[DatabasePath, tuple[Outcome, bool]] = {}

            def tell(outcome: Outcome) -> None:
                if outcome.database is databases[0]:
                    SchemaFiles().update(target, outcome, self._log, self._supervision)
                news[outcome.database] = outcome, not cancelled_while_waiting(outcome, self._supervision)
                self._take(outcome)
                fleet_bar.one_done()

            workers = self._config.workers if is_fleet else 1
            waves = Waves(len(databases), policy)
            halt = Rollout(visit, tell, waves, workers, self._supervision, may_wait=is_fleet).run(databases)
        if halt is not None:
            self._tally.add_untouched(len(halt.untouched))
            report_halt(halt, len(databases), self._log)
        # Hooks are told in the order of the configuration, whoever was ready first.
        for outcome, is_news in (news[database] for database in databases if database in news):
            self._gathering.add(outcome, is_news=is_news)
        if sys.stdout.isatty():
            _show_idle([database for database in news if news[database][0].result is OutcomeKind.CURRENT])

    def _take(self, outcome: Outcome) -> None:
        self._tally.add(outcome)
        if self._crowds.is_told_alone(outcome):
            report(outcome, self._log)
        self._codes.append(outcome.error.exit_code if outcome.error else 0)


def _show_idle(databases: Sequence[DatabasePath]) -> None:
    if len(databases) >= SMALLEST_FLEET:
        print(f"{len(databases)} databases: nothing to do")
        return
    for database in databases:
        print(f"{database.name}: nothing to do")


def cancelled_while_waiting(outcome: Outcome, supervision: CancelToken) -> bool:
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


def configure_rollback(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_how_far_down(parser)
    options.add_lock_timeout(parser)


def execute_down(arguments: argparse.Namespace) -> int:
    """Roll back; the log goes to standard error."""
    from migrated.cli.alone import without_a_daemon
    from migrated.fleet.job import Action

    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    action: Action = (
        (lambda runner: runner.roll_back(steps))
        if target is None
        else (lambda runner: runner.roll_back_to(target))
    )
    return on_every_database(config, action, without_a_daemon)


def execute_redo(arguments: argparse.Namespace) -> int:
    """Redo, in one transaction for each database; the log goes to standard error."""
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
