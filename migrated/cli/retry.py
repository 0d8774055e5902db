"""migrated retry."""

import argparse
import os

from migrated.cli import options
from migrated.cli.terminal import print_problem
from migrated.config.settings import Config
from migrated.core.errors import RefusedError
from migrated.fleet.discovery import assign

EXAMPLE = "migrated retry tenants/42.db"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("name", metavar="DATABASE", help="as configured, as matched, or its path")


def execute(arguments: argparse.Namespace) -> int:
    """Return what the try came to, as `migrated up` would."""
    from migrated.daemon.control import client

    path = _path(options.configuration(arguments), arguments.name)
    found = client.ask_about(path, request="retry", database=path)["database"]
    if found["state"] == "current":
        return 0
    error = found["error"] or {"message": found["waiting_for"] or f"{found['pending']} pending"}
    print_problem(f"{arguments.name}: {found['state']}: {error['message']}")
    if error.get("hint"):
        print_problem(error["hint"], "hint")
    code: int = error.get("exit_code", RefusedError.exit_code)
    return code


def _path(config: Config, name: str) -> str:
    databases = [database for _, databases in assign(config.targets) for database in databases]
    return next((each.path for each in databases if each.name == name), os.path.abspath(name))
