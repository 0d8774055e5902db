"""Open a SQLite file as a migration needs it, read its properties, and translate SQLite's errors."""

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

# Results that speak of the file, the disk or other users of the database, not of the SQL that ran.
_ENVIRONMENT = {
    apsw.SQLITE_BUSY: "another connection is using the database",
    apsw.SQLITE_CANTOPEN: "check that the file's directory exists and may be written by this user",
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
    """A busy handler that waits up to `timeout` seconds in all, and no longer once it is told to stop.

    `wait_for_commit` is set while something is half done, which may take until it has to end.
    """

    def __init__(self, timeout: float, supervision: CancelToken) -> None:
        self.timeout = timeout
        self.supervision = supervision
        self.wait_for_commit = False
        self._since = 0.0

    def __call__(self, attempt: int) -> bool:
        now = time.monotonic()
        if attempt == 0:
            self._since = now
        stop = self.supervision.deadline_passed(now) if self.wait_for_commit else self.supervision.stop_requested()
        if stop or now - self._since >= self.timeout:
            return False
        self.supervision.beat()
        time.sleep(min(0.001 * 2 ** min(attempt, 5), 0.025))
        return True

    def retry(self, action: Callable[[], object]) -> None:
        """Do it, again and again while somebody else keeps the database busy, for as long as patience lasts."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                action()
            except apsw.BusyError:
                if time.monotonic() >= deadline or not self(0):
                    raise
            else:
                return


def open_for_reading(path: str, patience: BusyHandler) -> apsw.Connection:
    """Open an existing database so that nothing can be changed through it.

    It is opened for writing all the same: a read-only connection to a database in WAL mode makes `-wal` and
    `-shm` and cannot remove them again.
    """
    connection = _open(path, apsw.SQLITE_OPEN_READWRITE, patience)
    with as_database_error(path):
        connection.pragma("query_only", 1)
    return connection


def open_for_migrating(
    path: str, patience: BusyHandler, *, create: bool, must_exist: bool = False
) -> apsw.Connection:
    """Open a database to be migrated; an empty file only with `create`, a missing one not if it `must_exist`."""
    flags = apsw.SQLITE_OPEN_READWRITE
    if create and not must_exist:
        flags |= apsw.SQLITE_OPEN_CREATE
    elif not create and is_absent_or_empty(path):
        raise DatabaseError(
            "the database is missing or an empty file, and it may not be created",
            database=path,
            transient=True,
            hint="check the path, or set create = true",
        )
    connection = _open(path, flags, patience)
    with as_database_error(path):
        protect(connection)
    return connection


def allow_migrating(connection: apsw.Connection, path: str) -> None:
    """Make a connection that was opened for reading one for migrating."""
    with as_database_error(path):
        connection.pragma("query_only", 0)
        protect(connection)


def protect(connection: apsw.Connection) -> None:
    """Set what protects a database from a migration's mistakes, and from losing what was committed.

    With less than EXTRA a power cut may bring back a rollback journal that was deleted, and so undo the last
    commit (https://www.sqlite.org/pragma.html#pragma_synchronous). Defensive mode refuses raw writes to the
    schema (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html); without double-quoted strings a misspelt
    column name is an error instead of a text.
    """
    _set_synchronous(connection, "EXTRA")
    for option, value in _PROTECTION.items():
        connection.config(option, value)


@contextmanager
def borrowed(connection: apsw.Connection) -> Iterator[None]:
    """Use a connection of the caller's, protected, with none of the caller's callbacks; then put all back."""
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
    # Inside a transaction, which is the caller's then, it may not be changed.
    if not connection.in_transaction:
        connection.pragma("synchronous", value)


def is_absent_or_empty(path: str) -> bool:
    """Whether there is no file, or one of no bytes, which SQLite opens as an empty database."""
    return file_identity(path) is None


def file_identity(path: str) -> tuple[int, int] | None:
    """Which file it is that is at a path now; None where `is_absent_or_empty`."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def _open(path: str, flags: int, patience: BusyHandler) -> apsw.Connection:
    with as_database_error(path):
        try:
            # An absolute path is never taken for ":memory:" or for a URI; a snapshot is attached by one.
            connection = apsw.Connection(os.path.abspath(path), flags=flags | apsw.SQLITE_OPEN_URI)
        except UnicodeEncodeError as error:
            raise DatabaseError(
                "the path is not UTF-8, which SQLite asks for", database=path, hint="rename the file"
            ) from error
        connection.set_busy_handler(patience)
    return connection


@contextmanager
def as_database_error(database: str) -> Iterator[None]:
    """Turn every error of SQLite into a `DatabaseError`; for what is not a migration's own SQL."""
    try:
        yield
    except apsw.Error as error:
        raise database_error_of(error, database) or DatabaseError(str(error), database=database) from error
    except UnicodeDecodeError as error:
        raise DatabaseError(
            f"a name in the schema, or our own record, is not UTF-8: {error.object[:40]!r}",
            database=database,
            code="NOT_UTF8",
            hint="rename it with the application that made it",
        ) from error


def database_error_of(error: apsw.Error, database: str) -> DatabaseError | None:
    """The `DatabaseError` for an error that the SQL is not to blame for; None for one that it is."""
    result = getattr(error, "result", None)
    if result not in _ENVIRONMENT:
        return None
    holder = holder_of(database) if result in _HELD else None
    # In the hint: a message that differs from try to try would be told anew each time.
    hint = _ENVIRONMENT[result]
    return DatabaseError(
        str(error),
        database=database,
        transient=result not in _PERMANENT,
        code=result_name(error),
        hint=f"{hint}; it is held by {holder}" if holder else hint,
        holder=holder,
    )


def result_name(error: apsw.Error) -> str | None:
    """SQLite's name of the extended result code, such as SQLITE_CONSTRAINT_UNIQUE."""
    extended = getattr(error, "extendedresult", 0)
    if not extended:
        return None
    name = apsw.mapping_extended_result_codes.get(extended) or apsw.mapping_result_codes.get(extended & 255)
    return str(name) if name else None


def library_version() -> str:
    """The version of the SQLite that is inside of apsw."""
    return str(apsw.sqlite_lib_version())


def journal_mode(path: str, *, busy_timeout: float) -> str:
    """How a database that exists keeps its journal, such as "wal". Changes nothing; raises `DatabaseError`."""
    with (
        contextlib.closing(open_for_reading(path, BusyHandler(busy_timeout, CancelToken()))) as connection,
        as_database_error(path),
    ):
        return str(connection.pragma("journal_mode"))


def content_size(connection: apsw.Connection) -> int:
    """The bytes of a database's pages, as this connection sees it: those still in the `-wal` count too."""
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))


def schema_text(connection: apsw.Connection, stored: bytes | None) -> str:
    """A definition that was read as CAST(sql AS BLOB), which may not be what its encoding allows."""
    return bytes(stored or b"").decode(str(connection.pragma("encoding")), "replace")


def has_objects(connection: apsw.Connection) -> bool:
    """Whether anything at all was ever made in the database: a table, an index, a view."""
    return bool(connection.execute("SELECT 1 FROM main.sqlite_schema LIMIT 1").fetchall())


class Opened(NamedTuple):
    """A connection to a database, and the record if it was read, while the connection's data_version was this."""

    connection: apsw.Connection
    data_version: int | None = None
    record: LedgerState | None = None
