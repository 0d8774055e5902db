"""Bring one database up to date: the centre of the library.

The order of every run is the same: look without the lock; take the lock; look again and decide; then for each
step one transaction, inside which the ledger is read once more. Refusals come before the first step.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import apsw

from migrated import planning
from migrated.backend import Database, Done, LedgerMovedError, Session
from migrated.errors import ChecksumMismatchError, InvalidFormatError, MigrationError
from migrated.model import AppliedMigration, Migration, MigrationDirection, MigrationPlan
from migrated.planning import OnMissing, Policy, Status
from migrated.sources.directory import read_migrations
from migrated.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase

DEFAULT_LOCK_TIMEOUT = 10.0

Recorded = Callable[[list[int]], Mapping[int, Migration]]
Decision = Callable[[Sequence[Status], Recorded], Sequence[MigrationPlan]]


class Observer:
    """Is told what happens during a run, in the thread that runs. This one does nothing with it."""

    def lock_waiting(self, holder: str) -> None:
        """Another process holds the lock and is waited for."""

    def beginning(self, migration: Migration, direction: MigrationDirection, *, late: bool) -> None:
        """A step begins; `late` when it lies below the highest applied version."""

    def done(self, done: Done, direction: MigrationDirection) -> None:
        """A step is committed."""


class MigrationRunner:
    """Applies migrations to one database: a path, `":memory:"`, or an open `apsw.Connection`.

    `lock_timeout` and `busy_timeout` are seconds. A run stops before its next step once `cancelled()` is true.
    A runner on `":memory:"` keeps its database for its own life.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | apsw.Connection,
        *,
        policy: Policy = Policy(),  # noqa: B008 - frozen
        create: bool = True,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        observer: Observer | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database: Database = SqliteDatabase(
            database, create=create, busy_timeout=busy_timeout, cancelled=cancelled
        )
        self._policy = policy
        self._lock_timeout = lock_timeout
        self._observer = observer or Observer()
        self._cancelled = cancelled
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
        with self._database.session() as session:
            session.create_ledger()

    def get_applied(self) -> list[AppliedMigration]:
        """What the ledger has, ascending by version. Changes nothing."""
        return self._database.applied()

    def current_version(self) -> int | None:
        """The highest applied version, None when nothing is applied. Changes nothing."""
        return max((entry.version for entry in self.get_applied()), default=None)

    def statuses(self) -> list[Status]:
        """The state of every version that the migrations or the ledger have. Changes nothing."""
        return planning.examine(self._migrations.values(), self._database.applied())

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
        planning.refuse_by_policy(self.statuses(), self._policy)

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
            planning.refuse_changed(statuses)
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
        planning.refuse_by_policy(statuses, self._policy)
        up = planning.plan_up(statuses, target)
        gone = planning.missing_versions(statuses)
        if gone and self._policy.on_missing is OnMissing.ROLLBACK:
            return [planning.plan_down(statuses, recorded(gone), gone), up]
        return [up]

    def _downward(
        self, statuses: Sequence[Status], recorded: Recorded, versions: list[int]
    ) -> Sequence[MigrationPlan]:
        planning.refuse_changed(statuses)
        return [planning.plan_down(statuses, recorded(versions), versions)]

    def _carry_out(self, decide: Decision) -> list[AppliedMigration]:
        if not any(decide(self.statuses(), self._database.recorded)):
            return []
        with self._lock(), self._database.session() as session:
            return self._execute(session, decide)

    def _execute(self, session: Session, decide: Decision) -> list[AppliedMigration]:
        """Return what the last plan did: rolling back what is missing only clears the way for going up."""
        completed: dict[MigrationDirection, list[AppliedMigration]] = {way: [] for way in MigrationDirection}
        way = MigrationDirection.UP
        try:
            while True:
                statuses = planning.examine(self._migrations.values(), session.applied())
                try:
                    for plan in decide(statuses, session.recorded):
                        way = plan.direction
                        self._take_steps(session, plan, statuses, completed[way])
                except LedgerMovedError:
                    continue
                return completed[way]
        except MigrationError as error:
            error.completed = tuple(completed[way])
            raise

    def _take_steps(
        self,
        session: Session,
        plan: MigrationPlan,
        statuses: Sequence[Status],
        completed: list[AppliedMigration],
    ) -> None:
        late = {status.version for status in statuses if status.state is planning.State.LATE}
        for migration in plan.migrations:
            if self._cancelled():
                return
            self._observer.beginning(migration, plan.direction, late=migration.version in late)
            try:
                done = session.execute(migration, plan.direction)
            except MigrationError as error:
                if error.version is None:
                    error.version, error.name = migration.version, migration.name
                raise
            completed.append(done.entry)
            self._observer.done(done, plan.direction)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if not self._database.lockable:
            yield
            return
        # Imported here: the commands that only read start in half the time without filelock.
        from migrated import locks

        with locks.holding(
            self._database.name,
            locks.APPLYING,
            self._lock_timeout,
            cancelled=self._cancelled,
            waiting=self._observer.lock_waiting,
        ):
            yield
