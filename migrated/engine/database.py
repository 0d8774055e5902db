"""What the rooms above see of one database besides the runner: how it is read, compared and listed.

They import nothing of `engine.sqlite`. What few commands need is imported in its function: `status` starts sooner.
"""

from typing import TYPE_CHECKING

from migrated.engine.sqlite.connection import is_absent_or_empty
from migrated.engine.sqlite.database import DEFAULT_BUSY_TIMEOUT, SqliteDatabase
from migrated.engine.sqlite.ledger import Glance, glance
from migrated.system.cancellation import CancelToken

if TYPE_CHECKING:
    from migrated.core.records import Snapshot
    from migrated.engine.backend import Database
    from migrated.engine.sqlite.schema import Loss

__all__ = [
    "Glance",
    "find_snapshot",
    "glance",
    "is_absent_or_empty",
    "list_snapshots",
    "lost_by_restoring",
    "open_database",
    "read_schema",
]


def open_database(
    path: str,
    *,
    create: bool = True,
    must_exist: bool = False,
    busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
    application_id: int = 0,
) -> "Database":
    """The database at `path`, to be looked at. The file is opened only when something is read.

    `create` says whether a missing or empty file counts as a new database, a missing one not where it
    `must_exist`. `busy_timeout` is in seconds; 0 as `application_id` stands for any.
    """
    return SqliteDatabase(
        path, create=create, must_exist=must_exist, busy_timeout=busy_timeout, application_id=application_id
    )


def read_schema(path: str, busy_timeout: float, supervision: CancelToken) -> bytes | None:
    """Everything but the rows of a database, as an SQL script; changes nothing.

    None without a database, or while a migration without a transaction is unfinished. `busy_timeout` is in
    seconds. Raises `DatabaseError`.
    """
    from migrated.engine.sqlite import schema
    from migrated.engine.sqlite.connection import BusyHandler

    return schema.read_schema(path, BusyHandler(busy_timeout, supervision))


def list_snapshots(path: str) -> "list[Snapshot]":
    """The snapshots of a database, oldest first. Raises `DatabaseError`."""
    from migrated.engine.sqlite.snapshots import snapshots

    return snapshots.listed(path)


def find_snapshot(path: str, identifier: str) -> "Snapshot | None":
    """The snapshot of a database that has this id, if there is one. Raises `DatabaseError`."""
    from migrated.engine.sqlite.snapshots import snapshots

    return snapshots.find(path, identifier)


def lost_by_restoring(snapshot: "Snapshot", path: str, busy_timeout: float) -> "Loss":
    """What restoring a snapshot would undo; changes nothing.

    `busy_timeout` is in seconds. Raises `DatabaseError` when one of the two cannot be read.
    """
    from migrated.engine.sqlite import schema
    from migrated.engine.sqlite.connection import BusyHandler

    return schema.lost_by_restoring(snapshot, path, BusyHandler(busy_timeout, CancelToken()))
