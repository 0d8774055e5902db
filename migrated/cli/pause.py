"""migrated pause."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated pause && rsync app.db* backup/; migrated resume"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options: none."""


def execute(arguments: argparse.Namespace) -> int:
    """Return once nothing is being applied any more: the migration that is running is finished first."""
    from migrated.daemon.control import client

    client.ask_every(options.configuration(arguments), None, request="pause")
    return 0
