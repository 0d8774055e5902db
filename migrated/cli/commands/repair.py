"""The command `repair`: show or repair a stopped migration."""

import argparse
from typing import TYPE_CHECKING, Any

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import MANY
from migrated.cli.terminal import print_json, print_problem
from migrated.core.errors import MigrationError, MigrationNotFoundError, combined_exit_code
from migrated.core.misread import misreadings
from migrated.core.records import Repair, Unfinished
from migrated.core.status import MigrationState

if TYPE_CHECKING:
    from migrated.config.settings import Config
    from migrated.fleet.inspect import DatabaseView
    from migrated.system.cancellation import CancelToken

_WRONG_USAGE = 2
_HOW = {
    Repair.RESUME: "continue with the next statement",
    Repair.MARK_APPLIED: "you did the rest by hand: record it as applied, as its file is now",
    Repair.FORGET: "it left nothing behind, or you undid it by hand: record it as not applied",
}
_DONE = {
    Repair.RESUME: "was resumed and is finished",
    Repair.MARK_APPLIED: "is recorded as applied",
    Repair.FORGET: "is recorded as not applied",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "version",
        nargs="?",
        type=options.version,
        metavar="VERSION",
        help="the migration to repair (default: only show)",
    )
    how = parser.add_mutually_exclusive_group()
    for repair, meaning in _HOW.items():
        how.add_argument(f"--{repair}", dest="how", action="store_const", const=repair, help=meaning)
    parser.add_argument("--reason", metavar="TEXT", help="stored in the history")
    parser.add_argument("--json", action="store_true", help="print stopped migrations as one JSON document")
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Repair VERSION in every database; without VERSION print stopped migrations and change nothing."""
    if (arguments.version is None) != (arguments.how is None):
        print_problem("give VERSION together with --resume, --mark-applied or --forget, or neither")
        return _WRONG_USAGE
    config = options.configuration(arguments)
    if arguments.how is None:
        return _show(config, as_json=arguments.json)
    from migrated.cli.worker import in_worker

    return in_worker(
        lambda cancel_token: _repair(config, arguments.version, arguments.how, arguments.reason, cancel_token),
        config.stop_grace,
    )


def _show(config: "Config", *, as_json: bool) -> int:
    from migrated.fleet import inspect

    codes: list[int] = []
    documents = []
    targets = list(inspect.look(config))
    names_all = sum(len(target.databases) for target in targets) <= MANY
    for target in targets:
        for problem in target.problems:
            print_problem(str(problem))
            codes.append(problem.exit_code)
        for view in target.views():
            if view.error:
                print_problem(f"{view.name}: {view.error}")
                codes.append(view.error.exit_code)
            unfinished = view.unfinished
            if unfinished:
                documents.append({"database": view.name} | _document(unfinished))
            if not as_json and (unfinished or names_all):
                print(f"{view.name}: {_sentence(unfinished) if unfinished else 'no stopped migration'}")
    if as_json:
        print_json({"unfinished": documents})
    # With many databases the others were not listed, so say once that there is nothing.
    elif not (names_all or documents):
        print("no stopped migration")
    return combined_exit_code(codes)


def _sentence(unfinished: Unfinished) -> str:
    when = unfinished.happened_at.strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"{unfinished}\n"
        f"  the last statement finished at {when} UTC, run by pid {unfinished.pid} on {unfinished.host}\n"
        f"  next: {unfinished.next_statement}\n  repair it with: migrated repair {unfinished.version} "
        "--resume | --mark-applied | --forget"
    )


def _document(unfinished: Unfinished) -> dict[str, Any]:
    return {
        "version": unfinished.version,
        "name": unfinished.recorded.name,
        "direction": unfinished.direction.value,
        "statement": unfinished.statement,
        "statements": unfinished.statements,
        "next": unfinished.next_statement,
        "happened_at": unfinished.happened_at.isoformat(),
        "host": unfinished.host,
        "pid": unfinished.pid,
    }


def _needs_repair(view: "DatabaseView", version: int) -> bool:
    """True if the migration stopped, or an earlier version executed its whole file as the UP section."""
    if view.error:
        return False
    if view.unfinished is not None:
        return view.unfinished.version == version
    changed = [
        each for each in view.status.statuses if each.version == version and each.state is MigrationState.CHANGED
    ]
    return bool(changed and misreadings(changed, view.handle.stored_migrations([version])))


def _repair(config: "Config", version: int, how: Repair, reason: str | None, cancel_token: "CancelToken") -> int:
    from migrated.engine.runner import MigrationRunner
    from migrated.fleet import inspect

    codes: list[int] = []
    repaired = 0
    for target in inspect.look(config):
        if target.error:
            print_problem(str(target.error))
            codes.append(target.error.exit_code)
        for view in target.views():
            if view.error:
                print_problem(f"{view.name}: {view.error}")
                codes.append(view.error.exit_code)
            try:
                if not _needs_repair(view, version):
                    continue
                repaired += 1
                runner = MigrationRunner(
                    view.database.path,
                    # An unfinished migration implies an existing database: never create one here.
                    create=False,
                    lock_timeout=config.lock_timeout,
                    busy_timeout=view.target.busy_timeout,
                    statement_timeout=view.target.statement_timeout,
                    supervision=cancel_token,
                )
                runner.add_migrations(target.listing.migrations if target.listing else [])
                runner.repair(version, how, reason=reason)
            except MigrationError as error:
                print_problem(f"{view.name}: {error}")
                codes.append(error.exit_code)
            else:
                print(f"{view.name}: {version} {_DONE[how]}")
    # After an error the version may be unfinished in the database that could not be read.
    if not repaired and not codes:
        print_problem(f"no database has a stopped migration {version}")
        codes.append(MigrationNotFoundError.exit_code)
    return combined_exit_code(codes)


COMMANDS = {
    "repair": Command("migrated repair 20240101120000 --resume --reason 'the disk was full'", configure, execute)
}
