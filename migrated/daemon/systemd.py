"""Telling systemd how the service is (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)."""

import os
import socket
import time

_PATIENCE_SECONDS = 1.0


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
            channel.settimeout(_PATIENCE_SECONDS)
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
