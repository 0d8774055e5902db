"""migrated verify."""

import argparse

from migrated.cli import options
from migrated.cli.render import print_json, print_problem
from migrated.errors import combined_exit_code

EXAMPLE = "migrated verify || echo 'somebody edited an applied migration'"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute(arguments: argparse.Namespace) -> int:
    """Exit 0 when every applied migration is as its file says, 4 when a run would be refused."""
    from migrated.cli import reading

    codes: list[int] = []
    documents = []
    problems = []
    for view in reading.look(options.configuration(arguments)):
        for problem in view.problems:
            print_problem(str(problem))
            codes.append(problem.exit_code)
            problems.append(reading.problem(problem))
        for database in view.databases:
            fault = database.error or database.refusal
            codes.append(fault.exit_code if fault else 0)
            documents.append(
                {
                    "database": database.database.name,
                    "ok": fault is None,
                    "applied": database.applied,
                    "problem": reading.problem(fault),
                }
            )
            if arguments.json:
                continue
            if fault:
                print_problem(f"{database.database.name}: {fault}")
            else:
                print(f"{database.database.name}: {database.applied} applied, all as their files say")
    if arguments.json:
        print_json({"databases": documents, "problems": problems})
    return combined_exit_code(codes)
