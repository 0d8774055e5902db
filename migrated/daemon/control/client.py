"""Client of the control socket: find the daemon of a database, send one request, read the answer."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from migrated.config.settings import Config
from migrated.core.errors import (
    ConfigError,
    DatabaseError,
    LockHeldError,
    MigrationError,
    NoDaemonError,
    RefusedError,
)
from migrated.daemon.control import protocol
from migrated.daemon.control.protocol import (
    ANSWER_TIMEOUT_SECONDS,
    SOCKET_KEY,
    address_of,
    line_of,
    peer_uid,
    read_line,
)
from migrated.fleet.discovery import assign
from migrated.system.file_locks import DAEMON, lock_in, read_note
from migrated.system.files import by_folder

_LONGEST_ANSWER = 2**26


class TooSlowError(OSError):
    """A daemon accepted the connection but did not answer in time."""


def sockets(databases: Iterable[str]) -> dict[str, list[str]]:
    """Return the sockets of the daemons of these databases, each with its databases.

    The paths come from the notes in the daemons' lock files. A note outlives its daemon, so a socket may not
    exist.
    """
    found: dict[str, list[str]] = {}
    for folder, theirs in by_folder(databases).items():
        name = read_note(lock_in(folder, DAEMON)).get(SOCKET_KEY)
        # The note may be damaged or of another version: a NUL would raise ValueError in connect().
        if isinstance(name, str) and os.path.isabs(name) and "\0" not in name:
            found.setdefault(name, []).extend(theirs)
    return found


def ask(path: str, timeout: float | None = ANSWER_TIMEOUT_SECONDS, /, **request: object) -> dict[str, Any]:
    """Send one request to the daemon listening at `path` and return its answer, which may be an error.

    Raises `TooSlowError` after `timeout` seconds, `OSError` if no daemon listens, the answer is invalid, or the
    daemon belongs to another user.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.settimeout(ANSWER_TIMEOUT_SECONDS)
            with address_of(path) as address:
                channel.connect(address)
            _require_trust(channel, path)
            # A daemon with too many connections answers and closes without reading the request. Its answer must
            # still be read.
            with suppress(BrokenPipeError):
                channel.sendall(line_of(request))
            line = read_line(channel, _LONGEST_ANSWER, deadline)
        except (TimeoutError, BlockingIOError) as error:
            # connect() fails with EAGAIN (BlockingIOError) while the daemon's backlog is full.
            raise TooSlowError(f"the daemon at {path} did not answer in time") from error
        except ValueError as error:
            raise OSError(f"invalid answer from {path}: {error}") from error
    return _parsed(line, path)


def _parsed(line: bytes, path: str) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise OSError(f"invalid answer from {path}: expected a JSON object")
    return answer


def _require_trust(channel: socket.socket, path: str) -> None:
    # Root may talk to every daemon; a user only to their own and to root's. Another user's process could have
    # created the socket, and would receive the request and forge the answer.
    user, own = peer_uid(channel), os.geteuid()
    if own not in {0, user} and user != 0:
        raise PermissionError(f"the socket {path} belongs to another user (uid {user})")


Answer = dict[str, Any]
PROMPT_ANSWER_SECONDS = 10.0
"""Timeout for requests that a daemon answers at once, unless the machine is very busy."""
_NO_DAEMON = "no daemon that manages these databases is running"
_HINT = "check that one is running as this user: `migrated status`; see `migrated help control`"
_ERRORS: dict[str, type[MigrationError]] = {
    ConfigError.code: ConfigError,
    LockHeldError.code: LockHeldError,
    "UNKNOWN_DATABASE": DatabaseError,
    "PAUSED": RefusedError,
}


def paths(config: Config) -> list[str]:
    """Return the paths of all configured databases."""
    return [database.path for _, databases in assign(config.targets) for database in databases]


def statuses(databases: Sequence[str], warn: Callable[[str], None]) -> list[Answer]:
    """Return the live status of every daemon that manages one of these databases.

    `warn` gets a message for each daemon that did not answer in time. Daemons that do not run are skipped.
    """
    found = []
    for address, theirs in sockets(databases).items():
        request = {"request": "status", "databases": theirs}
        # With too many paths for one request, ask for all databases of the daemon instead.
        fits = len(protocol.line_of(request)) <= protocol.LONGEST_REQUEST
        try:
            answer = ask(address, **(request if fits else {"request": "status"}))
        except TooSlowError as error:
            warn(f"no live status from one daemon: {error}")
            continue
        except OSError:
            continue
        if answer.get("ok") is True and answer.get("version") == protocol.PROTOCOL:
            found.append(answer)
    return found


def ask_every(config: Config, timeout: float | None, /, **request: object) -> None:
    """Send a request to the daemons of all configured databases.

    Raises `NoDaemonError` if no daemon runs or one does not answer in time. Raises the daemon's own error as soon
    as one declines; the daemons after it are not asked.
    """
    asked = 0
    for address in sockets(paths(config)) or _by_configuration(config):
        try:
            _accepted(ask(address, timeout, **request))
        except TooSlowError as error:
            raise NoDaemonError(str(error), hint="the process is running, but it hangs or is suspended") from error
        except OSError:
            # The daemon has ended. The note in its lock file remains and names a socket that is gone.
            continue
        asked += 1
    if not asked:
        raise NoDaemonError(_NO_DAEMON, hint=_HINT)


def ask_about(database: str, /, **request: object) -> Answer:
    """Send a request to the daemon of one database and return its answer, waiting without a limit.

    Raises `NoDaemonError` if no daemon manages the database, and the daemon's own error if it declines.
    """
    for address in sockets([database]):
        try:
            return _accepted(ask(address, None, **request))
        except OSError:
            continue
    raise NoDaemonError(f"no daemon that manages {database} is running", hint=_HINT)


def _by_configuration(config: Config) -> Iterator[str]:
    """Yield the sockets of daemons that were started with the same configuration file.

    Needed when the file was edited and now names other databases than those whose lock files name the daemon.
    """
    for folder in protocol.runtime_directories():
        for address in sorted(map(str, folder.glob("control-*.sock"))):
            try:
                answer = ask(address, request="status")
            except OSError:
                continue
            if os.path.isabs(config.source) and answer.get("daemon", {}).get("config") == config.source:
                yield address


def _accepted(answer: Answer) -> Answer:
    if answer.get("ok") is True:
        return answer
    error = answer.get("error") or {}
    kind = _ERRORS.get(error.get("code", ""), NoDaemonError)
    raise kind(error.get("message", "the daemon declined the request"), hint=error.get("hint"))
