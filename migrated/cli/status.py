"""migrated status."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from migrated.cli import options
from migrated.cli.live import may_have_daemon, print_daemon, standing
from migrated.cli.render import print_json, print_problem, print_table
from migrated.errors import combined_exit_code
from migrated.model import REPEATABLE
from migrated.settings import following

EXAMPLE = "migrated status --json -d 'tenants/*.db'"

_PENDING_EXIT_CODE = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit 3 when something is pending, 4 when a run would be refused",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Show it; changes and creates nothing."""
    from migrated.cli import reading

    views = list(reading.look(options.configuration(arguments)))
    live = _ask_daemons(view for target in views for view in target.databases)
    _judge_as_they_do(views, live)
    if arguments.json:
        print_json(_document(views, live))
    else:
        for answer in live:
            print_daemon(answer["daemon"])
        by_path = _by_path(live)
        for view in views:
            _show(view, by_path)
    codes = [problem.exit_code for view in views for problem in view.problems]
    databases = [database for view in views for database in view.databases]
    codes += [database.error.exit_code for database in databases if database.error]
    if arguments.exit_code:
        codes += [database.refusal.exit_code for database in databases if database.refusal]
        if not any(codes) and any(database.pending for database in databases):
            return _PENDING_EXIT_CODE
    return combined_exit_code(codes)


def _ask_daemons(databases: Iterable[Any]) -> list[Any]:
    """What the daemons that look after these databases say; nothing of those that do not answer soon."""
    paths = [view.database.path for view in databases]
    if not any(map(may_have_daemon, paths)):
        return []
    from migrated.cli import daemons

    return daemons.statuses(paths)


def _judge_as_they_do(views: list[Any], live: list[Any]) -> None:
    """A daemon for development refuses less than the configuration says."""
    theirs = {
        database["path"]
        for answer in live
        if answer["daemon"].get("is_for_development")
        for database in answer["databases"]
    }
    for target in views:
        for view in target.databases:
            if view.database.path in theirs and not target.problems and not view.error:
                view.judge(following(target.target.policy))


def _by_path(live: list[Any]) -> dict[str, Any]:
    """What the daemons say of each database, by its path."""
    of_daemon = ("pid", "is_paused")
    return {
        database["path"]: {key: answer["daemon"][key] for key in of_daemon} | database
        for answer in live
        for database in answer["databases"]
    }


def _show(view: Any, live: Mapping[str, Any]) -> None:
    for problem in view.problems:
        print_problem(str(problem))
    for remark in view.listing.ignored if view.listing else []:
        print_problem(f"{remark.file}: not used: {remark.reason}", "warning")
    for database in view.databases:
        counts = f"{database.applied} applied, {database.pending} pending"
        title = f"{database.database.name}: {database.summary}, {counts}"
        title += standing(live.get(database.database.path))
        rows = [_row(status) for status in database.statuses]
        rows += [_row(status, "-") for status in database.findings.repeatables]
        print_table(title, ("version", "name", "applied at (UTC)", "ms", "state"), rows)
        trouble = database.error or database.refusal
        if trouble:
            print_problem(f"{database.database.name}: {trouble}")


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


def _document(views: list[Any], live: list[Any]) -> dict[str, Any]:
    from migrated.cli.reading import problem

    by_path = _by_path(live)
    return {
        "daemons": [answer["daemon"] for answer in live],
        "databases": [_database(database, by_path) for view in views for database in view.databases],
        "directories": [
            {
                "directory": view.target.migrations,
                "problem": problem(view.error),
                "invalid": [problem(error) for error in (view.listing.invalid if view.listing else [])],
                "ignored": [
                    {"file": remark.file, "reason": remark.reason}
                    for remark in (view.listing.ignored if view.listing else [])
                ],
            }
            for view in views
        ],
    }


def _database(view: Any, live: Mapping[str, Any]) -> dict[str, Any]:
    from migrated.cli.reading import problem

    versions = [status.version for status in view.statuses if status.applied]
    return {
        "database": view.database.name,
        "state": view.summary,
        "current_version": max(versions, default=None),
        "applied": view.applied,
        "pending": view.pending,
        "problem": problem(view.error or view.refusal),
        "migrations": [_migration(status) for status in view.statuses],
        "repeatables": [_repeatable(status) for status in view.findings.repeatables],
        "daemon": live.get(view.database.path),
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
