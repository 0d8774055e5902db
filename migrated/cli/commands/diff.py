"""The command `diff`: show what changed in the files of applied migrations."""

import argparse
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import named
from migrated.cli.terminal import print_json, print_problem, writable
from migrated.core.errors import MigrationError, MigrationNotFoundError, combined_exit_code
from migrated.logs import console

if TYPE_CHECKING:
    from migrated.config.settings import Config
    from migrated.core.diff import Change, Difference
    from migrated.core.status import MigrationStatus
    from migrated.fleet.inspect import DatabaseView

_COLOURS = {"cosmetic": console.GREEN, "real": console.RED}


@dataclass
class _Found:
    """What to print: changes with their databases, remarks on databases without changes, and problems."""

    changes: "list[tuple[str, Change]]" = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    problems: list[tuple[str | None, MigrationError]] = field(default_factory=list)

    def remark(self, text: str, database: str) -> None:
        """Add a remark on a database; equal remarks are printed once for all their databases."""
        self.remarks.setdefault(text, []).append(database)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "version", nargs="?", type=options.version, metavar="VERSION", help="only this version (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute(arguments: argparse.Namespace) -> int:
    """Print the changes; modify nothing. Return 0 even if there are changes: scripts use `verify`."""
    found = _find(options.configuration(arguments), arguments.version)
    if arguments.json:
        _print_document(found)
    else:
        for database, problem in found.problems:
            print_problem(f"{database}: {problem}" if database else str(problem))
        _show(found)
    return combined_exit_code([problem.exit_code for _, problem in found.problems])


def _find(config: "Config", version: int | None) -> _Found:
    from migrated.fleet import inspect

    found = _Found()
    for target in inspect.look(config):
        found.problems += [(None, problem) for problem in target.problems]
        for view in target.views():
            try:
                _compare(view, version, found)
            except MigrationError as error:
                found.problems.append((view.name, error))
    if version is not None and not (found.changes or found.remarks or found.problems):
        unknown = MigrationNotFoundError(
            f"version {version} is unknown: it is neither among the migrations nor in the migrations table",
            version=version,
            hint="`migrated status` lists the versions",
        )
        found.problems.append((None, unknown))
    return found


def _compare(view: "DatabaseView", version: int | None, found: _Found) -> None:
    from migrated.core.diff import change

    if view.error:
        raise view.error
    name = view.name
    statuses = [status for status in view.status.statuses if version in {None, status.version}]
    stored = view.handle.stored_migrations(status.version for status in statuses if status.applied)
    unchanged = True
    for status in statuses:
        if status.applied and status.migration:
            compared = change(status.applied, status.migration, stored.get(status.version))
            if compared.is_mismatch or compared.down:
                found.changes.append((name, compared))
                unchanged = False
                continue
        if version is not None:
            found.remark(_state_of(status), name)
    if unchanged and version is None:
        found.remark(f"{view.applied} applied, no file has changed", name)


def _state_of(status: "MigrationStatus") -> str:
    if status.applied is None:
        return f"{status.label} is not applied"
    state = "unchanged since it was applied" if status.migration else "applied, and its file is missing"
    return f"{status.label} is {state}"


def _show(found: _Found) -> None:
    """Print each change once, with all databases that have it."""
    groups: dict[object, list[tuple[str, Change]]] = {}
    for database, change in found.changes:
        # Databases with the same edit share one diff; only the time of applying differs.
        key = change.present.label, change.present.file, change.applied.checksum, change.up, change.down
        groups.setdefault(key, []).append((database, change))
    for number, group in enumerate(groups.values()):
        if number:
            print()
        _show_change([database for database, _ in group], [change for _, change in group])
    for text, databases in found.remarks.items():
        print(_printable(f"{named(databases)}: {text}"))


def _show_change(databases: list[str], changes: "list[Change]") -> None:
    change = changes[0]
    title = f"{named(databases)}: {change.present.label}"
    if change.up:
        _show_difference(f"{title} {change.what}", change.up, changes, change.reason)
    elif change.is_mismatch:
        print(_printable(f"{title} {change.what}: {change.reason}"))
        print(f"  expected checksum {change.applied.checksum}")
        print(f"  found             {change.present.checksum}")
    if change.down:
        title = f"{title}, DOWN (not covered by the checksum)"
        _show_difference(title, change.down, changes, change.down.reason)


def _show_difference(title: str, difference: "Difference", changes: "list[Change]", reason: str) -> None:
    paint = console.are_wanted(os.environ, on_terminal=sys.stdout.isatty())
    reason = console.painted(reason, _COLOURS[difference.verdict]) if paint else reason
    print(f"{_printable(title)}: {reason}")
    diff = changes[0].diff(difference, [change.applied.applied_at for change in changes])
    lines = [_printable(line) for line in diff]
    for line in console.painted_diff(lines) if paint else lines:
        print(line)


def _printable(text: str) -> str:
    # Escape control characters only on a terminal: a program such as patch needs the exact text.
    return console.visible(writable(text)) if sys.stdout.isatty() else writable(text)


def _print_document(found: _Found) -> None:
    from migrated.fleet.inspect import error_dict

    problems = [{"database": database} | (error_dict(problem) or {}) for database, problem in found.problems]
    print_json({"differences": [_document(*each) for each in found.changes], "problems": problems})


def _document(database: str, change: "Change") -> dict[str, Any]:
    down = change.down
    return {
        "database": database,
        "version": change.present.version,
        "name": change.present.name,
        "file": change.present.file,
        "applied_at": change.applied.applied_at.isoformat(),
        "expected": change.applied.checksum,
        "found": change.present.checksum,
        **_difference(change, change.up),
        "reason": change.reason if change.is_mismatch else None,
        "down": _difference(change, down) | {"reason": down.reason} if down else None,
    }


def _difference(change: "Change", difference: "Difference | None") -> dict[str, Any]:
    if difference is None:
        return {"verdict": None, "diff": None}
    return {"verdict": difference.verdict.value, "diff": "\n".join(change.diff(difference))}


COMMANDS = {"diff": Command("migrated diff 20240101120000 -d app.db", configure, execute)}
