"""Run one operation on any database of a target.

Current databases of a fleet are skipped, and new ones can be cloned from a pre-migrated image.
"""

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
from migrated.engine.database import LedgerSummary, is_absent_or_empty, open_database, summary
from migrated.engine.runner import LockFactory, MigrationRunner, MigrationSet
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind, internal_error
from migrated.fleet.reporting import LoggingObserver
from migrated.logs import events
from migrated.logs.logger import Log
from migrated.system.cancellation import CancelToken

Operation = Callable[[MigrationRunner], list[AppliedMigration]]


class Prototype:
    """A pre-migrated image for the new databases of one pass, made when the second one asks. Thread-safe.

    It lives for one pass only, so that a clone is never older than the migrations read for that pass.
    """

    def __init__(self, target: Target, migrations: Sequence[Migration]) -> None:
        self._target = target
        self._migrations = migrations
        self._mutex = threading.Lock()
        self._asked = 0
        self._template: Template | None = None

    def template(self) -> Template | None:
        """Return the image for a new database; None for the first one, which tests the migrations.

        None also if the image cannot be made.
        """
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
            # Every database then runs the migrations itself and reports this error.
            return None


class DatabaseJob:
    """An operation that can run on any database of a target, on several at the same time.

    `lock_timeout` is in seconds. `lock_factory` takes the lock of a directory, which its databases share.
    `applies_all` means that a successful operation leaves nothing pending: a new database may then be cloned from
    `prototype`, and a database of a fleet is skipped if its ledger is known to be current.
    Raises as `MigrationRunner.add_migrations`.
    """

    def __init__(
        self,
        target: Target,
        migrations: Sequence[Migration],
        operation: Operation,
        log: Log,
        *,
        lock_timeout: float,
        cancel_token: CancelToken | None = None,
        lock_factory: LockFactory | None = None,
        applies_all: bool = False,
        in_fleet: bool = False,
        prototype: Prototype | None = None,
    ) -> None:
        self.target = target
        self.operation = operation
        self.log = log
        self.lock_timeout = lock_timeout
        self.cancel_token = cancel_token
        self.lock_factory = lock_factory
        self.applies_all = applies_all
        self.prototype = prototype
        self._migrations = MigrationSet(migrations)
        self._current_ledgers = CurrentLedgers(self._migrations, target) if applies_all and in_fleet else None

    def run(
        self,
        database: DatabasePath,
        also: Observer | None = None,
        *,
        busy_timeout: float | None = None,
        verbose: bool = True,
    ) -> Outcome:
        """Run the operation on one database. Any error is returned in the outcome, never raised.

        Steps are logged and passed to `also` as they happen; unless `verbose`, expected ones only at level debug.
        The outcome is not logged: that is for `reporting`. `busy_timeout`, in seconds, can only shorten the
        timeout of the target.
        """
        if self._current_ledgers is not None and self._current_ledgers.is_current(database):
            return Outcome(database, OutcomeKind.CURRENT)
        observer = LoggingObserver(self.log.bind(database=database.name), also, verbose=verbose)
        started = time.monotonic()
        runner = self._runner(database, observer, busy_timeout)
        # Both are checked before the run: an empty file is new for the template, but was not created by us.
        is_new = is_absent_or_empty(database.path)
        was_there = not is_new or os.path.exists(database.path)
        error: MigrationError | None = None
        try:
            runner.use(self._migrations)
            self._execute(runner, is_new=is_new)
        except MigrationError as failure:
            error = strip_traceback(failure)
        except Exception as unexpected:  # noqa: BLE001 - a bug met in one database must not stop the others
            error = DatabaseError(database=database.name, transient=True, **internal_error(unexpected))
        if not was_there and os.path.exists(database.path):
            observer.log(events.DATABASE_CREATED)
        result = _result(error, observer)
        if result is OutcomeKind.CURRENT and self._current_ledgers is not None:
            self._current_ledgers.learn(database)
        return Outcome(
            database,
            result,
            observer.applied,
            observer.rolled_back,
            self._pending(runner, result, error),
            round((time.monotonic() - started) * 1000),
            error,
            _changes(error) if isinstance(error, RefusedError) else {},
            tuple(observer.versions),
        )

    def _execute(self, runner: MigrationRunner, *, is_new: bool) -> None:
        template = self.prototype.template() if self.prototype is not None and is_new else None
        if template is not None:
            runner.run_from(template)
        else:
            self.operation(runner)

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
            supervision=self.cancel_token,
            hold=self.lock_factory,
        )

    def _pending(self, runner: MigrationRunner, result: OutcomeKind, error: MigrationError | None) -> int:
        succeeded = result is OutcomeKind.CURRENT or (self.applies_all and error is None)
        # A stopped run may have left migrations although it raised no error.
        is_whole = succeeded and not (self.cancel_token and self.cancel_token.stop_requested())
        # Counting would wait a second time for a busy database.
        if is_whole or isinstance(error, DatabaseError):
            return 0
        try:
            return runner.count_pending()
        except MigrationError:
            # The outcome already says why the database cannot be read.
            return 0


def strip_traceback(error: MigrationError) -> MigrationError:
    """Drop traceback and causes. Outcomes are kept for hours; frames would keep connections and SQL text alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _changes(refusal: RefusedError) -> dict[int, dict[str, object]]:
    """Return the log keys of each changed migration: reason and an excerpt of the diff.

    Drops the stored SQL texts from the error: they may be large, and outcomes are kept for hours.
    """
    found: dict[int, dict[str, object]] = {}
    for status in refusal.offenders:
        if status.state is MigrationState.CHANGED:
            change = diff.change(status.applied, status.migration, refusal.recorded.get(status.version))
            found[status.version] = {"reason": change.reason, "what": change.what}
            if change.up and not change.misread:
                found[status.version]["difference"] = diff.excerpt(change.diff(change.up), status.version)
    refusal.recorded = {}
    return found


def _result(error: MigrationError | None, observer: LoggingObserver) -> OutcomeKind:
    match error:
        case None:
            did = observer.applied or observer.rolled_back or observer.updates
            return OutcomeKind.APPLIED if did else OutcomeKind.CURRENT
        case RefusedError():
            return OutcomeKind.REFUSED
        case DatabaseError() | LockHeldError():
            return OutcomeKind.UNAVAILABLE
        case _:
            return OutcomeKind.FAILED


_MAX_SUMMARIES = 64
"""A fleet has few distinct ledgers. The limit keeps the learning, which reads whole ledgers, cheap otherwise."""


class CurrentLedgers:
    """Skip databases whose ledger equals that of a database known to be current. Thread-safe.

    Valid for one pass over a target. A fleet has few distinct ledgers, so most databases cost one small query.
    """

    def __init__(self, prepared: MigrationSet, target: Target) -> None:
        self._prepared = prepared
        self._target = target
        # With other policies a run may update checksums in the ledger, which the summary cannot reveal.
        self._is_of_use = target.policy.on_changed is OnChanged.REFUSE
        self._known: set[LedgerSummary] = set()

    def is_current(self, database: DatabasePath) -> bool:
        """Return True if the ledger equals a known current one. False does not mean that anything is pending."""
        return bool(self._known) and self._summary(database) in self._known

    def learn(self, database: DatabasePath) -> None:
        """Read a database that an operation found current; if confirmed, remember its ledger summary."""
        if not self._is_of_use or len(self._known) >= _MAX_SUMMARIES:
            return
        before = self._summary(database)
        if before is None or before in self._known:
            return
        handle = open_database(database.path, must_exist=True, application_id=self._target.application_id)
        try:
            status = evaluate(self._prepared.available, handle.look())
            refusals.refuse_by_policy(status.statuses, self._target.policy)
        except MigrationError:
            return
        # A different summary means that another process wrote to the ledger between the two reads.
        if not status.pending and self._summary(database) == before:
            self._known.add(before)

    def _summary(self, database: DatabasePath) -> LedgerSummary | None:
        return summary(database.path, self._target.application_id)
