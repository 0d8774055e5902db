"""What a database was like before, as its snapshots and its history tell."""

import contextlib
import os
from collections.abc import Iterator

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.records import Snapshot
from migrated.engine.backend import FormerState
from migrated.engine.sqlite import history, ledger
from migrated.engine.sqlite.connection import environment_errors
from migrated.sqlite import snapshots
from migrated.sqlite.copying import open_immutable

_ENTRY = "SELECT happened_at, action, version, host, pid FROM main._migrations_history WHERE id = ?"


def former_states(live: apsw.Connection, database: str) -> Iterator[FormerState]:
    """The states that `live` went through, the latest first: those of its snapshots, and that of being empty.

    A snapshot counts whose history is the beginning of the present one. One that is damaged is passed over; raises
    `DatabaseError` for one that cannot be read now: a much older state is not for a passing error of the disk.
    """
    for snapshot in reversed(snapshots.listed(database)):
        former = _former_state(snapshot, live, database)
        if former is not None:
            yield former
    if history.began_empty(live):
        yield FormerState(None)


def _former_state(snapshot: Snapshot, live: apsw.Connection, database: str) -> FormerState | None:
    try:
        with environment_errors(database), contextlib.closing(open_immutable(snapshot.path)) as past:
            if not _is_beginning(past, live, database):
                return None
            applied = ledger.read(past, database)
            recorded = history.recorded(past, [entry.version for entry in applied], database)
    except DatabaseError as error:
        if error.transient and os.path.exists(snapshot.path):
            raise
        return None
    return FormerState(snapshot, applied, recorded)


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
