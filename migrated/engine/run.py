"""Execute a run: plan, lock, plan again, then change the database in place or on a copy."""

from collections.abc import Callable, Sequence

from migrated.config.settings import TransactionMode
from migrated.core import refusals
from migrated.core.errors import DatabaseError, MigrationError, RollbackFailedError
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.plan import RunPlan
from migrated.core.records import AppliedMigration, LedgerState
from migrated.core.status import (
    DatabaseStatus,
    LookUpStored,
    MigrationState,
    MigrationStatus,
    OnMissing,
    Policy,
    evaluate,
)
from migrated.engine.backend import (
    Database,
    EarlierState,
    LedgerChangedError,
    Observer,
    Progress,
    RowRestoreReport,
    Session,
    StepResult,
)
from migrated.engine.steps import StepExecutor
from migrated.system.cancellation import CancelToken

Planner = Callable[[DatabaseStatus, LookUpStored], RunPlan]
"""Makes the plan of a run from the state of the database; raises if the run is refused or impossible."""


class Run:
    """One run on one database. It plans again whenever another process changed the ledger.

    If a migration has to be rolled back and has no down text, the run restores an earlier state of the database
    when it `may_use_snapshot`, and fails otherwise.
    """

    def __init__(
        self,
        database: Database,
        migrations: Sequence[Migration],
        *,
        policy: Policy,
        transaction: TransactionMode,
        observer: Observer,
        cancel_token: CancelToken,
        may_use_snapshot: bool = False,
    ) -> None:
        self._may_use_snapshot = may_use_snapshot
        self._database = database
        self._migrations = migrations
        self._policy = policy
        self._transaction = transaction
        self._observer = observer
        self._cancel_token = cancel_token
        self._first: tuple[LedgerState, DatabaseStatus, RunPlan | None] | None = None

    def is_needed(self, planner: Planner) -> bool:
        """True if the run has work to do; checked without the lock. Raises `RefusedError`."""
        state = self._database.open_and_look()
        status = evaluate(self._migrations, state)
        refusals.refuse_unfinished(status.statuses)
        plan = self._plan(planner, status, self._database.stored_migrations)
        self._first = state, status, plan
        return plan is None or bool(plan)

    def execute(self, planner: Planner) -> list[AppliedMigration]:
        """Execute the run while the caller holds the lock; return the entries of the requested direction."""
        while True:
            with self._database.session(self._observer) as session:
                executor = StepExecutor(session, self._observer, self._cancel_token)
                if self._execute_in_place(session, executor, planner):
                    return executor.completed
            try:
                # After the session: the content is replaced through other connections.
                return self._execute_on_copy(planner)
            except LedgerChangedError:
                continue

    def _execute_in_place(self, session: Session, executor: StepExecutor, planner: Planner) -> bool:
        """Return False, changing nothing, if the run needs a copy of the database."""
        while True:
            status, plan = self._look(session, planner)
            if plan is None or plan.needs_copy:
                return False
            try:
                self._execute_plan(executor, plan, status)
            except LedgerChangedError:
                continue
            return True

    def _look(self, session: Session, planner: Planner) -> tuple[DatabaseStatus, RunPlan | None]:
        state = session.look()
        first, self._first = self._first, None
        if first is not None and state is first[0]:
            # The ledger did not change since it was read without the lock, so the plan made then is valid.
            return first[1:]
        status = evaluate(self._migrations, state)
        refusals.refuse_unfinished(status.statuses)
        return status, self._plan(planner, status, session.stored_migrations)

    def _plan(self, planner: Planner, status: DatabaseStatus, stored: LookUpStored) -> RunPlan | None:
        """Return the plan; None if it has to start from an earlier state of the database."""
        try:
            return planner(status, stored)
        except RollbackFailedError as stuck:
            if not self._may_use_snapshot:
                refusals.refuse_misread(status.statuses, stuck.version, stored)
                raise
            return None

    def _execute_plan(
        self, executor: StepExecutor, plan: RunPlan, status: DatabaseStatus, *, on_copy: bool = False
    ) -> None:
        try:
            executor.execute(plan, status.statuses, self._transaction, on_copy=on_copy)
        except MigrationError as error:
            # Steps on a copy are lost with it, so they do not count as completed.
            error.completed = () if on_copy else tuple(executor.completed)
            raise

    def _execute_on_copy(self, planner: Planner) -> list[AppliedMigration]:
        earlier = self._earlier_state(planner)
        observer = _DeferringObserver(self._observer)
        completed: list[AppliedMigration] = []

        def change(session: Session) -> None:
            executor = StepExecutor(session, observer, self._cancel_token)
            status = evaluate(self._migrations, session.look())
            refusals.refuse_unfinished(status.statuses)
            # The history in a copy of an earlier state also has later entries, which do not describe its content.
            stored = session.stored_migrations if earlier is None else earlier.stored_migrations
            self._execute_plan(executor, planner(status, stored), status, on_copy=True)
            # A stop request between two steps leaves the copy incomplete: it must not replace the database.
            if self._cancel_token.stop_requested():
                raise _stopped(self._database.name, self._cancel_token.reason)
            completed.extend(executor.completed)

        self._database.rebuild(earlier, change, observer)
        observer.release()
        return completed

    def _earlier_state(self, planner: Planner) -> EarlierState | None:
        """Return the latest state that the plan can start from; None for the current one.

        Raises `RollbackFailedError` if there is none.
        """
        status = evaluate(self._migrations, self._database.look())
        try:
            planner(status, self._database.stored_migrations)
        except RollbackFailedError as stuck:
            for earlier in self._database.earlier_states():
                if self._can_start_from(earlier, status.statuses, planner):
                    return earlier
            refusals.refuse_misread(status.statuses, stuck.version, self._database.stored_migrations)
            raise RollbackFailedError(
                f"{stuck.message}, and there is no earlier snapshot",
                version=stuck.version,
                name=stuck.name,
                hint="nothing was changed; put the file back as it was applied, with a DOWN section: a run then "
                "records that section, and the file can be changed or removed; or run `migrated restore` "
                "(see `migrated help snapshots`)",
            ) from None
        return None

    def _can_start_from(
        self, earlier: EarlierState, statuses: Sequence[MigrationStatus], planner: Planner
    ) -> bool:
        then = evaluate(self._migrations, LedgerState(list(earlier.applied)))
        if self._policy.on_missing is OnMissing.IGNORE and not _missing(statuses) <= _missing(then.statuses):
            # Missing migrations that are ignored have no file: going back before them would lose them for good.
            return False
        try:
            planner(then, earlier.stored_migrations)
        except MigrationError:
            return False
        return True


def _missing(statuses: Sequence[MigrationStatus]) -> set[tuple[int, str]]:
    """Return version and checksum of each missing migration: an earlier content may have it with another text."""
    return {
        (each.version, each.applied.checksum)
        for each in statuses
        if each.state is MigrationState.MISSING and each.applied
    }


def _stopped(database: str, reason: str) -> DatabaseError:
    """The error for a run that stopped between steps. Not INTERRUPTED: no statement was cut off."""
    return DatabaseError(
        f"the run was stopped before it finished: {reason}",
        database=database,
        transient=True,
        hint="nothing was changed; run it again",
    )


class _DeferringObserver(Observer):
    """Buffers 'done' events until the copy replaces the database.

    Work on a copy may still be thrown away.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._deferred: list[Callable[[], None]] = []

    def release(self) -> None:
        """Send the buffered events."""
        for tell in self._deferred:
            tell()

    def planned(self, steps: int) -> None:
        self._observer.planned(steps)

    def beginning(self, step: Step, *, late: bool) -> None:
        self._observer.beginning(step, late=late)

    def progress(self, progress: Progress) -> None:
        self._observer.progress(progress)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self._observer.snapshot_taken(identifier, size, execution_time_ms)

    def done(self, result: StepResult, direction: MigrationDirection) -> None:
        self._deferred.append(lambda: self._observer.done(result, direction))

    def restored_snapshot(self, earlier: EarlierState) -> None:
        self._deferred.append(lambda: self._observer.restored_snapshot(earlier))

    def updated(self, migration: Migration) -> None:
        self._deferred.append(lambda: self._observer.updated(migration))

    def rows_restored(self, report: RowRestoreReport) -> None:
        self._deferred.append(lambda: self._observer.rows_restored(report))
