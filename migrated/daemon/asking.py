"""What a request through the control socket may be."""

import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from migrated.control import PROTOCOL
from migrated.core.errors import MigrationError

Answer = dict[str, Any]
QUICK = frozenset({"status"})
"""Answered at once, whatever is going on. For the others something may have to come to its end first."""
NAMES = ("status", "reload", "retry", "pause", "resume", "wait")
_LONGEST_WAIT = 10.0**9


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `timeout` is in seconds, None for ever; no `databases` means all of them."""

    name: str
    database: str = ""
    databases: tuple[str, ...] = ()
    timeout: float | None = None
    wait: bool = False


@dataclass(slots=True)
class Asked:
    """A request, and where to put its answer, once. Posted to the loop by the connection's thread.

    That sets `is_given_up` when nobody is there any more to read the answer.
    """

    request: Request
    answer: "Future[Answer]" = field(default_factory=Future)
    is_given_up: bool = False


def accepted(**keys: object) -> Answer:
    """An answer that says yes."""
    return {"ok": True, **keys}


def declined(message: str, hint: str | None = None, code: str = "REQUEST") -> Answer:
    """An answer that says no."""
    return {"ok": False, "error": {"code": code, "message": message, "hint": hint}}


def failed(error: MigrationError) -> Answer:
    """An answer that says why not."""
    return declined(str(error.message), error.hint, error.code)


def parse(line: bytes) -> Request:
    """A request from its line. Raises `ValueError` saying what was expected."""
    found = _object(line)
    if found.get("version") != PROTOCOL:
        raise ValueError(f"expected version {PROTOCOL}, got {found.get('version')!r:.100}")
    name = found.get("request")
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"expected a request of {', '.join(NAMES)}, got {name!r:.100}")
    request = Request(
        name,
        _text(found, "database"),
        _texts(found, "databases"),
        _seconds(found, "timeout"),
        found.get("wait") is True,
    )
    if name == "retry" and not request.database:
        raise ValueError("retry: expected a database")
    return request


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object in one line")  # noqa: TRY004 - as below
    return found


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a text")  # noqa: TRY004 - what was asked is wrong, no call of ours
    return value


def _texts(found: dict[str, Any], key: str) -> tuple[str, ...]:
    values = found.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key}: expected a list of texts")
    return tuple(values)


def _seconds(found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_WAIT:
        raise ValueError(f"{key}: expected a number of seconds")
    return float(value)
