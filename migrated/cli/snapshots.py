"""migrated snapshots."""

import argparse
from typing import Any

from migrated.cli import options
from migrated.cli.terminal import print_json, print_problem, print_table
from migrated.core.errors import MigrationError, combined_exit_code
from migrated.core.records import Snapshot

EXAMPLE = "migrated snapshots --json -d app.db"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def execute(arguments: argparse.Namespace) -> int:
    """List them, oldest first; changes and creates nothing."""
    from migrated.engine.sqlite.snapshots import snapshots
    from migrated.fleet.discovery import assign

    codes: list[int] = []
    documents: list[dict[str, Any]] = []
    problems: list[str] = []
    for _, databases in assign(options.configuration(arguments).targets):
        for database in databases:
            try:
                found = snapshots.listed(database.path)
            except MigrationError as error:
                print_problem(f"{database.name}: {error}")
                problems.append(str(error))
                codes.append(error.exit_code)
                continue
            documents += [_document(database.name, snapshot) for snapshot in found]
            if not arguments.json:
                print_table(
                    f"{database.name}: {len(found)} snapshot{'s' * (len(found) != 1)}",
                    ("id", "taken at (UTC)", "version", "bytes", "reason"),
                    [_row(snapshot) for snapshot in found],
                )
    if arguments.json:
        print_json({"snapshots": documents, "problems": problems})
    return combined_exit_code(codes)


def _row(snapshot: Snapshot) -> tuple[Any, ...]:
    when = snapshot.taken_at.strftime("%Y-%m-%d %H:%M:%S")
    return snapshot.id, when, snapshot.version or "-", snapshot.size, snapshot.reason


def _document(database: str, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "database": database,
        "taken_at": snapshot.taken_at.isoformat(),
        "version": snapshot.version,
        "size": snapshot.size,
        "reason": snapshot.reason,
    }
