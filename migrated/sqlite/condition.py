"""What can be said of SQLite itself, and of how a database is kept."""

import contextlib

import apsw

from migrated.sqlite.connection import Patience, environment_errors, open_for_reading
from migrated.system.cancellation import Supervision


def library_version() -> str:
    """The version of the SQLite that is inside of apsw."""
    return str(apsw.sqlite_lib_version())


def journal_mode(path: str, *, busy_timeout: float) -> str:
    """How a database that exists keeps its journal, such as "wal". Changes nothing; raises `DatabaseError`."""
    with (
        contextlib.closing(open_for_reading(path, Patience(busy_timeout, Supervision()))) as connection,
        environment_errors(path),
    ):
        return str(connection.pragma("journal_mode"))
