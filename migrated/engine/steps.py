"""Execute the steps of a plan in a session, each in its own transaction or several in one."""

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
    """Executes the plans of one run on one database, in one session."""

    def __init__(self, session: Session, observer: Observer, cancel_token: CancelToken) -> None:
        self._session = session
        self._observer = observer
        self._cancel_token = cancel_token
        self._late: set[int] = set()
        self._direction = MigrationDirection.UP
        self._completed: dict[MigrationDirection, list[AppliedMigration]] = {
            direction: [] for direction in MigrationDirection
        }

    @property
    def completed(self) -> list[AppliedMigration]:
        """The committed ledger entries of one direction.

        While a plan is executed or after it failed, the direction of the current step; afterwards the direction
        that was requested. A run that first rolls back missing migrations therefore returns the applied ones only.
        """
        return self._completed[self._direction]

    def execute(
        self,
        plan: RunPlan,
        statuses: Sequence[MigrationStatus],
        transaction: TransactionMode,
        *,
        on_copy: bool = False,
    ) -> None:
        """Execute the steps. Raises as `Session.execute`; the `completed` steps stay committed.

        On a copy the steps need not share a transaction: the whole copy is thrown away if one fails.
        """
        versioned, repeatable = plan.versioned_steps, plan.repeatable_steps
        steps = versioned + repeatable
        is_whole = plan.is_redo or (transaction is TransactionMode.RUN and len(steps) > 1)
        self._late = {status.version for status in statuses if status.state is MigrationState.LATE}
        self._direction = steps[0].direction if steps else self._direction
        if plan.updates:
            self._session.update(plan.updates)
            for migration in plan.updates:
                self._observer.updated(migration)
        self._observer.planned(len(steps))
        if is_whole and not on_copy:
            refuse_mixture(steps, statuses)
            self._execute_as_one(steps, plan.drop_repeatables, restore_rows=plan.is_redo)
        elif self._session.is_new():
            self._execute_grouped(steps)
        else:
            if on_copy:
                self._drop_repeatables(plan.drop_repeatables)
            self._execute_singly(versioned)
            self._apply_repeatables(repeatable, () if on_copy else plan.drop_repeatables)
        self._direction = plan.direction

    def _drop_repeatables(self, repeatables: Sequence[AppliedRepeatable]) -> None:
        if repeatables:
            self._session.undo_repeatables(repeatables)

    def _apply_repeatables(self, steps: Sequence[Step], undo: Sequence[AppliedRepeatable]) -> None:
        if not undo or any(step.needs_own_transaction for step in steps):
            self._drop_repeatables(undo)
            self._execute_singly(steps)
        elif not self._cancel_token.stop_requested():
            self._execute_batch(steps, commit_on_failure=False, undo=undo)

    def _execute_singly(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self._cancel_token.stop_requested():
                return
            self._finish(self._execute_step(step), step)

    def _execute_grouped(self, steps: Sequence[Step]) -> None:
        """Execute the steps on a new database, as many per transaction as possible.

        The steps before a failing one are committed.
        """
        start = 0
        while start < len(steps) and not self._cancel_token.stop_requested():
            group = leading_group(steps, start)
            executed = self._execute_group(group)
            if executed < len(group):
                return self._execute_singly(steps[start + executed :])
            start += executed
        return None

    def _execute_group(self, group: Sequence[Step]) -> int:
        """Return how many steps were executed: all, unless a batch was lost or a stop was requested."""
        executed = 0
        while executed < len(group) and not self._cancel_token.stop_requested():
            if len(group) - executed == 1:
                self._finish(self._execute_step(group[executed]), group[executed])
                return len(group)
            try:
                executed += self._execute_batch(group, executed, commit_on_failure=True)
            # The transaction of the batch is gone: the caller executes its steps one by one.
            except BatchLostError:
                break
        return executed

    def _execute_as_one(
        self, steps: Sequence[Step], undo: Sequence[AppliedRepeatable], *, restore_rows: bool
    ) -> None:
        if self._cancel_token.stop_requested():
            return
        try:
            self._execute_batch(steps, commit_on_failure=False, undo=undo, restore_rows=restore_rows)
        except MigrationError as error:
            rolled_back = "the whole run was rolled back: it is one transaction"
            error.hint = f"{error.hint}; {rolled_back}" if error.hint else rolled_back
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
        """Execute the steps from `start` on in one transaction; return how many were executed.

        The observer is notified after the commit.
        """
        results: list[tuple[StepResult, Step]] = []
        batch: Batch | None = None
        # All steps of a batch agree on this directive, so the first one decides. A slice, as there may be none.
        enforced = any(Directive.FOREIGN_KEYS_ON in step.directives for step in steps[start : start + 1])
        try:
            with self._session.batch(
                commit_on_failure=commit_on_failure, foreign_keys=enforced, restore_rows=restore_rows
            ) as batch:
                self._drop_repeatables(undo)
                # An index, not a slice: copying the rest for each of many short batches would be quadratic.
                for number in range(start, len(steps)):
                    if commit_on_failure and (batch.is_full or self._cancel_token.stop_requested()):
                        break
                    results.append((self._execute_step(steps[number]), steps[number]))
        finally:
            # Also after a failure: with commit_on_failure the steps before it are committed.
            if batch is not None and batch.is_committed:
                for result, step in results:
                    self._finish(result, step)
                if batch.row_report is not None:
                    self._observer.rows_restored(batch.row_report)
        return len(results)

    def _execute_step(self, step: Step) -> StepResult:
        self._direction = step.direction
        migration = step.migration
        self._observer.beginning(step, late=migration.version in self._late)
        try:
            return self._session.execute(step)
        except MigrationError as error:
            if error.name is None:
                error.version, error.name = migration.known_as
            raise

    def _finish(self, result: StepResult, step: Step) -> None:
        if not step.migration.is_repeatable:
            self._completed[step.direction].append(result.entry)
        self._observer.done(result, step.direction)


def repair_version(
    session: Session, available: Sequence[Migration], version: int, how: Repair, reason: str | None
) -> None:
    """Repair the migration `version`, planning again if another process changes the ledger.

    Raises as `MigrationRunner.repair`.
    """
    while True:
        try:
            state = session.look()
            if state.unfinished and state.unfinished.version == version:
                _repair_unfinished(session, available, state.unfinished, how, reason)
                return
            current = _misread(session, available, state, version)
            if how is Repair.RESUME:
                # Nothing can be resumed. The refusal for changed migrations says what happened and what to do.
                statuses = evaluate(available, state).statuses
                refuse_changed([each for each in statuses if each.version == version], session.stored_migrations)
            session.correct(current, how, reason)
        # Another process changed the ledger: read it again.
        except LedgerChangedError:
            continue
        return


def _repair_unfinished(
    session: Session, available: Sequence[Migration], unfinished: Unfinished, how: Repair, reason: str | None
) -> None:
    current = next((each for each in available if each.version == unfinished.version), unfinished.recorded)
    if unfinished.direction is MigrationDirection.DOWN and not current.is_reversible:
        # The file has no down text, so the rollback was running the stored one.
        current = unfinished.recorded
    if how is Repair.RESUME:
        refuse_other_beginning(unfinished, current)
    session.repair(unfinished, current, how, reason)


def _misread(session: Session, available: Sequence[Migration], state: LedgerState, version: int) -> Migration:
    """Return the migration if it counts as changed only because its whole file was executed, else raise."""
    for status in evaluate(available, state).statuses if state.unfinished is None else ():
        if (
            status.version == version
            and status.migration
            and misreadings([status], session.stored_migrations([version]))
        ):
            return status.migration
    raise _nothing_to_repair(version, state.unfinished)


def _nothing_to_repair(version: int, unfinished: Unfinished | None) -> MigrationNotFoundError:
    return MigrationNotFoundError(
        f"migration {version} is not stopped{f': {unfinished}' if unfinished else ', nor is any other'}",
        version=version,
        hint="`migrated repair` lists stopped migrations",
    )
