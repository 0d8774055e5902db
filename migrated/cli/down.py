"""migrated down."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from migrated.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from migrated.discovery import DatabasePath
    from migrated.fleet import Outcome

NAME = "down"
SUMMARY = "roll back, newest first; one migration unless told otherwise"
EXAMPLE = "migrated down -d app.db --to 20240101120000"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--to", type=options.version, metavar="V", help="everything above V; 0: everything")
    how_far.add_argument("--steps", type=options.count, metavar="N", help="the N highest (default: 1)")
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Roll back; the log goes to standard error."""
    from migrated.cli.applying import on_every_database
    from migrated.fleet import Action

    config = options.configuration(arguments)
    target: int | None = arguments.to
    steps: int = arguments.steps or 1
    action: Action = (
        (lambda runner: runner.roll_back(steps))
        if target is None
        else (lambda runner: runner.roll_back_to(target))
    )
    return on_every_database(config, action, _without_a_daemon)


def _without_a_daemon(database: "DatabasePath", work: "Callable[[], Outcome]") -> "Outcome":
    """Hold the daemon's lock meanwhile: a daemon would apply again what is rolled back."""
    from migrated import locks
    from migrated.errors import LockHeldError, MigrationError
    from migrated.fleet import Outcome, Result

    if not Path(database.path).exists():
        return work()
    try:
        with locks.holding(database.path, locks.DAEMON, 0):
            return work()
    except LockHeldError as held:
        if "migrated down" in (held.holder or ""):
            held.message = f"another `down` is at work beside {database.name}: {held.holder}"
            held.hint = "wait until it has finished"
        else:
            held.message = f"a daemon looks after {database.name} and would apply it again: {held.holder}"
            held.hint = "take the file out of the migrations directory first, or stop the daemon"
        return Outcome(database, Result.UNAVAILABLE, error=held)
    except MigrationError as error:
        return Outcome(database, Result.UNAVAILABLE, error=error)
