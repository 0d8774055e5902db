"""migrated down."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated down -d app.db --to 20240101120000"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_how_far_down(parser)
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Roll back; the log goes to standard error."""
    from migrated.cli.alone import without_a_daemon
    from migrated.cli.applying import on_every_database
    from migrated.fleet.job import Action

    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    action: Action = (
        (lambda runner: runner.roll_back(steps))
        if target is None
        else (lambda runner: runner.roll_back_to(target))
    )
    return on_every_database(config, action, without_a_daemon)
