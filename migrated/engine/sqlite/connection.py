"""Open a SQLite file for reading or migrating, read its properties, and translate SQLite's errors."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.records import LedgerState
from migrated.engine.sqlite.lock_holders import holder_of
from migrated.system.cancellation import CancelToken

# Result codes that are about the file, the disk or other users of the database, not about the SQL that ran.
_ENVIRONMENT = {
    apsw.SQLITE_BUSY: "another connection is using the database",
    apsw.SQLITE_CANTOPEN: "check that the directory of the database exists and that this user can write to it",
    apsw.SQLITE_CORRUPT: "the file is damaged; restore it from a backup",
    apsw.SQLITE_FULL: "free some space on the disk",
    apsw.SQLITE_INTERRUPT: "it was interrupted; run it again",
    apsw.SQLITE_IOERR: "the disk reported an error; see the kernel's log",
    apsw.SQLITE_NOMEM: "free some memory",
    apsw.SQLITE_NOTADB: "this is not a SQLite database, or it is encrypted; check the path",
    apsw.SQLITE_PERM: "check the owner and the mode of the file and of its directory",
    apsw.SQLITE_PROTOCOL: "another connection is using the database",
    apsw.SQLITE_READONLY: "check the owner and the mode of the file and of its directory",
}
_PROTECTION = {
    apsw.SQLITE_DBCONFIG_DEFENSIVE: 1,
    apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA: 0,
    apsw.SQLITE_DBCONFIG_DQS_DDL: 0,
    apsw.SQLITE_DBCONFIG_DQS_DML: 0,
}
_PERMANENT = {apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB}
_HELD = {apsw.SQLITE_BUSY, apsw.SQLITE_PROTOCOL}


class BusyHandler:
    """A SQLite busy handler that waits up to `timeout` seconds in total, or until a stop request.

    `wait_for_commit` is set while a transaction is open: a stop request then waits until the deadline instead of
    aborting at once.
    """

    def __init__(self, timeout: float, cancel_token: CancelToken) -> None:
        self.timeout = timeout
        self.cancel_token = cancel_token
        self.wait_for_commit = False
        self._since = 0.0

    def __call__(self, attempt: int) -> bool:
        now = time.monotonic()
        if attempt == 0:
            self._since = now
        stop = (
            self.cancel_token.deadline_passed(now) if self.wait_for_commit else self.cancel_token.stop_requested()
        )
        if stop or now - self._since >= self.timeout:
            return False
        self.cancel_token.beat()
        # At most 25 ms: the lock may be free for a short time only, and a stop request must be noticed soon.
        time.sleep(min(0.001 * 2 ** min(attempt, 5), 0.025))
        return True

    def retry(self, action: Callable[[], object]) -> None:
        """Repeat `action` while it raises `apsw.BusyError`, for at most `timeout` seconds."""
        # SQLite may return SQLITE_BUSY without calling the busy handler
        # (https://www.sqlite.org/c3ref/busy_handler.html), so this loop calls the handler itself.
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                action()
            except apsw.BusyError:
                if time.monotonic() >= deadline or not self(0):
                    raise
            else:
                return


def open_for_reading(path: str, busy_handler: BusyHandler) -> apsw.Connection:
    """Open an existing database with `query_only` set.

    The file itself is opened for writing: a read-only connection to a database in WAL mode creates `-wal` and
    `-shm` and cannot remove them again.
    """
    connection = _open(path, apsw.SQLITE_OPEN_READWRITE, busy_handler)
    with as_database_error(path):
        connection.pragma("query_only", 1)
    return connection


def open_for_migrating(
    path: str, busy_handler: BusyHandler, *, create: bool, must_exist: bool = False
) -> apsw.Connection:
    """Open a database for migrating.

    Raises `DatabaseError` if the file is missing or empty and not `create`, or missing and `must_exist`.
    """
    flags = apsw.SQLITE_OPEN_READWRITE
    if create and not must_exist:
        flags |= apsw.SQLITE_OPEN_CREATE
    elif not create and is_absent_or_empty(path):
        raise DatabaseError(
            "the database file is missing or empty, and may not be created",
            database=path,
            transient=True,
            hint="check the path, or set create = true",
        )
    connection = _open(path, flags, busy_handler)
    with as_database_error(path):
        protect(connection)
    return connection


def allow_migrating(connection: apsw.Connection, path: str) -> None:
    """Turn a connection that was opened for reading into one for migrating."""
    with as_database_error(path):
        connection.pragma("query_only", 0)
        protect(connection)


def protect(connection: apsw.Connection) -> None:
    """Protect the database from mistakes of a migration, and from losing a commit.

    With less than EXTRA a power cut may bring back a deleted rollback journal, which then undoes the last
    commit (https://www.sqlite.org/pragma.html#pragma_synchronous). Defensive mode refuses raw writes to the
    schema (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html); without double-quoted strings a misspelt
    column name is an error instead of a string.
    """
    _set_synchronous(connection, "EXTRA")
    for option, value in _PROTECTION.items():
        connection.config(option, value)


@contextmanager
def borrowed(connection: apsw.Connection) -> Iterator[None]:
    """Use a connection of the caller, protected and without its callbacks; restore all settings after."""
    callbacks = connection.authorizer, connection.exec_trace, connection.row_trace
    connection.authorizer = connection.exec_trace = connection.row_trace = None
    options = {option: connection.config(option, -1) for option in _PROTECTION}
    synchronous = connection.pragma("synchronous")
    protect(connection)
    try:
        yield
    finally:
        for option, value in options.items():
            connection.config(option, value)
        _set_synchronous(connection, synchronous)
        connection.authorizer, connection.exec_trace, connection.row_trace = callbacks


def _set_synchronous(connection: apsw.Connection, value: int | str) -> None:
    # SQLite refuses to change it inside a transaction; one that is open here is the caller's.
    if not connection.in_transaction:
        connection.pragma("synchronous", value)


def is_absent_or_empty(path: str) -> bool:
    """True if the file is missing or has 0 bytes, which SQLite opens as an empty database."""
    return file_identity(path) is None


def file_identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None if it is missing or empty."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def _open(path: str, flags: int, busy_handler: BusyHandler) -> apsw.Connection:
    with as_database_error(path):
        try:
            # OPEN_URI lets snapshots be attached by URI. An absolute path is never taken for a URI or ":memory:".
            connection = apsw.Connection(os.path.abspath(path), flags=flags | apsw.SQLITE_OPEN_URI)
        except UnicodeEncodeError as error:
            raise DatabaseError(
                "the path is not valid UTF-8, which SQLite requires", database=path, hint="rename the file"
            ) from error
        connection.set_busy_handler(busy_handler)
    return connection


@contextmanager
def as_database_error(database: str) -> Iterator[None]:
    """Turn errors of SQLite into `DatabaseError`. Not for the SQL of a migration."""
    try:
        yield
    except apsw.Error as error:
        raise database_error_of(error, database) or DatabaseError(str(error), database=database) from error
    except UnicodeDecodeError as error:
        raise DatabaseError(
            f"a name in the schema or a text in the migrations table is not valid UTF-8: {error.object[:40]!r}",
            database=database,
            code="NOT_UTF8",
            hint="rename it with the program that created it",
        ) from error


def database_error_of(error: apsw.Error, database: str) -> DatabaseError | None:
    """Return the `DatabaseError` for an error not caused by the SQL; None for one that is."""
    result = getattr(error, "result", None)
    if result not in _ENVIRONMENT:
        return None
    holder = holder_of(database) if result in _HELD else None
    # The holder goes into the hint: a message that differs from try to try would be logged each time.
    hint = _ENVIRONMENT[result]
    return DatabaseError(
        str(error),
        database=database,
        transient=result not in _PERMANENT,
        code=result_name(error),
        hint=f"{hint}: {holder}" if holder else hint,
        holder=holder,
    )


def result_name(error: apsw.Error) -> str | None:
    """Return SQLite's name of the extended result code, such as SQLITE_CONSTRAINT_UNIQUE."""
    extended = getattr(error, "extendedresult", 0)
    if not extended:
        return None
    name = apsw.mapping_extended_result_codes.get(extended) or apsw.mapping_result_codes.get(extended & 255)
    return str(name) if name else None


def library_version() -> str:
    """Return the version of the SQLite library inside apsw."""
    return str(apsw.sqlite_lib_version())


def journal_mode(path: str, *, busy_timeout: float) -> str:
    """Return the journal mode of an existing database, such as "wal".

    Changes nothing. `busy_timeout` is in seconds. Raises `DatabaseError`.
    """
    with (
        contextlib.closing(open_for_reading(path, BusyHandler(busy_timeout, CancelToken()))) as connection,
        as_database_error(path),
    ):
        return str(connection.pragma("journal_mode"))


def content_size(connection: apsw.Connection) -> int:
    """Return the bytes of all pages as this connection sees them, including those in the `-wal`."""
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))


def schema_text(connection: apsw.Connection, stored: bytes | None) -> str:
    """Decode a definition that was read as CAST(sql AS BLOB); invalid bytes are replaced."""
    return bytes(stored or b"").decode(str(connection.pragma("encoding")), "replace")


def has_objects(connection: apsw.Connection) -> bool:
    """True if the database has any object: a table, an index, a view or a trigger."""
    return bool(connection.execute("SELECT 1 FROM main.sqlite_schema LIMIT 1").fetchall())


class Opened(NamedTuple):
    """An open connection; if the ledger was read, its `state` and the `data_version` at that time."""

    connection: apsw.Connection
    data_version: int | None = None
    state: LedgerState | None = None
