"""The commands, one module a family, each loaded when one of its commands is called."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One command. A module of this package lists its own, by name, as `COMMANDS`."""

    example: str
    """A command line, shown by --help."""
    configure: Callable[[ArgumentParser], None]
    """Adds the command's own options."""
    execute: Callable[[Namespace], int]
    """Does what the arguments say and returns the exit code. Raises `MigrationError`."""
