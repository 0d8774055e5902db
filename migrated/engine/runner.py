"""Bring one database up to date: the centre of the library.

Every run has the same order: read the ledger and plan without the lock; take the lock; read and plan again if the
ledger changed; then execute each step in a transaction that first checks that the ledger is unchanged. Refusals
are raised before the first step.
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
from migrated.engine.run import Planner, Run
from migrated.engine.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase
from migrated.engine.steps import repair_version
from migrated.sources.directory import read_migrations
from migrated.system.cancellation import CancelToken

DEFAULT_LOCK_TIMEOUT = 10.0


class LockFactory(Protocol):
    """Takes the lock of the directory of a database, as `file_locks.file_lock` does with `APPLYING`."""

    def __call__(
        self, database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
    ) -> AbstractContextManager[object]: ...


def _lock_factory(
    database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
) -> AbstractContextManager[object]:
    # Imported here: the commands that only read start in half the time without filelock.
    from migrated.system import file_locks

    return file_locks.file_lock(database, file_locks.APPLYING, timeout, cancelled=cancelled, waiting=waiting)


class MigrationSet:
    """Migrations validated once, for many runners. Raises as `MigrationRunner.add_migrations`."""

    def __init__(self, migrations: Iterable[Migration]) -> None:
        runner = MigrationRunner(":memory:")
        runner.add_migrations(migrations)
        self.by_key = runner._migrations  # noqa: SLF001 - of the same module
        self.available = runner._available  # noqa: SLF001


class MigrationRunner:
    """Applies migrations to one database: a path, `":memory:"`, or an open `apsw.Connection`.

    `lock_timeout`, `busy_timeout` and `statement_timeout` (0: none) are in seconds. With `transaction = RUN` all
    pending migrations share one transaction. `snapshots` says when to take snapshots. With an `application_id`,
    only a database that has it, or is new, is changed. `supervision` can stop a run before its next step, or
    interrupt it. `is_alone_in_process` skips the check that nothing else in this process has the database open.
    `hold` takes the lock of the database's directory. With `":memory:"` the database lives as long as the runner.
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
        self._lock_factory = hold or _lock_factory
        self._cancel_token = supervision or CancelToken()
        self._database: Database = SqliteDatabase(
            database,
            create=create,
            must_exist=must_exist,
            is_alone_in_process=is_alone_in_process,
            busy_timeout=busy_timeout,
            statement_timeout=statement_timeout,
            snapshots=snapshots,
            application_id=application_id,
            cancel_token=self._cancel_token,
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
        # Versioned migrations may be added in any order; repeatable ones are applied in the order of their names.
        return sorted(self._migrations.values(), key=lambda each: (each.is_repeatable, each.version, each.name))

    def add_migration(self, migration: Migration) -> None:
        """Add a migration, in any order.

        Raises `InvalidFormatError` if another one has its version (a repeatable one: its name), and
        `ChecksumMismatchError` if its checksum is not that of its up text.
        """
        key = migration.label if migration.is_repeatable else migration.version
        known = self._migrations.get(key)
        if known is not None:
            raise InvalidFormatError(
                f"version {migration.version} is used twice: by {known.label} and by {migration.label}",
                version=migration.version,
                name=migration.name,
                hint="give one of them another version",
            )
        if not migration.verify_checksum():
            found = Migration.compute_checksum(migration.up_sql)
            raise ChecksumMismatchError(
                f"{migration.label} was given checksum {migration.checksum}, but its text has {found}",
                version=migration.version,
                name=migration.name,
                expected=migration.checksum,
                found=found,
            )
        if self._prepared is not None:
            # Other runners share this dictionary.
            self._migrations, self._prepared = {**self._migrations}, None
        self._migrations[key] = migration

    def use(self, prepared: MigrationSet) -> None:
        """Use exactly the prepared migrations, in place of any added before."""
        self._migrations, self._prepared = prepared.by_key, prepared

    def add_migrations(self, migrations: Iterable[Migration]) -> None:
        """Add several migrations. Raises as `add_migration`; those before the faulty one stay added."""
        for migration in migrations:
            self.add_migration(migration)

    def add_directory(self, directory: str | os.PathLike[str]) -> None:
        """Add every migration of a directory. Raises as `read_migrations`."""
        self.add_migrations(read_migrations(directory))

    def init(self) -> None:
        """Create the ledger and the history if they are missing. `run` does that itself."""
        with self._database.session(self._observer) as session:
            session.create_ledger()

    def get_applied(self) -> list[AppliedMigration]:
        """Return the ledger's entries, ascending by version. Changes nothing."""
        return self._database.look().applied

    def current_version(self) -> int | None:
        """Return the highest applied version; None if nothing is applied. Changes nothing."""
        return highest_version(self.get_applied())

    def statuses(self) -> list[MigrationStatus]:
        """Return the status of every version in the migrations or the ledger. Changes nothing."""
        return [*evaluate(self._available, self._database.look()).statuses]

    def repeatables(self) -> list[RepeatableStatus]:
        """Return the status of every repeatable migration, added or applied. Changes nothing."""
        return [*evaluate(self._available, self._database.look()).repeatables]

    def pending(self) -> list[Migration]:
        """Return the migrations that `run` would apply, ascending, without drafts. Changes nothing."""
        return pending(self.statuses())

    def count_pending(self) -> int:
        """Count the migrations that `run` would apply, repeatable ones included. Changes nothing."""
        return evaluate(self._available, self._database.look()).pending

    def plan(self, target: int | None = None) -> MigrationPlan:
        """Plan `run_to(target)`, or `run()` without a target. Changes nothing.

        Without a target: apply all pending migrations, ascending. With one: apply those at or below it; if there
        are none, roll back the applied ones above it, newest first. 0 means the empty database. Raises
        `MigrationNotFoundError` if the target is neither among the migrations nor in the ledger, and
        `RollbackFailedError` if a step down has no down text.
        """
        return plan_to(self.statuses(), target, self._database.stored_migrations)

    def verify(self) -> list[ChecksumMismatch]:
        """Return every applied migration whose text differs from what was applied, ascending by version.

        A changed repeatable migration is pending, not a mismatch; a migration that is only in the ledger has no
        text to compare. Changes nothing. Raises `DatabaseError` if the database cannot be read. `require_valid`
        raises the refusals of `run`.
        """
        return [status.mismatch for status in self.statuses() if status.mismatch]

    def require_valid(self) -> None:
        """Raise the refusal that `run` would meet, if any: `ChecksumMismatchError` for changed migrations,
        `MigrationNotFoundError` for missing and `LateMigrationError` for late ones if the policy refuses them,
        `UnfinishedError` for a stopped one. Changes nothing.
        """  # noqa: D205 - one sentence
        refusals.refuse_by_policy(self.statuses(), self._policy, self._database.stored_migrations)

    def run(self) -> list[AppliedMigration]:
        """Apply everything pending, ascending, and return the new ledger entries.

        Verifies checksums first. Each migration and its ledger entry are one transaction. Raises `RefusedError`
        before anything ran; `ExecutionFailedError` if a statement failed (migrations applied before it stay, and
        are in `completed`); `DatabaseError` or `LockHeldError`.

        With `on_changed = REDO` a changed migration is rolled back first, with those above it. The run is then one
        transaction, and a snapshot is taken before it.
        """
        return self._execute(lambda status, stored: plan_run(status, stored, self._policy), may_use_snapshot=True)

    def run_from(self, template: Template) -> list[AppliedMigration]:
        """Like `run`, but an empty database becomes a copy of the template, in one transaction.

        The template must come from a runner with the same migrations and settings.
        """
        if self._database.lockable:
            with self._lock():
                # The lock ends before run(), which takes it itself.
                is_filled = self._database.fill(template)
            if is_filled:
                self._observer.planned(len(template.entries))
                for entry in template.entries:
                    self._observer.done(StepResult(entry, entry.execution_time_ms, 0), MigrationDirection.UP)
                return [*template.entries]
        return self.run()

    def make_template(self) -> Template | None:
        """On `":memory:"`: apply everything and return the template for `run_from`.

        None if running the migrations again could give another content, such as random values. Raises as `run`.
        """
        if any(Directive.NO_TRANSACTION in migration.up_directives for migration in self.pending()):
            # Such a migration may set a journal mode, which a database in memory cannot have.
            return None
        self.run()
        return self._database.template(self._available)

    def run_up_to(self, version: int) -> list[AppliedMigration]:
        """Apply everything pending at or below `version`; roll back only as `run` does.

        Raises as `run` and `plan`.
        """
        again = {entry.version for entry in self.get_applied()}

        def plan(status: DatabaseStatus, stored: LookUpStored) -> RunPlan:
            # In an earlier state of the database `version` may be unknown, though it was applied before the run.
            if version not in again:
                require_known(status.statuses, version)
            return plan_run(status, stored, self._policy, version, again)

        return self._execute(plan, may_use_snapshot=True)

    def run_to(self, version: int) -> list[AppliedMigration]:
        """Execute `plan(version)`. Going down, the deleted ledger entries are returned.

        Verifies checksums first. Raises as `run` and `plan`, and `RollbackFailedError` when a rollback failed.
        """
        statuses = self.statuses()
        refusals.refuse_unfinished(statuses)
        refusals.refuse_changed(statuses, self._database.stored_migrations)
        plan = plan_to(statuses, version, self._database.stored_migrations)
        if not plan:
            return []
        # The direction is fixed here: if another runner gets there first, planning again must not turn around.
        return self.run_up_to(version) if plan.direction is MigrationDirection.UP else self.roll_back_to(version)

    def roll_back_to(self, version: int) -> list[AppliedMigration]:
        """Roll back everything above `version`, newest first; never apply. Raises as `run_to`."""

        def plan(status: DatabaseStatus, stored: LookUpStored) -> RunPlan:
            require_known(status.statuses, version)
            above = applied_above(status.statuses, version)
            return self._downward(status.statuses, stored, above)

        return self._execute(plan)

    def roll_back(self, steps: int = 1) -> list[AppliedMigration]:
        """Roll back the `steps` highest applied versions, newest first. Raises as `run_to`."""
        wanted = newest_applied(self.statuses(), steps)
        return self._execute(lambda status, stored: self._downward(status.statuses, stored, wanted))

    def redo(self, steps: int = 1) -> list[AppliedMigration]:
        """Roll back the `steps` highest applied versions and apply their current text, in one transaction.

        A snapshot is taken first, and rows of tables that the changed migrations do not write to are restored.
        Returns the new entries. Raises as `run_to`, with nothing changed.
        """
        return self._redo(lambda statuses: newest_applied(statuses, steps))

    def redo_above(self, version: int) -> list[AppliedMigration]:
        """Like `redo`, for everything applied above `version`."""

        def choose(statuses: Sequence[MigrationStatus]) -> list[int]:
            require_known(statuses, version)
            return applied_above(statuses, version)

        return self._redo(choose)

    def _redo(self, choose: Callable[[Sequence[MigrationStatus]], list[int]]) -> list[AppliedMigration]:
        statuses, repeatables = evaluate(self._available, self._database.look())
        wanted = choose(statuses)
        # A redo applies again only what was applied: pending migrations stay pending.
        again = {status.version for status in statuses if status.applied}
        repeatables_again = {each.name for each in repeatables if each.applied}

        def plan(status: DatabaseStatus, stored: LookUpStored) -> RunPlan:
            refusals.refuse_redo(status.statuses, wanted, stored)
            return plan_redo(status, stored, wanted, again, repeatables_again)

        return self._execute(plan, may_use_snapshot=True)

    def _downward(self, statuses: Sequence[MigrationStatus], stored: LookUpStored, versions: list[int]) -> RunPlan:
        if self._policy.on_changed is OnChanged.REFUSE:
            refusals.refuse_changed(statuses, stored)
        return RunPlan.from_plan(plan_down(statuses, stored(versions), versions))

    def unfinished(self) -> Unfinished | None:
        """Return the stopped migration, or None. Changes nothing."""
        return self._database.look().unfinished

    def repair(self, version: int, how: Repair, *, reason: str | None = None) -> None:
        """Repair the migration `version` as `how` says, and store `reason` in the history.

        The migration must be stopped, or count as changed only because its whole file was once executed as the UP
        section. In the second case `MARK_APPLIED` stores the checksum of its current text, and `FORGET` makes it
        pending again.

        `RESUME` continues after the last statement recorded as done, with the migration's current text, or the
        stored one if no migration has the version. It raises as `run`, and `ChecksumMismatchError` if a
        statement that is done has changed. Raises `MigrationNotFoundError` if there is nothing to repair.
        """
        with self._lock(), self._database.session(self._observer) as session:
            repair_version(session, self._available, version, how, reason)

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots of the database, oldest first. Changes nothing."""
        return self._database.snapshots()

    def restore(self, snapshot: Snapshot, *, reason: str | None = None) -> None:
        """Restore the content of a snapshot into the same file, and record it in the history.

        The current content becomes a snapshot first, and nobody can write between the two. Raises `DatabaseError`
        or `LockHeldError`, with nothing changed.
        """
        with self._lock():
            self._database.restore(snapshot, self._observer, reason)

    def _execute(self, plan: Planner, *, may_use_snapshot: bool = False) -> list[AppliedMigration]:
        run = Run(
            self._database,
            self._available,
            policy=self._policy,
            transaction=self._transaction,
            observer=self._observer,
            cancel_token=self._cancel_token,
            may_use_snapshot=may_use_snapshot and self._policy.on_changed is OnChanged.REDO,
        )
        try:
            if not run.is_needed(plan):
                return []
            with self._lock():
                return run.execute(plan)
        finally:
            self._database.close()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if not self._database.lockable:
            yield
            return
        # Before the lock, so that a refused run leaves no lock file in the directory.
        self._database.require_usable()
        with self._lock_factory(
            self._database.name,
            self._lock_timeout,
            cancelled=self._stop_requested,
            waiting=self._wait,
        ):
            yield

    def _wait(self, holder: str) -> None:
        # Our open connection could block the holder, which may be changing the journal mode.
        self._database.close()
        self._observer.lock_waiting(holder)

    def _stop_requested(self) -> bool:
        # Called repeatedly while another process holds the lock: the heartbeat shows that we are alive.
        self._cancel_token.beat()
        return self._cancel_token.stop_requested()
