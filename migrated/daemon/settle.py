"""Times -> "now" or "not before": waiting until a burst of changes is over, but not for ever."""

from dataclasses import dataclass


@dataclass(slots=True)
class Settle:
    """Due once `quiet` seconds passed without a change, and at the latest `maximum` after the first one."""

    quiet: float
    maximum: float
    _first: float | None = None
    _last: float = 0.0

    def notice(self, now: float) -> None:
        """Take a change into account."""
        if self._first is None:
            self._first = now
        self._last = now

    def due_at(self) -> float | None:
        """When to act; None while nothing changed."""
        if self._first is None:
            return None
        return min(self._last + self.quiet, self._first + self.maximum)

    def take(self, now: float) -> bool:
        """Whether to act now; if so, the burst is over."""
        if not self.is_due(now):
            return False
        self._first = None
        return True

    def is_due(self, now: float) -> bool:
        """Whether to act now; a change that is noticed may put that off, up to the maximum."""
        due = self.due_at()
        return due is not None and now >= due
