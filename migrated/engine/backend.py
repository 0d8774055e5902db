"""What the runner asks of any kind of database. It knows nothing of files, pragmas or cursors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import NamedTuple, Protocol

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration, AppliedRepeatable, LedgerState, Repair, Snapshot, Unfinished


class LedgerChangedError(Exception):
    """Somebody else changed the database since the ledger was read; what was planned from it is void."""


class BatchLostError(Exception):
    """A failing step took with it what was done before it in the same batch, which could have been kept."""


class StepResult(NamedTuple):
    """What one step came to: the ledger's entry (struck out by a rollback), its time and the rows it changed.

    `dropped` names what went with a rebuilt table and is not there any more: "index i", "trigger t".
    """

    entry: AppliedMigration
    execution_time_ms: int
    rows_changed: int
    dropped: Sequence[str] = ()


class Progress(NamedTuple):
    """How far a step is: in its `statement`, of `statements`, on `line` of its file; rows of those before it."""

    step: Step
    statement: int
    statements: int
    line: int
    elapsed_ms: int
    rows_changed: int


class FormerState(NamedTuple):
    """What a database was like at an earlier time: what was applied, with its texts as far as they are known.

    `snapshot` holds its content; without one, there was nothing in it.
    """

    snapshot: Snapshot | None
    applied: Sequence[AppliedMigration] = ()
    recorded: Mapping[int, Migration] = MappingProxyType({})

    def recorded_of(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The texts of these, those that are known."""
        return {version: self.recorded[version] for version in versions if version in self.recorded}


class RowRestoreReport(NamedTuple):
    """What became of the rows that tables had when migrations were rolled back and applied again.

    `put_back` are the tables that have their rows again, with how many of them; `not_restored` those of which
    `snapshot` holds rows that the database has not any more, and why.
    """

    snapshot: str
    restored: Mapping[str, int]
    not_restored: Mapping[str, str]


class Template(Protocol):
    """A new database with everything applied, from which others like it are copied."""

    @property
    def entries(self) -> Sequence[AppliedMigration]:
        """What its ledger says."""


class Observer:
    """Is told what happens during a run, in the thread that runs. This one does nothing with it."""

    def lock_waiting(self, holder: str) -> None:
        """Another process holds the lock and is waited for."""

    def planned(self, steps: int) -> None:
        """So many steps are about to be taken."""

    def beginning(self, step: Step, *, late: bool) -> None:
        """A step begins; `late` when it lies below the highest applied version."""

    def progress(self, progress: Progress) -> None:
        """A step takes long; told every few seconds."""

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        """A step is committed."""

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        """The content was kept before it is changed; `size` in bytes."""

    def snapshot_skipped(self, reason: str) -> None:
        """The content was not kept, though it is asked for."""

    def restored_snapshot(self, former: FormerState) -> None:
        """The content was made what it was, for want of a down text."""

    def updated(self, migration: Migration) -> None:
        """The record of an applied migration has its present name, down text and header now."""

    def rows_restored(self, kept: RowRestoreReport) -> None:
        """Rows were put back, or could not be."""


class Session(Protocol):
    """A database open for changing. A step is done wholly and recorded, or not at all."""

    def look(self) -> LedgerState:
        """Read the record; steps planned from it are valid until somebody else changes it."""

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when last applied."""

    def create_ledger(self) -> None:
        """Make the ledger where it is missing."""

    def is_new(self) -> bool:
        """Whether there is nothing at all in the database yet."""

    def execute(self, step: Step) -> StepResult:
        """Apply or roll back one migration; `LedgerChangedError` when the plan is void."""

    def together(
        self, *, commit_on_failure: bool, foreign_keys: bool, restore_rows: bool = False
    ) -> AbstractContextManager["Batch"]:
        """Do every `execute` within the `with` in one transaction, in which `foreign_keys` are enforced or not.

        If one fails, those before it are committed (`commit_on_failure`) or undone too. Raises `BatchLostError` if
        they should have been committed and are lost. With `restore_rows` a snapshot is taken first, and rows that
        the steps removed from tables they were not about are restored at the end.
        """

    def undo_repeatables(self, entries: Sequence[AppliedRepeatable]) -> None:
        """Drop what repeatable migrations made, and forget these; in the transaction that is open, if one is."""

    def update(self, migrations: Sequence[Migration]) -> None:
        """Record the present name, down text and header of applied migrations; `LedgerChangedError` as above."""

    def settle(self, unfinished: Unfinished, migration: Migration, how: Repair, reason: str | None) -> None:
        """Do and record what a person decided about `unfinished`; `migration` is its text as it is now."""

    def correct(self, migration: Migration, how: Repair, reason: str | None) -> None:
        """Record that an applied migration has this text (`MARK_APPLIED`), or is not applied (`FORGET`)."""


class Batch(Protocol):
    """Several steps in one transaction."""

    @property
    def is_committed(self) -> bool:
        """Whether what was done in it is there for good."""

    @property
    def kept(self) -> RowRestoreReport | None:
        """What became of the rows, with `restore_rows`; once it is committed."""

    @property
    def is_full(self) -> bool:
        """Whether the next step needs a transaction of its own."""


class Database(Protocol):
    """What the runner asks of any kind of database."""

    @property
    def name(self) -> str:
        """As people know it."""

    @property
    def lockable(self) -> bool:
        """Whether `name` is a path that other processes could migrate."""

    def require_usable(self) -> None:
        """Raise `DatabaseError` for what can be seen to be in the way of changing it, before anything is."""

    def look(self) -> LedgerState:
        """Read the record, changing nothing."""

    def first_look(self) -> LedgerState:
        """As `look`, for a session that may follow: while nobody changed the record, its look gives the same one.

        What is held for that is freed by the session's end, or by `let_go`.
        """

    def let_go(self) -> None:
        """Free what `first_look` holds for a session that has not begun."""

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when last applied, changing nothing."""

    def template(self, migrations: Sequence[Migration]) -> Template | None:
        """Its content, which these migrations made, if a copy of it is as good as applying them."""

    def fill(self, template: Template) -> bool:
        """Make it a copy of `template`, which a database of its kind gave; not where there is anything in it."""

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that there are, oldest first; none where such a database has none."""

    def restore(self, snapshot: Snapshot, observer: Observer, reason: str | None) -> None:
        """Put a snapshot back, keeping what is there as a snapshot too, and record that."""

    def former_states(self) -> Iterator[FormerState]:
        """The states that its snapshots, and its history, say it was in, the latest first."""

    def rebuild(self, former: FormerState | None, work: Callable[[Session], None], observer: Observer) -> None:
        """Do `work` on a copy of a former state, or of the present one, and make that the content at one stroke.

        What is there is kept as a snapshot, and rows are put back as with `Session.together`. Raises
        `LedgerChangedError` when somebody else changed the database meanwhile, and whatever `work` raises: nothing
        has changed then.
        """

    def session(self, observer: Observer) -> AbstractContextManager[Session]:
        """Open it for changing; `observer` is told of long work and of snapshots."""
