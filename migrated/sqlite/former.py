"""What a database was like before, as its snapshots and its history tell."""

import contextlib
from collections.abc import Iterator

import apsw

from migrated.backend import FormerState
from migrated.errors import DatabaseError
from migrated.sqlite import history, ledger, snapshots
from migrated.sqlite.copying import open_immutable

_ENTRY = "SELECT happened_at, action, version, host, pid FROM main._migrations_history WHERE id = ?"


def former_states(live: apsw.Connection, database: str) -> Iterator[FormerState]:
    """The states that `live` went through, the latest first: those of its snapshots, and that of being empty.

    A snapshot counts whose history is the beginning of the present one. One that cannot be read is passed over.
    """
    for snapshot in reversed(snapshots.listed(database)):
        with contextlib.suppress(apsw.Error, DatabaseError):
            with contextlib.closing(open_immutable(snapshot.path)) as past:
                if not _is_beginning(past, live, database):
                    continue
                applied = ledger.read(past, database)
                recorded = history.recorded(past, [entry.version for entry in applied], database)
            yield FormerState(snapshot, applied, recorded)
    if history.began_empty(live):
        yield FormerState(None)


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
