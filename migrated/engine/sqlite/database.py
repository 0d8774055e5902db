"""A SQLite database as the runner uses it: read its ledger, or open it for changing."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import apsw

from migrated.config.settings import NO_SNAPSHOTS, SnapshotPolicy
from migrated.core.errors import DatabaseError
from migrated.core.migration import Migration
from migrated.core.records import LedgerState, Snapshot, highest_version
from migrated.engine.sqlite import history, ledger, preflight
from migrated.engine.sqlite.connection import (
    BusyHandler,
    Opened,
    allow_migrating,
    as_database_error,
    borrowed,
    file_identity,
    is_absent_or_empty,
    open_for_migrating,
    open_for_reading,
)
from migrated.engine.sqlite.history import read_ledger_state
from migrated.system.cancellation import CancelToken

# Modules that only changing commands need are imported where they are used: reading then starts in half the time.
if TYPE_CHECKING:
    from migrated.engine.backend import EarlierState, Observer, Session, Template
    from migrated.engine.sqlite.session import SqliteSession
    from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

IN_MEMORY = ":memory:"
DEFAULT_BUSY_TIMEOUT = 30.0


class SqliteDatabase:
    """One database: a path, `:memory:`, or an open `apsw.Connection` that the caller keeps.

    With `create`, a missing or empty file may become a database. A missing one may not if it `must_exist`: a file
    that a pattern matched and that is gone was removed on purpose. `is_alone_in_process` skips the check that
    nothing else in this process has the file open. `busy_timeout` is the total number of seconds to wait for
    another connection's lock, at each of BEGIN, a statement and COMMIT; the `cancel_token` can end the wait early.
    `statement_timeout` limits a statement to that many seconds; 0 means no limit. `snapshots` says when to take
    snapshots. With an `application_id`, only a database that has it, or is new, is changed.
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | apsw.Connection,
        *,
        create: bool = True,
        must_exist: bool = False,
        is_alone_in_process: bool = False,
        busy_timeout: float = DEFAULT_BUSY_TIMEOUT,
        statement_timeout: float = 0,
        snapshots: SnapshotPolicy = NO_SNAPSHOTS,
        application_id: int = 0,
        cancel_token: CancelToken | None = None,
    ) -> None:
        self._busy_handler = BusyHandler(busy_timeout, cancel_token or CancelToken())
        self._statement_timeout = statement_timeout
        self._snapshots = snapshots
        self._application_id = application_id
        self._create = create
        self._must_exist = must_exist
        self._is_alone = is_alone_in_process
        self._shared: apsw.Connection | None = None
        self._left_open: tuple[tuple[int, int], Opened] | None = None
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
        """The name to show to users: the path as given, or `:memory:`."""
        return self.path or IN_MEMORY

    @property
    def lockable(self) -> bool:
        """True if other processes could migrate it too: false for a database in memory."""
        return self.path is not None

    def is_new(self) -> bool:
        """True if the file is missing or empty."""
        return self._shared is None and is_absent_or_empty(self.name)

    def look(self) -> LedgerState:
        """Read the ledger and the stopped migration, if there is one.

        Changes and creates nothing; a database that is still to be created has an empty ledger.
        """
        with self._reading() as connection:
            if connection is None:
                return LedgerState([])
            if self._shared is None:
                # One transaction: all reads see the same state of the database, and lock it only once.
                connection.execute("BEGIN")
            return read_ledger_state(connection, self.name)

    def open_and_look(self) -> LedgerState:
        """Like `look`, but keeps the connection for the session that usually follows.

        Close it with `close` if none does.
        """
        file = file_identity(self.name) if self._shared is None else None
        if file is None:
            return self.look()
        connection = self._open_for_reading()
        try:
            with as_database_error(self.name):
                preflight.require_application_id(connection, self._application_id, self.name)
                # The counter is read before the ledger, as in a session: a change in between is then noticed.
                data_version = connection.pragma("data_version")
                # One transaction, so that the database is locked only once.
                connection.execute("BEGIN")
                state = read_ledger_state(connection, self.name)
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._left_open = file, Opened(connection, data_version, state)
        return state

    def close(self) -> None:
        """Close the connection that `open_and_look` kept, unless a session took it over."""
        if self._left_open is not None:
            self._left_open[1].connection.close()
            self._left_open = None

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """Return the migrations as they were when last applied, as far as the history has them."""
        with self._reading() as connection:
            return history.stored_migrations(connection, versions, self.name) if connection else {}

    def require_usable(self) -> None:
        """Raise `DatabaseError` for anything that would prevent migrating.

        Only what can be checked without opening the file is checked.
        """
        if self.path is not None and self._shared is None:
            # A connection that open_and_look kept passed this check when it was opened.
            is_alone = self._is_alone or self._left_open is not None
            preflight.require_usable(self.path, create=self._create, is_alone=is_alone)

    def template(self, migrations: Sequence[Migration]) -> "Template | None":
        """Return a template of a database in memory, or None if a copy may differ from applying `migrations`."""
        from migrated.engine.sqlite.snapshots.copying import template_of

        if self._shared is None or self.path is not None:
            return None
        return template_of(self._shared, migrations, self.look().applied)

    def fill(self, template: "Template") -> bool:
        """Fill an empty or missing file from `template`.

        Return False, changing nothing, if the file has content or must not be created, or the template is not one
        of SQLite. Raises `DatabaseError`.
        """
        from migrated.engine.sqlite.snapshots.copying import DatabaseTemplate

        if not isinstance(template, DatabaseTemplate) or not self._create or not self.is_new():
            return False
        with contextlib.closing(self._open_for_migrating()) as connection, as_database_error(self.name):
            return template.copy_into(self.name, connection, self._busy_handler)

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots in `.migrated/snapshots/` next to the file, oldest first."""
        from migrated.engine.sqlite.snapshots import snapshots

        return snapshots.listed(self.path) if self.path else []

    def restore(self, snapshot: Snapshot, observer: "Observer", reason: str | None) -> None:
        """Restore a snapshot into the live file and record it; the current content becomes a snapshot.

        Raises `DatabaseError`; the file is then unchanged.
        """
        from migrated.engine.sqlite.snapshots.restore import restore

        snapshotter = self._snapshotter(observer)
        restore(
            snapshot,
            self.name,
            keep=lambda: self._keep_before_restore(snapshotter, snapshot),
            record=lambda copy: self._record_restore(copy, snapshot, reason),
            busy_handler=self._busy_handler,
            step=snapshotter.raise_if_stopped,
        )

    def earlier_states(self) -> Iterator["EarlierState"]:
        """Yield the earlier states known from the snapshots and the history, the latest first."""
        from migrated.engine.sqlite.snapshots.rebuild import earlier_states

        if self.path is None:
            return
        with self._reading() as connection:
            if connection is not None:
                yield from earlier_states(connection, self.path)

    def rebuild(
        self, earlier: "EarlierState | None", work: "Callable[[Session], None]", observer: "Observer"
    ) -> None:
        """Do `work` on a copy of an earlier state (None: of the current one), then replace the content atomically.

        Raises `LedgerChangedError` if another process wrote meanwhile, `DatabaseError`, and whatever `work`
        raises. The database is then unchanged; a snapshot of it may remain.
        """
        from migrated.engine.sqlite.apply import Preparation
        from migrated.engine.sqlite.session import SqliteSession
        from migrated.engine.sqlite.snapshots.rebuild import Rebuilding, SessionEffects
        from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

        snapshotter = self._snapshotter(observer)

        def change(copy: apsw.Connection) -> SessionEffects:
            # No snapshots of the copy: the live database gets one. shared: the copy's owner closes its connection.
            session = SqliteSession(
                self.name,
                self._busy_handler,
                lambda: Opened(copy),
                observer,
                Preparation(
                    self.name, Snapshotter(self.name, NO_SNAPSHOTS, observer, self._busy_handler.cancel_token), 0
                ),
                statement_timeout=self._statement_timeout,
                shared=True,
            )
            work(session)
            return SessionEffects(session.taken, session.touched, session.dropped)

        def keep(protect: list[str]) -> AbstractContextManager[Snapshot]:
            return snapshotter.take_before_redo(highest_version(self.look().applied), protect)

        report = Rebuilding(self.name, self._busy_handler, snapshotter.raise_if_stopped).run(earlier, keep, change)
        if earlier is not None:
            observer.restored_snapshot(earlier)
        observer.rows_restored(report)

    def _keep_before_restore(self, snapshotter: "Snapshotter", snapshot: Snapshot) -> None:
        from migrated.engine.sqlite.snapshots.snapshots import BEFORE_RESTORE

        snapshotter.take(BEFORE_RESTORE, version=highest_version(self.look().applied), protect=[snapshot.id])

    def _snapshotter(self, observer: "Observer") -> "Snapshotter":
        from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

        return Snapshotter(self.name, self._snapshots, observer, self._busy_handler.cancel_token)

    def _record_restore(self, copy: apsw.Connection, snapshot: Snapshot, reason: str | None) -> None:
        ledger.create(copy, self.name)
        history.record_restore(copy, snapshot, reason)

    @contextlib.contextmanager
    def session(self, observer: "Observer") -> Iterator["SqliteSession"]:
        """Open the database for changing; errors of SQLite become `DatabaseError`."""
        from migrated.engine.sqlite.apply import Preparation
        from migrated.engine.sqlite.session import SqliteSession

        session = SqliteSession(
            self.name,
            self._busy_handler,
            self._connect_for_migrating,
            observer,
            Preparation(self.name, self._snapshotter(observer), self._application_id),
            statement_timeout=self._statement_timeout,
            shared=self._shared is not None,
        )
        with contextlib.ExitStack() as stack:
            if self._shared is not None:
                stack.enter_context(borrowed(self._shared))
            stack.callback(session.close)
            stack.enter_context(as_database_error(self.name))
            yield session

    def _connect_for_migrating(self) -> Opened:
        if self._shared is None:
            return self._taken_over() or Opened(self._open_for_migrating())
        if self._shared.in_transaction:
            raise DatabaseError(
                "the connection has a transaction open", database=self.name, hint="commit or roll back first"
            )
        preflight.require_application_id(self._shared, self._application_id, self.name)
        return Opened(self._shared)

    def _taken_over(self) -> Opened | None:
        if self._left_open is None:
            return None
        file, opened = self._left_open
        # The file may have been replaced since it was opened: writes to the old one would be lost.
        if file != file_identity(self.name):
            self.close()
            return None
        allow_migrating(opened.connection, self.name)
        self._left_open = None
        return opened

    def _open_for_migrating(self) -> apsw.Connection:
        if self._create and not self._must_exist:
            preflight.create_for_owner(self.name)
        connection = open_for_migrating(
            self.name, self._busy_handler, create=self._create, must_exist=self._must_exist
        )
        try:
            with as_database_error(self.name):
                preflight.require_application_id(connection, self._application_id, self.name)
        except BaseException:
            connection.close()
            raise
        return connection

    def _may_be_made(self) -> bool:
        # With must_exist only an empty file may become a database; else a missing one in an existing directory.
        if self._must_exist:
            return os.path.isfile(self.name)
        return os.path.isdir(os.path.dirname(os.path.abspath(self.name)))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection | None]:
        if self._shared is not None:
            with borrowed(self._shared), as_database_error(self.name):
                yield self._shared
            return
        if self.is_new() and self._create and self._may_be_made():
            yield None
            return
        connection = self._open_for_reading()
        try:
            with as_database_error(self.name):
                preflight.require_application_id(connection, self._application_id, self.name)
                yield connection
        finally:
            connection.close()

    def _open_for_reading(self) -> apsw.Connection:
        preflight.require_regular_file(self.name)
        # Even after only reading, our close() drops the POSIX locks of any other library in this process that has
        # the file open.
        if not self._is_alone:
            preflight.require_alone_in_process(self.name)
        return open_for_reading(self.name, self._busy_handler)
