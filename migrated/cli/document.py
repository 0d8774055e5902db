"""The state of every database as one JSON document."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from migrated.cli.terminal import JsonDocument
from migrated.core.migration import REPEATABLE
from migrated.fleet.inspect import TargetView, View, problem

Look = tuple[TargetView, Iterable[View]]


def print_status(
    looks: Sequence[Look], daemons: Sequence[Any], live: Mapping[str, Any], summary: Callable[[], object]
) -> None:
    """Write it on standard output, each database as soon as it is looked at, the summary in the end."""
    with JsonDocument() as document:
        document.member("daemons", daemons)
        document.elements("databases", _databases(looks, live))
        document.member("directories", [_directory(target) for target, _ in looks])
        document.member("summary", summary())


def _databases(looks: Iterable[Look], live: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for _, views in looks:
        for view in views:
            yield _database(view, live.get(view.database.path))


def _directory(view: TargetView) -> dict[str, Any]:
    return {
        "directory": view.target.migrations,
        "problem": problem(view.error),
        "invalid": [problem(error) for error in (view.listing.invalid if view.listing else [])],
        "ignored": [
            {"file": remark.file, "reason": remark.reason}
            for remark in (view.listing.ignored if view.listing else [])
        ],
    }


def _database(view: View, live: Any) -> dict[str, Any]:
    statuses, repeatables = view.findings
    return {
        "database": view.name,
        "state": view.summary,
        "current_version": max((entry.version for entry in view.record.applied), default=None),
        "applied": view.applied,
        "pending": view.pending,
        "problem": problem(view.fault),
        "migrations": [_migration(status) for status in statuses],
        "repeatables": [_repeatable(status) for status in repeatables],
        "daemon": live,
    }


def _repeatable(status: Any) -> dict[str, Any]:
    migration, applied = status.migration, status.applied
    return {
        "name": f"{REPEATABLE}{status.name}",
        "state": status.state.value,
        "checksum": (applied or migration).checksum,
        "file": migration.file if migration else None,
        "applied_at": applied.applied_at.isoformat() if applied else None,
        "execution_time_ms": applied.execution_time_ms if applied else None,
    }


def _migration(status: Any) -> dict[str, Any]:
    migration, applied = status.migration, status.applied
    known = applied or migration or status.unfinished.recorded
    entry = {
        "version": status.version,
        "name": status.name,
        "state": status.state.value,
        "checksum": known.checksum,
        "file": migration.file if migration else None,
        "applied_at": applied.applied_at.isoformat() if applied else None,
        "execution_time_ms": applied.execution_time_ms if applied else None,
    }
    if status.state.value == "changed":
        entry |= {"expected": applied.checksum, "found": migration.checksum}
    if status.unfinished:
        entry |= {"statement": status.unfinished.statement, "statements": status.unfinished.statements}
    return entry
