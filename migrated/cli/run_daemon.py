"""migrated run."""

import argparse

from migrated.cli import options
from migrated.cli.serving import serve

EXAMPLE = "migrated run -c /etc/migrated.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run until it is told to stop."""
    return serve(arguments)
