"""migrated plan."""

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
    """Show it; changes and creates nothing."""
    config = options.configuration(arguments)
    return show_plans(config, arguments.to, as_json=arguments.json, never_down=False, show_all=arguments.all)


def show_plans(
    config: "Config", target: int | None, *, as_json: bool, never_down: bool, show_all: bool = False
) -> int:
    """Show the plan of every database, of many those alike as one. `never_down` is how `up` plans."""
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
    fit = [view for view in targets if not view.problems]
    total = sum(len(view.databases) for view in fit)
    is_grouped = total > MANY and not (show_all or as_json)
    report = Report()
    with FleetBar(total, is_wanted=is_grouped or not sys.stdout.isatty()) as bar:
        plans = _plans(
            bar.track(view for each in fit for view in each.views()), target, codes, never_down=never_down
        )
        if as_json:
            with JsonDocument() as document:
                document.elements("databases", (_document(plan) for plan in plans))
                document.member("problems", problems)
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
    """What would be done with a database, or why nothing."""

    database: str
    agenda: "RunPlan | None"
    refusal: MigrationError | None

    def lines(self) -> tuple[str, ...]:
        """How many steps of which kind, then every step."""
        if not self.agenda:
            return ("nothing to do",)
        parts = [([*self.agenda.down], "roll back"), ([*self.agenda.up, *self.agenda.repeat], "apply")]
        counts = [f"{len(steps)} to {verb}" for steps, verb in parts if steps]
        steps = [f"{verb} {migration.label}" for steps, verb in parts for migration in steps]
        return (", ".join(counts) or "nothing to do", *steps)


def _plan(
    view: "DatabaseView", target: int | None, *, never_down: bool
) -> "tuple[RunPlan | None, MigrationError | None]":
    from migrated.core import refusals
    from migrated.core.migration import MigrationDirection
    from migrated.core.plan import agenda_of, plan_run, plan_up, require_known

    if view.error:
        return None, view.error
    findings = view.status
    statuses = findings.statuses
    try:
        refusals.refuse_unfinished(statuses)
        if target is not None:
            require_known(statuses, target)
        if target is not None and not never_down:
            plan = _plan_to(statuses, target, view.handle.stored_migrations)
            if plan.direction is MigrationDirection.DOWN:
                refusals.refuse_changed(statuses, view.handle.stored_migrations)
                return agenda_of(plan), None
        if view.refusal:
            return agenda_of(plan_up(statuses, target)), view.refusal
        return plan_run(findings, view.handle.stored_migrations, view.target.policy, target), None
    except MigrationError as error:
        return None, error


def _plan_to(statuses: "Sequence[MigrationStatus]", target: int, recorded: "LookUpStored") -> "MigrationPlan":
    from migrated.core import refusals
    from migrated.core.plan import plan_to

    try:
        return plan_to(statuses, target, recorded)
    except RollbackFailedError:
        # As when it is done: what has changed is refused before a down text is asked for.
        refusals.refuse_changed(statuses, recorded)
        raise


def _show(plan: _Plan) -> None:
    if plan.refusal is not None:
        print_problem(f"{plan.database}: {plan.refusal}")
    elif plan.agenda is not None:
        text, *steps = plan.lines()
        print(f"{plan.database}: {text}", *steps, sep="\n  ")


def _note(plan: _Plan, report: Report) -> None:
    if plan.refusal is not None:
        report.problem(plan.database, plan.refusal)
    elif plan.agenda is not None:
        report.add(plan.database, *plan.lines())


def _document(plan: _Plan) -> dict[str, Any]:
    from migrated.fleet.inspect import error_dict

    return {
        "database": plan.database,
        "direction": plan.agenda.direction.value if plan.agenda else None,
        "migrations": [
            {
                "version": step.migration.known_as[0],
                "name": step.migration.known_as[1],
                "direction": step.direction.value,
                "checksum": step.migration.checksum,
                "file": step.migration.file,
            }
            for step in (plan.agenda.steps if plan.agenda else ())
        ],
        "problem": error_dict(plan.refusal),
    }


COMMANDS = {"plan": Command("migrated plan --to 20240101120000", configure, execute)}
