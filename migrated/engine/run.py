"""Carrying out what was decided: in the database itself or, where that cannot be one transaction, on a copy."""

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
    MigrationStatus,
    OnMissing,
    Policy,
    evaluate,
    missing_versions,
)
from migrated.engine.backend import (
    Database,
    FormerState,
    LedgerChangedError,
    Observer,
    Progress,
    RowRestoreReport,
    Session,
    StepResult,
)
from migrated.engine.steps import StepExecutor
from migrated.system.cancellation import CancelToken

Decision = Callable[[DatabaseStatus, LookUpStored], RunPlan]
"""What is to be done, given the states and the record of the migrations; raises where that cannot be."""


class Execution:
    """One run on one database. Its decision is made anew whenever somebody else changed the database meanwhile.

    Where something has to be rolled back and has no down text, the run `may_use_snapshot` to a snapshot, or fails.
    """

    def __init__(
        self,
        database: Database,
        migrations: Sequence[Migration],
        *,
        policy: Policy,
        transaction: TransactionMode,
        observer: Observer,
        supervision: CancelToken,
        may_use_snapshot: bool = False,
    ) -> None:
        self._may_go_back = may_use_snapshot
        self._database = database
        self._migrations = migrations
        self._policy = policy
        self._transaction = transaction
        self._observer = observer
        self._supervision = supervision
        self._first: tuple[LedgerState, DatabaseStatus, RunPlan | None] | None = None

    def is_needed(self, decide: Decision) -> bool:
        """Whether there is anything to do, found without the lock. Raises the refusals."""
        record = self._database.first_look()
        findings = evaluate(self._migrations, record)
        refusals.refuse_unfinished(findings.statuses)
        agenda = self._decided(decide, findings, self._database.stored_migrations)
        self._first = record, findings, agenda
        return agenda is None or bool(agenda)

    def carry_out(self, decide: Decision) -> list[AppliedMigration]:
        """Do it; the caller holds the lock. Returns what was completed of the way that was asked for."""
        while True:
            with self._database.session(self._observer) as session:
                work = StepExecutor(session, self._observer, self._supervision)
                if self._in_place(session, work, decide):
                    return work.completed
            try:
                return self._on_a_copy(decide)
            except LedgerChangedError:
                continue

    def _in_place(self, session: Session, work: StepExecutor, decide: Decision) -> bool:
        """Return whether it was done: not where it has to be done on a copy."""
        while True:
            findings, agenda = self._look(session, decide)
            if agenda is None or agenda.needs_copy:
                return False
            try:
                self._take(work, agenda, findings)
            except LedgerChangedError:
                continue
            return True

    def _look(self, session: Session, decide: Decision) -> tuple[DatabaseStatus, RunPlan | None]:
        record = session.look()
        first, self._first = self._first, None
        if first is not None and record is first[0]:
            # Nobody changed it since the look without the lock, and what was decided then holds.
            return first[1:]
        findings = evaluate(self._migrations, record)
        refusals.refuse_unfinished(findings.statuses)
        return findings, self._decided(decide, findings, session.stored_migrations)

    def _decided(self, decide: Decision, findings: DatabaseStatus, recorded: LookUpStored) -> RunPlan | None:
        """None where the way leads over an older content."""
        try:
            return decide(findings, recorded)
        except RollbackFailedError as stuck:
            if not self._may_go_back:
                refusals.refuse_misread(findings.statuses, stuck.version, recorded)
                raise
            return None

    def _take(
        self, work: StepExecutor, agenda: RunPlan, findings: DatabaseStatus, *, on_copy: bool = False
    ) -> None:
        try:
            work.execute(agenda, findings.statuses, self._transaction, on_copy=on_copy)
        except MigrationError as error:
            error.completed = () if on_copy else tuple(work.completed)
            raise

    def _on_a_copy(self, decide: Decision) -> list[AppliedMigration]:
        former = self._former_state(decide)
        observer = _Postponing(self._observer)
        completed: list[AppliedMigration] = []

        def change(session: Session) -> None:
            work = StepExecutor(session, observer, self._supervision)
            findings = evaluate(self._migrations, session.look())
            refusals.refuse_unfinished(findings.statuses)
            # The history of a copy goes on beyond the state that it is in.
            recorded = session.stored_migrations if former is None else former.recorded_of
            self._take(work, decide(findings, recorded), findings, on_copy=True)
            if self._supervision.stop_requested():
                raise _stopped(self._database.name, self._supervision.reason)
            completed.extend(work.completed)

        self._database.rebuild(former, change, observer)
        observer.release()
        return completed

    def _former_state(self, decide: Decision) -> FormerState | None:
        """The latest from which the decision can be carried out; None for the present one.

        Raises `RollbackFailedError` where there is none.
        """
        findings = evaluate(self._migrations, self._database.look())
        try:
            decide(findings, self._database.stored_migrations)
        except RollbackFailedError as stuck:
            for former in self._database.former_states():
                if self._leads_on(former, findings.statuses, decide):
                    return former
            refusals.refuse_misread(findings.statuses, stuck.version, self._database.stored_migrations)
            raise RollbackFailedError(
                f"{stuck.message}, and no snapshot of the time before",
                version=stuck.version,
                name=stuck.name,
                hint="put the file back as it was applied, with a DOWN section: that is recorded, and then it can "
                "be changed or removed; or `migrated restore` a snapshot; nothing was changed",
            ) from None
        return None

    def _leads_on(self, former: FormerState, statuses: Sequence[MigrationStatus], decide: Decision) -> bool:
        then = evaluate(self._migrations, LedgerState(list(former.applied)))
        if self._policy.on_missing is OnMissing.IGNORE and (
            set(missing_versions(statuses)) - set(missing_versions(then.statuses))
        ):
            # What nobody could apply again must not be lost.
            return False
        try:
            decide(then, former.recorded_of)
        except MigrationError:
            return False
        return True


def _stopped(database: str, reason: str) -> DatabaseError:
    """Not an interruption: nothing was half done, as when a wait is given up."""
    return DatabaseError(
        f"it was not finished: {reason}",
        database=database,
        transient=True,
        hint="nothing was changed; run it again",
    )


class _Postponing(Observer):
    """Tells another observer at once what begins, and only in the end what is done: it may be undone before."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._later: list[Callable[[], None]] = []

    def release(self) -> None:
        """Tell what was held back."""
        for tell in self._later:
            tell()

    def planned(self, steps: int) -> None:
        self._observer.planned(steps)

    def beginning(self, step: Step, *, late: bool) -> None:
        self._observer.beginning(step, late=late)

    def progress(self, progress: Progress) -> None:
        self._observer.progress(progress)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self._observer.snapshot_taken(identifier, size, execution_time_ms)

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        self._later.append(lambda: self._observer.done(done, direction))

    def restored_snapshot(self, former: FormerState) -> None:
        self._later.append(lambda: self._observer.restored_snapshot(former))

    def updated(self, migration: Migration) -> None:
        self._later.append(lambda: self._observer.updated(migration))

    def rows_restored(self, kept: RowRestoreReport) -> None:
        self._later.append(lambda: self._observer.rows_restored(kept))
