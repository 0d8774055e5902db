"""migrated wait."""

import argparse
import time

from migrated.cli import options
from migrated.cli.render import print_problem
from migrated.settings import Config

NAME = "wait"
SUMMARY = "wait until every database has everything in the directory applied"
EXAMPLE = "migrated wait --timeout 60s && exec my-application"

_POLL_SECONDS = 0.1
_NOT_IN_TIME = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--timeout", type=options.duration, metavar="DURATION", help="then exit 3 (default: for ever)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Exit 0 once everything is applied and nothing is refused, 3 after the timeout, saying what is missing."""
    config = options.configuration(arguments)
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    while missing := _missing(config):
        if deadline is not None and time.monotonic() >= deadline:
            for line in missing:
                print_problem(line)
            return _NOT_IN_TIME
        time.sleep(_POLL_SECONDS)
    return 0


def _missing(config: Config) -> list[str]:
    from migrated.cli import reading

    found = []
    for view in reading.look(config, patience=0):
        found += [str(problem) for problem in view.problems]
        for database in view.databases:
            trouble = database.error or database.refusal
            if trouble or database.pending:
                found.append(f"{database.database.name}: {trouble or f'{database.pending} pending'}")
    return found
