"""Timers for retries, repeated log lines, debounced file events and systemd's watchdog.

No timer reads a clock: each method gets the time, in seconds of one monotonic clock.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_RETRY = 1.0
LONGEST_RETRY = 300.0
FIRST_REPETITION = 60.0
LONGEST_REPETITION = 900.0


def retry_delay(failures: int, random: Callable[[], float]) -> float:
    """Return the seconds until the next try after `failures` failures in a row.

    The delay doubles from `FIRST_RETRY` up to `LONGEST_RETRY`. Half of it is random, so that many databases are
    not retried at the same moment. `random` returns numbers from 0 to 1.
    """
    # Without a cap on the exponent, 2.0 ** 1024 raises OverflowError.
    longest = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 32))
    return float(longest * (0.5 + random() / 2))


@dataclass(slots=True)
class RepeatTimer:
    """Decides when to log a lasting problem: at once, then at doubling intervals of 1 to 15 minutes.

    `repeated` is the number of repetitions after the first line.
    """

    repeated: int = 0
    _cause: str | None = None
    _next: float = 0.0
    _interval: float = FIRST_REPETITION

    @property
    def has_logged(self) -> bool:
        """True once a cause was logged."""
        return self._cause is not None

    def should_log(self, cause: str, now: float) -> bool:
        """Return True if `cause` must be logged now, and re-arm the timer. A new cause is logged at once."""
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
    """What stat() says of a database file. `identity` (device, inode) changes when the file is replaced."""

    identity: tuple[int, ...] | None
    content: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BackOff:
    """When to retry a failed database: which migrations were tried, on which file, and until when to wait."""

    migrations: int
    database: Fingerprint
    until: float
    permanent: bool
    at_latest: float = math.inf

    @property
    def due_at(self) -> float:
        """Time of the next retry without an outside change; `at_latest` after a permanent failure."""
        return self.at_latest if self.permanent else self.until

    def is_over(self, migrations: int, database: Fingerprint, now: float) -> bool:
        """Return True if the database should be tried again.

        That is at once if the migrations changed or the file was replaced, otherwise after `until`. After a
        permanent failure somebody must also have written to the database, unless `at_latest` has passed.
        """
        if migrations != self.migrations or database.identity != self.database.identity:
            return True
        if now < self.until:
            return False
        if now >= self.at_latest:
            return True
        return not self.permanent or database != self.database


QUICK_SECONDS = 0.002
"""Quiet time required after a change of a single file. In a burst, the next event comes sooner than that."""
LONGEST_TO_SHORTEN = 0.05
"""A configured quiet time above this is never shortened: the user chose it on purpose."""


@dataclass(slots=True)
class Debouncer:
    """Debounces file events: due `quiet` seconds after the last one, at most `maximum` after the first one.

    While all events concern a single file, it is due after `QUICK_SECONDS` already, unless the caller finds in
    `single_file` that this file needs the full delay and calls `use_full_delay`.
    """

    quiet: float
    maximum: float
    _first: float | None = None
    _last: float = 0.0
    _names: set[str] = field(default_factory=set)
    _full_delay: bool = False

    def event(self, now: float, name: str | None = None) -> None:
        """Note an event for file `name`; "" means that no migration changed, None that any file may have."""
        if self._first is None:
            self._first, self._full_delay = now, self.quiet > LONGEST_TO_SHORTEN
            self._names.clear()
        self._last = now
        if name:
            self._names.add(name)
        # With two files, more of a checkout or a copy may follow.
        if name is None or len(self._names) > 1:
            self._full_delay = True

    def single_file(self, now: float) -> str | None:
        """Return the only file that changed, once `QUICK_SECONDS` have passed; None otherwise."""
        due = self._first is not None and not self._full_delay and now >= self._last + QUICK_SECONDS
        return next(iter(self._names), None) if due else None

    def use_full_delay(self) -> None:
        """Require the full quiet time for the current burst."""
        self._full_delay = True

    def due_at(self) -> float | None:
        """Return when to act; None without pending events."""
        if self._first is None:
            return None
        is_quick = self._names and not self._full_delay
        quiet = min(self.quiet, QUICK_SECONDS) if is_quick else self.quiet
        return min(self._last + quiet, self._first + self.maximum)

    def fire(self, now: float) -> bool:
        """Return True if it is time to act, and end the burst."""
        if not self.is_due(now):
            return False
        self._first = None
        return True

    def is_due(self, now: float) -> bool:
        """True if it is time to act. A further event postpones that, up to the maximum."""
        due = self.due_at()
        return due is not None and now >= due


class WatchdogPinger:
    """Decides when to send `WATCHDOG=1`: twice in each `interval` of seconds; never if that is None.

    A busy worker whose progress token stays the same for a whole interval counts as hung. No pings are sent then,
    and systemd restarts the daemon.
    """

    def __init__(self, interval: float | None, now: float) -> None:
        self._interval = interval or math.inf
        self._progress_token: object = None
        self._alive_at = now
        self.check_at = now if interval else math.inf

    def should_ping(self, now: float, progress_token: object) -> bool:
        """Return True if the worker is alive. `progress_token` changes as it advances; None while it is idle."""
        self.check_at = now + self._interval / 2
        if progress_token is None or progress_token != self._progress_token:
            self._progress_token, self._alive_at = progress_token, now
        return now - self._alive_at < self._interval
