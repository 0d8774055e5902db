"""Bring one database up to date: the centre of the library.

The order of every run is the same: look without the lock; take the lock; look again, if anybody wrote meanwhile,
and decide; then for each step one transaction, inside which that is asked once more. Refusals come before the
first step.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import apsw

from migrated.config.settings import NO_SNAPSHOTS, SnapshotPolicy, TransactionMode
from migrated.core import refusals
from migrated.core.errors import ChecksumMismatchError, InvalidFormatError
from migrated.core.migration import ChecksumMismatch, Directive, Migration, MigrationDirection
from migrated.core.plan import (
    MigrationPlan,
    RunPlan,
    applied_above,
    newest_applied,
    plan_down,
    plan_redo,
    plan_run,
    plan_to,
    require_known,
)
from migrated.core.records import AppliedMigration, Repair, Snapshot, Unfinished, highest_version
from migrated.core.status import (
    DatabaseStatus,
    LookUpStored,
    MigrationStatus,
    OnChanged,
    Policy,
    RepeatableStatus,
    evaluate,
    pending,
)
from migrated.engine.backend import Database, Observer, StepResult, Template
from migrated.engine.run import Decision, Execution
from migrated.engine.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase
from migrated.engine.steps import settle
from migrated.sources.directory import read_migrations
from migrated.system.cancellation import CancelToken

DEFAULT_LOCK_TIMEOUT = 10.0


class LockFactory(Protocol):
    """Takes the lock of the directory that a database lies in, as `file_locks.holding` does with `APPLYING`."""

    def __call__(
        self, database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
    ) -> AbstractContextManager[object]: ...


def _hold(
    database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
) -> AbstractContextManager[object]:
    # Imported here: the commands that only read start in half the time without filelock.
    from migrated.system import file_locks

    return file_locks.file_lock(database, file_locks.APPLYING, timeout, cancelled=cancelled, waiting=waiting)


class MigrationSet:
    """Migrations made known once, for many runners. Raises as `MigrationRunner.add_migrations`."""

    def __init__(self, migrations: Iterable[Migration]) -> None:
        runner = MigrationRunner(":memory:")
        runner.add_migrations(migrations)
        self.by_key = runner._migrations  # noqa: SLF001 - of the same module
        self.available = runner._available  # noqa: SLF001


class MigrationRunner:
    """Applies migrations to one database: a path, `":memory:"`, or an open `apsw.Connection`.

    `lock_timeout`, `busy_timeout` and `statement_timeout` (0: none) are seconds. With `transaction = RUN` all
    that is pending goes in one transaction. `snapshots` says when the content is kept before it is changed; with
    an `application_id`, only a database that has it, or is new, is touched. A run stops before its next step, or
    is interrupted, as the `supervision` says. With `is_alone_in_process` it is not seen to whether something else
    in this process has the database open. `hold` takes the lock of the database's directory. On `":memory:"`
    the database lives as long as the runner.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | apsw.Connection,
        *,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        create: bool = True,
        must_exist: bool = False,
        is_alone_in_process: bool = False,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        statement_timeout: float = 0,
        transaction: TransactionMode = TransactionMode.EACH,
        snapshots: SnapshotPolicy = NO_SNAPSHOTS,
        application_id: int = 0,
        observer: Observer | None = None,
        supervision: CancelToken | None = None,
        hold: LockFactory | None = None,
    ) -> None:
        self._hold = hold or _hold
        self._supervision = supervision or CancelToken()
        self._database: Database = SqliteDatabase(
            database,
            create=create,
            must_exist=must_exist,
            is_alone_in_process=is_alone_in_process,
            busy_timeout=busy_timeout,
            statement_timeout=statement_timeout,
            snapshots=snapshots,
            application_id=application_id,
            supervision=self._supervision,
        )
        self._transaction = transaction
        self._policy = policy
        self._lock_timeout = lock_timeout
        self._observer = observer or Observer()
        self._migrations: dict[int | str, Migration] = {}
        self._prepared: MigrationSet | None = None

    @property
    def _available(self) -> list[Migration]:
        if self._prepared is not None:
            return self._prepared.available
        # Those with a version may come in any order; the others are applied by their names.
        return sorted(self._migrations.values(), key=lambda each: (each.is_repeatable, each.version, each.name))

    def add_migration(self, migration: Migration) -> None:
        """Make a migration known, in any order.

        Raises `InvalidFormatError` when another has its version (or its name, for a repeatable one),
        `ChecksumMismatchError` when the checksum it was given is not that of its text.
        """
        key = migration.label if migration.is_repeatable else migration.version
        known = self._migrations.get(key)
        if known is not None:
            raise InvalidFormatError(
                f"version {migration.version} is claimed twice: by {known.label} and by {migration.label}",
                version=migration.version,
                name=migration.name,
                hint="give one of them another version",
            )
        if not migration.verify_checksum():
            found = Migration.compute_checksum(migration.up_sql)
            raise ChecksumMismatchError(
                f"{migration.label} carries checksum {migration.checksum}, its text has {found}",
                version=migration.version,
                name=migration.name,
                expected=migration.checksum,
                found=found,
            )
        if self._prepared is not None:
            # Those are of other runners too.
            self._migrations, self._prepared = {**self._migrations}, None
        self._migrations[key] = migration

    def use(self, prepared: MigrationSet) -> None:
        """Make known what was prepared, and nothing else."""
        self._migrations, self._prepared = prepared.by_key, prepared

    def add_migrations(self, migrations: Iterable[Migration]) -> None:
        """Make several known. Raises as `add_migration`, having added those before."""
        for migration in migrations:
            self.add_migration(migration)

    def add_directory(self, directory: str | os.PathLike[str]) -> None:
        """Make every migration of a directory known. Raises as `read_migrations`."""
        self.add_migrations(read_migrations(directory))

    def init(self) -> None:
        """Create the ledger and the history where they are missing. `run` does so by itself."""
        with self._database.session(self._observer) as session:
            session.create_ledger()

    def get_applied(self) -> list[AppliedMigration]:
        """What the ledger has, ascending by version. Changes nothing."""
        return self._database.look().applied

    def current_version(self) -> int | None:
        """The highest applied version, None when nothing is applied. Changes nothing."""
        return highest_version(self.get_applied())

    def statuses(self) -> list[MigrationStatus]:
        """The state of every version that the migrations or the ledger have. Changes nothing."""
        return [*evaluate(self._available, self._database.look()).statuses]

    def repeatables(self) -> list[RepeatableStatus]:
        """The state of every repeatable migration that the program or the database has. Changes nothing."""
        return [*evaluate(self._available, self._database.look()).repeatables]

    def pending(self) -> list[Migration]:
        """What `run` would apply, ascending; drafts are not among them. Changes nothing."""
        return pending(self.statuses())

    def count_pending(self) -> int:
        """How many migrations `run` would apply, repeatable ones included. Changes nothing."""
        return evaluate(self._available, self._database.look()).pending

    def plan(self, target: int | None = None) -> MigrationPlan:
        """Say what `run_to(target)`, or `run()` without a target, would do. Changes nothing.

        Without a target: all that is not applied, ascending. With one: all that is not applied at or below it;
        if nothing is, the applied ones above it, newest first. 0 means empty. Raises `MigrationNotFoundError`
        for a target that neither side knows, `RollbackFailedError` when a step down has no down text.
        """
        return plan_to(self.statuses(), target, self._database.stored_migrations)

    def verify(self) -> list[ChecksumMismatch]:
        """Return every applied migration whose text differs from what was applied, ascending by version.

        The list is empty if there is none. A repeatable migration with a new text is pending, not a mismatch;
        a migration that is only in the ledger has no text to compare. Changes nothing. Raises `DatabaseError` if
        the database cannot be read. `require_valid` raises what `run` would refuse.
        """
        return [status.mismatch for status in self.statuses() if status.mismatch]

    def require_valid(self) -> None:
        """Raise the refusal that `run` would meet, if any: `ChecksumMismatchError` for changed migrations,
        `MigrationNotFoundError` for missing and `LateMigrationError` for late ones where the policy says so,
        `UnfinishedError` for a stopped one. Changes nothing.
        """  # noqa: D205 - one sentence
        refusals.refuse_by_policy(self.statuses(), self._policy, self._database.stored_migrations)

    def run(self) -> list[AppliedMigration]:
        """Apply everything pending, ascending, and return the new ledger entries.

        Verifies checksums first. Each migration is one transaction with its ledger entry. Raises a
        `RefusedError` before anything ran, `ExecutionFailedError` when a statement failed (what was applied
        before it stays and is in `completed`), `DatabaseError` or `LockHeldError`.

        With `on_changed = REDO` a migration that was changed is rolled back first, with those above it, and all of
        the run is one transaction then, after the content was kept as a snapshot.
        """
        return self._carry_out(
            lambda findings, recorded: plan_run(findings, recorded, self._policy), may_use_snapshot=True
        )

    def run_from(self, template: Template) -> list[AppliedMigration]:
        """As `run`; but a database with nothing in it becomes a copy of the template, at one stroke.

        That must have been made from the same migrations and settings.
        """
        if self._database.lockable:
            with self._lock():
                is_filled = self._database.fill(template)
            if is_filled:
                self._observer.planned(len(template.entries))
                for entry in template.entries:
                    self._observer.done(StepResult(entry, entry.execution_time_ms, 0), MigrationDirection.UP)
                return [*template.entries]
        return self.run()

    def make_template(self) -> Template | None:
        """On `":memory:"`: apply everything, and give what `run_from` makes any number of new databases from.

        None where running the migrations once more could come to something else: they write random values, say.
        Raises as `run`.
        """
        if any(Directive.NO_TRANSACTION in migration.up_directives for migration in self.pending()):
            # A journal mode, say, is another matter in memory.
            return None
        self.run()
        return self._database.template(self._available)

    def run_up_to(self, version: int) -> list[AppliedMigration]:
        """Apply everything pending at or below `version`; roll back only as `run` does. Raises as these two."""
        again = {entry.version for entry in self.get_applied()}

        def decide(findings: DatabaseStatus, recorded: LookUpStored) -> RunPlan:
            if version not in again:
                require_known(findings.statuses, version)
            return plan_run(findings, recorded, self._policy, version, again)

        return self._carry_out(decide, may_use_snapshot=True)

    def run_to(self, version: int) -> list[AppliedMigration]:
        """Do what `plan(version)` says. Going down, the entries returned are those that were struck out.

        Verifies checksums first. Raises as `run` and `plan`, and `RollbackFailedError` when a rollback failed.
        """
        statuses = self.statuses()
        refusals.refuse_unfinished(statuses)
        refusals.refuse_changed(statuses, self._database.stored_migrations)
        plan = plan_to(statuses, version, self._database.stored_migrations)
        if not plan:
            return []
        # Another runner may finish our way meanwhile: the other way was never asked for.
        return self.run_up_to(version) if plan.direction is MigrationDirection.UP else self.roll_back_to(version)

    def roll_back_to(self, version: int) -> list[AppliedMigration]:
        """Roll back everything above `version`, newest first; never apply. Raises as `run_to`."""

        def decide(findings: DatabaseStatus, recorded: LookUpStored) -> RunPlan:
            require_known(findings.statuses, version)
            above = applied_above(findings.statuses, version)
            return self._downward(findings.statuses, recorded, above)

        return self._carry_out(decide)

    def roll_back(self, steps: int = 1) -> list[AppliedMigration]:
        """Roll back the `steps` highest applied versions, newest first. Raises as `run_to`."""
        wanted = newest_applied(self.statuses(), steps)
        return self._carry_out(lambda findings, recorded: self._downward(findings.statuses, recorded, wanted))

    def redo(self, steps: int = 1) -> list[AppliedMigration]:
        """Roll back the `steps` highest applied versions and apply them as they are now, in one transaction.

        The content is kept as a snapshot first; rows of tables that did not change are put back. Returns the new
        entries. Raises as `run_to`, with nothing changed.
        """
        return self._redo(lambda statuses: newest_applied(statuses, steps))

    def redo_above(self, version: int) -> list[AppliedMigration]:
        """As `redo`, for everything that is applied above `version`."""

        def choose(statuses: Sequence[MigrationStatus]) -> list[int]:
            require_known(statuses, version)
            return applied_above(statuses, version)

        return self._redo(choose)

    def _redo(self, choose: Callable[[Sequence[MigrationStatus]], list[int]]) -> list[AppliedMigration]:
        statuses = self.statuses()
        wanted = choose(statuses)
        again = {status.version for status in statuses if status.applied}

        def decide(findings: DatabaseStatus, recorded: LookUpStored) -> RunPlan:
            refusals.refuse_redo(findings.statuses, wanted, recorded)
            return plan_redo(findings, recorded, wanted, again)

        return self._carry_out(decide, may_use_snapshot=True)

    def _downward(
        self, statuses: Sequence[MigrationStatus], recorded: LookUpStored, versions: list[int]
    ) -> RunPlan:
        if self._policy.on_changed is OnChanged.REFUSE:
            refusals.refuse_changed(statuses, recorded)
        return RunPlan.from_plan(plan_down(statuses, recorded(versions), versions))

    def unfinished(self) -> Unfinished | None:
        """The migration without a transaction that stopped half way, if one did. Changes nothing."""
        return self._database.look().unfinished

    def repair(self, version: int, how: Repair, *, reason: str | None = None) -> None:
        """Settle the migration `version` as a person decided, and keep `reason` in the history.

        It is unfinished; or it counts as changed only because its whole file was once executed as the UP section:
        `MARK_APPLIED` then records the checksum of its present text, `FORGET` makes it pending again.

        Resuming goes on with the statement after the last that is recorded as done, with the migration's present
        text, or the recorded one where no migration has the version any more; raises as `run`, and
        `ChecksumMismatchError` when a statement that is done is another one now. Raises
        `MigrationNotFoundError` when there is nothing to settle about this migration.
        """
        with self._lock(), self._database.session(self._observer) as session:
            settle(session, self._available, version, how, reason)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots of the database, oldest first. Changes nothing."""
        return self._database.snapshots()

    def restore(self, snapshot: Snapshot, *, reason: str | None = None) -> None:
        """Put the content of a snapshot back into the database's file, and record it in the history.

        What is there now is kept as a snapshot too, without a gap. Raises `DatabaseError` with nothing changed,
        or `LockHeldError`.
        """
        with self._lock():
            self._database.restore(snapshot, self._observer, reason)

    def _carry_out(self, decide: Decision, *, may_use_snapshot: bool = False) -> list[AppliedMigration]:
        execution = Execution(
            self._database,
            self._available,
            policy=self._policy,
            transaction=self._transaction,
            observer=self._observer,
            supervision=self._supervision,
            may_use_snapshot=may_use_snapshot and self._policy.on_changed is OnChanged.REDO,
        )
        try:
            if not execution.is_needed(decide):
                return []
            with self._lock():
                return execution.carry_out(decide)
        finally:
            self._database.let_go()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if not self._database.lockable:
            yield
            return
        self._database.require_usable()
        with self._hold(
            self._database.name,
            self._lock_timeout,
            cancelled=self._is_called_off,
            waiting=self._wait,
        ):
            yield

    def _wait(self, holder: str) -> None:
        # An open connection may keep the holder from what it is doing: changing the journal mode, for one.
        self._database.let_go()
        self._observer.lock_waiting(holder)

    def _is_called_off(self) -> bool:
        # Asked again and again while another holds the lock, and a sign of life for that long.
        self._supervision.beat()
        return self._supervision.stop_requested()
