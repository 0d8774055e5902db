"""Talking to a running daemon: where it listens, and one question with its answer, each JSON in a line."""

import json
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from migrated.system.file_locks import DAEMON, lock_in, read_note
from migrated.system.files import by_folder

PROTOCOL = 1
"""The `version` of every line. Keys may be added to it; a change of any other kind is another version."""
SOCKET_KEY = "socket"
"""Where the note in `daemon.lock` names the socket."""
LONGEST_REQUEST = 65_536
PATIENCE_SECONDS = 1.0
"""How long a daemon may take for an answer that needs no waiting."""

_LONGEST_ANSWER = 2**26
_LONGEST_ADDRESS = 107
_CHUNK = 65_536
_CREDENTIALS = struct.Struct("3i")


class TooSlowError(OSError):
    """Somebody listens, and did not answer in time."""


def sockets(databases: Iterable[str]) -> dict[str, list[str]]:
    """Where the daemons of these databases listen, or did until they ended, each with those of the paths."""
    found: dict[str, list[str]] = {}
    for folder, theirs in by_folder(databases).items():
        name = read_note(lock_in(folder, DAEMON)).get(SOCKET_KEY)
        if isinstance(name, str) and os.path.isabs(name) and "\0" not in name:
            found.setdefault(name, []).extend(theirs)
    return found


def given_folders() -> Iterator[Path]:
    """The directories for sockets that the surroundings name: systemd's, then the session's."""
    by_systemd = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    of_session = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(by_systemd):
        yield Path(by_systemd)
    if os.path.isabs(of_session):
        yield Path(of_session) / "migrated"


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """An address of the socket at `path` that is valid within the `with`: the kernel takes 107 bytes."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def user_at_other_end(channel: socket.socket) -> int:
    """The uid of the process that connected, or that listens."""
    return int(
        _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    )


def line_of(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps({"version": PROTOCOL, **message}).encode() + b"\n"


def ask(path: str, timeout: float | None = PATIENCE_SECONDS, /, **request: object) -> dict[str, Any]:
    """Send one request to the daemon that listens at `path` and return its answer, which may be an error.

    Raises `OSError` where nobody listens there, `TooSlowError` after `timeout` seconds.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.settimeout(PATIENCE_SECONDS)
            with address_of(path) as address:
                channel.connect(address)
            _require_trust(channel, path)
            # One who has too many connections answers without having heard us out.
            with suppress(BrokenPipeError):
                channel.sendall(line_of(request))
            line = read_line(channel, _LONGEST_ANSWER, deadline)
        except (TimeoutError, BlockingIOError) as error:
            # The latter where others fill its queue.
            raise TooSlowError(f"no answer at {path} in time") from error
        except ValueError as error:
            raise OSError(f"what came from {path} is no answer: {error}") from error
    return _parsed(line, path)


def read_line(channel: socket.socket, longest: int, deadline: float | None) -> bytes:
    """What comes up to the first line end. Raises `TimeoutError` after the deadline, `ValueError` for too much."""
    line = bytearray()
    while not line.endswith(b"\n"):
        channel.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        part = channel.recv(_CHUNK)
        if not part:
            raise ConnectionResetError("it ended before the line did")
        line += part.partition(b"\n")[0] + (b"\n" if b"\n" in part else b"")
        if len(line) > longest:
            raise ValueError(f"a line longer than {longest} bytes")
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError("the line did not end in time")
    return bytes(line)


def _parsed(line: bytes, path: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise OSError(f"what came from {path} is no answer")
    return answer


def _require_trust(channel: socket.socket, path: str) -> None:
    user, own = user_at_other_end(channel), os.geteuid()
    if own not in {0, user} and user != 0:
        raise PermissionError(f"another user, uid {user}, listens at {path}")
