"""Decides which database states the daemon logs, and when.

A new cause is logged at once, and repeated at growing intervals while it lasts. Databases that fail for the same
cause are grouped: the first few get lines of their own, the others share one line.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from migrated.daemon.messages import DatabaseDone, RolloutHalted
from migrated.daemon.scheduler import LONGEST_RETRY, BackOff, RepeatTimer, retry_delay
from migrated.daemon.status import failure_summary, is_not_a_database
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import FailureCause, Outcome, OutcomeKind, cause_of
from migrated.fleet.reporting import FEW, report_end, report_error, report_halt, report_others
from migrated.logs import events
from migrated.logs.events import Event
from migrated.logs.logger import Log, failure_keys

_FAILURES = {OutcomeKind.FAILED, OutcomeKind.REFUSED, OutcomeKind.UNAVAILABLE}
_BLOCKING = {OutcomeKind.FAILED, OutcomeKind.REFUSED}


@dataclass(slots=True)
class RetryState:
    """A database that is blocked or unavailable, or has pending migrations because its run was cut short."""

    outcome: Outcome
    failures: int = 0
    blocked: bool = False
    unavailable: bool = False
    back_off: BackOff | None = None
    cause: FailureCause | None = None
    repeat_timer: RepeatTimer = field(default_factory=RepeatTimer)


@dataclass(slots=True)
class FailureGroup:
    """Databases that fail for one cause: `individual` ones get their own log lines, `others` share one."""

    individual: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    repeat_timer: RepeatTimer = field(default_factory=RepeatTimer)

    def join(self, path: str) -> bool:
        """Add a database. Return True if it is logged individually."""
        if path in self.individual or (len(self.individual) < FEW and path not in self.others):
            self.individual.add(path)
            return True
        self.others.add(path)
        return False

    def leave(self, path: str) -> None:
        """Remove a database, if it is a member."""
        self.individual.discard(path)
        self.others.discard(path)

    @property
    def is_empty(self) -> bool:
        """True if the group has no members."""
        return not self.individual and not self.others


class Alerts:
    """Keeps the outcome of every database and logs what changed.

    Used by the daemon's main thread only. Times are seconds of one monotonic clock.
    """

    def __init__(self, log: Log, random: Callable[[], float]) -> None:
        self._log = log
        self._random = random
        self._known: frozenset[str] = frozenset()
        self._current: set[str] = set()
        self._tracked: dict[str, RetryState] = {}
        self._groups: dict[FailureCause, FailureGroup] = {}
        self._recovered: dict[Event, int] = {}
        self._halt_timer = HaltTimer()
        self._applied = 0
        self._has_changed = False
        self._began = 0.0

    def found(self, databases: Iterable[DatabasePath]) -> None:
        """Replace the set of known databases, and forget those that are no longer in it."""
        self._known = frozenset(database.path for database in databases)
        self._current &= self._known
        self._halt_timer.keep(self._known)
        for path in self._tracked.keys() - self._known:
            self._leave_group(self._tracked.pop(path))

    def retry_all(self) -> None:
        """End every back-off, so that the next full pass tries each database: the configuration changed."""
        for tracked in self._tracked.values():
            tracked.back_off = None

    def known(self) -> frozenset[str]:
        """Return the paths of all databases."""
        return self._known

    def backing_off(self) -> dict[str, BackOff]:
        """Return the databases that are backing off, by path."""
        return {path: tracked.back_off for path, tracked in self._tracked.items() if tracked.back_off}

    def failing(self) -> dict[str, FailureCause | None]:
        """Return the paths of databases in which a migration failed, with the cause."""
        return {
            path: tracked.cause
            for path, tracked in self._tracked.items()
            if tracked.outcome.result is OutcomeKind.FAILED
        }

    def retry_at(self) -> float | None:
        """Return the time of the next retry; None if no database is due without an outside change."""
        at = min((back_off.due_at for back_off in self.backing_off().values()), default=math.inf)
        return None if math.isinf(at) else at

    def take_due(self, now: float) -> frozenset[str]:
        """Return the paths of databases due for a retry and re-arm their timers.

        The timers are re-armed here because a pass may never reach a database: with an invalid directory it would
        stay due, and the loop would spin.
        """
        due = set()
        for path, tracked in self._tracked.items():
            if tracked.back_off and tracked.back_off.due_at <= now:
                later = now + retry_delay(tracked.failures, self._random)
                tracked.back_off = replace(tracked.back_off, until=later, at_latest=now + LONGEST_RETRY)
                due.add(path)
        return frozenset(due)

    def pass_begins(self, now: float) -> None:
        """Reset the totals of the pass; `pass_ended` logs them."""
        self._applied, self._has_changed, self._began = 0, False, now

    def visited(self, visit: DatabaseDone, now: float) -> bool:
        """Record and log the outcome of one database. Return True if its problem is new."""
        outcome = visit.outcome
        path = outcome.database.path
        log = self._log.bind(run_id=visit.run_id, database=outcome.database.name)
        self._applied += outcome.applied
        self._has_changed |= bool(outcome.applied or outcome.rolled_back)
        # A visited database no longer waits for a halted rollout, whatever its outcome is.
        self._halt_timer.leave(path)
        if outcome.result in _FAILURES:
            tracked = self._tracked.setdefault(path, RetryState(outcome))
            tracked.outcome = outcome
            self._current.discard(path)
            return self._record_failure(tracked, visit, log, now)
        was = self._tracked.pop(path, None)
        if was is not None:
            self._log_recovery(was, log)
        if outcome.pending:
            # A pause or a stop cut the run short: the database is neither current nor blocked.
            self._tracked[path] = RetryState(outcome)
            self._current.discard(path)
        else:
            self._current.add(path)
        report_end(outcome, log)
        return False

    def halted(self, halted: RolloutHalted, run_id: str, now: float) -> None:
        """Record databases that a halted rollout did not reach. One line covers all of them."""
        self._halt_timer.add(halted)
        self._halt_timer.log_if_due(self._log.bind(run_id=run_id), now)
        for database in halted.databases:
            was = self._tracked.pop(database.path, None)
            if was is not None:
                self._leave_group(was)
            self._current.discard(database.path)
            self._tracked[database.path] = RetryState(Outcome(database, OutcomeKind.REFUSED, error=halted.error))
        self._has_changed |= bool(halted.databases)

    def pass_ended(self, now: float, run_id: str) -> None:
        """Log the shared lines of each group, and the totals if something changed in a fleet."""
        log = self._log.bind(run_id=run_id)
        for event, number in self._recovered.items():
            if number > FEW:
                sentence = f"{{databases}} more databases: {event.name.rpartition('.')[2]}"
                log(event._replace(sentence=sentence), databases=number - FEW)
        self._recovered.clear()
        for cause, group in self._groups.items():
            self._log_group_if_due(cause, group, log, now)
        if self._has_changed and len(self._known) > 1:
            elapsed = round((now - self._began) * 1000)
            log(events.FLEET_FINISHED, **self.counts(), applied=self._applied, execution_time_ms=elapsed)

    def log_repeats(self, now: float) -> None:
        """Repeat lines about problems that persist, when their timers are due."""
        self._halt_timer.log_if_due(self._log, now)
        for cause, group in self._groups.items():
            for path in sorted(group.individual):
                tracked = self._tracked[path]
                self._log_if_due(tracked, self._log.bind(database=tracked.outcome.database.name), now)
            # `pass_ended` logs the first line: during a pass the group is incomplete, and its size would be wrong.
            if group.repeat_timer.has_logged:
                self._log_group_if_due(cause, group, self._log, now)

    def _record_failure(self, tracked: RetryState, visit: DatabaseDone, log: Log, now: float) -> bool:
        outcome = visit.outcome
        self._update_retry(tracked, visit, now)
        cause = cause_of(outcome)
        is_same = cause == tracked.cause
        if not is_same:
            self._leave_group(tracked)
            tracked.cause = cause
        if cause is None:
            return False
        if not self._groups.setdefault(cause, FailureGroup()).join(outcome.database.path):
            self._has_changed |= not is_same
            return not is_same
        # Every failed try is an event of its own. A refusal or an unavailable database is logged when its timer is
        # due only: the daemon finds it in the same state at each pass.
        if outcome.result is OutcomeKind.FAILED:
            report_error(outcome, log)
        is_new = self._log_if_due(tracked, log, now)
        if is_new or outcome.result is OutcomeKind.FAILED or outcome.applied or outcome.rolled_back:
            report_end(outcome, log)
        self._has_changed |= is_new
        return is_new

    def _update_retry(self, tracked: RetryState, visit: DatabaseDone, now: float) -> None:
        outcome = visit.outcome
        tracked.failures += 1
        tracked.blocked |= outcome.result in _BLOCKING
        tracked.unavailable |= outcome.result is OutcomeKind.UNAVAILABLE
        tracked.back_off = None
        # A refused database does not back off: evaluating it again at every pass only reads the ledger.
        if outcome.result is not OutcomeKind.REFUSED:
            permanent = outcome.error is not None and not outcome.error.transient
            until = now + retry_delay(tracked.failures, self._random)
            # A permanent error on opening most likely means a damaged file, but a disk that failed one read
            # reports the same code. Therefore even these are retried at the longest interval.
            at_latest = now + LONGEST_RETRY if outcome.result is OutcomeKind.UNAVAILABLE else math.inf
            tracked.back_off = BackOff(visit.migrations, visit.fingerprint, until, permanent, at_latest)

    def _log_recovery(self, was: RetryState, log: Log) -> None:
        self._leave_group(was)
        unblocked = events.DATABASE_UNBLOCKED if was.blocked else None
        recovered = events.DATABASE_RECOVERED if was.unavailable else None
        for event in (unblocked, recovered):
            if event is not None:
                self._has_changed = True
                number = self._recovered[event] = self._recovered.get(event, 0) + 1
                if number <= FEW:
                    log(event)

    def _leave_group(self, tracked: RetryState) -> None:
        if tracked.cause is None:
            return
        group = self._groups[tracked.cause]
        group.leave(tracked.outcome.database.path)
        if group.is_empty:
            del self._groups[tracked.cause]

    def _log_if_due(self, tracked: RetryState, log: Log, now: float) -> bool:
        """Log the database's problem if it is new or due again. Return True if it is new."""
        outcome = tracked.outcome
        error = outcome.error
        if error is None:
            return False
        if tracked.repeat_timer.has_logged and is_not_a_database(outcome):
            return False
        # The version is part of the key: another migration that fails with the same message is a new problem.
        if not tracked.repeat_timer.should_log(f"{outcome.result}: {error.version}: {error.message}", now):
            return False
        repeated = tracked.repeat_timer.repeated or None
        log = log.bind(repeated=repeated)
        if outcome.result is not OutcomeKind.FAILED:
            report_error(outcome, log)
        if outcome.result in _BLOCKING:
            keys = failure_keys(error)
            if outcome.result is OutcomeKind.FAILED:
                # The event `migration.failed` just before has the excerpt.
                keys |= {"reason": f"{error.label} failed: {error.message}", "excerpt": None}
            log(events.DATABASE_BLOCKED, **keys)
        return repeated is None

    def _log_group_if_due(self, cause: FailureCause, group: FailureGroup, log: Log, now: float) -> None:
        """Log one line for the group's `others`, if it is due."""
        if group.others and group.repeat_timer.should_log(str(cause), now):
            example = self._tracked[next(iter(group.others))].outcome
            report_others(example, len(group.others), log.bind(repeated=group.repeat_timer.repeated or None))

    def counts(self) -> dict[str, int]:
        """Return the number of databases in total and by state, and the pending migrations of those that fail.

        A database that was not visited yet, or whose run was cut short by a pause, is in none of the states. An
        unavailable database counts no pending migrations: they are unknown.
        """
        by_result = Counter(tracked.outcome.result for tracked in self._tracked.values())
        pending = sum(
            tracked.outcome.pending for tracked in self._tracked.values() if tracked.outcome.result in _FAILURES
        )
        return {
            "databases": len(self._known),
            "current": len(self._current),
            "blocked": sum(by_result[result] for result in _BLOCKING),
            "unavailable": by_result[OutcomeKind.UNAVAILABLE],
            "pending": pending,
        }

    def summary(self) -> str:
        """Return one line for `systemctl status` and the log."""
        counts = self.counts()
        text = f"{counts['current']} of {counts['databases']} databases current"
        for name, results in (("blocked", _BLOCKING), ("unavailable", {OutcomeKind.UNAVAILABLE})):
            if counts[name]:
                example = next(each.outcome for each in self._tracked.values() if each.outcome.result in results)
                text += f"; {counts[name]} {name}: {failure_summary(example)}"
        return text


class HaltTimer:
    """Logs a halted rollout at once, and again at growing intervals while databases wait for it."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._last: RolloutHalted | None = None
        self._timer = RepeatTimer()

    def add(self, halted: RolloutHalted) -> None:
        """Add databases that wait for a halted rollout. A new halt restarts the timer."""
        if halted.is_new:
            # The timer always gets the same cause, so only a new timer logs at once.
            self._last, self._timer = halted, RepeatTimer()
        self._paths |= {database.path for database in halted.databases}

    def leave(self, path: str) -> None:
        """Remove a database that no longer waits."""
        self._paths.discard(path)

    def keep(self, paths: AbstractSet[str]) -> None:
        """Forget every database that is not in `paths`."""
        self._paths &= paths

    def log_if_due(self, log: Log, now: float) -> None:
        """Log the halt if databases wait and the timer is due."""
        if self._last is not None and self._paths and self._timer.should_log("halted", now):
            report_halt(self._last.halt, self._last.total, log.bind(repeated=self._timer.repeated or None))
