"""Putting a snapshot back into the live file of a database."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import apsw

from migrated.errors import DatabaseError
from migrated.model import AppliedMigration, Snapshot
from migrated.sqlite import ledger
from migrated.sqlite.connection import (
    Patience,
    environment_errors,
    is_absent_or_empty,
    open_for_reading,
    result_name,
)
from migrated.sqlite.guard import LEDGER_PREFIX
from migrated.sqlite.snapshots import (
    PAGES_A_STEP,
    backup_into,
    copy_pages,
    discard_parts,
    open_immutable,
    open_to_be_filled,
    part_file,
    require_sound,
)
from migrated.sqlite.space import require_free
from migrated.supervision import Supervision

_MARGIN = 1_000_000
_COPIES = 3
_PATIENCE_SECONDS = 30.0
_DAMAGED = {"SNAPSHOT_DAMAGED", "SQLITE_CORRUPT", "SQLITE_NOTADB"}
_MOVE_AWAY = "move it (and what lies beside it: -wal, -shm, -journal) away and restore again: it is made anew then"


@dataclass(frozen=True, slots=True)
class Losses:
    """What a database has that a snapshot of it has not; `rows` are (table, rows now, rows then)."""

    migrations: list[AppliedMigration]
    tables: list[str]
    rows: list[tuple[str, int, int]]


def restore(
    snapshot: Snapshot,
    database: str,
    *,
    keep: Callable[[], None],
    record: Callable[[apsw.Connection], None],
    patience: Patience,
    step: Callable[[], None],
) -> None:
    """Make the content of a database that of a snapshot, in one transaction on the live file.

    `record` writes to a copy of the snapshot first, so that what is restored and the record of it arrive
    together. `keep` is called, if there is anything to keep, while nobody else can write. `step` is called now and
    then, and may raise until the live file is written to. Raises `DatabaseError`, the file being as before then.
    """
    is_new = is_absent_or_empty(database)
    size = snapshot.size + (0 if is_new else os.path.getsize(database))
    require_free(os.path.dirname(snapshot.path), _COPIES * size + _MARGIN, "there is no room to restore", database)
    discard_parts(database)
    with (
        part_file(database, f"{snapshot.path}.restoring") as part,
        environment_errors(database),
        contextlib.closing(_working_copy(snapshot, database, part, step)) as copy,
    ):
        copy.execute("BEGIN")
        record(copy)
        copy.execute("COMMIT")
        if is_new:
            _make(database, copy, snapshot, step)
        else:
            _overwrite(database, copy, keep, patience, step)


def lost_by_restoring(snapshot: Snapshot, database: str) -> Losses:
    """Compare, changing nothing. Raises `DatabaseError`."""
    if is_absent_or_empty(database):
        return Losses([], [], [])
    with environment_errors(database), contextlib.ExitStack() as stack:
        now = open_for_reading(database, Patience(_PATIENCE_SECONDS, Supervision()))
        stack.callback(now.close)
        then = open_immutable(snapshot.path)
        stack.callback(then.close)
        kept = {entry.version for entry in ledger.read(then, database)}
        migrations = [entry for entry in ledger.read(now, database) if entry.version not in kept]
        rows_now, rows_then = dict(_rows(now)), dict(_rows(then))
        changed = [
            (table, count, rows_then[table])
            for table, count in rows_now.items()
            if table in rows_then and count != rows_then[table]
        ]
        return Losses(migrations, sorted(_names(now) - _names(then)), changed)


def _working_copy(snapshot: Snapshot, database: str, part: str, step: Callable[[], None]) -> apsw.Connection:
    require_sound(snapshot.path, database, "SNAPSHOT_DAMAGED", "the snapshot itself is damaged; use another one")
    copy = open_to_be_filled(part)
    try:
        with contextlib.closing(open_immutable(snapshot.path)) as source:
            copy_pages(source, copy, step)
        # The copy of a database in WAL mode says that it is in that mode too.
        copy.pragma("locking_mode", "exclusive")
        copy.pragma("journal_mode", "memory")
    except BaseException:
        copy.close()
        raise
    return copy


def _make(database: str, copy: apsw.Connection, snapshot: Snapshot, step: Callable[[], None]) -> None:
    """Make the file anew, for whom the snapshot belongs to."""
    status = os.stat(snapshot.path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(database)
    os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, status.st_mode & 0o666))
    try:
        if os.geteuid() == 0:
            os.chown(database, status.st_uid, status.st_gid)
        with contextlib.closing(apsw.Connection(os.path.abspath(database))) as live:
            live.pragma("synchronous", "EXTRA")
            copy_pages(copy, live, step)
    except BaseException:
        os.unlink(database)
        raise


def _overwrite(
    database: str,
    copy: apsw.Connection,
    keep: Callable[[], None],
    patience: Patience,
    step: Callable[[], None],
) -> None:
    live = apsw.Connection(os.path.abspath(database), flags=apsw.SQLITE_OPEN_READWRITE)
    with contextlib.closing(live), _damage_told(database):
        live.set_busy_handler(patience)
        live.pragma("synchronous", "EXTRA")
        is_wal = live.pragma("journal_mode") == "wal"
        try:
            with _locked(live, copy, patience, is_wal=is_wal) as backup:
                keep()
                step()
                patience.must_finish = True
                while not backup.done:
                    patience.retry(lambda: backup.step(PAGES_A_STEP))
        except apsw.ReadOnlyError as error:
            raise DatabaseError(
                "the snapshot has another page size than the database, which cannot change in WAL mode",
                database=database,
                code="PAGE_SIZE",
                hint=f"stop the applications and set PRAGMA journal_mode = delete first; or {_MOVE_AWAY}",
            ) from error
        finally:
            patience.must_finish = False


@contextlib.contextmanager
def _locked(
    live: apsw.Connection, copy: apsw.Connection, patience: Patience, *, is_wal: bool
) -> Iterator[apsw.Backup]:
    """Keep everybody else from writing to the live file, but readers not, until the backup into it begins."""
    if is_wal:
        # The backup's first step takes the write lock, also when it copies no page.
        with backup_into(live, copy) as backup:
            patience.retry(lambda: backup.step(0))
            yield backup
        return
    # There, that step would shut out readers too, and so us who want to keep the content. But in exclusive mode a
    # connection keeps the lock that a transaction took.
    live.pragma("locking_mode", "exclusive")
    live.execute("BEGIN IMMEDIATE; ROLLBACK").fetchall()
    live.pragma("locking_mode", "normal")
    with backup_into(live, copy) as backup:
        yield backup


@contextlib.contextmanager
def _damage_told(database: str) -> Iterator[None]:
    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise DatabaseError(
            f"what is there cannot be kept: {error}", database=database, code=result_name(error), hint=_MOVE_AWAY
        ) from error
    except DatabaseError as error:
        if error.code in _DAMAGED:
            error.hint = _MOVE_AWAY
        raise


def _names(connection: apsw.Connection) -> set[str]:
    return {
        f"{kind} {name}"
        for kind, name in connection.execute(
            "SELECT type, name FROM main.sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'"
        )
    }


def _rows(connection: apsw.Connection) -> Iterator[tuple[str, int]]:
    tables = connection.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    for (name,) in tables.fetchall():
        if not str(name).lower().startswith(("sqlite_", LEDGER_PREFIX)):
            quoted = str(name).replace('"', '""')
            yield str(name), int(connection.execute(f'SELECT count(*) FROM main."{quoted}"').get)
