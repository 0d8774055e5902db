"""The command `plan`, and `up --dry-run`: show what a run would do."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import MANY, Report
from migrated.cli.terminal import JsonDocument, print_problem
from migrated.core.errors import MigrationError, RollbackFailedError, combined_exit_code

if TYPE_CHECKING:
    from migrated.config.settings import Config
    from migrated.core.plan import MigrationPlan, RunPlan
    from migrated.core.status import LookUpStored, MigrationStatus
    from migrated.fleet.inspect import DatabaseView


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--to",
        type=options.version,
        metavar="V",
        help="plan up, or down, to this version; 0: roll back everything",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"show every database (default: group those with one plan if more than {MANY})",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the plan of every database; change nothing."""
    config = options.configuration(arguments)
    return show_plans(config, arguments.to, as_json=arguments.json, never_down=False, show_all=arguments.all)


def show_plans(
    config: "Config", target: int | None, *, as_json: bool, never_down: bool, show_all: bool = False
) -> int:
    """Print the plan of every database; group equal plans if there are many databases.

    With `never_down` nothing is rolled back to reach `target`, as in `up`.
    """
    from migrated.cli.terminal import FleetBar
    from migrated.fleet import inspect

    codes: set[int] = set()
    problems = []
    targets = list(inspect.look(config))
    for view in targets:
        for problem in view.problems:
            print_problem(str(problem))
            codes.add(problem.exit_code)
            problems.append(inspect.error_dict(problem))
    usable = [view for view in targets if not view.problems]
    total = sum(len(view.databases) for view in usable)
    is_grouped = total > MANY and not (show_all or as_json)
    report = Report()
    with FleetBar(total, is_wanted=is_grouped or not sys.stdout.isatty()) as bar:
        plans = _plans(
            bar.track(view for each in usable for view in each.views()), target, codes, never_down=never_down
        )
        if as_json:
            with JsonDocument() as document:
                document.elements("databases", (_document(plan) for plan in plans))
                document.member("problems", problems)
        # With --json the generator is exhausted here, and nothing more is printed.
        for plan in plans:
            if is_grouped:
                _note(plan, report)
            else:
                _show(plan)
    report.print()
    return combined_exit_code(codes)


def _plans(
    views: "Iterable[DatabaseView]", target: int | None, codes: set[int], *, never_down: bool
) -> "Iterator[_Plan]":
    for view in views:
        plan = _Plan(view.name, *_plan(view, target, never_down=never_down))
        codes.add(plan.refusal.exit_code if plan.refusal else 0)
        yield plan


class _Plan(NamedTuple):
    """The plan of one database, or why it would be refused."""

    database: str
    run_plan: "RunPlan | None"
    refusal: MigrationError | None

    def lines(self) -> tuple[str, ...]:
        """Return a line with the number of steps, then a line for each step."""
        if not self.run_plan:
            return ("nothing to do",)
        parts = [
            ([*self.run_plan.down], "roll back"),
            ([*self.run_plan.up, *self.run_plan.apply_repeatables], "apply"),
        ]
        counts = [f"{len(steps)} to {verb}" for steps, verb in parts if steps]
        steps = [f"{verb} {migration.label}" for steps, verb in parts for migration in steps]
        return (", ".join(counts) or "nothing to do", *steps)


def _plan(
    view: "DatabaseView", target: int | None, *, never_down: bool
) -> "tuple[RunPlan | None, MigrationError | None]":
    from migrated.core import refusals
    from migrated.core.migration import MigrationDirection
    from migrated.core.plan import RunPlan, plan_run, plan_up, require_known

    if view.error:
        return None, view.error
    status = view.status
    statuses = status.statuses
    try:
        refusals.refuse_unfinished(statuses)
        if target is not None:
            require_known(statuses, target)
        if target is not None and not never_down:
            plan = _plan_to(statuses, target, view.handle.stored_migrations)
            if plan.direction is MigrationDirection.DOWN:
                refusals.refuse_changed(statuses, view.handle.stored_migrations)
                return RunPlan.from_plan(plan), None
        # The plan is returned beside the refusal: JSON shows what would be done once the cause is fixed.
        if view.refusal:
            return RunPlan.from_plan(plan_up(statuses, target)), view.refusal
        return plan_run(status, view.handle.stored_migrations, view.target.policy, target), None
    except MigrationError as error:
        return None, error


def _plan_to(statuses: "Sequence[MigrationStatus]", target: int, stored: "LookUpStored") -> "MigrationPlan":
    from migrated.core import refusals
    from migrated.core.plan import plan_to

    try:
        return plan_to(statuses, target, stored)
    except RollbackFailedError:
        # As in a real run: changed migrations are refused before a missing down text is reported.
        refusals.refuse_changed(statuses, stored)
        raise


def _show(plan: _Plan) -> None:
    if plan.refusal is not None:
        print_problem(f"{plan.database}: {plan.refusal}")
    elif plan.run_plan is not None:
        text, *steps = plan.lines()
        print(f"{plan.database}: {text}", *steps, sep="\n  ")


def _note(plan: _Plan, report: Report) -> None:
    if plan.refusal is not None:
        report.problem(plan.database, plan.refusal)
    elif plan.run_plan is not None:
        report.add(plan.database, *plan.lines())


def _document(plan: _Plan) -> dict[str, Any]:
    from migrated.fleet.inspect import error_dict

    return {
        "database": plan.database,
        "direction": plan.run_plan.direction.value if plan.run_plan else None,
        "migrations": [
            {
                "version": step.migration.known_as[0],
                "name": step.migration.known_as[1],
                "direction": step.direction.value,
                "checksum": step.migration.checksum,
                "file": step.migration.file,
            }
            for step in (plan.run_plan.steps if plan.run_plan else ())
        ],
        "problem": error_dict(plan.refusal),
    }


COMMANDS = {"plan": Command("migrated plan --to 20240101120000", configure, execute)}
