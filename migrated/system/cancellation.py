"""What the thread that works and the thread that waits for it tell each other."""

import math


class CancelToken:
    """One piece of work, supervised: a request to stop goes one way, signs of life come back.

    Every method only sets or reads a field, so that any may be called from any thread and from a signal
    handler. Times are seconds of one monotonic clock, which the callers read.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.heartbeats = 0
        self._must_end_at = math.inf
        self._requested = False
        self._paused = False

    def stop(self, reason: str, must_end_at: float) -> None:
        """Ask that nothing more begins, and that what is running ends by itself until `must_end_at`."""
        self.reason = reason
        self._must_end_at = min(self._must_end_at, must_end_at)
        self._requested = True

    def interrupt(self) -> None:
        """Ask that what is running ends now."""
        self._must_end_at = -math.inf

    def pause(self) -> None:
        """Ask that nothing more begins until `resume`; what is running may take as long as it likes."""
        self._paused = True
        self.reason = self.reason or "paused"

    def resume(self) -> None:
        """Take back a `pause`."""
        self._paused = False
        self.reason = self.reason if self._requested else ""

    def stop_requested(self) -> bool:
        """Whether nothing more should begin, for now or for good."""
        return self._requested or self._paused

    def is_stopping(self) -> bool:
        """Whether nothing more should begin, for good."""
        return self._requested

    def deadline_passed(self, now: float) -> bool:
        """Whether what is running should be interrupted and undone."""
        return now >= self._must_end_at

    def beat(self) -> None:
        """Give a sign of life: the work advances."""
        self.heartbeats += 1

    # Names of earlier versions, for programs that use the library.

    @property
    def beats(self) -> int:
        """The former name of `heartbeats`."""
        return self.heartbeats

    def must_end(self, now: float) -> bool:
        """The former name of `deadline_passed`."""
        return self.deadline_passed(now)


Supervision = CancelToken
"""The former name of `CancelToken`."""
