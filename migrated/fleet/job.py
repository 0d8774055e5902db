"""One operation on any database of a fleet: current ones are skipped, new ones may be copied from another."""

import os
import threading
import time
from collections.abc import Callable, Sequence

from migrated.config.settings import Target
from migrated.core import diff, refusals
from migrated.core.errors import DatabaseError, LockHeldError, MigrationError, RefusedError
from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration
from migrated.core.status import MigrationState, OnChanged, evaluate
from migrated.engine.backend import Observer, Template
from migrated.engine.database import Glance, glance, is_absent_or_empty, open_database
from migrated.engine.runner import LockFactory, MigrationRunner, MigrationSet
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind, internal_error
from migrated.fleet.reporting import Reporter
from migrated.logs import events
from migrated.logs.logger import Log
from migrated.system.cancellation import CancelToken

Action = Callable[[MigrationRunner], list[AppliedMigration]]


class Prototype:
    """For one pass, so that what is copied is not older than that. Used by several threads."""

    def __init__(self, target: Target, migrations: Sequence[Migration]) -> None:
        self._target = target
        self._migrations = migrations
        self._mutex = threading.Lock()
        self._asked = 0
        self._template: Template | None = None

    def template(self) -> Template | None:
        """For another new database: nothing for the first, which shows whether the migrations work at all."""
        with self._mutex:
            self._asked += 1
            if self._asked == 2:  # noqa: PLR2004 - the second one
                self._template = self._make()
            return self._template

    def _make(self) -> Template | None:
        runner = MigrationRunner(
            ":memory:",
            policy=self._target.policy,
            transaction=self._target.transaction,
            application_id=self._target.application_id,
        )
        try:
            runner.add_migrations(self._migrations)
            return runner.make_template()
        except MigrationError:
            # The databases themselves will show what is wrong.
            return None


class DatabaseJob:
    """One piece of work that can be done on any database of a target, on several at once.

    `lock_timeout` is in seconds; `hold` takes the lock of a database's directory, which the databases share. With
    `applies_all` the action leaves nothing pending when it succeeds; then a new database may be copied from the
    `prototype` as well, and one of a fleet is compared with others. Raises as `MigrationRunner.add_migrations`.
    """

    def __init__(
        self,
        target: Target,
        migrations: Sequence[Migration],
        action: Action,
        log: Log,
        *,
        lock_timeout: float,
        supervision: CancelToken | None = None,
        hold: LockFactory | None = None,
        applies_all: bool = False,
        in_fleet: bool = False,
        prototype: Prototype | None = None,
    ) -> None:
        self.target = target
        self.action = action
        self.log = log
        self.lock_timeout = lock_timeout
        self.supervision = supervision
        self.hold = hold
        self.applies_all = applies_all
        self.prototype = prototype
        self._prepared = MigrationSet(migrations)
        self._alike = CurrentLedgers(self._prepared, target) if applies_all and in_fleet else None

    def run(
        self,
        database: DatabasePath,
        also: Observer | None = None,
        *,
        busy_timeout: float | None = None,
        in_full: bool = True,
    ) -> Outcome:
        """Do it on one. Never raises a `MigrationError`: it is in the outcome.

        Each step is told to `also` and logged as it happens: unless `in_full`, only where it deserves attention.
        The outcome itself is for `reporting`. Another's lock is waited for as long as the target says, or for
        `busy_timeout` seconds.
        """
        if self._alike is not None and self._alike.is_current(database):
            return Outcome(database, OutcomeKind.CURRENT)
        reporter = Reporter(self.log.bind(database=database.name), also, in_full=in_full)
        started = time.monotonic()
        runner = self._runner(database, reporter, busy_timeout)
        is_new = is_absent_or_empty(database.path)
        was_there = not is_new or os.path.exists(database.path)
        error: MigrationError | None = None
        try:
            runner.use(self._prepared)
            self._act(runner, is_new=is_new)
        except MigrationError as failure:
            error = strip_traceback(failure)
        except Exception as surprise:  # noqa: BLE001 - one database's surprise must not stop the others
            error = DatabaseError(database=database.name, transient=True, **internal_error(surprise))
        if not was_there and os.path.exists(database.path):
            reporter.log(events.DATABASE_CREATED)
        result = _result(error, reporter)
        if result is OutcomeKind.CURRENT and self._alike is not None:
            self._alike.learn(database)
        return Outcome(
            database,
            result,
            reporter.applied,
            reporter.rolled_back,
            self._pending(runner, result, error),
            round((time.monotonic() - started) * 1000),
            error,
            _changes(error) if isinstance(error, RefusedError) else {},
            tuple(reporter.versions),
        )

    def _act(self, runner: MigrationRunner, *, is_new: bool) -> None:
        template = self.prototype.template() if self.prototype is not None and is_new else None
        if template is not None:
            runner.run_from(template)
        else:
            self.action(runner)

    def _runner(self, database: DatabasePath, observer: Observer, busy_timeout: float | None) -> MigrationRunner:
        target = self.target
        return MigrationRunner(
            database.path,
            policy=target.policy,
            create=target.create,
            must_exist=database.matched,
            is_alone_in_process=True,
            lock_timeout=self.lock_timeout,
            busy_timeout=target.busy_timeout if busy_timeout is None else min(busy_timeout, target.busy_timeout),
            statement_timeout=target.statement_timeout,
            transaction=target.transaction,
            snapshots=target.snapshots,
            application_id=target.application_id,
            observer=observer,
            supervision=self.supervision,
            hold=self.hold,
        )

    def _pending(self, runner: MigrationRunner, result: OutcomeKind, error: MigrationError | None) -> int:
        succeeded = result is OutcomeKind.CURRENT or (self.applies_all and error is None)
        is_whole = succeeded and not (self.supervision and self.supervision.stop_requested())
        # A database that is busy would be waited for once more.
        if is_whole or isinstance(error, DatabaseError):
            return 0
        try:
            return runner.count_pending()
        except MigrationError:
            # The outcome already says why the database cannot be read.
            return 0


def strip_traceback(error: MigrationError) -> MigrationError:
    """Without the frames that it was raised in, which hold on to all that was in use: outcomes are kept."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _changes(refusal: RefusedError) -> dict[int, dict[str, object]]:
    """Whether each change matters and, for people, the difference; the texts themselves may be large, and go."""
    found: dict[int, dict[str, object]] = {}
    for status in refusal.offenders:
        if status.state is MigrationState.CHANGED:
            change = diff.change(status.applied, status.migration, refusal.recorded.get(status.version))
            found[status.version] = {"reason": change.reason, "what": change.what}
            if change.up and not change.misread:
                found[status.version]["difference"] = diff.excerpt(change.diff(change.up), status.version)
    refusal.recorded = {}
    return found


def _result(error: MigrationError | None, reporter: Reporter) -> OutcomeKind:
    match error:
        case None:
            did = reporter.applied or reporter.rolled_back or reporter.updates
            return OutcomeKind.APPLIED if did else OutcomeKind.CURRENT
        case RefusedError():
            return OutcomeKind.REFUSED
        case DatabaseError() | LockHeldError():
            return OutcomeKind.UNAVAILABLE
        case _:
            return OutcomeKind.FAILED


_MOST = 64


class CurrentLedgers:
    """For one pass over a target. A fleet has few different records: most databases cost one small query each.

    Several threads may ask at once.
    """

    def __init__(self, prepared: MigrationSet, target: Target) -> None:
        self._prepared = prepared
        self._target = target
        # What was edited and only changes the record cannot be told from a glance.
        self._is_of_use = target.policy.on_changed is OnChanged.REFUSE
        self._known: set[Glance] = set()

    def is_current(self, database: DatabasePath) -> bool:
        """Whether it has everything, as far as can be told at a glance. False means nothing."""
        return bool(self._known) and self._glance(database) in self._known

    def learn(self, database: DatabasePath) -> None:
        """Take in what a database looks like that has everything, which is looked at once more for that."""
        if not self._is_of_use or len(self._known) >= _MOST:
            return
        before = self._glance(database)
        if before is None or before in self._known:
            return
        handle = open_database(database.path, must_exist=True, application_id=self._target.application_id)
        try:
            findings = evaluate(self._prepared.available, handle.look())
            refusals.refuse_by_policy(findings.statuses, self._target.policy)
        except MigrationError:
            return
        # Else somebody wrote to it between the looks.
        if not findings.pending and self._glance(database) == before:
            self._known.add(before)

    def _glance(self, database: DatabasePath) -> Glance | None:
        return glance(database.path, self._target.application_id)
