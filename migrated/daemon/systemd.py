"""Notifications to systemd (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)."""

import math
import os
import socket
import time
from collections.abc import Callable

_SEND_TIMEOUT_SECONDS = 1.0


def notify(*fields: str) -> None:
    """Send `NAME=value` fields to `$NOTIFY_SOCKET`. Does nothing without one; never raises `OSError`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ stands for Linux's abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    # A line end within a value would start another field.
    message = "\n".join(field.replace("\n", " ") for field in fields).encode(errors="replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # The queue of a datagram socket is short. A receiver that does not read must not block the main loop.
            channel.settimeout(_SEND_TIMEOUT_SECONDS)
            channel.connect(target)
            channel.send(message)
    except OSError:
        # Failing to notify the service manager must not end the service.
        return


def watchdog_interval() -> float | None:
    """Return the seconds without `WATCHDOG=1` after which systemd kills us; None without such a limit.

    `$WATCHDOG_PID` naming another process means that the limit is not ours: a wrapper passed the environment on.
    """
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1_000_000 or None
    except ValueError:
        return None


def reloading() -> None:
    """Tell systemd that a reload began.

    systemd 253 and later (`Type=notify-reload`) wait until they time out if `MONOTONIC_USEC` is missing.
    """
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


_INTERVAL_SECONDS = 0.2
"""Shortest time between two updates. Composing the text costs time for every database, so without a limit a pass
over ten thousand databases would take quadratic time."""


class StatusLine:
    """Sends `STATUS=` to systemd soon after `changed` was called, if `compose` returns a new text."""

    def __init__(self, compose: Callable[[], str]) -> None:
        self._compose = compose
        self._sent: str | None = None
        self._next_at = 0.0
        self._is_stale = False

    def changed(self) -> None:
        """Note that the text may have changed."""
        self._is_stale = True

    def due_at(self) -> float:
        """Return when to call `update`; infinity while nothing changed."""
        return self._next_at if self._is_stale else math.inf

    def update(self, now: float) -> None:
        """Send the text if it changed and the update is due."""
        if now < self.due_at():
            return
        self._is_stale, self._next_at = False, now + _INTERVAL_SECONDS
        text = self._compose()
        if text != self._sent:
            self._send(text)

    def send(self, *fields: str) -> str:
        """Send the text now, together with other fields, and return it."""
        self._is_stale = False
        text = self._compose()
        self._send(text, *fields)
        return text

    def _send(self, text: str, *fields: str) -> None:
        self._sent = text
        notify(f"STATUS={text}", *fields)
