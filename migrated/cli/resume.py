"""migrated resume."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated resume"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options: none."""


def execute(arguments: argparse.Namespace) -> int:
    """Tell it; a full pass follows."""
    from migrated.daemon.control import client

    client.ask_every(options.configuration(arguments), None, request="resume")
    return 0
