"""Taking the steps of a plan in a session: each in a transaction of its own, or several in one."""

from collections.abc import Sequence

from migrated.config.settings import TransactionMode
from migrated.core.errors import MigrationError, MigrationNotFoundError
from migrated.core.migration import Directive, Migration, MigrationDirection, Step
from migrated.core.misread import misreadings
from migrated.core.plan import RunPlan, leading_group
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Repair, Unfinished
from migrated.core.refusals import refuse_changed, refuse_mixture, refuse_other_beginning
from migrated.core.status import MigrationState, MigrationStatus, evaluate
from migrated.engine.backend import Batch, BatchLostError, LedgerChangedError, Observer, Session, StepResult
from migrated.system.cancellation import CancelToken


class StepExecutor:
    """What one run does. `completed` has the ledger's entries of the plan that was worked on last."""

    def __init__(self, session: Session, observer: Observer, supervision: CancelToken) -> None:
        self._session = session
        self._observer = observer
        self._supervision = supervision
        self._late: set[int] = set()
        self._way = MigrationDirection.UP
        self._completed: dict[MigrationDirection, list[AppliedMigration]] = {way: [] for way in MigrationDirection}

    @property
    def completed(self) -> list[AppliedMigration]:
        """Of the way that was gone last: rolling back what is missing only clears the way for going up."""
        return self._completed[self._way]

    def execute(
        self,
        agenda: RunPlan,
        statuses: Sequence[MigrationStatus],
        transaction: TransactionMode,
        *,
        on_copy: bool = False,
    ) -> None:
        """Take the steps. Raises as `Session.execute`; what is `completed` then is there for good.

        On a copy nothing has to be one transaction: all of it is thrown away when a step fails.
        """
        versioned, repetitions = agenda.versioned_steps, agenda.repeatable_steps
        steps = versioned + repetitions
        is_whole = agenda.is_redo or (transaction is TransactionMode.RUN and len(steps) > 1)
        self._late = {status.version for status in statuses if status.state is MigrationState.LATE}
        self._way = steps[0].direction if steps else self._way
        if agenda.updates:
            self._session.update(agenda.updates)
            for migration in agenda.updates:
                self._observer.updated(migration)
        self._observer.planned(len(steps))
        if is_whole and not on_copy:
            refuse_mixture(steps, statuses)
            self._execute_as_one(steps, agenda.drop_repeatables, restore_rows=agenda.is_redo)
        elif self._session.is_new():
            self._execute_grouped(steps)
        else:
            if on_copy:
                self._undo(agenda.drop_repeatables)
            self._execute_singly(versioned)
            self._repeat(repetitions, () if on_copy else agenda.drop_repeatables)
        self._way = agenda.direction

    def _undo(self, repeatables: Sequence[AppliedRepeatable]) -> None:
        if repeatables:
            self._session.undo_repeatables(repeatables)

    def _repeat(self, steps: Sequence[Step], undo: Sequence[AppliedRepeatable]) -> None:
        if not undo or any(step.needs_own_transaction for step in steps):
            self._undo(undo)
            self._execute_singly(steps)
        elif not self._supervision.stop_requested():
            self._execute_batch(steps, commit_on_failure=False, undo=undo)

    def _execute_singly(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self._supervision.stop_requested():
                return
            self._finish(self._take(step), step)

    def _execute_grouped(self, steps: Sequence[Step]) -> None:
        """A database with nothing in it needs no commit for each: one that fails leaves those before it."""
        start = 0
        while start < len(steps) and not self._supervision.stop_requested():
            group = leading_group(steps, start)
            taken = self._take_group(group)
            if taken < len(group):
                return self._execute_singly(steps[start + taken :])
            start += taken
        return None

    def _take_group(self, group: Sequence[Step]) -> int:
        """How many were taken: all, but where a batch was lost, or when we were told to stop."""
        taken = 0
        while taken < len(group) and not self._supervision.stop_requested():
            if len(group) - taken == 1:
                self._finish(self._take(group[taken]), group[taken])
                return len(group)
            try:
                taken += self._execute_batch(group, taken, commit_on_failure=True)
            except BatchLostError:
                break
        return taken

    def _execute_as_one(
        self, steps: Sequence[Step], undo: Sequence[AppliedRepeatable], *, restore_rows: bool
    ) -> None:
        if self._supervision.stop_requested():
            return
        try:
            self._execute_batch(steps, commit_on_failure=False, undo=undo, restore_rows=restore_rows)
        except MigrationError as error:
            undone = "nothing of this run was kept: it is one transaction"
            error.hint = f"{error.hint}; {undone}" if error.hint else undone
            raise

    def _execute_batch(
        self,
        steps: Sequence[Step],
        start: int = 0,
        *,
        commit_on_failure: bool,
        undo: Sequence[AppliedRepeatable] = (),
        restore_rows: bool = False,
    ) -> int:
        """How many were taken, from `start` on. What is done is told only once it is committed."""
        done: list[tuple[StepResult, Step]] = []
        batch: Batch | None = None
        enforced = any(Directive.FOREIGN_KEYS_ON in step.directives for step in steps[start : start + 1])
        try:
            with self._session.together(
                commit_on_failure=commit_on_failure, foreign_keys=enforced, restore_rows=restore_rows
            ) as batch:
                self._undo(undo)
                # A copy of the rest for each of many short batches would be quadratic.
                for number in range(start, len(steps)):
                    if commit_on_failure and (batch.is_full or self._supervision.stop_requested()):
                        break
                    done.append((self._take(steps[number]), steps[number]))
        finally:
            if batch is not None and batch.is_committed:
                for one, step in done:
                    self._finish(one, step)
                if batch.kept is not None:
                    self._observer.rows_restored(batch.kept)
        return len(done)

    def _take(self, step: Step) -> StepResult:
        self._way = step.direction
        migration = step.migration
        self._observer.beginning(step, late=migration.version in self._late)
        try:
            return self._session.execute(step)
        except MigrationError as error:
            if error.name is None:
                error.version, error.name = migration.known_as
            raise

    def _finish(self, done: StepResult, step: Step) -> None:
        if not step.migration.is_repeatable:
            self._completed[step.direction].append(done.entry)
        self._observer.done(done, step.direction)


def settle(
    session: Session, available: Sequence[Migration], version: int, how: Repair, reason: str | None
) -> None:
    """Do what a person decided about the migration `version`. Raises as `MigrationRunner.repair`."""
    while True:
        try:
            record = session.look()
            if record.unfinished and record.unfinished.version == version:
                _settle_unfinished(session, available, record.unfinished, how, reason)
                return
            present = _misread(session, available, record, version)
            if how is Repair.RESUME:
                # The refusal says what happened, and what can be done instead.
                statuses = evaluate(available, record).statuses
                refuse_changed([each for each in statuses if each.version == version], session.stored_migrations)
            session.correct(present, how, reason)
        except LedgerChangedError:
            continue
        return


def _settle_unfinished(
    session: Session, available: Sequence[Migration], unfinished: Unfinished, how: Repair, reason: str | None
) -> None:
    present = next((each for each in available if each.version == unfinished.version), unfinished.recorded)
    if unfinished.direction is MigrationDirection.DOWN and not present.is_reversible:
        # The file has no down text; the recorded one was being run.
        present = unfinished.recorded
    if how is Repair.RESUME:
        refuse_other_beginning(unfinished, present)
    session.settle(unfinished, present, how, reason)


def _misread(session: Session, available: Sequence[Migration], record: LedgerState, version: int) -> Migration:
    """The migration, if it only counts as changed because its whole file was executed; else raise."""
    for status in evaluate(available, record).statuses if record.unfinished is None else ():
        if (
            status.version == version
            and status.migration
            and misreadings([status], session.stored_migrations([version]))
        ):
            return status.migration
    raise _nothing_to_settle(version, record.unfinished)


def _nothing_to_settle(version: int, unfinished: Unfinished | None) -> MigrationNotFoundError:
    return MigrationNotFoundError(
        f"migration {version} is not unfinished{f': {unfinished}' if unfinished else ', nor is any other'}",
        version=version,
        hint="`migrated repair` shows what is open",
    )
