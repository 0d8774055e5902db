"""The command `status`: show the state of every migration in every database."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import MANY, StatusTotals
from migrated.cli.terminal import JsonDocument, print_problem, print_table, writable
from migrated.core.errors import combined_exit_code
from migrated.core.migration import REPEATABLE
from migrated.fleet.inspect import DatabaseView, TargetView, error_dict
from migrated.system.files import FOLDER, by_folder

_PENDING_EXIT_CODE = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--all", action="store_true", help=f"show every database (default: only a summary if more than {MANY})"
    )
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit 3 if migrations are pending, 4 if a run would be refused",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the status of every database; change nothing."""
    from migrated.cli.terminal import FleetBar
    from migrated.fleet import inspect

    targets = list(inspect.look(options.configuration(arguments)))
    paths = [database.path for target in targets for database in target.databases]
    is_summary = len(paths) > MANY and not (arguments.all or arguments.json)
    live = _ask_daemons(paths)
    by_path, developed = _by_path(live), _developed(live)
    found = StatusTotals(problem.exit_code for target in targets for problem in target.problems)
    # If every database prints lines to this terminal, a bar between them would flicker.
    with FleetBar(len(paths), is_wanted=is_summary or not sys.stdout.isatty()) as bar:
        looks = [(target, bar.track(found.over(target.views(developed)))) for target in targets]
        if arguments.json:
            print_status(looks, [answer["daemon"] for answer in live], by_path, found.document)
        else:
            for answer in live:
                print_daemon(answer["daemon"])
            for target, views in looks:
                _show_remarks(target)
                for view in views:
                    if not is_summary:
                        _show(view, by_path)
    if is_summary:
        for line in found.lines():
            print(writable(line))
    return _exit_code(found, is_strict=arguments.exit_code)


def _exit_code(found: StatusTotals, *, is_strict: bool) -> int:
    codes = found.codes | (found.refusals if is_strict else set())
    # An error matters more than pending migrations, so its exit code wins.
    if is_strict and found.pending and not any(codes):
        return _PENDING_EXIT_CODE
    return combined_exit_code(codes)


def _ask_daemons(paths: Sequence[str]) -> list[Any]:
    """Ask the daemons of these databases for their status; leave out those that do not answer in time."""
    if not may_have_daemon(paths):
        return []
    from migrated.daemon.control import client

    return client.statuses(paths, lambda text: print_problem(text, "warning"))


def _developed(live: list[Any]) -> set[str]:
    """Return the paths of databases served by `migrated dev`, which refuses less than the configuration says."""
    return {
        database["path"]
        for answer in live
        if answer["daemon"].get("is_for_development")
        for database in answer["databases"]
    }


def _by_path(live: list[Any]) -> dict[str, Any]:
    """Return the daemons' view of each database, by path."""
    of_daemon = ("pid", "is_paused")
    return {
        database["path"]: {key: answer["daemon"][key] for key in of_daemon} | database
        for answer in live
        for database in answer["databases"]
    }


def _show_remarks(target: "TargetView") -> None:
    for error in target.problems:
        print_problem(str(error))
    for remark in target.listing.ignored if target.listing else []:
        print_problem(f"{remark.file}: ignored: {remark.reason}", "warning")


def _show(view: "DatabaseView", live: Mapping[str, Any]) -> None:
    counts = f"{view.applied} applied, {view.pending} pending"
    title = f"{view.name}: {view.summary}, {counts}{daemon_suffix(live.get(view.database.path))}"
    statuses, repeatables = view.status
    rows = [_row(status) for status in statuses] + [_row(status, "-") for status in repeatables]
    print_table(title, ("version", "name", "applied at (UTC)", "ms", "state"), rows)
    if view.problem:
        print_problem(f"{view.name}: {view.problem}")


def _row(status: Any, version: str | None = None) -> tuple[Any, ...]:
    applied = status.applied
    when = applied.applied_at.strftime("%Y-%m-%d %H:%M:%S") if applied else "-"
    return (
        version or status.version,
        status.name if version is None else f"{REPEATABLE}{status.name}",
        when,
        applied.execution_time_ms if applied else "-",
        status.state.value,
    )


Look = tuple[TargetView, Iterable[DatabaseView]]


def print_status(
    looks: Sequence[Look], daemons: Sequence[Any], live: Mapping[str, Any], summary: Callable[[], object]
) -> None:
    """Print the JSON document: each database as soon as it was inspected, then the summary."""
    with JsonDocument() as document:
        document.member("daemons", daemons)
        document.elements("databases", _databases(looks, live))
        document.member("directories", [_directory(target) for target, _ in looks])
        document.member("summary", summary())


def _databases(looks: Iterable[Look], live: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for _, views in looks:
        for view in views:
            yield _database(view, live.get(view.database.path))


def _directory(view: TargetView) -> dict[str, Any]:
    return {
        "directory": view.target.migrations,
        "problem": error_dict(view.error),
        "invalid": [error_dict(error) for error in (view.listing.invalid if view.listing else [])],
        "ignored": [
            {"file": remark.file, "reason": remark.reason}
            for remark in (view.listing.ignored if view.listing else [])
        ],
    }


def _database(view: DatabaseView, live: Any) -> dict[str, Any]:
    statuses, repeatables = view.status
    return {
        "database": view.name,
        "state": view.summary,
        "current_version": max((entry.version for entry in view.ledger.applied), default=None),
        "applied": view.applied,
        "pending": view.pending,
        "problem": error_dict(view.problem),
        "migrations": [_migration(status) for status in statuses],
        "repeatables": [_repeatable(status) for status in repeatables],
        "daemon": live,
    }


def _repeatable(status: Any) -> dict[str, Any]:
    migration, applied = status.migration, status.applied
    return {
        "name": f"{REPEATABLE}{status.name}",
        "state": status.state.value,
        "checksum": (applied or migration).checksum,
        "file": migration.file if migration else None,
        "applied_at": applied.applied_at.isoformat() if applied else None,
        "execution_time_ms": applied.execution_time_ms if applied else None,
    }


def _migration(status: Any) -> dict[str, Any]:
    migration, applied = status.migration, status.applied
    # A stopped migration without a file or a ledger row is known only from the history.
    known = applied or migration or status.unfinished.recorded
    entry = {
        "version": status.version,
        "name": status.name,
        "state": status.state.value,
        "checksum": known.checksum,
        "file": migration.file if migration else None,
        "applied_at": applied.applied_at.isoformat() if applied else None,
        "execution_time_ms": applied.execution_time_ms if applied else None,
    }
    if status.state.value == "changed":
        entry |= {"expected": applied.checksum, "found": migration.checksum}
    if status.unfinished:
        entry |= {"statement": status.unfinished.statement, "statements": status.unfinished.statements}
    return entry


_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def may_have_daemon(databases: Iterable[str]) -> bool:
    """True if a daemon serves, or once served, one of these databases.

    Checked first, because importing the client takes much of the time of a short command.
    """
    return any(os.path.exists(os.path.join(folder, FOLDER, "daemon.lock")) for folder in by_folder(databases))


def print_daemon(view: Mapping[str, Any]) -> None:
    """Print one line about the daemon."""
    parts = [f"up {_duration(view['uptime'])}", view["summary"], *map(_watch, view["directories"])]
    print(writable(f"# daemon {view['program_version']}, pid {view['pid']}: {'; '.join(parts)}"))


def daemon_suffix(view: Mapping[str, Any] | None) -> str:
    """Return the daemon's view of a database as the end of a line; empty without a daemon."""
    if view is None:
        return ""
    text = f"; daemon: {view['state']} since {view['since']}"
    if view["retry_in"] is not None:
        text += f", retry in {_duration(view['retry_in'])}"
    return text + (", paused" if view["is_paused"] else "")


def _watch(directory: Mapping[str, Any]) -> str:
    path, since = directory["directory"], _duration(directory["seconds"])
    if directory["lost"] is not None:
        return f"{path} not watched for {since}: {directory['lost']}"
    return f"{path} watched by {directory['backend']}"


def _duration(seconds: float) -> str:
    for unit, length in _UNITS:
        # From two units on, the larger unit is precise enough: `90 min`, but `2 h`.
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


COMMANDS = {"status": Command("migrated status --json -d 'tenants/*.db'", configure, execute)}
