"""Bring one database up to date: the centre of the library.

The order of every run is the same: look without the lock; take the lock; look again and decide; then for each
step one transaction, inside which the ledger is read once more. Refusals come before the first step.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import apsw

from migrated import planning, refusals
from migrated.backend import Database, LedgerMovedError, Observer, Session
from migrated.errors import ChecksumMismatchError, InvalidFormatError, MigrationError, RefusedError
from migrated.model import (
    AppliedMigration,
    Migration,
    MigrationDirection,
    MigrationPlan,
    Repair,
    Snapshot,
    Unfinished,
)
from migrated.planning import OnMissing, Policy, State, Status
from migrated.settings import NO_SNAPSHOTS, SnapshotPolicy, TransactionMode
from migrated.sources.directory import read_migrations
from migrated.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase
from migrated.supervision import Supervision
from migrated.work import Work, settle_unfinished

DEFAULT_LOCK_TIMEOUT = 10.0

Recorded = Callable[[list[int]], Mapping[int, Migration]]
Decision = Callable[[Sequence[Status], Recorded], Sequence[MigrationPlan]]


class MigrationRunner:
    """Applies migrations to one database: a path, `":memory:"`, or an open `apsw.Connection`.

    `lock_timeout`, `busy_timeout` and `statement_timeout` (0: none) are seconds. With `transaction = RUN` all
    that is pending goes in one transaction. `snapshots` says when the content is kept before it is changed; with
    an `application_id`, only a database that has it, or is new, is touched. A run stops before its next step, or
    is interrupted, as the `supervision` says. A runner on `":memory:"` keeps its database for its own life.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | apsw.Connection,
        *,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        create: bool = True,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        statement_timeout: float = 0,
        transaction: TransactionMode = TransactionMode.EACH,
        snapshots: SnapshotPolicy = NO_SNAPSHOTS,
        application_id: int = 0,
        observer: Observer | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self._supervision = supervision or Supervision()
        self._database: Database = SqliteDatabase(
            database,
            create=create,
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
        self._migrations: dict[int, Migration] = {}

    def add_migration(self, migration: Migration) -> None:
        """Make a migration known, in any order.

        Raises `InvalidFormatError` when another has its version, `ChecksumMismatchError` when the checksum it
        was given is not that of its text.
        """
        known = self._migrations.get(migration.version)
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
        self._migrations[migration.version] = migration

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
        return self._database.look()[0]

    def current_version(self) -> int | None:
        """The highest applied version, None when nothing is applied. Changes nothing."""
        return max((entry.version for entry in self.get_applied()), default=None)

    def statuses(self) -> list[Status]:
        """The state of every version that the migrations or the ledger have. Changes nothing."""
        return planning.examine(self._migrations.values(), *self._database.look())

    def pending(self) -> list[Migration]:
        """What `run` would apply, ascending; drafts are not among them. Changes nothing."""
        return planning.pending(self.statuses())

    def plan(self, target: int | None = None) -> MigrationPlan:
        """Say what `run_to(target)`, or `run()` without a target, would do. Changes nothing.

        Without a target: all that is not applied, ascending. With one: all that is not applied at or below it;
        if nothing is, the applied ones above it, newest first. 0 means empty. Raises `MigrationNotFoundError`
        for a target that neither side knows, `RollbackFailedError` when a step down has no down text.
        """
        return planning.plan_to(self.statuses(), target, self._database.recorded)

    def verify(self) -> None:
        """Raise the refusal that `run` would meet, if any: `ChecksumMismatchError` for changed migrations,
        `MigrationNotFoundError` for missing and `LateMigrationError` for late ones where the policy says so.
        Changes nothing.
        """  # noqa: D205 - one sentence
        with self._remembering():
            refusals.refuse_by_policy(self.statuses(), self._policy)

    def run(self) -> list[AppliedMigration]:
        """Apply everything pending, ascending, and return the new ledger entries.

        Verifies checksums first. Each migration is one transaction with its ledger entry. Raises a
        `RefusedError` before anything ran, `ExecutionFailedError` when a statement failed (what was applied
        before it stays and is in `completed`), `DatabaseError` or `LockHeldError`.
        """
        return self._carry_out(lambda statuses, recorded: self._upward(statuses, recorded, None))

    def run_up_to(self, version: int) -> list[AppliedMigration]:
        """Apply everything pending at or below `version`; never roll back. Raises as `run` and `plan`."""

        def decide(statuses: Sequence[Status], recorded: Recorded) -> Sequence[MigrationPlan]:
            planning.require_known(statuses, version)
            return self._upward(statuses, recorded, version)

        return self._carry_out(decide)

    def run_to(self, version: int) -> list[AppliedMigration]:
        """Do what `plan(version)` says. Going down, the entries returned are those that were struck out.

        Verifies checksums first. Raises as `run` and `plan`, and `RollbackFailedError` when a rollback failed.
        """
        way: MigrationDirection | None = None

        def decide(statuses: Sequence[Status], recorded: Recorded) -> Sequence[MigrationPlan]:
            nonlocal way
            refusals.refuse_changed(statuses)
            plan = planning.plan_to(statuses, version, recorded)
            if way is None and plan:
                way = plan.direction
            if plan.direction is not way:
                # Another runner finished our way up: going down now was never asked for.
                return []
            return self._upward(statuses, recorded, version) if way is MigrationDirection.UP else [plan]

        return self._carry_out(decide)

    def roll_back_to(self, version: int) -> list[AppliedMigration]:
        """Roll back everything above `version`, newest first; never apply. Raises as `run_to`."""

        def decide(statuses: Sequence[Status], recorded: Recorded) -> Sequence[MigrationPlan]:
            planning.require_known(statuses, version)
            return self._downward(statuses, recorded, planning.applied_above(statuses, version))

        return self._carry_out(decide)

    def roll_back(self, steps: int = 1) -> list[AppliedMigration]:
        """Roll back the `steps` highest applied versions, newest first. Raises as `run_to`."""
        wanted = planning.newest_applied(self.statuses(), steps)
        return self._carry_out(lambda statuses, recorded: self._downward(statuses, recorded, wanted))

    def _upward(
        self, statuses: Sequence[Status], recorded: Recorded, target: int | None
    ) -> Sequence[MigrationPlan]:
        refusals.refuse_by_policy(statuses, self._policy)
        up = planning.plan_up(statuses, target)
        gone = planning.missing_versions(statuses)
        if gone and self._policy.on_missing is OnMissing.ROLLBACK:
            return [planning.plan_down(statuses, recorded(gone), gone), up]
        return [up]

    def _downward(
        self, statuses: Sequence[Status], recorded: Recorded, versions: list[int]
    ) -> Sequence[MigrationPlan]:
        refusals.refuse_changed(statuses)
        return [planning.plan_down(statuses, recorded(versions), versions)]

    def unfinished(self) -> Unfinished | None:
        """The migration without a transaction that stopped half way, if one did. Changes nothing."""
        return self._database.look()[1]

    def repair(self, version: int, how: Repair, *, reason: str | None = None) -> None:
        """Settle the unfinished migration `version` as a person decided, and keep `reason` in the history.

        Resuming goes on with the statement after the last that is recorded as done, with the migration's present
        text, or the recorded one where no migration has the version any more; raises as `run`, and
        `ChecksumMismatchError` when a statement that is done is another one now. Raises
        `MigrationNotFoundError` when this migration is not unfinished.
        """
        with self._lock(), self._database.session(self._observer) as session:
            settle_unfinished(session, self._migrations, version, how, reason)

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

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        """Give a refusal of changed migrations their recorded texts: only these show what changed."""
        try:
            yield
        except RefusedError as refusal:
            changed = [offender.version for offender in refusal.offenders if offender.state is State.CHANGED]
            with suppress(MigrationError):
                refusal.recorded = self._database.recorded(changed) if changed else {}
            raise

    def _carry_out(self, decide: Decision) -> list[AppliedMigration]:
        with self._remembering():
            return self._look_and_carry_out(decide)

    def _look_and_carry_out(self, decide: Decision) -> list[AppliedMigration]:
        statuses = self.statuses()
        refusals.refuse_unfinished(statuses)
        if not any(decide(statuses, self._database.recorded)):
            return []
        with self._lock(), self._database.session(self._observer) as session:
            return self._execute(session, decide)

    def _execute(self, session: Session, decide: Decision) -> list[AppliedMigration]:
        """Return what the last plan did: rolling back what is missing only clears the way for going up."""
        work = Work(session, self._observer, self._supervision)
        try:
            while True:
                statuses = planning.examine(self._migrations.values(), session.applied(), session.unfinished())
                refusals.refuse_unfinished(statuses)
                try:
                    work.carry_out(decide(statuses, session.recorded), statuses, self._transaction)
                except LedgerMovedError:
                    continue
                return work.completed
        except MigrationError as error:
            error.completed = tuple(work.completed)
            raise

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if not self._database.lockable:
            yield
            return
        self._database.require_usable()
        # Imported here: the commands that only read start in half the time without filelock.
        from migrated import locks

        with locks.holding(
            self._database.name,
            locks.APPLYING,
            self._lock_timeout,
            cancelled=self._supervision.stop_requested,
            waiting=self._observer.lock_waiting,
        ):
            yield
