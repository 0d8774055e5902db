"""The control socket. Its threads own nothing: they read a request, post it to the loop, and send its answer.

Nobody who connects can hold up the loop, or us at the end: each connection has a thread of its own, and limits of
time and length, and there are few of them.
"""

import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from migrated.daemon.control.protocol import (
    LONGEST_REQUEST,
    QUICK,
    Answer,
    PendingRequest,
    address_of,
    declined,
    line_of,
    parse,
    peer_uid,
    read_line,
    runtime_directories,
)
from migrated.system.permissions import give_to_owner_of

MOST_CONNECTIONS = 16
MOST_WAITING = 8
"""Of these, how many may be waiting for something to come to its end."""
CLIENT_TIMEOUT_SECONDS = 5.0
"""How long one may take to send its request, and to read the answer."""
_LOOK_UP_SECONDS = 0.25
_BUSY = declined("too many connections", "try again", "BUSY")


class ControlSocket:
    """Opened and closed by the loop's thread. `post` is called in others."""

    def __init__(self, post: Callable[[PendingRequest], None]) -> None:
        self._post = post
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._connected: set[socket.socket] = set()
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._closing = threading.Event()
        self._identity: tuple[int, int] | None = None
        self.path: Path | None = None

    def ensure(self, lock: str) -> Path:
        """Listen, if that is not so, and return where. `lock` is the path of a daemon's lock that we hold.

        Raises `OSError` when there is no place for the socket.
        """
        if self.path is not None and _identity(self.path) == self._identity:
            return self.path
        self.close()
        folder = socket_directory(lock)
        remove_stale(folder)
        path = socket_in(folder)
        self._listener = listen(path, MOST_CONNECTIONS)
        self._closing.clear()
        self._thread = threading.Thread(
            target=self._accept, args=(self._listener,), name="migrated-control", daemon=True
        )
        self._thread.start()
        self.path, self._identity = path, _identity(path)
        return path

    def close(self) -> None:
        """Listen no more. Those who wait for an answer are told so, and are not waited for."""
        if self._listener is None or self._thread is None or self.path is None:
            return
        self._closing.set()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        # Wakes the thread within accept(), which closing alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(CLIENT_TIMEOUT_SECONDS)
        self._listener.close()
        self._listener = self._thread = self.path = None

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                channel, _ = listener.accept()
            except OSError:
                # Out of descriptors, say: it must not turn in a circle for that.
                self._closing.wait(_LOOK_UP_SECONDS)
                continue
            self._connected.add(channel)
            try:
                if len(self._connected) > MOST_CONNECTIONS:
                    self._send(channel, _BUSY, 0)
                    self._drop(channel)
                else:
                    threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
            except RuntimeError:
                # No more threads.
                self._drop(channel)

    def _serve(self, channel: socket.socket) -> None:
        try:
            answer = self._answer(channel)
            if answer is not None:
                self._send(channel, answer, CLIENT_TIMEOUT_SECONDS)
        except OSError:
            return
        finally:
            self._drop(channel)

    def _answer(self, channel: socket.socket) -> Answer | None:
        if peer_uid(channel) not in {0, os.geteuid()}:
            return declined("only the daemon's own user and root can send requests", code="NOT_ALLOWED")
        try:
            request = parse(read_line(channel, LONGEST_REQUEST, time.monotonic() + CLIENT_TIMEOUT_SECONDS))
        except TimeoutError:
            return declined(f"no request received within {CLIENT_TIMEOUT_SECONDS:g} s")
        except ValueError as error:
            return declined(str(error))
        pending = PendingRequest(request)
        if request.name in QUICK:
            self._post(pending)
            return self._wait(channel, pending, time.monotonic() + CLIENT_TIMEOUT_SECONDS)
        if not self._waiting.acquire(blocking=False):
            return _BUSY
        try:
            self._post(pending)
            return self._wait(channel, pending, None)
        finally:
            self._waiting.release()

    def _wait(self, channel: socket.socket, pending: PendingRequest, until: float | None) -> Answer | None:
        """The loop's answer; None when nobody is there any more to read it."""
        while True:
            try:
                return pending.answer.result(timeout=_LOOK_UP_SECONDS)
            except TimeoutError:
                if self._closing.is_set():
                    return declined("the daemon is stopping", code="STOPPING")
                if _hung_up(channel):
                    pending.is_abandoned = True
                    return None
                if until is not None and time.monotonic() >= until:
                    return declined("the daemon did not answer in time", code="BUSY")

    def _send(self, channel: socket.socket, answer: Answer, timeout: float) -> None:
        channel.settimeout(timeout)
        with suppress(OSError):
            channel.sendall(line_of(answer))

    def _drop(self, channel: socket.socket) -> None:
        self._connected.discard(channel)
        channel.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _hung_up(channel: socket.socket) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


_NAME = re.compile(r"\.?control-[0-9]+\.sock")
_WRITABLE_BY_OTHERS = 0o022


def socket_directory(lock: str) -> Path:
    """A directory for the socket of the daemon that holds the lock at this path. Raises `OSError` for want of one.

    That is systemd's `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/migrated`, else one beside the lock.
    """
    for candidate in runtime_directories():
        with suppress(OSError):
            candidate.mkdir(mode=0o700, exist_ok=True)
            _require_ours(candidate, os.geteuid())
            return candidate
    beside = Path(lock).parent / "control"
    if not beside.exists():
        beside.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of(beside.parent, beside)
    # Root works in the directories of others.
    owner = beside.parent.stat().st_uid if os.geteuid() == 0 else os.geteuid()
    _require_ours(beside, owner)
    return beside


def socket_in(folder: Path) -> Path:
    """The path of this process's socket."""
    return folder / f"control-{os.getpid()}.sock"


def remove_stale(folder: Path) -> None:
    """Remove the sockets of daemons that ended without doing so. Only for one who holds the lock of a daemon.

    Ours are connected to as soon as they have their name, so that one which refuses has nobody behind it.
    """
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.is_socket() and _refuses(path):
            with suppress(OSError):
                path.unlink()


def listen(path: Path, backlog: int) -> socket.socket:
    """Listen there, for our own user and root alone. Raises `OSError`."""
    unnamed = path.with_name(f".{path.name}")
    unnamed.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Before it has a name: there is no moment at which others could connect.
        os.fchmod(listener.fileno(), 0o600)
        with address_of(os.fspath(unnamed)) as address:
            listener.bind(address)
        listener.listen(backlog)
        unnamed.rename(path)
    except OSError:
        listener.close()
        raise
    return listener


def _require_ours(folder: Path, owner: int) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{folder} is not a directory")
    if status.st_uid not in {owner, os.geteuid()} or status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(f"{folder} is owned by another user, or other users can write to it")


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as channel:
        try:
            with address_of(os.fspath(path)) as address:
                channel.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
