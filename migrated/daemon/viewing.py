"""The live view: what a request for the status is answered with, as plain values."""

import math
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from migrated.core import VERSION
from migrated.core.errors import MigrationError
from migrated.daemon.activity import Doing
from migrated.daemon.standing import Standing


def daemon_view(now: float, began: float, doing: Doing | None, **more: object) -> dict[str, Any]:
    """The daemon itself. `began` is when it did, by the same clock as `now`."""
    return {
        "pid": os.getpid(),
        "program_version": VERSION,
        "since": _moment(began, now),
        "uptime": round(now - began, 3),
        "running": None if doing is None else _running(doing, now),
        **more,
    }


def database_view(standing: Standing, now: float, retry_at: float | None) -> dict[str, Any]:
    """One database. `retry_in` is in seconds; None where it is tried only once something changes."""
    tried = retry_at is not None and not math.isinf(retry_at)
    return {
        "database": standing.database.name,
        "path": standing.database.path,
        "state": standing.state,
        "since": _moment(standing.since, now),
        "pending": standing.pending,
        "error": None if standing.error is None else _error(standing.error),
        "waiting_for": standing.unfinished,
        "retry_in": round(max(0.0, retry_at - now), 3) if tried and retry_at is not None else None,
    }


def _running(doing: Doing, now: float) -> dict[str, Any]:
    step = doing.step
    return {
        "text": str(doing),
        "database": doing.database,
        "seconds": round(now - doing.since, 3),
        "version": step.migration.version if step else None,
        "name": step.migration.name if step else None,
        "direction": step.direction.value if step else None,
        "statement": doing.statement,
        "statements": doing.statements,
        "holder": doing.waiting_for,
    }


def _error(error: MigrationError) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "version": error.version,
        "name": error.name,
        "exit_code": error.exit_code,
    }


def _moment(at: float, now: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=now - at)).isoformat(timespec="seconds")
