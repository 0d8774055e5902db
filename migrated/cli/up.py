"""migrated up."""

import argparse

from migrated.cli import options
from migrated.config.settings import without_waves

EXAMPLE = "migrated up -d app.db --to 20240101120000"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--to", type=options.version, metavar="V", help="nothing above this version")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, change nothing")
    parser.add_argument("--no-waves", action="store_true", help="try every database of a fleet, however many fail")
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Apply; the log goes to standard error."""
    config = options.configuration(arguments)
    target: int | None = arguments.to
    if arguments.dry_run:
        from migrated.cli.plan import show_plans

        return show_plans(config, target, as_json=False, never_down=True)
    from migrated.cli.applying import on_every_database

    if arguments.no_waves:
        config = without_waves(config)
    if target is None:
        return on_every_database(config, lambda runner: runner.run(), is_everything=True, in_waves=True)
    version = target
    return on_every_database(config, lambda runner: runner.run_up_to(version), in_waves=True)
