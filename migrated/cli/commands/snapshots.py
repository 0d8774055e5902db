"""The commands `snapshots` and `restore`: list snapshots, restore one."""

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.terminal import print_json, print_problem, print_table
from migrated.core.errors import DatabaseError, MigrationError, MigrationNotFoundError, combined_exit_code
from migrated.core.records import Snapshot

if TYPE_CHECKING:
    from migrated.config.settings import Config, Target
    from migrated.fleet.discovery import DatabasePath
    from migrated.system.cancellation import CancelToken


class _Found(NamedTuple):
    target: "Target"
    database: "DatabasePath"
    snapshot: Snapshot
    is_first: bool


def configure_restore(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("id", metavar="ID", help="as `migrated snapshots` lists it")
    parser.add_argument("--dry-run", action="store_true", help="print what would be lost, change nothing")
    parser.add_argument("--reason", metavar="TEXT", help="stored in the history")
    options.add_lock_timeout(parser)


def execute_restore(arguments: argparse.Namespace) -> int:
    """Restore a snapshot, after taking one of the current content. The log goes to standard error."""
    config = options.configuration(arguments)
    found = _find(config, arguments.id)
    if arguments.dry_run:
        _show_losses(found.target, found.database, found.snapshot)
        return 0
    from migrated.cli.worker import in_worker

    return in_worker(
        lambda cancel_token: _restore(config, found, arguments.reason, cancel_token), config.stop_grace
    )


def _find(config: "Config", identifier: str) -> "_Found":
    from migrated.engine.database import find_snapshot
    from migrated.fleet.discovery import assign

    found = [
        _Found(target, database, snapshot, database is databases[0])
        for target, databases in assign(config.targets)
        for database in databases
        if (snapshot := find_snapshot(database.path, identifier))
    ]
    # Copied directories may contain the same snapshot; guessing could overwrite the wrong database.
    if len(found) > 1:
        raise DatabaseError(
            f"{identifier} is a snapshot of several databases: {', '.join(each.database.name for each in found)}",
            hint="choose one with -d",
        )
    if not found:
        raise MigrationNotFoundError(
            f"no database has a snapshot {identifier}",
            hint="`migrated snapshots` lists them; see `migrated help snapshots`",
        )
    return found[0]


def _show_losses(target: "Target", database: "DatabasePath", snapshot: Snapshot) -> None:
    from migrated.engine.database import lost_by_restoring

    losses = lost_by_restoring(snapshot, database.path, target.busy_timeout)
    when = snapshot.taken_at.strftime("%Y-%m-%d %H:%M:%S")
    print(f"{database.name}: everything written since {when} UTC would be lost (a snapshot of it is taken first)")
    for migration in losses.migrations:
        print(f"  no longer applied: {migration.label}")
    for kind, names in (("table", losses.tables), ("view", losses.views)):
        for name in names:
            print(f"  no longer exists: {kind} {name}")
    for rows in losses.rows:
        print(f"  rows of {rows.table}: {rows.now} now, {rows.then} in the snapshot")


def _restore(config: "Config", found: "_Found", reason: str | None, cancel_token: "CancelToken") -> int:
    from migrated.cli.alone import with_daemon_lock
    from migrated.engine.runner import MigrationRunner
    from migrated.fleet.outcome import Outcome, OutcomeKind
    from migrated.fleet.reporting import LoggingObserver, report_error
    from migrated.fleet.schema_dump import SchemaFiles
    from migrated.logs import events, logger

    target, database, snapshot, is_first = found
    log = logger.configure(config.log_format, config.log_level).bind(
        database=database.name, run_id=logger.new_run_id()
    )
    runner = MigrationRunner(
        database.path,
        lock_timeout=config.lock_timeout,
        busy_timeout=target.busy_timeout,
        snapshots=target.snapshots,
        observer=LoggingObserver(log),
        supervision=cancel_token,
    )

    def work() -> Outcome:
        try:
            runner.restore(snapshot, reason=reason)
        except MigrationError as error:
            return Outcome(database, OutcomeKind.UNAVAILABLE, error=error)
        log(events.SNAPSHOT_RESTORED, snapshot=snapshot.id, reason=reason, version=snapshot.version)
        return Outcome(database, OutcomeKind.APPLIED)

    outcome = with_daemon_lock(database, work)
    # The schema file shows the schema of the first database only.
    if is_first:
        SchemaFiles().update(target, outcome, log, cancel_token)
    report_error(outcome, log)
    return outcome.error.exit_code if outcome.error else 0


def configure_snapshots(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute_snapshots(arguments: argparse.Namespace) -> int:
    """List snapshots, oldest first; change nothing."""
    from migrated.engine.database import list_snapshots
    from migrated.fleet.discovery import assign

    codes: list[int] = []
    documents: list[dict[str, Any]] = []
    problems: list[str] = []
    for _, databases in assign(options.configuration(arguments).targets):
        for database in databases:
            try:
                found = list_snapshots(database.path)
            except MigrationError as error:
                print_problem(f"{database.name}: {error}")
                problems.append(str(error))
                codes.append(error.exit_code)
                continue
            documents += [_document(database.name, snapshot) for snapshot in found]
            if not arguments.json:
                print_table(
                    f"{database.name}: {len(found)} snapshot{'s' * (len(found) != 1)}",
                    ("id", "taken at (UTC)", "version", "bytes", "reason"),
                    [_row(snapshot) for snapshot in found],
                )
    if arguments.json:
        print_json({"snapshots": documents, "problems": problems})
    return combined_exit_code(codes)


def _row(snapshot: Snapshot) -> tuple[Any, ...]:
    when = snapshot.taken_at.strftime("%Y-%m-%d %H:%M:%S")
    return snapshot.id, when, snapshot.version or "-", snapshot.size, snapshot.reason


def _document(database: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "database": database,
        "taken_at": snapshot.taken_at.isoformat(),
        "version": snapshot.version,
        "size": snapshot.size,
        "reason": snapshot.reason,
    }


COMMANDS = {
    "snapshots": Command("migrated snapshots --json -d app.db", configure_snapshots, execute_snapshots),
    "restore": Command(
        "migrated restore app.db.20240101T120000000000Z --dry-run", configure_restore, execute_restore
    ),
}
