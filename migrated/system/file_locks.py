"""The file locks beside the databases: `daemon.lock` while a daemon runs, `lock` while migrations are applied.

Correctness does not depend on them: each migration re-reads the ledger inside its own transaction. They keep two
processes from doing the same work, and name the process that does it.
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
    """Return the path of a lock for a database."""
    # In the directory of the real file, as SQLite's journal is: two links to one database share the lock.
    return lock_in(os.path.dirname(os.path.realpath(database)), which)


def lock_in(folder: str, which: str) -> Path:
    """Return the path of a lock for the databases in a directory."""
    return Path(folder, FOLDER, which)


def read_note(path: Path) -> dict[str, Any]:
    """Return the note of the present or last holder in a lock file; empty if it cannot be read."""
    try:
        note = json.loads(path.read_bytes()[:_LONGEST_NOTE])
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


class ProcessLock:
    """A file lock that the kernel releases when the process exits, even by a crash.

    The lock is held as long as this object lives and is not released. The file stays after release: if it were
    removed, two processes could hold "the" lock on different inodes. `also` has extra keys for the note in the
    file.
    """

    def __init__(self, path: Path, also: Mapping[str, str] | None = None) -> None:
        # Imported here: commands that only read the note start sooner.
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
        """Acquire the lock, waiting up to `timeout` seconds. `waiting` is called with the holder before a wait.

        Raises `LockHeldError` that names the holder, or `DatabaseError` if the lock file cannot be created or
        locked.
        """
        try:
            self._make_folder()
            if self._try() or (timeout > 0 and self._wait(timeout, cancelled, waiting)):
                return
        except (OSError, NotImplementedError) as error:
            raise DatabaseError(
                f"cannot take the lock {self.path}: {error}",
                transient=True,
                hint="check that the directory of the database exists and that this user can write to it",
            ) from error
        holder = self.holder()
        raise LockHeldError(
            f"{self.path} is held by another process: {holder}",
            holder=holder,
            hint="wait until it has finished, or stop it; the lock is released when it ends",
        )

    def release(self) -> None:
        """Release the lock; no effect if it is not held."""
        self._descriptor = None
        # A failing unlock is harmless: the kernel releases the lock with its descriptor, at the latest when we
        # exit.
        with suppress(OSError):
            self._lock.release(force=True)

    def is_intact(self) -> bool:
        """Return True if the lock is held and its file has not been removed or replaced."""
        if self._descriptor is None or not self._lock.is_locked:
            return False
        try:
            ours, there = os.fstat(self._descriptor), self.path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def holder(self) -> str:
        """Return the holder's note as text: pid, host, command, since; or "unknown"."""
        try:
            return "pid {pid} on {host} ({command}), since {since}".format_map(read_note(self.path))
        except KeyError:
            # The lock was just taken and the note is not written yet, or another program uses the file.
            return "unknown"

    def note(self, also: Mapping[str, str]) -> None:
        """Replace the extra keys of the note, and rewrite it if the lock is held."""
        self._also = also
        if self._descriptor is not None:
            # Readers may see half a note, or none; they must cope with both. Only the lock itself counts.
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
        # Our own loop: filelock raises an error for a blocking acquire() if another lock object of this process
        # exists.
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
        # A process killed between the two may have left the folder without this file, or with an empty one.
        if not ignore.exists() or not ignore.stat().st_size:
            ignore.write_text("*\n")
            give_to_owner_of(folder.parent, ignore)

    def _write_note(self, descriptor: int) -> None:
        if descriptor != self._descriptor:
            self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._descriptor = descriptor
        # Otherwise a lock file created by root would lock out the application's own user for good.
        give_to_owner_of(self.path.parent.parent, descriptor)
        note = {
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "command": _command()[:_LONGEST_COMMAND],
            "since": self._since,
            **self._also,
        }
        written = os.pwrite(descriptor, (json.dumps(note) + "\n").encode()[:_LONGEST_NOTE], 0)
        # Usually the note is as long as the previous one, and truncating costs more than everything else here.
        if os.fstat(descriptor).st_size != written:
            os.ftruncate(descriptor, written)


def _command() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return " ".join([name, *sys.argv[1:]])


@contextmanager
def file_lock(
    database: str,
    which: str,
    timeout: float,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    waiting: Callable[[str], None] = lambda _holder: None,
) -> Iterator[ProcessLock]:
    """Hold one of a database's locks in a `with` block. Raises like `ProcessLock.acquire`."""
    lock = ProcessLock(lock_path(database, which))
    lock.acquire(timeout, cancelled=cancelled, waiting=waiting)
    try:
        yield lock
    finally:
        lock.release()
