"""The command `verify`: compare applied migrations with the files."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import MANY, Report
from migrated.cli.terminal import JsonDocument, print_problem, writable
from migrated.core.errors import combined_exit_code

if TYPE_CHECKING:
    from collections.abc import Iterable

    from migrated.fleet.inspect import DatabaseView


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"show every database (default: group those with one result if more than {MANY})",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Return 0 if every applied migration matches its file, 4 if a run would be refused."""
    from migrated.cli.terminal import FleetBar
    from migrated.fleet import inspect

    targets = list(inspect.look(options.configuration(arguments)))
    problems = [problem for target in targets for problem in target.problems]
    for problem in problems:
        print_problem(str(problem))
    codes = {problem.exit_code for problem in problems}
    total = sum(len(target.databases) for target in targets)
    is_grouped = total > MANY and not (arguments.all or arguments.json)
    report = Report()
    with FleetBar(total, is_wanted=is_grouped or not sys.stdout.isatty()) as bar:
        views = _noting(bar.track(view for target in targets for view in target.views()), codes)
        if arguments.json:
            with JsonDocument() as document:
                document.elements("databases", (_document(view) for view in views))
                document.member("problems", [inspect.error_dict(problem) for problem in problems])
        # With --json the generator is exhausted here, and nothing more is printed.
        for view in views:
            if is_grouped:
                _note(view, report)
            else:
                _show(view)
    report.print()
    return combined_exit_code(codes)


def _noting(views: "Iterable[DatabaseView]", codes: set[int]) -> "Iterable[DatabaseView]":
    for view in views:
        codes.add(view.problem.exit_code if view.problem else 0)
        yield view


def _show(view: "DatabaseView") -> None:
    if view.problem:
        print_problem(f"{view.name}: {view.problem}")
    else:
        print(writable(f"{view.name}: {_verdict(view)}"))


def _note(view: "DatabaseView", report: Report) -> None:
    if view.problem:
        report.problem(view.name, view.problem)
    else:
        report.add(view.name, _verdict(view))


def _verdict(view: "DatabaseView") -> str:
    return f"{view.applied} applied, all match their files"


def _document(view: "DatabaseView") -> dict[str, Any]:
    from migrated.fleet.inspect import error_dict

    return {
        "database": view.name,
        "ok": view.problem is None,
        "applied": view.applied,
        "problem": error_dict(view.problem),
    }


COMMANDS = {
    "verify": Command("migrated verify || echo 'somebody edited an applied migration'", configure, execute)
}
