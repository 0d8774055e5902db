"""The interface between the runner and a kind of database, free of files, pragmas and cursors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import NamedTuple, Protocol

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Repair, Snapshot, Unfinished


class LedgerChangedError(Exception):
    """Another process changed the ledger after it was read. Plan again."""


class BatchLostError(Exception):
    """A failing step ended the transaction of its batch and rolled back the steps before it.

    Those steps succeeded and can be executed again, each in its own transaction.
    """


class StepResult(NamedTuple):
    """The result of one step: its ledger entry, its duration and the number of rows it changed.

    After a rollback `entry` is the one that was deleted. `dropped` names the indexes and triggers that a table
    rebuild lost: "index i", "trigger t".
    """

    entry: AppliedMigration
    execution_time_ms: int
    rows_changed: int
    dropped: Sequence[str] = ()


class Progress(NamedTuple):
    """The position of a running step: `statement` of `statements` (from 1), at `line` of its file.

    `rows_changed` counts the statements that are finished.
    """

    step: Step
    statement: int
    statements: int
    line: int
    elapsed_ms: int
    rows_changed: int


class EarlierState(NamedTuple):
    """An earlier state of a database: what was applied then, and the stored SQL of those migrations.

    `snapshot` holds the content; None stands for the empty database.
    """

    snapshot: Snapshot | None
    applied: Sequence[AppliedMigration] = ()
    stored: Mapping[int, Migration] = MappingProxyType({})

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """Return the stored migrations of these versions; unknown ones are left out."""
        return {version: self.stored[version] for version in versions if version in self.stored}


class RowRestoreReport(NamedTuple):
    """Which rows were restored after migrations were rolled back and applied again.

    `restored` maps a table to the number of its rows; `not_restored` maps a table that lost rows to the reason.
    The id in `snapshot` names the snapshot that has them.
    """

    snapshot: str
    restored: Mapping[str, int]
    not_restored: Mapping[str, str]


class Template(Protocol):
    """A fully migrated database that empty databases are copied from."""

    @property
    def entries(self) -> Sequence[AppliedMigration]:
        """The entries of its ledger."""


class Observer:
    """Receives the events of a run, in the thread of the run. This base class ignores them."""

    def lock_waiting(self, holder: str) -> None:
        """The run is waiting for the lock that `holder` has."""

    def planned(self, steps: int) -> None:
        """The plan is made: `steps` steps follow."""

    def beginning(self, step: Step, *, late: bool) -> None:
        """A step begins; `late` if its version is below the highest applied one."""

    def progress(self, progress: Progress) -> None:
        """A step is still running; called every few seconds."""

    def done(self, result: StepResult, direction: MigrationDirection) -> None:
        """A step is committed."""

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        """A snapshot was taken before a change; `size` is in bytes."""

    def snapshot_skipped(self, reason: str) -> None:
        """No snapshot was taken although the policy asks for one."""

    def restored_snapshot(self, earlier: EarlierState) -> None:
        """No down text was available, so the content was restored from an earlier state."""

    def updated(self, migration: Migration) -> None:
        """The stored name, down text and header of an applied migration were updated."""

    def rows_restored(self, report: RowRestoreReport) -> None:
        """Rows were restored after a redo, or could not be."""


class Session(Protocol):
    """A database open for changing. A step is executed and recorded, or leaves nothing."""

    def look(self) -> LedgerState:
        """Read the ledger; a plan made from it is valid until another process changes it."""

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """Return the migrations as they were when last applied."""

    def create_ledger(self) -> None:
        """Create the ledger if it is missing."""

    def is_new(self) -> bool:
        """True if the database has no objects yet."""

    def execute(self, step: Step) -> StepResult:
        """Apply or roll back one migration. Raises `LedgerChangedError` if the plan is out of date."""

    def batch(
        self, *, commit_on_failure: bool, foreign_keys: bool, restore_rows: bool = False
    ) -> AbstractContextManager["Batch"]:
        """Run every `execute` within the `with` in one transaction; `foreign_keys` says if they are enforced.

        If a step fails, those before it are committed (`commit_on_failure`) or rolled back too. Raises
        `BatchLostError` if they should have been committed and are lost. With `restore_rows` a snapshot is taken
        first, and rows of tables that the changed migrations do not write to are restored at the end.
        """

    def undo_repeatables(self, entries: Sequence[AppliedRepeatable]) -> None:
        """Drop the objects of repeatable migrations and delete their entries, in the batch if one is open."""

    def update(self, migrations: Sequence[Migration]) -> None:
        """Store the current name, down text and header of applied migrations. Raises as `execute`."""

    def repair(self, unfinished: Unfinished, migration: Migration, how: Repair, reason: str | None) -> None:
        """Carry out and record a repair of `unfinished`; `migration` is its current text."""

    def correct(self, migration: Migration, how: Repair, reason: str | None) -> None:
        """Store this text for an applied migration (`MARK_APPLIED`), or delete its entry (`FORGET`)."""


class Batch(Protocol):
    """Several steps in one transaction."""

    @property
    def is_committed(self) -> bool:
        """True once its steps are committed."""

    @property
    def row_report(self) -> RowRestoreReport | None:
        """The outcome of `restore_rows`; None without it, and before the commit."""

    @property
    def is_full(self) -> bool:
        """True if the next step needs another transaction, on a new connection."""


class Database(Protocol):
    """A database as the runner uses it."""

    @property
    def name(self) -> str:
        """The name to show to users."""

    @property
    def lockable(self) -> bool:
        """True if `name` is a path that other processes could migrate."""

    def require_usable(self) -> None:
        """Raise `DatabaseError` for anything that would prevent migrating and can be checked beforehand."""

    def look(self) -> LedgerState:
        """Read the ledger. Changes nothing."""

    def open_and_look(self) -> LedgerState:
        """Like `look`, but keeps the connection for the session that usually follows.

        While nobody changes the ledger, the session's `look` returns the same object. Close the connection with
        `close` if no session follows.
        """

    def close(self) -> None:
        """Close the connection that `open_and_look` kept, unless a session took it."""

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """Return the migrations as they were when last applied. Changes nothing."""

    def template(self, migrations: Sequence[Migration]) -> Template | None:
        """Return its content as a template, or None if a copy may differ from applying `migrations`."""

    def fill(self, template: Template) -> bool:
        """Fill an empty database from `template`. Return False, changing nothing, if it has content."""

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots, oldest first; an empty list for a database that cannot have any."""

    def restore(self, snapshot: Snapshot, observer: Observer, reason: str | None) -> None:
        """Restore a snapshot and record it; the current content becomes a snapshot first."""

    def earlier_states(self) -> Iterator[EarlierState]:
        """Yield the earlier states known from its snapshots and its history, the latest first."""

    def rebuild(self, earlier: EarlierState | None, work: Callable[[Session], None], observer: Observer) -> None:
        """Do `work` on a copy of an earlier state (None: of the current one), then replace the content atomically.

        A snapshot of the content is taken first, and rows are restored as with `Session.batch`. Raises
        `LedgerChangedError` if another process changed the database meanwhile, and whatever `work` raises; the
        database is then unchanged.
        """

    def session(self, observer: Observer) -> AbstractContextManager[Session]:
        """Open the database for changing; `observer` receives the progress of steps and the snapshots."""
