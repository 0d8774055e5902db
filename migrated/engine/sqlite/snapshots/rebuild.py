"""Change a database on a copy that replaces its content atomically, and find its earlier states."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import NamedTuple

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.migration import Migration, Step
from migrated.core.records import AppliedMigration, Snapshot
from migrated.engine.backend import EarlierState, LedgerChangedError, RowRestoreReport
from migrated.engine.sqlite import history, ledger
from migrated.engine.sqlite.connection import (
    BusyHandler,
    as_database_error,
    open_for_migrating,
    open_for_reading,
    protect,
)
from migrated.engine.sqlite.disk_space import require_free
from migrated.engine.sqlite.snapshots import snapshots
from migrated.engine.sqlite.snapshots.carry_over import RowRestorer, changes_by, detach, tables
from migrated.engine.sqlite.snapshots.catalog import new_part
from migrated.engine.sqlite.snapshots.copying import copy_to, copying_errors, file_errors, open_immutable
from migrated.engine.sqlite.snapshots.restore import out_of_wal, private_copy, put_back

_MARGIN = 1_000_000
_ALIKE = ("page_size", "auto_vacuum", "encoding")


class SessionEffects(NamedTuple):
    """The steps that were done, the tables that they wrote, dropped or altered, and those that they dropped."""

    steps: Sequence[Step]
    touched: AbstractSet[str]
    dropped: AbstractSet[str]


class Rebuilding:
    """One database, whose content becomes what `work` makes of a former state of it, or of the present one.

    Until the end nobody else can write to it, and everybody can read.
    """

    def __init__(self, database: str, busy_handler: BusyHandler, proceed: Callable[[], None]) -> None:
        self._database = database
        self._busy_handler = busy_handler
        self._proceed = proceed

    def run(
        self,
        earlier: EarlierState | None,
        keep: Callable[[list[str]], AbstractContextManager[Snapshot]],
        work: Callable[[apsw.Connection], SessionEffects],
    ) -> RowRestoreReport:
        """`keep` takes a snapshot and spares those with the given ids; `work` says what it did.

        Raises `LedgerChangedError` if another process wrote between the last look and the end, and whatever `keep`
        and `work` raise. The database is then as it was.
        """
        protect = [earlier.snapshot.id] if earlier and earlier.snapshot else []
        with (
            as_database_error(self._database),
            contextlib.closing(open_for_migrating(self._database, self._busy_handler, create=False)) as holder,
            contextlib.closing(open_for_reading(self._database, self._busy_handler)) as watcher,
        ):
            holder.execute("BEGIN IMMEDIATE")
            moment = watcher.pragma("data_version")
            with keep(protect) as kept, new_part(self._database) as new:
                part = new.path
                self._fill(part, kept if earlier is None else earlier.snapshot, kept, holder)
                with private_copy(part, self._database) as copy:
                    rows = self._change(copy, earlier, kept, work)
                    out_of_wal(copy)
                    with file_errors(self._database):
                        os.unlink(part)
                    holder.execute("ROLLBACK")
                    holder.close()
                    put_back(
                        copy, self._database, lambda: _require(watcher, moment), self._busy_handler, self._proceed
                    )
        return rows

    def _fill(self, part: str, source: Snapshot | None, kept: Snapshot, live: apsw.Connection) -> None:
        needed = 3 * max(kept.size, source.size if source else 0) + _MARGIN
        require_free(os.path.dirname(part), needed, "restoring an earlier state", self._database)
        if source is not None:
            with (
                copying_errors(self._database, part),
                contextlib.closing(open_immutable(source.path)) as past,
            ):
                copy_to(part, past, self._database, self._proceed)
            return
        with copying_errors(self._database, part), contextlib.closing(apsw.Connection(part)) as empty:
            for name in _ALIKE:
                empty.pragma(name, live.pragma(name))
            empty.execute("VACUUM").fetchall()

    def _change(
        self,
        copy: apsw.Connection,
        earlier: EarlierState | None,
        kept: Snapshot,
        work: Callable[[apsw.Connection], SessionEffects],
    ) -> RowRestoreReport:
        out_of_wal(copy)
        protect(copy)
        copy.pragma("synchronous", "off")
        with contextlib.closing(open_immutable(kept.path)) as present:
            undone = self._go_on_from(copy, earlier, present) if earlier else []
            away = tables(present).keys() - tables(copy).keys()
        taken = work(copy)
        touched = None if earlier else taken.touched
        changes = changes_by(taken.steps, touched, taken.dropped | away, undone)
        with copy:
            rows = RowRestorer(copy, kept, changes).run()
        detach(copy)
        return rows

    def _go_on_from(
        self, copy: apsw.Connection, earlier: EarlierState, present: apsw.Connection
    ) -> list[Migration]:
        """Give a former state the history of what came after it; return what is not applied in it any more."""
        then = _known(earlier.applied)
        now = ledger.read(present, self._database)
        undone = history.stored_migrations(
            present, [each.version for each in now if (each.version, each.checksum) not in then], self._database
        )
        with copy:
            ledger.create(copy, self._database)
            history.append_from(copy, present)
            if earlier.snapshot is not None:
                history.record_restore(copy, earlier.snapshot, "redo")
        return list(undone.values())


def _known(applied: Iterable[AppliedMigration]) -> set[tuple[int, str]]:
    return {(entry.version, entry.checksum) for entry in applied}


def _require(watcher: apsw.Connection, moment: object) -> None:
    if watcher.pragma("data_version") != moment:
        raise LedgerChangedError


_ENTRY = "SELECT happened_at, action, version, host, pid FROM main._migrations_history WHERE id = ?"


def earlier_states(live: apsw.Connection, database: str) -> Iterator[EarlierState]:
    """The states that `live` went through, the latest first: those of its snapshots, and that of being empty.

    A snapshot counts whose history is the beginning of the present one. One that is damaged is passed over; raises
    `DatabaseError` for one that cannot be read now: a much older state is not for a passing error of the disk.
    """
    for snapshot in reversed(snapshots.listed(database)):
        earlier = _earlier_state(snapshot, live, database)
        if earlier is not None:
            yield earlier
    if history.began_empty(live):
        yield EarlierState(None)


def _earlier_state(snapshot: Snapshot, live: apsw.Connection, database: str) -> EarlierState | None:
    try:
        with as_database_error(database), contextlib.closing(open_immutable(snapshot.path)) as past:
            if not _is_beginning(past, live, database):
                return None
            applied = ledger.read(past, database)
            stored = history.stored_migrations(past, [entry.version for entry in applied], database)
    except DatabaseError as error:
        if error.transient and os.path.exists(snapshot.path):
            raise
        return None
    return EarlierState(snapshot, applied, stored)


def _is_beginning(past: apsw.Connection, live: apsw.Connection, database: str) -> bool:
    if not ledger.has(past, "_migrations_history"):
        return True
    if history.unfinished(past, database):
        return False
    last = history.last_entry(past)
    if last is None:
        return True
    entries = [side.execute(_ENTRY, (last,)).fetchall() for side in (past, live)]
    return entries[0] == entries[1]
