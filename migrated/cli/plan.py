"""migrated plan."""

import argparse
from typing import TYPE_CHECKING, Any

from migrated.cli import options
from migrated.cli.render import print_json, print_problem
from migrated.errors import MigrationError, combined_exit_code

if TYPE_CHECKING:
    from migrated.agenda import Agenda
    from migrated.cli.reading import View
    from migrated.settings import Config

EXAMPLE = "migrated plan --to 20240101120000"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--to", type=options.version, metavar="V", help="up to, or down to, this version; 0: empty"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute(arguments: argparse.Namespace) -> int:
    """Show it; changes and creates nothing."""
    return show_plans(options.configuration(arguments), arguments.to, as_json=arguments.json, never_down=False)


def show_plans(config: "Config", target: int | None, *, as_json: bool, never_down: bool) -> int:
    """Show the plan of every database. `never_down` is how `up` plans."""
    from migrated.cli import reading

    codes: list[int] = []
    documents = []
    problems = []
    for view in reading.look(config):
        for problem in view.problems:
            print_problem(str(problem))
            codes.append(problem.exit_code)
            problems.append(reading.problem(problem))
        if view.problems:
            continue
        for database in view.databases:
            agenda, refusal = _plan(database, target, never_down=never_down)
            codes.append(refusal.exit_code if refusal else 0)
            documents.append(_document(database, agenda, refusal))
            if not as_json:
                _show(database, agenda, refusal)
    if as_json:
        print_json({"databases": documents, "problems": problems})
    return combined_exit_code(codes)


def _plan(view: "View", target: int | None, *, never_down: bool) -> "tuple[Agenda | None, MigrationError | None]":
    from migrated import planning, refusals
    from migrated.agenda import agenda_of, plan_run
    from migrated.model import MigrationDirection

    if view.error:
        return None, view.error
    try:
        refusals.refuse_unfinished(view.statuses)
        if target is not None:
            planning.require_known(view.statuses, target)
        if target is not None and not never_down:
            plan = planning.plan_to(view.statuses, target, view.handle.recorded)
            if plan.direction is MigrationDirection.DOWN:
                refusals.refuse_changed(view.statuses)
                return agenda_of(plan), None
        if view.refusal:
            return agenda_of(planning.plan_up(view.statuses, target)), view.refusal
        return plan_run(view.findings, view.handle.recorded, view.target.policy, target), None
    except MigrationError as error:
        return None, error


def _show(view: "View", agenda: "Agenda | None", refusal: MigrationError | None) -> None:
    name = view.database.name
    if refusal is not None:
        print_problem(f"{name}: {refusal}")
    if agenda is None or refusal is not None:
        return
    parts = [([*agenda.down], "roll back"), ([*agenda.up, *agenda.repeat], "apply")]
    counts = [f"{len(plan)} to {verb}" for plan, verb in parts if plan]
    print(f"{name}: {', '.join(counts) or 'nothing to do'}")
    for plan, verb in parts:
        for migration in plan:
            print(f"  {verb} {migration.label}")


def _document(view: "View", agenda: "Agenda | None", refusal: MigrationError | None) -> dict[str, Any]:
    from migrated.cli.reading import problem

    return {
        "database": view.database.name,
        "direction": agenda.direction.value if agenda else None,
        "migrations": [
            {
                "version": step.migration.known_as[0],
                "name": step.migration.known_as[1],
                "direction": step.direction.value,
                "checksum": step.migration.checksum,
                "file": step.migration.file,
            }
            for step in (agenda.steps if agenda else ())
        ],
        "problem": problem(refusal),
    }
