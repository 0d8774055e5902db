"""Functions to read, compare and list one database, for the packages above the engine.

Those packages import nothing from `engine.sqlite`. What few commands need is imported inside the function that
needs it, which makes `status` start sooner.
"""

from typing import TYPE_CHECKING

from migrated.engine.sqlite.connection import is_absent_or_empty
from migrated.engine.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase
from migrated.engine.sqlite.ledger import LedgerSummary, summary
from migrated.system.cancellation import CancelToken

if TYPE_CHECKING:
    from migrated.core.records import Snapshot
    from migrated.engine.backend import Database
    from migrated.engine.sqlite.schema import Loss

__all__ = [
    "LedgerSummary",
    "find_snapshot",
    "is_absent_or_empty",
    "list_snapshots",
    "lost_by_restoring",
    "open_database",
    "read_schema",
    "summary",
]


def open_database(
    path: str,
    *,
    create: bool = True,
    must_exist: bool = False,
    busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    application_id: int = 0,
) -> "Database":
    """Return the database at `path`, for reading. Its file is opened by the first read.

    With `create`, a missing or empty file counts as a new database; a missing one does not if it `must_exist`.
    `busy_timeout` is in seconds; an `application_id` of 0 accepts any.
    """
    return SqliteDatabase(
        path, create=create, must_exist=must_exist, busy_timeout=busy_timeout, application_id=application_id
    )


def read_schema(path: str, busy_timeout: float, supervision: CancelToken) -> bytes | None:
    """Return the schema of a database as an SQL script. Changes nothing.

    None if there is no database, or while a migration is stopped. `busy_timeout` is in
    seconds. Raises `DatabaseError`.
    """
    from migrated.engine.sqlite import schema
    from migrated.engine.sqlite.connection import BusyHandler

    return schema.read_schema(path, BusyHandler(busy_timeout, supervision))


def list_snapshots(path: str) -> "list[Snapshot]":
    """Return the snapshots of a database, oldest first. Raises `DatabaseError`."""
    from migrated.engine.sqlite.snapshots import snapshots

    return snapshots.listed(path)


def find_snapshot(path: str, identifier: str) -> "Snapshot | None":
    """Return the snapshot with this id, or None. Raises `DatabaseError`."""
    from migrated.engine.sqlite.snapshots import snapshots

    return snapshots.find(path, identifier)


def lost_by_restoring(snapshot: "Snapshot", path: str, busy_timeout: float) -> "Loss":
    """Return what restoring a snapshot would lose. Changes nothing.

    `busy_timeout` is in seconds. Raises `DatabaseError` if the database or the snapshot cannot be read.
    """
    from migrated.engine.sqlite import schema
    from migrated.engine.sqlite.connection import BusyHandler

    return schema.lost_by_restoring(snapshot, path, BusyHandler(busy_timeout, CancelToken()))
