"""migrated resume."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated resume"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options: none."""


def execute(arguments: argparse.Namespace) -> int:
    """Tell it; a full pass follows."""
    from migrated.cli import daemons

    daemons.ask_every(options.configuration(arguments), None, request="resume")
    return 0
