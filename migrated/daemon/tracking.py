"""What the daemon remembers of each database, and what it says of it."""

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from migrated import events
from migrated.daemon.passes import Visited
from migrated.daemon.schedule import LONGEST_RETRY, Complaint, Rest, retry_delay
from migrated.discovery import DatabasePath
from migrated.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationError,
    MigrationNotFoundError,
    RefusedError,
    UnfinishedError,
)
from migrated.fleet import Outcome, Result, report_end, report_error
from migrated.logs import Log, failure_keys

_STATUS_WIDTH = 100
_TROUBLE = {Result.FAILED, Result.REFUSED, Result.UNAVAILABLE}
_BLOCKING = {Result.FAILED, Result.REFUSED}
_STATES = {"current": set(Result) - _TROUBLE, "blocked": _BLOCKING, "unavailable": {Result.UNAVAILABLE}}
_KINDS = {
    ChecksumMismatchError.code: "checksum mismatch in",
    MigrationNotFoundError.code: "no file any more of",
    LateMigrationError.code: "too late:",
    UnfinishedError.code: "stopped half way:",
}


@dataclass(slots=True)
class _Tracked:
    outcome: Outcome
    failures: int = 0
    blocked: bool = False
    unavailable: bool = False
    rest: Rest | None = None
    complaint: Complaint = field(default_factory=Complaint)


class Tracker:
    """The state of every database, owned by the daemon's loop. Times are seconds of one clock."""

    def __init__(self, log: Log, random: Callable[[], float]) -> None:
        self._log = log
        self._random = random
        self._databases: dict[str, _Tracked | None] = {}

    def found(self, databases: Iterable[DatabasePath]) -> None:
        """Take the present set of databases: new ones are known from now on, those gone are forgotten."""
        self._databases = {database.path: self._databases.get(database.path) for database in databases}

    def try_all(self) -> None:
        """Leave none alone any more: the configuration, say, is another."""
        for tracked in self._databases.values():
            if tracked is not None:
                tracked.rest = None

    def known(self) -> frozenset[str]:
        """The paths of all databases."""
        return frozenset(self._databases)

    def resting(self) -> dict[str, Rest]:
        """Those in trouble, and when to try them again."""
        return {path: tracked.rest for path, tracked in self._databases.items() if tracked and tracked.rest}

    def retry_at(self) -> float | None:
        """When the next one that may recover by itself should be tried."""
        at = min((rest.due_at for rest in self.resting().values()), default=math.inf)
        return None if math.isinf(at) else at

    def take_due(self, now: float) -> frozenset[str]:
        """Those that may recover by themselves and should be tried now.

        Each is then due again later, whether or not the pass gets as far as trying it: its directory may be
        invalid, and asking again at once would never end.
        """
        due = set()
        for path, tracked in self._databases.items():
            if tracked and tracked.rest and tracked.rest.due_at <= now:
                later = now + retry_delay(tracked.failures, self._random)
                tracked.rest = replace(tracked.rest, until=later, at_latest=now + LONGEST_RETRY)
                due.add(path)
        return frozenset(due)

    def visited(self, visit: Visited, now: float) -> bool:
        """Take what a visit came to, and say what is new. Whether it is in a trouble that it was not in before."""
        outcome = visit.outcome
        log = self._log.bind(run_id=visit.run_id, database=outcome.database.name)
        tracked = self._databases.get(outcome.database.path) or _Tracked(outcome)
        self._databases[outcome.database.path] = tracked
        tracked.outcome = outcome
        if outcome.result in _TROUBLE:
            self._troubled(tracked, visit, now)
            tried = outcome.result is Result.FAILED or outcome.applied or outcome.rolled_back
            if outcome.result is Result.FAILED:
                report_error(outcome, log)
            is_news = self._complain(tracked, log, now)
            if is_news or tried:
                report_end(outcome, log)
            return is_news
        if tracked.blocked:
            log(events.DATABASE_UNBLOCKED)
        if tracked.unavailable:
            log(events.DATABASE_RECOVERED)
        self._databases[outcome.database.path] = _Tracked(outcome)
        report_end(outcome, log)
        return False

    def repeat_complaints(self, now: float) -> None:
        """Say again what has been standing for long, so that no trouble is ever silent."""
        for tracked in self._databases.values():
            if tracked is not None and tracked.outcome.result in _TROUBLE:
                self._complain(tracked, self._log.bind(database=tracked.outcome.database.name), now)

    def _troubled(self, tracked: _Tracked, visit: Visited, now: float) -> None:
        outcome = visit.outcome
        tracked.failures += 1
        tracked.blocked |= outcome.result in _BLOCKING
        tracked.unavailable |= outcome.result is Result.UNAVAILABLE
        tracked.rest = None
        # A refusal is judged anew at every pass: that costs a look at the ledger and runs nothing.
        if outcome.result is not Result.REFUSED:
            permanent = outcome.error is not None and not outcome.error.transient
            until = now + retry_delay(tracked.failures, self._random)
            # A damaged file, most likely; but a disk that failed to read it once looks the same.
            at_latest = now + LONGEST_RETRY if outcome.result is Result.UNAVAILABLE else math.inf
            tracked.rest = Rest(visit.migrations, visit.fingerprint, until, permanent, at_latest)

    def _complain(self, tracked: _Tracked, log: Log, now: float) -> bool:
        """Tell the trouble if it is time to; whether that was the first time."""
        outcome = tracked.outcome
        error = outcome.error
        if error is None:
            return False
        # Another version that fails for the same reason is another cause.
        if not tracked.complaint.is_due(f"{outcome.result}: {error.version}: {error.message}", now):
            return False
        repeated = tracked.complaint.repeated or None
        log = log.bind(repeated=repeated)
        if outcome.result is not Result.FAILED:
            report_error(outcome, log)
        if outcome.result in _BLOCKING:
            keys = failure_keys(error)
            if outcome.result is Result.FAILED:
                keys |= {"reason": f"{error.label} failed: {error.message}", "excerpt": None}
            log(events.DATABASE_BLOCKED, **keys)
        return repeated is None

    def counts(self) -> dict[str, int]:
        """How many databases there are and in which state, and the migrations that wait in those in trouble.

        One that was not visited yet is in no state, nor is one whose run was cut short by a pause; of one that is
        unavailable nothing is known to wait.
        """
        outcomes = self._outcomes()
        states = {name: sum(outcome.result in kinds for outcome in outcomes) for name, kinds in _STATES.items()}
        states["current"] -= sum(bool(each.pending) for each in outcomes if each.result in _STATES["current"])
        pending = sum(outcome.pending for outcome in outcomes if outcome.result in _TROUBLE)
        return {"databases": len(self._databases), **states, "pending": pending}

    def summary(self) -> str:
        """One line for `systemctl status` and the log."""
        counts = self.counts()
        text = f"{counts['current']} of {counts['databases']} databases current"
        for name in ("blocked", "unavailable"):
            if counts[name]:
                first = next(outcome for outcome in self._outcomes() if outcome.result in _STATES[name])
                text += f"; {counts[name]} {name}: {_short(first)}"
        return text

    def _outcomes(self) -> list[Outcome]:
        return [tracked.outcome for tracked in self._databases.values() if tracked]


def _short(outcome: Outcome) -> str:
    """What is wrong with a database, with what matters most in front."""
    error = outcome.error
    if error is None:
        return outcome.database.name
    if isinstance(error, RefusedError) and error.code in _KINDS:
        text = f"{_KINDS[error.code]} {_labels(error)} ({outcome.database.name})"
    elif outcome.result is Result.FAILED and error.version is not None:
        text = f"{_labels(error)} failed ({outcome.database.name}): {error.message}"
    else:
        text = f"{outcome.database.name}: {error.message}"
    return textwrap.shorten(text, _STATUS_WIDTH, placeholder=" ...")


def _labels(error: MigrationError) -> str:
    offenders = error.offenders if isinstance(error, RefusedError) else ()
    first = f"{error.version}_{error.name}" if error.version is not None else offenders[0].label
    return first if len(offenders) <= 1 else f"{first} and {len(offenders) - 1} more"
