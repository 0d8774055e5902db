"""The command `doctor`: check the installation and print what to fix."""

import argparse
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.terminal import print_json, writable
from migrated.logs import console

if TYPE_CHECKING:
    from migrated.checks.findings import Finding

_COLOURS = {"ok": console.GREEN, "warning": console.YELLOW, "problem": console.RED}
_WIDTH = 9


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 if there is a problem. Changes nothing."""
    from migrated.checks.doctor import examine

    found = []
    for finding in examine(lambda: options.configuration(arguments)):
        found.append(finding)
        if not arguments.json:
            _show(finding)
    counts = Counter(finding.level.value for finding in found)
    if arguments.json:
        print_json(
            {
                "findings": [_document(finding) for finding in found],
                "problems": counts["problem"],
                "warnings": counts["warning"],
            }
        )
    else:
        print(f"{_count(counts['problem'], 'problem')}, {_count(counts['warning'], 'warning')}")
    return 1 if counts["problem"] else 0


def _show(finding: "Finding") -> None:
    mark = f"{finding.level:<{_WIDTH}}"
    if console.are_wanted(os.environ, on_terminal=sys.stdout.isatty()):
        mark = console.painted(mark, _COLOURS[finding.level])
    print(mark + writable(console.visible(f"{finding.subject}: {finding.message}")))
    if finding.hint:
        print(" " * _WIDTH + writable(console.visible(f"hint: {finding.hint}")))


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"


def _document(finding: "Finding") -> dict[str, str | None]:
    return {
        "check": finding.check,
        "level": finding.level.value,
        "subject": finding.subject,
        "message": finding.message,
        "hint": finding.hint,
    }


COMMANDS = {"doctor": Command("migrated doctor -c /etc/migrated/migrated.toml", configure, execute)}
