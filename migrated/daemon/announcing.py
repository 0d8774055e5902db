"""The line of `systemctl status`, kept current."""

import math
from collections.abc import Callable

from migrated.daemon import systemd

_INTERVAL_SECONDS = 0.2
"""Ten thousand databases, one after the other, must not be ten thousand lines, each made from all of them."""


class Status:
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
        systemd.notify(f"STATUS={text}", *fields)
