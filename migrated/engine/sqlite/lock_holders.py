"""Find other users of a database: processes by their locks, code in this process by its descriptors.

Nothing here opens the database: closing a file that this process also has open through SQLite would drop SQLite's
locks on it (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

import fcntl
import gc
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import apsw

_PENDING = 0x40000000
_SHARED = range(_PENDING + 2, _PENDING + 512)
_WRITER = range(_PENDING, _SHARED.stop)
_WAL_WRITER = range(120, 121)
_MOST_NAMED = 5
_PAUSES = tuple(0.001 * 2**number for number in range(11))
"""Two seconds in total: on a busy machine, a thread that is opening or closing a database may not run for long."""


class _Lock(NamedTuple):
    pid: int
    writes: bool
    first: int
    last: int

    def covers(self, some: range) -> bool:
        return self.first < some.stop and some.start <= self.last


def holder_of(path: str) -> str | None:
    """Describe the processes whose locks block us, such as `pid 1234 (python3)`; at most five.

    These are the writers or, if there are none, the readers, which block COMMIT with a rollback journal. A reader
    in WAL mode blocks nobody and is not named. None if there is nobody, or if /proc/locks is not readable.

    A writer holds RESERVED, PENDING or all SHARED bytes of the file, a reader SHARED ones: these lie from
    PENDING_BYTE, 0x40000000, onwards (https://www.sqlite.org/src/file/src/os.h). In WAL mode a writer holds byte
    120 of the `-shm`, the first of the locks at bytes 120 to 127, and each user some lock there
    (https://www.sqlite.org/walformat.html#the_wal_index_file_format).
    """
    real = os.path.realpath(path)
    try:
        with open("/proc/locks") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    on_file, on_index = _locks_on(real, lines), _locks_on(f"{real}-shm", lines)
    writers = {lock.pid for lock in on_file if lock.writes and lock.covers(_WRITER)}
    writers |= {lock.pid for lock in on_index if lock.writes and lock.covers(_WAL_WRITER)}
    # In WAL mode every connection keeps a SHARED lock on the file too, and blocks nobody by it.
    readers = {lock.pid for lock in on_file if lock.covers(_SHARED)} - {lock.pid for lock in on_index}
    found = sorted((writers - {os.getpid()}) or (readers - {os.getpid()}))
    return ", ".join(map(_describe, found[:_MOST_NAMED])) or None


def other_sqlite_user(path: str) -> str | None:
    """Describe any non-apsw user of this database in our own process.

    Closing their descriptor would drop our POSIX locks, on the database, its `-wal` or its `-shm`. None if there
    is no such user, or if /proc is not readable. Other threads may use apsw on the database.
    """
    # SQLite's files are beside the target of a link. Links in the directory part lead to the same files anyway.
    real = os.path.realpath(path) if os.path.islink(path) else path
    found = _find_other_user(real)
    # With other threads a single check can be wrong: one may open or close the database during it, or keep a
    # descriptor open that SQLite closes when that thread's transaction ends. So a finding has to last.
    for pause in _PAUSES if _has_other_threads() else ():
        if found is None:
            return None
        time.sleep(pause)
        found = _find_other_user(real)
    return found


def _has_other_threads() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return True


def _locks_on(path: str, lines: Sequence[str]) -> list[_Lock]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    locks = []
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 1073741824 1073742335; a waiter has "->" as its second field.
        fields = line.split()
        if len(fields) != 8 or fields[1] != "POSIX":  # noqa: PLR2004 - as many as the line above has
            continue
        _, _, _, kind, pid, place, first, last = fields
        major, minor, inode = place.split(":")
        if int(inode) == status.st_ino and _is_same(status, int(major, 16), int(minor, 16), int(pid)):
            end = sys.maxsize if last == "EOF" else int(last)
            locks.append(_Lock(int(pid), kind == "WRITE", int(first), end))
    return locks


def _is_same(status: os.stat_result, major: int, minor: int, pid: int) -> bool:
    if (major, minor) == (os.major(status.st_dev), os.minor(status.st_dev)):
        return True
    # On btrfs and overlayfs stat() returns another device than /proc/locks; such devices have major number 0.
    if major or os.major(status.st_dev):
        return False
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True
    return (status.st_dev, status.st_ino) in _identities(f"/proc/{pid}/fd/{name}" for name in names)


def _identities(paths: Iterable[str]) -> list[tuple[int, int]]:
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((status.st_dev, status.st_ino))
    return found


def _describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            command = file.read().strip()
    except OSError:
        return f"pid {pid}"
    return f"pid {pid} ({command})"


def _find_other_user(real: str) -> str | None:
    files = _identities(f"{real}{ending}" for ending in ("", "-wal", "-shm"))
    before = _descriptors(files)
    for number, flags in before.items():
        # SQLite opens everything with O_NOFOLLOW, which hardly any other code does.
        if not flags & os.O_NOFOLLOW:
            return f"as a plain file, descriptor {number}"
    if not before:
        return None
    ours = _times_open_in_apsw(files[0])
    still = _descriptors(files[:1]).keys() & before.keys()
    if len(still) <= ours or (ours and not _is_two_libraries(real)):
        return None
    return "by another SQLite library"


def _is_two_libraries(real: str) -> bool:
    """True if more descriptors than apsw connections mean a second SQLite library.

    SQLite keeps the descriptor of a closed connection for as long as another one has a lock on the file
    (https://www.sqlite.org/src/file/src/os_unix.c, "setPendingFd"). In WAL mode that is as long as another one
    is open, but a library opens the `-shm` once, however many connections it has.
    """
    if not _standard_library_in_use():
        return False
    index = _identities([f"{real}-shm"])
    return not index or len(_descriptors(index)) > 1


def _descriptors(files: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the descriptors of this process that are open on one of the files, with their flags."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return {}
    found = {number: _flags(number) for number in numbers if _is_one_of(number, files)}
    # Closing an O_PATH descriptor drops no lock. The files are compared again, as a number may have been reused.
    return {
        number: flags for number, flags in found.items() if not flags & os.O_PATH and _is_one_of(number, files)
    }


def _is_one_of(number: int, files: Sequence[tuple[int, int]]) -> bool:
    try:
        status = os.fstat(number)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in files


def _flags(number: int) -> int:
    try:
        return fcntl.fcntl(number, fcntl.F_GETFL)
    except OSError:
        return 0


def _times_open_in_apsw(file: tuple[int, int]) -> int:
    """Count how often apsw has the file open, under any name.

    A connection in use by another thread counts as one.
    """
    count = 0
    for connection in apsw.connections():
        try:
            paths = [connection.db_filename(name) for name in connection.db_names()]
        except apsw.Error:
            # Another thread is using it, or has closed it.
            count += 1
        else:
            count += _identities(path for path in paths if path).count(file)
    return count


def _standard_library_in_use() -> bool:
    """True if the standard library's SQLite has any database open; which one is unknown."""
    module = sys.modules.get("_sqlite3")
    if module is None:
        return False
    for thing in gc.get_objects():
        # type(), as isinstance() would run the code of proxies.
        if issubclass(type(thing), module.Connection):
            try:
                _ = thing.total_changes
            except module.ProgrammingError:
                continue
            return True
    return False
