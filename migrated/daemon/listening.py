"""The control socket. Its threads own nothing: they read a request, post it to the loop, and send its answer.

Nobody who connects can hold up the loop, or us at the end: each connection has a thread of its own, and limits of
time and length, and there are few of them.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from migrated.control import LONGEST_REQUEST, line_of, read_line, user_at_other_end
from migrated.daemon import places
from migrated.daemon.asking import QUICK, Answer, Asked, declined, parse

MOST_CONNECTIONS = 16
MOST_WAITING = 8
"""Of these, how many may be waiting for something to come to its end."""
PATIENCE_SECONDS = 5.0
"""How long one may take to send its request, and to read the answer."""
_LOOK_UP_SECONDS = 0.25
_BUSY = declined("too many connections", "try again", "BUSY")


class ControlSocket:
    """Opened and closed by the loop's thread. `post` is called in others."""

    def __init__(self, post: Callable[[Asked], None]) -> None:
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
        folder = places.folder_for(lock)
        places.remove_stale(folder)
        path = places.socket_in(folder)
        self._listener = places.listen(path, MOST_CONNECTIONS)
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
        self._thread.join(PATIENCE_SECONDS)
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
                self._send(channel, answer, PATIENCE_SECONDS)
        except OSError:
            return
        finally:
            self._drop(channel)

    def _answer(self, channel: socket.socket) -> Answer | None:
        if user_at_other_end(channel) not in {0, os.geteuid()}:
            return declined("only the daemon's own user and root may ask", code="NOT_ALLOWED")
        try:
            request = parse(read_line(channel, LONGEST_REQUEST, time.monotonic() + PATIENCE_SECONDS))
        except TimeoutError:
            return declined(f"no request within {PATIENCE_SECONDS:g} s")
        except ValueError as error:
            return declined(str(error))
        asked = Asked(request)
        if request.name in QUICK:
            self._post(asked)
            return self._wait(channel, asked, time.monotonic() + PATIENCE_SECONDS)
        if not self._waiting.acquire(blocking=False):
            return _BUSY
        try:
            self._post(asked)
            return self._wait(channel, asked, None)
        finally:
            self._waiting.release()

    def _wait(self, channel: socket.socket, asked: Asked, until: float | None) -> Answer | None:
        """The loop's answer; None when nobody is there any more to read it."""
        while True:
            try:
                return asked.answer.result(timeout=_LOOK_UP_SECONDS)
            except TimeoutError:
                if self._closing.is_set():
                    return declined("the daemon is stopping", code="STOPPING")
                if _hung_up(channel):
                    asked.is_given_up = True
                    return None
                if until is not None and time.monotonic() >= until:
                    return declined("no answer in time", code="BUSY")

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
