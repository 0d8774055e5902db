"""A disk that fails on demand: a VFS in front of SQLite's own that counts what reaches the disk.

Both journal modes go through it. apsw's `VFSFile` has no shared-memory methods to override, and needs none: it
hands them on to SQLite's own VFS, which keeps a real `-shm` beside a database in WAL mode, with its locks. What is
not seen here is the content of `-shm`, which the first opener after a crash makes anew, and its deletion.

What a power cut takes: every write, truncation and growth of a file since that file was last synced. Deletions are
taken too with `CUT_NAMES`, unless the directory was synced after them, as SQLite does with a new journal.
"""

import contextlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

import apsw

_NAME = "faulty"
_BENEATH = "unix"
_LONGEST_LINE = 4096
_NEW_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


class Kind(StrEnum):
    """What happens at the chosen operation, instead of it; before it, for `PAUSE`, until a line comes."""

    COUNT = "count"
    PAUSE = "pause"
    KILL = "kill"
    IO_ERROR = "io-error"
    IO_ERRORS = "io-errors"
    FULL = "full"
    FULL_FROM_THEN = "full-from-then"
    CUT = "cut"
    CUT_HALF = "cut-half"
    CUT_NAMES = "cut-names"

    @property
    def lasts(self) -> bool:
        """True if the operations after it fail as well."""
        return self in {Kind.IO_ERRORS, Kind.FULL_FROM_THEN}

    @property
    def ends_the_process(self) -> bool:
        return self is Kind.KILL or self.cuts_power

    @property
    def cuts_power(self) -> bool:
        return self in {Kind.CUT, Kind.CUT_HALF, Kind.CUT_NAMES}


_ERRORS = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "create": apsw.SQLITE_CANTOPEN,
}
# Only these operations need space.
_FULL = {"write": apsw.SQLITE_FULL, "create": apsw.SQLITE_CANTOPEN}


@dataclass(slots=True)
class Unsynced:
    """The changes of one file since its last sync, each with the bytes it replaced."""

    size: int
    changes: list[tuple[int, bytes, bytes | None]] = field(default_factory=list)
    """Offset, bytes before, bytes after; None for a truncation to that offset."""

    def after_cut(self, content: bytes, survives: Callable[[], bool]) -> bytes:
        """Return the file content after a power cut that only some of the changes survive."""
        found = bytearray(content)
        for offset, before, _ in reversed(self.changes):
            _put(found, offset, before)
        del found[self.size :]
        for offset, _, after in self.changes:
            if not survives():
                continue
            if after is None:
                del found[offset:]
            else:
                _put(found, offset, after)
        return bytes(found)


def _put(content: bytearray, offset: int, piece: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(piece)] = piece


class Disk:
    """Counts the operations and strikes at the `number`-th, from 1. `tell` is given a line that says at what."""

    def __init__(self, kind: Kind, number: int, tell: Callable[[str], None]) -> None:
        self.operations = 0
        self._kind = kind
        self._number = number
        self._tell = tell
        self._over = False
        self._unsynced: dict[str, Unsynced] = {}
        self._deleted: dict[str, bytes] = {}

    def about_to(self, operation: str, path: str) -> None:
        """Called before each operation. Raises the error for SQLite, or does not return."""
        self.operations += 1
        if self._kind is Kind.COUNT or self.operations < self._number or (self._over and not self._kind.lasts):
            return
        errors = _FULL if self._kind in {Kind.FULL, Kind.FULL_FROM_THEN} else _ERRORS
        if operation not in errors:
            return
        if not self._over:
            self._tell(f"struck {operation} {os.path.basename(path)}")
        self._over = True
        if self._kind is Kind.PAUSE:
            os.read(0, _LONGEST_LINE)
            return
        if self._kind.ends_the_process:
            self.end()
        raise apsw.exception_for(errors[operation])

    def end(self) -> None:
        """Simulate the power cut, and end the process at once."""
        if self._kind.cuts_power:
            chance = random.Random(self._number)  # noqa: S311 - the same half each time
            survives = (lambda: chance.random() < 0.5) if self._kind is Kind.CUT_HALF else (lambda: False)
            for name, unsynced in self._unsynced.items():
                path = Path(name)
                # One that we have renamed or removed is none of SQLite's any more, and was synced by us.
                if path.exists():
                    path.write_bytes(unsynced.after_cut(path.read_bytes(), survives))
            for name, content in self._deleted.items():
                Path(name).write_bytes(content)
        os.kill(os.getpid(), signal.SIGKILL)

    def changed(self, path: str, size: int, offset: int, before: bytes, after: bytes | None) -> None:
        """Note a change; `size` is the file's before it."""
        if path:
            self._unsynced.setdefault(path, Unsynced(size)).changes.append((offset, before, after))

    def synced(self, path: str, *, with_directory: bool) -> None:
        self._unsynced.pop(path, None)
        if with_directory:
            self._deleted.clear()

    def deleting(self, path: str, *, sync_directory: bool) -> None:
        unsynced = self._unsynced.pop(path, None)
        if self._kind is Kind.CUT_NAMES and not sync_directory and os.path.exists(path):
            # Safe for the locks: SQLite has none on its journals.
            content = Path(path).read_bytes()
            self._deleted[path] = unsynced.after_cut(content, lambda: False) if unsynced else content


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(_BENEATH, name, flags)
        self._disk = disk
        self._path = path
        self._new_journal = bool(flags[0] & _NEW_JOURNALS)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.about_to("write", self._path)
        size = self.xFileSize()
        before = self.xRead(min(len(data), size - offset), offset) if offset < size else b""
        super().xWrite(data, offset)
        self._disk.changed(self._path, size, offset, before, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.about_to("truncate", self._path)
        size = self.xFileSize()
        before = self.xRead(size - newsize, newsize) if newsize < size else b""
        super().xTruncate(newsize)
        self._disk.changed(self._path, size, newsize, before, None)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.about_to("sync", self._path)
        super().xSync(flags)
        self._disk.synced(self._path, with_directory=self._new_journal)
        self._new_journal = False


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        super().__init__(_NAME, _BENEATH, makedefault=True)
        self._disk = disk

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        path = (name.filename() if isinstance(name, apsw.URIFilename) else name) or ""
        if path and flags[0] & apsw.SQLITE_OPEN_CREATE and not os.path.exists(path):
            self._disk.about_to("create", path)
        return _File(self._disk, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's name, apsw's way to call it
        self._disk.about_to("delete", filename)
        self._disk.deleting(filename, sync_directory=syncdir)
        super().xDelete(filename, syncdir)


class _Connection(apsw.Connection):
    def close(self, force: bool = False) -> None:  # noqa: FBT001, FBT002 - apsw has it so
        # SQLite passes over what fails while it closes, as the code that is tested knows it. apsw would raise it,
        # but only where it was a VFS in Python that failed.
        with contextlib.suppress(apsw.IOError, apsw.FullError, apsw.CantOpenError):
            super().close(force)


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind and the number of the operation, from 1, that it strikes."""

    kind: Kind
    number: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str()` wrote."""
        kind, _, number = text.partition(":")
        return cls(Kind(kind), int(number))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


def install(fault: Fault, tell: Callable[[str], None]) -> tuple[Disk, apsw.VFS]:
    """Make it this process's default VFS, for as long as the second of the values lives."""
    disk = Disk(fault.kind, fault.number, tell)
    apsw.Connection = _Connection  # type: ignore[misc]  # in this process alone
    return disk, _Vfs(disk)
