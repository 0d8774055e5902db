"""migrated status."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from migrated.cli import options
from migrated.cli.live import may_have_daemon, print_daemon, standing
from migrated.cli.summary import MANY
from migrated.cli.terminal import print_problem, print_table, writable
from migrated.core.errors import combined_exit_code
from migrated.core.migration import REPEATABLE

if TYPE_CHECKING:
    from migrated.cli.summary import Tally
    from migrated.fleet.inspect import TargetView, View

EXAMPLE = "migrated status --json -d 'tenants/*.db'"

_PENDING_EXIT_CODE = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--all", action="store_true", help=f"show each database; of more than {MANY} only a summary is shown else"
    )
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit 3 when something is pending, 4 when a run would be refused",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Show it; changes and creates nothing."""
    from migrated.cli import summary
    from migrated.cli.terminal import FleetBar
    from migrated.fleet import inspect

    targets = list(inspect.look(options.configuration(arguments)))
    paths = [database.path for target in targets for database in target.databases]
    is_summary = len(paths) > MANY and not (arguments.all or arguments.json)
    live = _ask_daemons(paths)
    by_path, developed = _by_path(live), _developed(live)
    found = summary.Tally(problem.exit_code for target in targets for problem in target.problems)
    with FleetBar(len(paths), is_wanted=is_summary or not sys.stdout.isatty()) as bar:
        looks = [(target, bar.over(found.over(target.views(developed)))) for target in targets]
        if arguments.json:
            from migrated.cli import document

            document.print_status(looks, [answer["daemon"] for answer in live], by_path, found.document)
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


def _exit_code(found: "Tally", *, is_strict: bool) -> int:
    codes = found.codes | (found.refusals if is_strict else set())
    if is_strict and found.pending and not any(codes):
        return _PENDING_EXIT_CODE
    return combined_exit_code(codes)


def _ask_daemons(paths: Sequence[str]) -> list[Any]:
    """What the daemons that look after these databases say; nothing of those that do not answer soon."""
    if not may_have_daemon(paths):
        return []
    from migrated.daemon.control import client

    return client.statuses(paths)


def _developed(live: list[Any]) -> set[str]:
    """The databases that a daemon for development looks after: it refuses less than the configuration says."""
    return {
        database["path"]
        for answer in live
        if answer["daemon"].get("is_for_development")
        for database in answer["databases"]
    }


def _by_path(live: list[Any]) -> dict[str, Any]:
    """What the daemons say of each database, by its path."""
    of_daemon = ("pid", "is_paused")
    return {
        database["path"]: {key: answer["daemon"][key] for key in of_daemon} | database
        for answer in live
        for database in answer["databases"]
    }


def _show_remarks(target: "TargetView") -> None:
    for problem in target.problems:
        print_problem(str(problem))
    for remark in target.listing.ignored if target.listing else []:
        print_problem(f"{remark.file}: not used: {remark.reason}", "warning")


def _show(view: "View", live: Mapping[str, Any]) -> None:
    counts = f"{view.applied} applied, {view.pending} pending"
    title = f"{view.name}: {view.summary}, {counts}{standing(live.get(view.database.path))}"
    statuses, repeatables = view.findings
    rows = [_row(status) for status in statuses] + [_row(status, "-") for status in repeatables]
    print_table(title, ("version", "name", "applied at (UTC)", "ms", "state"), rows)
    if view.fault:
        print_problem(f"{view.name}: {view.fault}")


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
