"""A SQLite database as the runner sees it: look at its ledger, or open it for changing."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

import apsw

from migrated.errors import DatabaseError
from migrated.model import AppliedMigration, Migration
from migrated.sqlite import ledger
from migrated.sqlite.connection import (
    Patience,
    borrowed,
    environment_errors,
    is_absent_or_empty,
    open_for_migrating,
    open_for_reading,
)
from migrated.sqlite.session import SqliteSession

IN_MEMORY = ":memory:"
DEFAULT_BUSY_TIMEOUT = 30.0


class SqliteDatabase:
    """One database: a path, `:memory:`, or an open `apsw.Connection` that the caller keeps.

    `create` says whether a missing or empty file may become a database. `busy_timeout` is how many seconds
    another connection's lock is waited for, in all, at each of BEGIN, a statement and COMMIT; the wait ends
    early once `cancelled()` is true.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | apsw.Connection,
        *,
        create: bool = True,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._patience = Patience(busy_timeout, cancelled)
        self._create = create
        self._shared: apsw.Connection | None = None
        self.path: str | None = None
        if isinstance(location, apsw.Connection):
            self._shared = location
            self.path = location.filename or None
        elif os.fspath(location) == IN_MEMORY:
            self._shared = apsw.Connection(IN_MEMORY)
        else:
            self.path = os.fspath(location)

    @property
    def name(self) -> str:
        """As people know it: the path as given, or `:memory:`."""
        return self.path or IN_MEMORY

    @property
    def lockable(self) -> bool:
        """Whether other processes could migrate it too: not when it is in memory."""
        return self.path is not None

    def is_new(self) -> bool:
        """Whether there is no database in the file yet."""
        return self._shared is None and is_absent_or_empty(self.name)

    def applied(self) -> list[AppliedMigration]:
        """What the ledger says. Changes nothing, creates nothing; a database to be created has none."""
        with self._reading() as connection:
            return ledger.read(connection, self.name) if connection else []

    def recorded(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when they were last applied, as far as the history has them."""
        with self._reading() as connection:
            return ledger.recorded(connection, versions, self.name) if connection else {}

    @contextlib.contextmanager
    def session(self) -> Iterator[SqliteSession]:
        """Open the database for changing it; every error of SQLite becomes a `DatabaseError`."""
        session = SqliteSession(
            self.name, self._patience, self._connect_for_migrating, shared=self._shared is not None
        )
        with contextlib.ExitStack() as stack:
            if self._shared is not None:
                stack.enter_context(borrowed(self._shared))
            stack.callback(session.close)
            stack.enter_context(environment_errors(self.name))
            yield session

    def _connect_for_migrating(self) -> apsw.Connection:
        if self._shared is None:
            return open_for_migrating(self.name, self._patience, create=self._create)
        if self._shared.in_transaction:
            raise DatabaseError(
                "the connection has a transaction open", database=self.name, hint="commit or roll back first"
            )
        return self._shared

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection | None]:
        if self._shared is not None:
            with borrowed(self._shared), environment_errors(self.name):
                yield self._shared
            return
        if self.is_new() and self._create and os.path.isdir(os.path.dirname(os.path.abspath(self.name))):
            yield None
            return
        connection = open_for_reading(self.name, self._patience)
        try:
            with environment_errors(self.name):
                yield connection
        finally:
            connection.close()
