"""Take the `lock` of each directory once for all databases in it that this process migrates."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from migrated.core.errors import MigrationError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from migrated.system.file_locks import ProcessLock


class _DirectoryLock:
    """The lock of one directory. A failure to take it is remembered, so that it is waited for only once."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.lock: ProcessLock | None = None
        self.refusal: MigrationError | None = None


class SharedLocks:
    """Directory locks that several threads share. A context manager.

    A lock is taken when first needed and held until the context ends. Callers must make sure that no two threads
    work on one database.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._paths: dict[str, Path] = {}
        self._directories: dict[Path, _DirectoryLock] = {}

    @contextmanager
    def acquire(
        self, database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
    ) -> Iterator[None]:
        """Acquire the lock of a database's directory, unless it is already held.

        Leaving the `with` block does not release it: it stays held until the context of this object ends. Raises
        as `ProcessLock.acquire`.
        """
        # Imported here: usually nothing is pending, no lock is needed, and start-up stays short.
        from migrated.system.file_locks import ProcessLock

        path = self._path(database)
        with self._mutex:
            directory = self._directories.setdefault(path, _DirectoryLock())
        with directory.mutex:
            if directory.refusal is not None:
                # One exception object for all databases: without the reset its traceback would grow each time.
                raise directory.refusal.with_traceback(None)
            if directory.lock is None:
                lock = ProcessLock(path)
                try:
                    lock.acquire(timeout, cancelled=cancelled, waiting=waiting)
                except MigrationError as refusal:
                    directory.refusal = refusal
                    raise
                directory.lock = lock
        yield

    def _path(self, database: str) -> "Path":
        """Return the path of the lock file; resolved once for each directory."""
        from migrated.system.file_locks import APPLYING, lock_path

        # A link may point into another directory, whose lock counts.
        if os.path.islink(database):
            return lock_path(database, APPLYING)
        folder = os.path.dirname(database)
        if folder not in self._paths:
            self._paths[folder] = lock_path(database, APPLYING)
        return self._paths[folder]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        for directory in self._directories.values():
            if directory.lock is not None:
                directory.lock.release()
        self._directories.clear()
