"""Protocol of the control socket: requests and answers, each one line of JSON, and their limits."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrated.core.errors import MigrationError

Answer = dict[str, Any]
QUICK = frozenset({"status"})
"""Requests that are always answered at once. The others may have to wait, for example for the end of a pass."""
NAMES = ("status", "reload", "retry", "pause", "resume", "wait")
# Python's timeouts raise OverflowError beyond about 9e9 seconds.
_LONGEST_WAIT = 10.0**9


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `timeout` is in seconds, None for no limit; empty `databases` means all."""

    name: str
    database: str = ""
    databases: tuple[str, ...] = ()
    timeout: float | None = None
    wait: bool = False


@dataclass(slots=True)
class PendingRequest:
    """A request and the future for its answer. Posted to the main loop by the connection's thread.

    The connection's thread sets `is_abandoned` when the client has disconnected before the answer.
    """

    request: Request
    answer: "Future[Answer]" = field(default_factory=Future)
    is_abandoned: bool = False


def accepted(**keys: object) -> Answer:
    """Build a positive answer."""
    return {"ok": True, **keys}


def declined(message: str, hint: str | None = None, code: str = "REQUEST") -> Answer:
    """Build a negative answer."""
    return {"ok": False, "error": {"code": code, "message": message, "hint": hint}}


def failed(error: MigrationError) -> Answer:
    """Build a negative answer from an error."""
    return declined(str(error.message), error.hint, error.code)


def parse(line: bytes) -> Request:
    """Parse one line into a request. Raises `ValueError` saying what was expected."""
    found = _object(line)
    if found.get("version") != PROTOCOL:
        raise ValueError(f"expected version {PROTOCOL}, got {found.get('version')!r:.100}")
    name = found.get("request")
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"request: expected one of {', '.join(NAMES)}, got {name!r:.100}")
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
    # RecursionError: deeply nested input.
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object on one line")  # noqa: TRY004 - as below
    return found


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key}: expected a string")  # noqa: TRY004 - invalid input, not a wrong call
    return value


def _texts(found: dict[str, Any], key: str) -> tuple[str, ...]:
    values = found.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key}: expected a list of strings")
    return tuple(values)


def _seconds(found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is None:
        return None
    # bool is a subclass of int. A NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_WAIT:
        raise ValueError(f"{key}: expected a number of seconds")
    return float(value)


PROTOCOL = 1
"""The `version` of every line. Adding keys keeps the version; any other change needs a new one."""
SOCKET_KEY = "socket"
"""Key of the socket's path in the note of `daemon.lock`."""
LONGEST_REQUEST = 65_536
ANSWER_TIMEOUT_SECONDS = 1.0
"""Time limit for an answer that a daemon gives at once."""
_LONGEST_ADDRESS = 107
_CHUNK = 65_536
# `struct ucred`: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


def runtime_directories() -> Iterator[Path]:
    """Yield the directories for sockets that the environment names: systemd's, then the login session's."""
    by_systemd = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    of_session = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(by_systemd):
        yield Path(by_systemd)
    if os.path.isabs(of_session):
        yield Path(of_session) / "migrated"


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """Yield an address for the socket at `path`, valid within the `with` block.

    The kernel limits addresses to 107 bytes. Longer paths are addressed through a descriptor of their directory.
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def peer_uid(channel: socket.socket) -> int:
    """Return the uid of the process at the other end of a connected socket."""
    return int(
        _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    )


def line_of(message: Mapping[str, Any]) -> bytes:
    """Encode a message as one line of JSON."""
    return json.dumps({"version": PROTOCOL, **message}).encode() + b"\n"


def read_line(channel: socket.socket, longest: int, deadline: float | None) -> bytes:
    """Read up to the first line end.

    Raises `TimeoutError` after `deadline` (monotonic clock), `ValueError` if the line exceeds `longest` bytes,
    `ConnectionResetError` if the connection ends first.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        # A timeout of 0 would make the socket non-blocking.
        channel.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        part = channel.recv(_CHUNK)
        if not part:
            raise ConnectionResetError("the connection closed before the end of the line")
        line += part.partition(b"\n")[0] + (b"\n" if b"\n" in part else b"")
        if len(line) > longest:
            raise ValueError(f"the line is longer than {longest} bytes")
        # A client that sends byte by byte never runs into the timeout of recv().
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("no complete line before the deadline")
    return bytes(line)
