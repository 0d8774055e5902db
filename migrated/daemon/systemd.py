"""Notifications to systemd (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)."""

import math
import os
import socket
import time
from collections.abc import Callable

_SEND_TIMEOUT_SECONDS = 1.0


def notify(*fields: str) -> None:
    """Send `NAME=value` fields to `$NOTIFY_SOCKET`; without one, or when nobody listens, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ stands for Linux's abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    message = "\n".join(field.replace("\n", " ") for field in fields).encode(errors="replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # Its queue is short; one who does not read it must not hold us up.
            channel.settimeout(_SEND_TIMEOUT_SECONDS)
            channel.connect(target)
            channel.send(message)
    except OSError:
        # The service manager's ear is not worth the service's life.
        return


def watchdog_interval() -> float | None:
    """After how many seconds without `WATCHDOG=1` systemd ends us; None when it does not, or watches another."""
    pid = os.environ.get("WATCHDOG_PID")
    if pid and pid != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1_000_000 or None
    except ValueError:
        return None


def reloading() -> None:
    """Say that a reload began. systemd 253 and later wait in vain when the time is missing."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


_INTERVAL_SECONDS = 0.2
"""Ten thousand databases, one after the other, must not be ten thousand lines, each made from all of them."""


class StatusLine:
    """Sends `STATUS=` whenever `compose` gives another text, soon after `changed` was called."""

    def __init__(self, compose: Callable[[], str]) -> None:
        self._compose = compose
        self._sent: str | None = None
        self._next_at = 0.0
        self._is_stale = False

    def changed(self) -> None:
        """The text may be another one now."""
        self._is_stale = True

    def due_at(self) -> float:
        """When to call `look`; infinite while nothing changed."""
        return self._next_at if self._is_stale else math.inf

    def look(self, now: float) -> None:
        """Send it, if it is another one and it is time."""
        if now < self.due_at():
            return
        self._is_stale, self._next_at = False, now + _INTERVAL_SECONDS
        text = self._compose()
        if text != self._sent:
            self._send(text)

    def send(self, *fields: str) -> str:
        """Send it now, with other fields, and return it."""
        self._is_stale = False
        text = self._compose()
        self._send(text, *fields)
        return text

    def _send(self, text: str, *fields: str) -> None:
        self._sent = text
        notify(f"STATUS={text}", *fields)
