"""A SQLite database as the runner sees it: look at its ledger, or open it for changing."""

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
from migrated.engine.sqlite.history import read_record
from migrated.system.cancellation import CancelToken

# What only a command that changes something needs is imported where it is used: to look takes half as long then.
if TYPE_CHECKING:
    from migrated.engine.backend import FormerState, Observer, Session, Template
    from migrated.engine.sqlite.session import SqliteSession
    from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

IN_MEMORY = ":memory:"
DEFAULT_BUSY_TIMEOUT = 30.0


class SqliteDatabase:
    """One database: a path, `:memory:`, or an open `apsw.Connection` that the caller keeps.

    `create` says whether a missing or empty file may become a database, a missing one not where it `must_exist`:
    one that a pattern matched and that is gone was removed on purpose. That nothing else in this process has it
    open need not be seen to where it `is_alone_in_process`. `busy_timeout` is how many seconds
    another connection's lock is waited for, in all, at each of BEGIN, a statement and COMMIT; the wait ends
    early when the `supervision` says so. `statement_timeout` is how many seconds a statement may take; 0: any.
    `snapshots` says when the content is kept. With an `application_id`, only a database that has it, or one that
    is new, is touched.
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
        supervision: CancelToken | None = None,
    ) -> None:
        self._patience = BusyHandler(busy_timeout, supervision or CancelToken())
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
        """As people know it: the path as given, or `:memory:`."""
        return self.path or IN_MEMORY

    @property
    def lockable(self) -> bool:
        """Whether other processes could migrate it too: not when it is in memory."""
        return self.path is not None

    def is_new(self) -> bool:
        """Whether there is no database in the file yet."""
        return self._shared is None and is_absent_or_empty(self.name)

    def look(self) -> LedgerState:
        """What is applied, and what stopped half way, if anything did.

        Changes nothing, creates nothing; a database to be created has neither.
        """
        with self._reading() as connection:
            if connection is None:
                return LedgerState([])
            if self._shared is None:
                # One state of the database, whoever writes meanwhile, and one lock for all that is read.
                connection.execute("BEGIN")
            return read_record(connection, self.name)

    def first_look(self) -> LedgerState:
        """As `look`, leaving the database open: the session that follows need not open and read it once more.

        Where none follows, `let_go` closes it.
        """
        file = file_identity(self.name) if self._shared is None else None
        if file is None:
            return self.look()
        connection = self._open_for_reading()
        try:
            with as_database_error(self.name):
                preflight.require_application_id(connection, self._application_id, self.name)
                # First the counter, then the record, as in a session.
                data_version = connection.pragma("data_version")
                # One lock for all that is read.
                connection.execute("BEGIN")
                record = read_record(connection, self.name)
                connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._left_open = file, Opened(connection, data_version, record)
        return record

    def let_go(self) -> None:
        """Close what `first_look` left open, if no session has taken it over."""
        if self._left_open is not None:
            self._left_open[1].connection.close()
            self._left_open = None

    def stored_migrations(self, versions: Iterable[int]) -> dict[int, Migration]:
        """The migrations as they were when they were last applied, as far as the history has them."""
        with self._reading() as connection:
            return history.stored_migrations(connection, versions, self.name) if connection else {}

    def require_usable(self) -> None:
        """Raise `DatabaseError` for what can be seen to be in the way without opening the database."""
        if self.path is not None and self._shared is None:
            is_alone = self._is_alone or self._left_open is not None
            preflight.require_usable(self.path, create=self._create, is_alone=is_alone)

    def template(self, migrations: Sequence[Migration]) -> "Template | None":
        """The content of a database in memory, if a copy is as good as applying the migrations that made it."""
        from migrated.engine.sqlite.snapshots.copying import template_of

        if self._shared is None or self.path is not None:
            return None
        return template_of(self._shared, migrations, self.look().applied)

    def fill(self, template: "Template") -> bool:
        """Make an empty or missing file, where it may become a database, a copy of what `template` gave.

        Raises `DatabaseError`.
        """
        from migrated.engine.sqlite.snapshots.copying import Copyable

        if not isinstance(template, Copyable) or not self._create or not self.is_new():
            return False
        with contextlib.closing(self._open_for_migrating()) as connection, as_database_error(self.name):
            return template.copy_into(self.name, connection, self._patience)

    def snapshots(self) -> list[Snapshot]:
        """The snapshots in `.migrated/snapshots/` beside the file, oldest first."""
        from migrated.engine.sqlite.snapshots import snapshots

        return snapshots.listed(self.path) if self.path else []

    def restore(self, snapshot: Snapshot, observer: "Observer", reason: str | None) -> None:
        """Put a snapshot back into the live file, keeping what is there as a snapshot too, and record that.

        Raises `DatabaseError`; the file is as before then.
        """
        from migrated.engine.sqlite.snapshots.restore import restore

        keeper = self._keeper(observer)
        restore(
            snapshot,
            self.name,
            keep=lambda: self._keep_before_restore(keeper, snapshot),
            record=lambda copy: self._record_restore(copy, snapshot, reason),
            patience=self._patience,
            step=keeper.go_on,
        )

    def former_states(self) -> Iterator["FormerState"]:
        """The states that the database was in, the latest first, as its snapshots and its history tell."""
        from migrated.engine.sqlite.snapshots.rebuild import former_states

        if self.path is None:
            return
        with self._reading() as connection:
            if connection is not None:
                yield from former_states(connection, self.path)

    def rebuild(
        self, former: "FormerState | None", work: "Callable[[Session], None]", observer: "Observer"
    ) -> None:
        """Do `work` on a copy of a former state, or of the present one, and make that the content at one stroke.

        Raises `LedgerChangedError` when another process wrote meanwhile, `DatabaseError`, and whatever `work`
        raises; the database is as it was then, and a snapshot of it may have been kept in vain.
        """
        from migrated.engine.sqlite.apply import Preparation
        from migrated.engine.sqlite.session import SqliteSession
        from migrated.engine.sqlite.snapshots.rebuild import Rebuilding, SessionEffects
        from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

        keeper = self._keeper(observer)

        def change(copy: apsw.Connection) -> SessionEffects:
            session = SqliteSession(
                self.name,
                self._patience,
                lambda: Opened(copy),
                observer,
                Preparation(
                    self.name, Snapshotter(self.name, NO_SNAPSHOTS, observer, self._patience.supervision), 0
                ),
                statement_timeout=self._statement_timeout,
                shared=True,
            )
            work(session)
            return SessionEffects(session.taken, session.touched, session.dropped)

        def keep(spare: list[str]) -> AbstractContextManager[Snapshot]:
            return keeper.redoing(highest_version(self.look().applied), spare)

        kept = Rebuilding(self.name, self._patience, keeper.go_on).run(former, keep, change)
        if former is not None:
            observer.restored_snapshot(former)
        observer.rows_restored(kept)

    def _keep_before_restore(self, keeper: "Snapshotter", snapshot: Snapshot) -> None:
        from migrated.engine.sqlite.snapshots.snapshots import BEFORE_RESTORE

        keeper.take(BEFORE_RESTORE, version=highest_version(self.look().applied), spare=[snapshot.id])

    def _keeper(self, observer: "Observer") -> "Snapshotter":
        from migrated.engine.sqlite.snapshots.snapshots import Snapshotter

        return Snapshotter(self.name, self._snapshots, observer, self._patience.supervision)

    def _record_restore(self, copy: apsw.Connection, snapshot: Snapshot, reason: str | None) -> None:
        ledger.create(copy, self.name)
        history.record_restore(copy, snapshot, reason)

    @contextlib.contextmanager
    def session(self, observer: "Observer") -> Iterator["SqliteSession"]:
        """Open the database for changing it; every error of SQLite becomes a `DatabaseError`."""
        from migrated.engine.sqlite.apply import Preparation
        from migrated.engine.sqlite.session import SqliteSession

        session = SqliteSession(
            self.name,
            self._patience,
            self._connect_for_migrating,
            observer,
            Preparation(self.name, self._keeper(observer), self._application_id),
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
        # Another file may have been put in its place since: what is written to the old one would be lost.
        if file != file_identity(self.name):
            self.let_go()
            return None
        allow_migrating(opened.connection, self.name)
        self._left_open = None
        return opened

    def _open_for_migrating(self) -> apsw.Connection:
        if self._create and not self._must_exist:
            preflight.create_for_owner(self.name)
        connection = open_for_migrating(
            self.name, self._patience, create=self._create, must_exist=self._must_exist
        )
        try:
            with as_database_error(self.name):
                preflight.require_application_id(connection, self._application_id, self.name)
        except BaseException:
            connection.close()
            raise
        return connection

    def _may_be_made(self) -> bool:
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
        # Closing it drops the locks of whoever else in this process has it open, also after a mere look.
        if not self._is_alone:
            preflight.require_alone_in_process(self.name)
        return open_for_reading(self.name, self._patience)
