"""The two file locks beside the databases: `daemon.lock` for life, `lock` for as long as applying takes.

Correctness never rests on them: each migration re-reads the ledger inside its own transaction. They keep two
processes from doing the same work, and say who is at it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrated.core.errors import DatabaseError, LockHeldError
from migrated.system.files import FOLDER
from migrated.system.permissions import give_to_owner_of

DAEMON = "daemon.lock"
APPLYING = "lock"
_LONGEST_NOTE = 4096
_LONGEST_COMMAND = 1000
_POLL_SECONDS = 0.02


def lock_path(database: str, which: str) -> Path:
    """Where a lock of the directory that a database lies in is kept."""
    # Beside the file itself, where SQLite keeps its journal too: two links to one database share the lock.
    return lock_in(os.path.dirname(os.path.realpath(database)), which)


def lock_in(folder: str, which: str) -> Path:
    """Where a lock of the databases that lie in a directory is kept."""
    return Path(folder, FOLDER, which)


def read_note(path: Path) -> dict[str, Any]:
    """What the holder of the lock at `path`, or the last one, wrote there; nothing where that cannot be told."""
    try:
        note = json.loads(path.read_bytes()[:_LONGEST_NOTE])
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


class ProcessLock:
    """A lock that the kernel frees when the process ends, however it ends. Keep the object: it is the lock.

    The file stays after release; removing it would let two processes hold "the" lock, each on its own inode.
    `also` are keys that the note in it has beside the usual ones.
    """

    def __init__(self, path: Path, also: Mapping[str, str] | None = None) -> None:
        # Imported here: who only reads what a holder wrote starts sooner.
        from filelock import FileLock

        self.path = path
        self._also = also or {}
        self._descriptor: int | None = None
        self._since = ""
        self._lock = FileLock(
            path,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
            on_acquired=self._write_note,
        )

    def acquire(
        self,
        timeout: float = 0,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        waiting: Callable[[str], None] = lambda _holder: None,
    ) -> None:
        """Take the lock, waiting up to `timeout` seconds; `waiting` is told the holder before the wait begins.

        Raises `LockHeldError` naming the holder, or `DatabaseError` when the lock cannot be made at all.
        """
        try:
            self._make_folder()
            if self._try() or (timeout > 0 and self._wait(timeout, cancelled, waiting)):
                return
        except (OSError, NotImplementedError) as error:
            raise DatabaseError(
                f"cannot take the lock {self.path}: {error}",
                transient=True,
                hint="check that the directory of the database exists and is writable by this user",
            ) from error
        holder = self.holder()
        raise LockHeldError(
            f"{self.path} is held by another process: {holder}",
            holder=holder,
            hint="wait until it has finished, or stop it; the lock is freed when it ends",
        )

    def release(self) -> None:
        """Give it back. Nothing happens when it is not held."""
        self._descriptor = None
        # A failing unlock harms nobody: the kernel frees the lock with its descriptor, at the latest at our end.
        with suppress(OSError):
            self._lock.release(force=True)

    def is_intact(self) -> bool:
        """Whether the lock is held and its file is still the one at its path (nobody removed it)."""
        if self._descriptor is None or not self._lock.is_locked:
            return False
        try:
            ours, there = os.fstat(self._descriptor), self.path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def holder(self) -> str:
        """What the present holder wrote: pid, host, command, since when."""
        try:
            return "pid {pid} on {host} ({command}), since {since}".format_map(read_note(self.path))
        except KeyError:
            # Taken a moment ago and not written yet, or by something else that uses the file.
            return "unknown"

    def note(self, also: Mapping[str, str]) -> None:
        """Have other keys in the note from now on. Nothing is written while the lock is not held."""
        self._also = also
        if self._descriptor is not None:
            # Readers may see half of it, as they may see none: the lock is what counts.
            with suppress(OSError):
                self._write_note(self._descriptor)

    def _try(self) -> bool:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _wait(self, timeout: float, cancelled: Callable[[], bool], waiting: Callable[[str], None]) -> bool:
        # Our own loop: a blocking acquire() beside another lock object of this process is an error.
        waiting(self.holder())
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not cancelled():
            time.sleep(_POLL_SECONDS)
            if self._try():
                return True
        return False

    def _make_folder(self) -> None:
        folder = self.path.parent
        if not folder.parent.is_dir():
            raise DatabaseError(
                f"the directory {folder.parent} does not exist",
                transient=True,
                hint="create it, or check the path of the database",
            )
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            give_to_owner_of(folder.parent, folder)
        ignore = folder / ".gitignore"
        # One who was killed in between may have left the folder without it, or with nothing in it.
        if not ignore.exists() or not ignore.stat().st_size:
            ignore.write_text("*\n")
            give_to_owner_of(folder.parent, ignore)

    def _write_note(self, descriptor: int) -> None:
        if descriptor != self._descriptor:
            self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._descriptor = descriptor
        # Else a lock that root made once would keep the application's own user from taking it.
        give_to_owner_of(self.path.parent.parent, descriptor)
        note = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "command": _command()[:_LONGEST_COMMAND],
            "since": self._since,
            **self._also,
        }
        written = os.pwrite(descriptor, (json.dumps(note) + "\n").encode()[:_LONGEST_NOTE], 0)
        # Most often it is as long as the one before, and to cut a file costs more than all the rest of this.
        if os.fstat(descriptor).st_size != written:
            os.ftruncate(descriptor, written)


def _command() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return " ".join([name, *sys.argv[1:]])


@contextmanager
def holding(
    database: str,
    which: str,
    timeout: float,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    waiting: Callable[[str], None] = lambda _holder: None,
) -> Iterator[ProcessLock]:
    """Hold one of a database's locks for the length of a `with`. Raises as `ProcessLock.acquire` does."""
    lock = ProcessLock(lock_path(database, which))
    lock.acquire(timeout, cancelled=cancelled, waiting=waiting)
    try:
        yield lock
    finally:
        lock.release()
