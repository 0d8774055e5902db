"""migrated redo."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated redo -d app.db --steps 2"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_how_far_down(parser)
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
