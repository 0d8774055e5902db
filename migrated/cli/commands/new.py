"""The command `new`: create a migration file."""

import argparse
import fcntl
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from migrated.cli import options
from migrated.cli.commands import Command

_TEMPLATE = """\
-- Migration: {name}
-- Version: {version}

-- UP


-- DOWN

"""
_WRONG_USAGE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("name", metavar="NAME", help="letters, digits, _ and -; spaces become _")


def execute(arguments: argparse.Namespace) -> int:
    """Create the file and print its path. It is a draft until its UP section has a statement."""
    from migrated.sources.formats.native import file_name

    name = re.sub(r"\s+", "_", arguments.name.strip())
    try:
        file_name(1, name)
    except ValueError as error:
        print(f"migrated new: error: NAME {error}", file=sys.stderr)
        return _WRONG_USAGE
    config = options.configuration(arguments)
    directories = {target.migrations for target in config.targets}
    if len(directories) > 1:
        print("migrated new: error: there are several targets; choose the directory with -m", file=sys.stderr)
        return _WRONG_USAGE
    print(_create(Path(directories.pop()), name))
    return 0


def _create(directory: Path, name: str) -> Path:
    from migrated.sources.directory import as_file_error
    from migrated.sources.formats.native import FileName, file_name, read_name

    with as_file_error(directory, "migrations directory"):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            # Without the lock, two processes in the same second could take the same version.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            names = (read_name(entry.name) for entry in directory.iterdir())
            taken = {named.version for named in names if isinstance(named, FileName)}
            when = datetime.now(UTC)
            while (version := int(when.strftime("%Y%m%d%H%M%S"))) in taken:
                when += timedelta(seconds=1)
            path = directory / file_name(version, name)
            with path.open("x", encoding="utf-8") as file:
                file.write(_TEMPLATE.format(name=name, version=version))
        finally:
            os.close(descriptor)
    return path


COMMANDS = {"new": Command("migrated new add_users_email", configure, execute)}
