"""Server of the control socket.

Its threads own no state of the daemon: they read a request, post it to the main loop, and send the answer. A
client can delay neither the loop nor the end of the daemon: each connection has its own thread and limits on time
and length, and the number of connections is limited.
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
"""How many connections may wait for a slow answer. The rest stays free for `status` requests."""
CLIENT_TIMEOUT_SECONDS = 5.0
"""How long a client may take to send its request, and to read the answer."""
# How often a waiting thread checks whether the daemon stops or the client has gone.
_LOOK_UP_SECONDS = 0.25
_BUSY = declined("too many connections", "try again", "BUSY")


class ControlSocket:
    """Listens for requests. The main thread opens and closes it; `post` is called in other threads."""

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
        """Listen, unless already listening, and return the socket's path.

        `lock` is the path of a daemon lock that we hold. A socket that was deleted or replaced is created again.
        Raises `OSError` if no directory is suitable for the socket.
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
        """Stop listening and remove the socket. Waiting clients get the answer STOPPING.

        Connection threads are not joined: a client that does not read must not delay the end of the daemon.
        """
        if self._listener is None or self._thread is None or self.path is None:
            return
        self._closing.set()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        # Closing a listening socket does not wake a thread blocked in accept(); shutdown() does.
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
                # For example out of descriptors. Wait, because accept() fails again at once and would spin.
                self._closing.wait(_LOOK_UP_SECONDS)
                continue
            self._connected.add(channel)
            try:
                if len(self._connected) > MOST_CONNECTIONS:
                    # Timeout 0: the accepting thread must not wait for a client.
                    self._send(channel, _BUSY, 0)
                    self._drop(channel)
                else:
                    threading.Thread(target=self._serve, args=(channel,), daemon=True).start()
            except RuntimeError:
                # The system has no more threads.
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
        """Wait for the loop's answer. Return None if the client has disconnected."""
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
    """Return the directory for the socket of the daemon that holds `lock`, creating it if needed.

    The first usable one of systemd's `$RUNTIME_DIRECTORY`, `$XDG_RUNTIME_DIR/migrated`, and `control` beside the
    lock. Raises `OSError` if none can be created, or if others could replace the socket there.
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
    # As root, the directory beside the lock belongs to the owner of the databases, which is as it should be.
    owner = beside.parent.stat().st_uid if os.geteuid() == 0 else os.geteuid()
    _require_ours(beside, owner)
    return beside


def socket_in(folder: Path) -> Path:
    """Return the path of this process's socket."""
    return folder / f"control-{os.getpid()}.sock"


def remove_stale(folder: Path) -> None:
    """Remove the sockets of daemons that were killed. The caller must hold a daemon lock.

    A socket gets its final name only after listen(). Therefore one that refuses connections has no daemon.
    """
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.is_socket() and _refuses(path):
            with suppress(OSError):
                path.unlink()


def listen(path: Path, backlog: int) -> socket.socket:
    """Create a listening socket at `path` that only our own user and root can connect to. Raises `OSError`."""
    unnamed = path.with_name(f".{path.name}")
    unnamed.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Set the mode before bind() creates the file, so that others can connect at no moment.
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
