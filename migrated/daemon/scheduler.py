"""Timers without a clock: retries, repeated complaints, debounced events, and systemd's watchdog."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_RETRY = 1.0
LONGEST_RETRY = 300.0
FIRST_REPETITION = 60.0
LONGEST_REPETITION = 900.0


def retry_delay(failures: int, random: Callable[[], float]) -> float:
    """Seconds until the next try after so many failures in a row: doubling, capped, half of it random.

    `random` gives numbers from 0 to 1, so that many databases do not come back at the same moment.
    """
    longest = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 32))
    return float(longest * (0.5 + random() / 2))


@dataclass(slots=True)
class RepeatTimer:
    """One standing cause: told at once, then at doubling intervals of at most 15 minutes.

    `repeated` counts the tellings after the first.
    """

    repeated: int = 0
    _cause: str | None = None
    _next: float = 0.0
    _interval: float = FIRST_REPETITION

    @property
    def has_logged(self) -> bool:
        """Whether there was ever a cause to tell."""
        return self._cause is not None

    def should_log(self, cause: str, now: float) -> bool:
        """Whether to tell it now. Another cause is told at once."""
        if cause != self._cause:
            self._cause, self.repeated, self._interval = cause, 0, FIRST_REPETITION
        elif now < self._next:
            return False
        else:
            self.repeated += 1
            self._interval = min(self._interval * 2, LONGEST_REPETITION)
        self._next = now + self._interval
        return True


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What can be told of a database without opening it. `identity` changes when the file is another one."""

    identity: tuple[int, ...] | None
    content: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BackOff:
    """Why a database in trouble is left alone for now: what was tried, on which file, and until when."""

    migrations: int
    database: Fingerprint
    until: float
    permanent: bool
    at_latest: float = math.inf

    @property
    def due_at(self) -> float:
        """When it should be tried though nothing changed; never, for a permanent failure."""
        return self.at_latest if self.permanent else self.until

    def is_over(self, migrations: int, database: Fingerprint, now: float) -> bool:
        """Whether to try again: at once when the migrations or the file are others, else when it is time.

        A permanent failure also waits until somebody wrote to the database, or for `at_latest`.
        """
        if migrations != self.migrations or database.identity != self.database.identity:
            return True
        if now < self.until:
            return False
        if now >= self.at_latest:
            return True
        return not self.permanent or database != self.database


QUICK_SECONDS = 0.002
"""How long a directory must be quiet where all that changed is one file: in a burst the next one comes sooner."""
LONGEST_TO_SHORTEN = 0.05
"""Who asks for more quiet than that wants it in any case."""


@dataclass(slots=True)
class Debouncer:
    """Due once `quiet` seconds passed without a change, and at the latest `maximum` after the first one.

    While only one file changed it is due `quickly` before that, for who finds that it can be taken by itself.
    """

    quiet: float
    maximum: float
    _first: float | None = None
    _last: float = 0.0
    _names: set[str] = field(default_factory=set)
    _full_delay: bool = False

    def event(self, now: float, name: str | None = None) -> None:
        """Take a change into account: of the file `name`, of none if that is empty, of any if it is not known."""
        if self._first is None:
            self._first, self._full_delay = now, self.quiet > LONGEST_TO_SHORTEN
            self._names.clear()
        self._last = now
        if name:
            self._names.add(name)
        if name is None or len(self._names) > 1:
            self._full_delay = True

    def single_file(self, now: float) -> str | None:
        """The file to be taken by itself, once it is time for that."""
        due = self._first is not None and not self._full_delay and now >= self._last + QUICK_SECONDS
        return next(iter(self._names), None) if due else None

    def use_full_delay(self) -> None:
        """It is no file to be taken by itself."""
        self._full_delay = True

    def due_at(self) -> float | None:
        """When to act; None while nothing changed."""
        if self._first is None:
            return None
        is_quick = self._names and not self._full_delay
        quiet = min(self.quiet, QUICK_SECONDS) if is_quick else self.quiet
        return min(self._last + quiet, self._first + self.maximum)

    def fire(self, now: float) -> bool:
        """Whether to act now; if so, the burst is over."""
        if not self.is_due(now):
            return False
        self._first = None
        return True

    def is_due(self, now: float) -> bool:
        """Whether to act now; a change that is noticed may put that off, up to the maximum."""
        due = self.due_at()
        return due is not None and now >= due


class WatchdogPinger:
    """Due twice within `interval` seconds; never where that is None.

    The worker counts as hung once it is at work and gave no new sign for as long as the interval.
    """

    def __init__(self, interval: float | None, now: float) -> None:
        self._interval = interval or math.inf
        self._progress_token: object = None
        self._alive_at = now
        self.check_at = now if interval else math.inf

    def should_ping(self, now: float, progress_token: object) -> bool:
        """Whether to tell it now. `signs` differ whenever the worker advanced, and are None while it is idle."""
        self.check_at = now + self._interval / 2
        if progress_token is None or progress_token != self._progress_token:
            self._progress_token, self._alive_at = progress_token, now
        return now - self._alive_at < self._interval
