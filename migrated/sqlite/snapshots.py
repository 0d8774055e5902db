"""Copies of a database in `.migrated/snapshots/` beside it.

What there is to know of one is in its file's name, so that the rename which publishes it publishes all of it:
`<database>.<taken at>.<version>.<reason>.snapshot`.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta

import apsw

from migrated.discovery import FOLDER
from migrated.errors import DatabaseError
from migrated.model import Snapshot
from migrated.owners import give_to_owner_of
from migrated.sqlite.connection import Patience, environment_errors, open_for_reading
from migrated.sqlite.space import require_free
from migrated.supervision import Supervision

_ENDING = ".snapshot"
_PART = ".part"
_STAMP = "%Y%m%dT%H%M%S%fZ"
_NAME = re.compile(r"(?P<database>.+)\.(?P<stamp>\d{8}T\d{12}Z)\.(?P<version>\d+)\.(?P<reason>[a-z-]+)\.snapshot")
_LONGEST_NAME = 150
PAGES_A_STEP = 1000
_MARGIN = 1_000_000
_PATIENCE_SECONDS = 30.0
# quick_check also tells of rows that break a rule of their table, which is no damage; and it cannot look into what
# needs functions or collations of the application.
_NO_DAMAGE = re.compile(r"ok|(?:NULL|NUMERIC|TEXT|non-\w+) value in .*|CHECK constraint failed in .*")
_NOT_OURS_TO_CHECK = re.compile(r"no such (?:collation sequence|function|module)|unknown (?:function|tokenizer)")


def folder_of(database: str) -> str:
    """Where the snapshots of a database are kept."""
    return os.path.join(os.path.dirname(os.path.realpath(database)), FOLDER, "snapshots")


def listed(database: str) -> list[Snapshot]:
    """The snapshots of a database, oldest first. Raises `DatabaseError` when their folder cannot be read."""
    folder = folder_of(database)
    with _file_errors(database, folder):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        found = [snapshot for name in names if (snapshot := _read_name(database, folder, name))]
    return sorted(found, key=lambda snapshot: snapshot.taken_at)


def find(database: str, identifier: str) -> Snapshot | None:
    """The snapshot of a database that has this id."""
    return next((snapshot for snapshot in listed(database) if snapshot.id == identifier), None)


def take(
    database: str,
    *,
    reason: str,
    version: int | None,
    keep: int,
    step: Callable[[], None],
    spare: Collection[str] = (),
) -> Snapshot:
    """Copy a database, and remove all but the `keep` newest of its snapshots and those whose id is in `spare`.

    The caller holds the database's file lock, and for an exact copy the write lock too. `step` is called now and
    then and may raise. Raises `DatabaseError`, with nothing left behind, when there is no room, the copy cannot
    be written, or shows that the database is damaged.
    """
    folder = folder_of(database)
    with _file_errors(database, folder):
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            give_to_owner_of(os.path.dirname(os.path.dirname(folder)), folder)
        discard_parts(database)
        taken_at = _unused_time(database)
        path = os.path.join(folder, _name(database, taken_at, version, reason))
        with part_file(database, path) as part:
            _copy(database, part, step)
            require_sound(part, database, "SNAPSHOT_DAMAGED", "the database is damaged; restore it from a backup")
            _sync(part)
            os.rename(part, path)
        _sync(folder)
        snapshot = _read_name(database, folder, os.path.basename(path))
        _prune(database, keep, spare)
    if snapshot is None:
        raise DatabaseError(f"{path} is not a snapshot's name", database=database)
    return snapshot


@contextlib.contextmanager
def part_file(database: str, path: str) -> Iterator[str]:
    """A file beside `path` with the owner and the mode of the database, that is removed unless it is renamed."""
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{_PART}")
    with _file_errors(database, part):
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _give(part, database)
            yield part
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)


def discard_parts(database: str) -> None:
    """Remove what runs that were killed left behind."""
    folder, ours = folder_of(database), _stem(database)
    for name in os.listdir(folder):
        if _PART in name and name.startswith(f".{ours}."):
            os.unlink(os.path.join(folder, name))


def require_sound(path: str, database: str, code: str, hint: str) -> None:
    """Raise `DatabaseError` with this code unless the copy at `path` is a sound database."""
    with environment_errors(database):
        connection = open_immutable(path)
        try:
            # A rule of the application's own may need functions that only it has.
            connection.pragma("ignore_check_constraints", 1)
            rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(20)")]
        except apsw.SQLError as error:
            rows = [] if _NOT_OURS_TO_CHECK.search(str(error)) else [str(error)]
        except (apsw.CorruptError, apsw.NotADBError) as error:
            rows = [str(error)]
        finally:
            connection.close()
    faults = [row for row in rows if not _NO_DAMAGE.fullmatch(row)]
    if faults:
        raise DatabaseError(
            f"the copy of the database is damaged, so the database is: {faults[0]}",
            database=database,
            code=code,
            hint=hint,
        )


def open_immutable(path: str) -> apsw.Connection:
    """Open a copy that nobody changes: no lock is taken and nothing is made beside it."""
    # Of a URI only these characters have a meaning (https://www.sqlite.org/uri.html).
    quoted = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"file:{quoted}?immutable=1", flags=flags)


def copy_pages(source: apsw.Connection, target: apsw.Connection, step: Callable[[], None]) -> None:
    """Copy one whole database over another."""
    with backup_into(target, source) as backup:
        while not backup.done:
            step()
            backup.step(PAGES_A_STEP)


@contextlib.contextmanager
def backup_into(target: apsw.Connection, source: apsw.Connection) -> Iterator[apsw.Backup]:
    """A backup that is ended with the `with`, and given up, whatever that brings, when something went wrong."""
    backup = target.backup("main", source, "main")
    try:
        yield backup
    except BaseException:
        backup.close(force=True)
        raise
    backup.close()


def open_to_be_filled(path: str) -> apsw.Connection:
    """Open a file of ours that is synced by us, or thrown away: it needs no journal."""
    connection = apsw.Connection(os.path.abspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", 0)
    return connection


def _copy(database: str, part: str, step: Callable[[], None]) -> None:
    with environment_errors(database), contextlib.ExitStack() as stack:
        source = open_for_reading(database, Patience(_PATIENCE_SECONDS, Supervision()))
        stack.callback(source.close)
        size = source.pragma("page_count") * source.pragma("page_size")
        require_free(os.path.dirname(part), size + _MARGIN, "there is no room for a snapshot", database)
        target = open_to_be_filled(part)
        stack.callback(target.close)
        copy_pages(source, target, step)


def _prune(database: str, keep: int, spare: Collection[str]) -> None:
    others = [snapshot for snapshot in listed(database) if snapshot.id not in spare]
    for snapshot in others[:-keep]:
        os.unlink(snapshot.path)


def _stem(database: str) -> str:
    """The database's part of the names, shortened where the file system would not take it."""
    name = os.path.basename(os.path.realpath(database))
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    beginning = name.encode()[: _LONGEST_NAME // 2].decode(errors="ignore")
    return f"{beginning}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _name(database: str, taken_at: datetime, version: int | None, reason: str) -> str:
    return f"{_stem(database)}.{taken_at.strftime(_STAMP)}.{version or 0}.{reason}{_ENDING}"


def _read_name(database: str, folder: str, name: str) -> Snapshot | None:
    found = _NAME.fullmatch(name)
    if found is None or found["database"] != _stem(database):
        return None
    path = os.path.join(folder, name)
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return None
    taken_at = datetime.strptime(found["stamp"], _STAMP).replace(tzinfo=UTC)
    identifier = f"{found['database']}.{found['stamp']}"
    return Snapshot(identifier, database, path, taken_at, int(found["version"]) or None, size, found["reason"])


def _unused_time(database: str) -> datetime:
    # Later than all there are: the order of the names is that of the taking, also when the clock was put back.
    newest = max((snapshot.taken_at for snapshot in listed(database)), default=datetime.min.replace(tzinfo=UTC))
    return max(datetime.now(UTC), newest + timedelta(microseconds=1))


def _give(part: str, database: str) -> None:
    """Whoever may read the database may read the copy, and nobody else."""
    try:
        status = os.stat(database)
    except FileNotFoundError:
        return
    if os.geteuid() == 0:
        os.chown(part, status.st_uid, status.st_gid)
    os.chmod(part, status.st_mode & 0o666)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _file_errors(database: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseError(
            f"the snapshot cannot be kept: {error.filename or path}: {error.strerror or error}",
            database=database,
            code="SNAPSHOT_FAILED",
            transient=True,
            hint="check the folder's owner and mode, and the disk; nothing was changed",
        ) from error
