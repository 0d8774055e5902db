"""Put a snapshot's content back into the live database, under the eyes of the applications that have it open."""

import contextlib
import os
from collections.abc import Callable, Iterator

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.records import Snapshot
from migrated.engine.sqlite.connection import (
    BusyHandler,
    as_database_error,
    is_absent_or_empty,
    open_for_migrating,
)
from migrated.engine.sqlite.disk_space import require_free
from migrated.engine.sqlite.snapshots.catalog import new_part
from migrated.engine.sqlite.snapshots.copying import (
    backing_up,
    copy_to,
    copying_errors,
    damage,
    file_errors,
    nothing,
    open_immutable,
    take_steps,
)
from migrated.engine.sqlite.snapshots.snapshots import DAMAGED
from migrated.system.files import be_like, sync_directory

_MARGIN = 1_000_000
_OF_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", DAMAGED)


def restore(
    snapshot: Snapshot,
    database: str,
    *,
    keep: Callable[[], None],
    record: Callable[[apsw.Connection], None],
    busy_handler: BusyHandler,
    step: Callable[[], None] = nothing,
) -> None:
    """Make the content of `database` that of `snapshot`, in one transaction of the same file.

    `record` is given a private copy of the snapshot, in a transaction, and writes there what is to be remembered:
    it arrives together with the content. `keep` is called once nobody else can write any more; everybody can still
    read. It is not called where the file is missing or empty, which is then made. Applications see the old content
    or the new, or a busy database; the journal mode stays. In rollback-journal mode readers are waited for, as
    long as `busy_handler` lasts, and new ones are kept out until the end.

    The caller holds the lock of the directory. Raises `DatabaseError`, and whatever `keep`, `record` and `step`
    raise: the database is as it was then, and no file is left behind.
    """
    with new_part(database) as new:
        part = new.path
        _require_room(snapshot, database, part)
        _fill(snapshot, database, part, step)
        with private_copy(part, database) as copy, _made_if_missing(snapshot, database):
            with copying_errors(database, part):
                was_wal = out_of_wal(copy)
            _record(copy, part, database, record)
            put_back(copy, database, keep, busy_handler, step, to_wal=was_wal)


def _require_room(snapshot: Snapshot, database: str, part: str) -> None:
    with file_errors(database):
        live_size = 0 if is_absent_or_empty(database) else os.stat(database).st_size
    # The private copy and the copy of what is there, and the journal or the log of the change itself.
    needed = 2 * snapshot.size + live_size + _MARGIN
    require_free(os.path.dirname(part), needed, "restoring a snapshot", database, "snapshots")


def _fill(snapshot: Snapshot, database: str, part: str, step: Callable[[], None]) -> None:
    """Copy the snapshot, and look the copy over."""
    if not os.path.exists(snapshot.path):
        raise DatabaseError(
            f"the snapshot {snapshot.id} does not exist any more",
            database=database,
            hint="nothing was changed; choose another snapshot",
        )
    with copying_errors(database, part):
        with contextlib.closing(open_immutable(snapshot.path)) as source:
            copy_to(part, source, database, step)
        fault = damage(part, step)
        if fault:
            raise DatabaseError(
                f"the snapshot {snapshot.id} is damaged: {fault}",
                database=database,
                code=DAMAGED,
                hint="nothing was changed; choose another snapshot",
            )


@contextlib.contextmanager
def private_copy(part: str, database: str) -> Iterator[apsw.Connection]:
    """Open a copy that nobody else knows of, and that is lost with this process: nothing has to be safe."""
    with copying_errors(database, part):
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        copy = apsw.Connection(part, flags=flags)
    with contextlib.closing(copy):
        with copying_errors(database, part):
            copy.pragma("synchronous", "off")
        yield copy


def out_of_wal(copy: apsw.Connection) -> bool:
    """Take the mark of WAL mode from a copy, which would be copied on; return whether it had it."""
    was_wal = bool(copy.pragma("journal_mode") == "wal")
    if was_wal:
        copy.pragma("journal_mode", "delete")
    copy.pragma("journal_mode", "memory")
    return was_wal


def _record(copy: apsw.Connection, part: str, database: str, record: Callable[[apsw.Connection], None]) -> None:
    with as_database_error(database), copy:
        record(copy)
    # Of a file without a name nothing is left behind, however this process ends. `keep` makes a copy too, and
    # removes all unfinished ones before.
    with file_errors(database):
        os.unlink(part)


@contextlib.contextmanager
def _made_if_missing(snapshot: Snapshot, database: str) -> Iterator[None]:
    """Make an empty file where there is none, with the snapshot's owner and mode; removed if it stays empty."""
    path = os.path.realpath(database)
    with file_errors(database):
        made = _make(path, os.stat(snapshot.path))
    try:
        yield
    finally:
        if made and is_absent_or_empty(path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def _make(path: str, like: os.stat_result) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        be_like(descriptor, like)
    finally:
        os.close(descriptor)
    sync_directory(os.path.dirname(path))
    return True


def put_back(
    copy: apsw.Connection,
    database: str,
    keep: Callable[[], None],
    busy_handler: BusyHandler,
    step: Callable[[], None],
    *,
    to_wal: bool = False,
) -> None:
    """Make the content of the live file that of `copy`, as `restore` says; a new file goes `to_wal` mode."""
    with (
        _damage_explained(database),
        contextlib.closing(open_for_migrating(database, busy_handler, create=True)) as live,
        as_database_error(database),
    ):
        if live.pragma("journal_mode") == "wal":
            _overwrite_in_wal(live, copy, database, keep, step)
        elif _overwrite(live, copy, keep, step) and to_wal:
            with contextlib.suppress(apsw.BusyError):
                live.pragma("journal_mode", "wal")


def _overwrite_in_wal(
    live: apsw.Connection,
    copy: apsw.Connection,
    database: str,
    keep: Callable[[], None],
    step: Callable[[], None],
) -> None:
    sizes = live.pragma("page_size"), copy.pragma("page_size")
    with backing_up(copy, live) as backup:
        try:
            # No page yet, but the write lock: readers go on until the end, and beyond.
            backup.step(0)
        except apsw.ReadOnlyError as error:
            if sizes[0] == sizes[1]:
                raise
            raise _other_pages(database, *sizes) from error
        keep()
        take_steps(backup, copy, step)
    # The log has the whole content now; what is left in it is the next writer's to empty.
    with contextlib.suppress(apsw.Error):
        live.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _overwrite(
    live: apsw.Connection, copy: apsw.Connection, keep: Callable[[], None], step: Callable[[], None]
) -> bool:
    """Return whether there was nothing before."""
    # A backup's own lock would shut readers out, `keep` among them. In exclusive mode the lock of a transaction
    # outlasts it; COMMIT would take the lock that shuts out, even when nothing was written.
    live.pragma("locking_mode", "exclusive")
    live.execute("BEGIN IMMEDIATE; ROLLBACK").fetchall()
    was_empty = not live.pragma("page_count")
    # From the next transaction's end on: so that the journal of the backup is deleted, and not only emptied.
    live.pragma("locking_mode", "normal")
    if not was_empty:
        keep()
    with backing_up(copy, live) as backup:
        take_steps(backup, copy, step)
    return was_empty


def _other_pages(database: str, there: int, here: int) -> DatabaseError:
    return DatabaseError(
        f"the page size of the database is {there} and that of the snapshot {here}, "
        "which cannot change in WAL mode",
        database=database,
        code="PAGE_SIZE",
        hint="nothing was changed; stop the applications, set PRAGMA journal_mode = delete, and run restore again",
    )


@contextlib.contextmanager
def _damage_explained(database: str) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        if not error.code.startswith(_OF_DAMAGE):
            raise
        raise DatabaseError(
            f"cannot restore over the database, because no snapshot of it can be taken: {error.message}",
            database=database,
            code=error.code,
            hint="move the file away, with its -wal and its -journal, and run restore again: "
            "it creates a new file",
        ) from error
