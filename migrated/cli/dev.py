"""migrated dev."""

import argparse

from migrated.cli import options
from migrated.cli.serving import serve
from migrated.config.settings import for_development

EXAMPLE = "migrated dev -d dev.db"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    options.add_lock_timeout(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Run until it is told to stop."""
    return serve(arguments, for_development)
