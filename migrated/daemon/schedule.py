"""When to try again, and when to complain again."""

import math
from collections.abc import Callable
from dataclasses import dataclass

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
class Complaint:
    """One standing cause: told at once, then at doubling intervals of at most 15 minutes.

    `repeated` counts the tellings after the first.
    """

    repeated: int = 0
    _cause: str | None = None
    _next: float = 0.0
    _interval: float = FIRST_REPETITION

    @property
    def is_made(self) -> bool:
        """Whether there was ever a cause to tell."""
        return self._cause is not None

    def is_due(self, cause: str, now: float) -> bool:
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
class Rest:
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
