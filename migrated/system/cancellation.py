"""Cancellation and heartbeats between a working thread and the thread that waits for it."""

import math


class CancelToken:
    """Stop requests to a piece of work, and heartbeats back from it.

    Every method only sets or reads fields, so all are safe in any thread and in a signal handler. Times are
    seconds of one monotonic clock, read by the callers.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.heartbeats = 0
        self._must_end_at = math.inf
        self._requested = False
        self._paused = False

    def stop(self, reason: str, must_end_at: float) -> None:
        """Request that no further step starts, and that the running one ends by `must_end_at`."""
        self.reason = reason
        self._must_end_at = min(self._must_end_at, must_end_at)
        self._requested = True

    def interrupt(self) -> None:
        """Request that the running step is aborted now."""
        self._must_end_at = -math.inf

    def pause(self) -> None:
        """Request that no further step starts until `resume`; the running one has no deadline."""
        self._paused = True
        self.reason = self.reason or "paused"

    def resume(self) -> None:
        """Undo `pause`."""
        self._paused = False
        self.reason = self.reason if self._requested else ""

    def stop_requested(self) -> bool:
        """True if no further step should start: stopping or paused."""
        return self._requested or self._paused

    def is_stopping(self) -> bool:
        """True after `stop`; a pause does not count."""
        return self._requested

    def deadline_passed(self, now: float) -> bool:
        """True if the running step should be aborted and rolled back."""
        return now >= self._must_end_at

    def beat(self) -> None:
        """Count one heartbeat: the work makes progress."""
        self.heartbeats += 1

    # Names of earlier versions, kept for programs that use the library.

    @property
    def beats(self) -> int:
        """The former name of `heartbeats`."""
        return self.heartbeats

    def must_end(self, now: float) -> bool:
        """The former name of `deadline_passed`."""
        return self.deadline_passed(now)


Supervision = CancelToken
"""The former name of `CancelToken`."""
