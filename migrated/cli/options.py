"""The options that every command takes, before or after its name, and argument types."""

import argparse
from typing import get_args

from migrated.config.load import Overrides, load_config
from migrated.config.settings import Config, LogFormat, LogLevel, parse_duration
from migrated.core.migration import HIGHEST_VERSION

# int() refuses strings of more than 4,300 digits with a message of its own.
_DIGITS = 100
# Options before the command are stored under other names, because the command's parser would overwrite them
# with its defaults.
_BEFORE = "before_"


def add_global(parser: argparse.ArgumentParser, *, before: bool) -> None:
    """Add the options to the program's parser (`before`) or to a command's parser."""
    prefix = _BEFORE if before else ""
    group = parser.add_argument_group("options for every command, before or after its name")
    group.add_argument(
        "-c",
        "--config",
        dest=f"{prefix}config",
        metavar="FILE",
        help="configuration (default: ./migrated.toml, else [tool.migrated] in ./pyproject.toml)",
    )
    group.add_argument(
        "-d",
        "--database",
        dest=f"{prefix}database",
        metavar="PATH-or-GLOB",
        action="append",
        default=[],
        help="a database or a glob; may be repeated (default: $DATABASE_URL, else ./app.db)",
    )
    group.add_argument(
        "-m", "--migrations", dest=f"{prefix}migrations", metavar="DIR", help="default: ./migrations"
    )
    group.add_argument(
        "--log-format",
        dest=f"{prefix}log_format",
        choices=get_args(LogFormat),
        help="auto: console on a terminal, else JSON",
    )
    group.add_argument("--log-level", dest=f"{prefix}log_level", choices=get_args(LogLevel), help="default: info")
    group.add_argument(
        "--allow-insecure-permissions",
        dest=f"{prefix}allow_insecure_permissions",
        action="store_true",
        help="use a configuration and migrations that other users can write",
    )


def overrides(arguments: argparse.Namespace) -> Overrides:
    """Return the settings of the command line, which override the configuration file."""

    def chosen(name: str) -> str | None:
        after: str | None = getattr(arguments, name)
        before: str | None = getattr(arguments, _BEFORE + name)
        return before if after is None else after

    return Overrides(
        file=chosen("config"),
        databases=[*arguments.before_database, *arguments.database],
        migrations=chosen("migrations"),
        log_format=chosen("log_format"),
        log_level=chosen("log_level"),
        lock_timeout=getattr(arguments, "lock_timeout", None),
        allow_insecure_permissions=arguments.before_allow_insecure_permissions
        or arguments.allow_insecure_permissions,
    )


def configuration(arguments: argparse.Namespace) -> Config:
    """Load the configuration in force. Raises `ConfigError`."""
    return load_config(overrides(arguments))


def duration(text: str) -> float:
    """Argument type: a duration such as 250ms, 30s, 5m, or plain seconds."""
    try:
        seconds = text.isascii() and text.replace(".", "", 1).isdigit()
        return parse_duration(f"{text}s" if seconds else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def version(text: str) -> int:
    """Argument type: a version, or 0."""
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS and int(text) <= HIGHEST_VERSION):
        raise argparse.ArgumentTypeError(f"expected a version, 0 to {HIGHEST_VERSION}, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Argument type: a whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number, 1 or more, got {text!r}")
    return int(text)


def add_lock_timeout(parser: argparse.ArgumentParser) -> None:
    """Add the option of the commands that change databases."""
    parser.add_argument(
        "--lock-timeout",
        type=duration,
        metavar="DURATION",
        help="how long to wait for another runner (default: 10s)",
    )


def add_rollback_range(parser: argparse.ArgumentParser) -> None:
    """Add the options of the commands that roll back."""
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--to", type=version, metavar="V", help="roll back everything above V; 0: everything")
    how_far.add_argument("--steps", type=count, metavar="N", help="roll back the N newest (default: 1)")
