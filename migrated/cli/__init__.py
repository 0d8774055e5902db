"""Arguments in, exit code out; one module a command."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from migrated.about import VERSION
from migrated.cli import (
    dev,
    diff,
    doctor,
    down,
    install_service,
    new,
    options,
    pause,
    plan,
    redo,
    reload,
    repair,
    restore,
    resume,
    retry,
    run_daemon,
    snapshots,
    status,
    up,
    verify,
    wait,
)
from migrated.errors import MigrationError

COMMANDS: tuple[ModuleType, ...] = (
    run_daemon,
    dev,
    up,
    down,
    redo,
    status,
    plan,
    verify,
    diff,
    new,
    repair,
    snapshots,
    restore,
    wait,
    doctor,
    install_service,
    reload,
    retry,
    pause,
    resume,
)
"""Each has NAME, SUMMARY, EXAMPLE, configure(parser) and execute(arguments) -> exit code."""

_HIGHEST_STREAM = 2
EXIT_CODES = """\
exit codes:
  0   done, or nothing to do
  1   a migration or rollback failed; doctor: something is wrong
  2   wrong usage
  3   status --exit-code: something is pending; wait: not current in time;
      reload, retry, pause, resume: no daemon answers
  4   refused: changed, missing, late or invalid files
  5   lock held by another runner
  6   a database could not be opened, read or written
  78  bad configuration
"""


def run() -> None:
    """Run the program: the console script, and `python -m migrated`."""
    _open_standard_streams()
    # Where it was inherited as ignored, the exit code of a hook could not be told.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.exit(main())


def _open_standard_streams() -> None:
    # A file that is opened would take the number of a stream that is closed, and get what is written to that.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _HIGHEST_STREAM:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the program's life
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code. Raises `SystemExit` for --help and wrong usage."""
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.execute(arguments)
        sys.stdout.flush()
    except MigrationError as error:
        print(f"migrated: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="migrated",
        description="A migration daemon for SQLite: watches a directory and keeps databases current.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"migrated {VERSION}")
    options.add_global(parser, before=True)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        child = commands.add_parser(
            command.NAME,
            help=command.SUMMARY,
            description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.configure(child)
        options.add_global(child, before=False)
        child.set_defaults(execute=command.execute)
    return parser
