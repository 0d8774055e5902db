"""migrated redo."""

import argparse

from migrated.cli import options

NAME = "redo"
SUMMARY = "roll back and apply again as it is now; one migration unless told otherwise"
EXAMPLE = "migrated redo -d app.db --steps 2"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--to", type=options.version, metavar="V", help="everything above V; 0: everything")
    how_far.add_argument("--steps", type=options.count, metavar="N", help="the N highest (default: 1)")
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Redo, in one transaction for each database; the log goes to standard error."""
    from migrated.cli.applying import on_every_database

    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    if target is None:
        return on_every_database(config, lambda runner: runner.redo(steps))
    version = target
    return on_every_database(config, lambda runner: runner.redo_above(version))
