"""The commands: one module per family, imported when one of its commands is used."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One command. Each module of this package lists its commands by name in `COMMANDS`."""

    example: str
    """An example command line, shown by --help."""
    configure: Callable[[ArgumentParser], None]
    """Adds the command's own options."""
    execute: Callable[[Namespace], int]
    """Executes the command and returns its exit code. May raise `MigrationError`."""
