"""migrated reload."""

import argparse

from migrated.cli import options

EXAMPLE = "migrated reload --wait -c /etc/migrated.toml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--wait", action="store_true", help="until the new configuration is in force; exit 78 when it is refused"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Tell it. A configuration with faults is told here already; the old one stays in force."""
    from migrated.daemon.control import client

    config = options.configuration(arguments)
    limit = None if arguments.wait else client.SOON_SECONDS
    client.ask_every(config, limit, request="reload", wait=arguments.wait)
    return 0
