"""Whether to tell the service manager that we live: a loop that is well must not cover up a hung worker."""

import math


class Pulse:
    """Due twice within `interval` seconds; never where that is None.

    The worker counts as hung once it is at work and gave no new sign for as long as the interval.
    """

    def __init__(self, interval: float | None, now: float) -> None:
        self._interval = interval or math.inf
        self._signs: object = None
        self._alive_at = now
        self.look_at = now if interval else math.inf

    def take(self, now: float, signs: object) -> bool:
        """Whether to tell it now. `signs` differ whenever the worker advanced, and are None while it is idle."""
        self.look_at = now + self._interval / 2
        if signs is None or signs != self._signs:
            self._signs, self._alive_at = signs, now
        return now - self._alive_at < self._interval
