"""The command line: parse the arguments, load the command, return its exit code."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.core import VERSION
from migrated.core.errors import MigrationError
from migrated.system.interpreter import require_supported_python

COMMANDS = {
    "run": ("service", "run the daemon in the foreground: watch, and keep every database current"),
    "dev": ("service", "as run, for development: redo edited migrations, roll back deleted ones"),
    "up": ("apply", "apply pending migrations once"),
    "down": ("apply", "roll back the newest migration, or more with --steps or --to"),
    "redo": ("apply", "roll back the newest migration, or more, and apply it as it is now"),
    "status": ("status", "show the state of every migration in every database"),
    "plan": ("plan", "show what up would do, and change nothing"),
    "verify": ("verify", "compare applied migrations with the files, and change nothing"),
    "diff": ("diff", "show what changed in the files of applied migrations"),
    "new": ("new", "create a migration file, with the UTC time as its version"),
    "repair": ("repair", "show, or repair, a stopped migration (one without a transaction that did not finish)"),
    "snapshots": ("snapshots", "list the snapshots of every database"),
    "restore": ("snapshots", "restore a snapshot into its database"),
    "wait": ("control", "wait until every database is current"),
    "doctor": ("doctor", "check the installation, and say how to fix it"),
    "install-service": (
        "service",
        "write a systemd unit that runs the daemon as `migrated run` would run here, with the same options",
    ),
    "reload": ("control", "let the running daemon read its configuration again"),
    "retry": ("control", "let the running daemon try a database now, without waiting for the next retry"),
    "pause": ("control", "let the running daemon apply nothing until `migrated resume`"),
    "resume": ("control", "let the running daemon continue after a pause or a halted rollout"),
    "help": ("help", "show the manual: its topics, or one of them"),
}
"""For each command, its module in `commands` and its one-line summary."""

_HIGHEST_STREAM = 2
_USUAL_COLUMNS = 80
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
  78  bad configuration, or a Python that migrated cannot run on
"""
_MANUAL = "`migrated help` lists the topics of the manual."


def run() -> None:
    """Run the program: entry point of the console script and of `python -m migrated`."""
    _open_standard_streams()
    # If SIGCHLD was inherited as ignored, the kernel reaps children itself and the exit code of a hook is lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.exit(main())


def _open_standard_streams() -> None:
    # If a standard stream is closed, the next file opened, perhaps a database, would get its descriptor, and
    # receive what is printed.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _HIGHEST_STREAM:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the program ends
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as above


def main(argv: Sequence[str] | None = None) -> int:
    """Execute a command line and return the exit code. Raises `SystemExit` for --help and wrong usage."""
    try:
        require_supported_python()
        arguments = build_parser().parse_args(argv)
        code: int = arguments.execute(arguments)
        sys.stdout.flush()
    except MigrationError as error:
        print(f"migrated: error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output exited (`| head`). Without the redirection, Python would report the broken pipe
        # once more when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="migrated",
        description="A migration daemon for SQLite: watches a directory and keeps databases current.",
        epilog=f"{EXIT_CODES}\n{_MANUAL}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"migrated {VERSION}")
    options.add_global(parser, before=True)
    # Without `prog`, argparse formats a usage line to derive it, and imports shutil for that.
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog="migrated", parser_class=CommandParser
    )
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary, command=name)
    # For `help`, which shows the help of the others.
    parser.set_defaults(commands=commands.choices)
    return parser


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats help as wide as the terminal.

    Argparse creates a formatter for each option, and would import shutil to find the width.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    with suppress(ValueError):
        if (wanted := int(os.environ.get("COLUMNS", "0"))) > 0:
            return wanted
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stdout.fileno()).columns or _USUAL_COLUMNS
    return _USUAL_COLUMNS


class CommandParser(argparse.ArgumentParser):
    """The parser of one command. Its module is imported only when this command is used."""

    def __init__(self, *, command: str, **settings: Any) -> None:
        self._module, summary = COMMANDS[command]
        super().__init__(
            **settings,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_HelpFormatter,
            add_help=False,  # `load` adds it, for one command instead of all twenty
            allow_abbrev=False,
        )
        self._command = command
        self._is_loaded = False

    def load(self) -> None:
        """Import the module and add the command's options."""
        if self._is_loaded:
            return
        self._is_loaded = True
        command: Command = import_module(f"migrated.cli.commands.{self._module}").COMMANDS[self._command]
        self.add_argument("-h", "--help", action="help", help="show this help message and exit")
        self.epilog = f"example:\n  {command.example}"
        command.configure(self)
        options.add_global(self, before=False)
        self.set_defaults(execute=command.execute)

    def parse_known_args(self, *arguments: Any, **keywords: Any) -> Any:
        """Load the command, then parse."""
        self.load()
        return super().parse_known_args(*arguments, **keywords)
