"""What the runner asks of any kind of database. It knows nothing of files, pragmas or cursors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import NamedTuple, Protocol

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration, AppliedRepeatable, Record, Repair, Snapshot, Unfinished


class LedgerMovedError(Exception):
    """Somebody else changed the database since the ledger was read; what was planned from it is void."""


class BatchLostError(Exception):
    """A failing step took with it what was done before it in the same batch, which could have been kept."""


class Done(NamedTuple):
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


class KeptRows(NamedTuple):
    """What became of the rows that tables had when migrations were rolled back and applied again.

    `put_back` are the tables that have their rows again, with how many of them; `left_out` those of which
    `snapshot` holds rows that the database has not any more, and why.
    """

    snapshot: str
    put_back: Mapping[str, int]
    left_out: Mapping[str, str]


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

    def done(self, done: Done, direction: MigrationDirection) -> None:
        """A step is committed."""

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        """The content was kept before it is changed; `size` in bytes."""

    def snapshot_skipped(self, reason: str) -> None:
        """The content was not kept, though it is asked for."""

    def went_back(self, former: FormerState) -> None:
        """The content was made what it was, for want of a down text."""

    def updated(self, migration: Migration) -> None:
        """The record of an applied migration has its present name, down text and header now."""

    def rows_kept(self, kept: KeptRows) -> None:
        """Rows were put back, or could not be."""


class Session(Protocol):
    """A database open for changing. A step is done wholly and recorded, or not at all."""

    def look(self) -> Record:
        """Read the record; steps planned from it are valid until somebody else changes it."""

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when last applied."""

    def create_ledger(self) -> None:
        """Make the ledger where it is missing."""

    def is_new(self) -> bool:
        """Whether there is nothing at all in the database yet."""

    def execute(self, step: Step) -> Done:
        """Apply or roll back one migration; `LedgerMovedError` when the plan is void."""

    def together(
        self, *, keep_good: bool, foreign_keys: bool, keeps_rows: bool = False
    ) -> AbstractContextManager["Batch"]:
        """Do every `execute` within the `with` in one transaction, in which `foreign_keys` are enforced or not.

        When one fails, those before it are kept (`keep_good`) or undone too. Raises `BatchLostError` when they
        should have been kept and are lost. With `keeps_rows` the content is kept as a snapshot first, and the
        rows that the steps took from tables which they did not mean to change are put back in the end.
        """

    def undo_repeatables(self, entries: Sequence[AppliedRepeatable]) -> None:
        """Drop what repeatable migrations made, and forget these; in the transaction that is open, if one is."""

    def update(self, migrations: Sequence[Migration]) -> None:
        """Record the present name, down text and header of applied migrations; `LedgerMovedError` as above."""

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
    def kept(self) -> KeptRows | None:
        """What became of the rows, with `keeps_rows`; once it is committed."""

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

    def look(self) -> Record:
        """Read the record, changing nothing."""

    def first_look(self) -> Record:
        """As `look`, for a session that may follow: while nobody changed the record, its look gives the same one.

        What is held for that is freed by the session's end, or by `let_go`.
        """

    def let_go(self) -> None:
        """Free what `first_look` holds for a session that has not begun."""

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
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
        `LedgerMovedError` when somebody else changed the database meanwhile, and whatever `work` raises: nothing
        has changed then.
        """

    def session(self, observer: Observer) -> AbstractContextManager[Session]:
        """Open it for changing; `observer` is told of long work and of snapshots."""
