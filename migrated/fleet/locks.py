"""The `lock` of each directory, taken once for all databases in it that one process is working on."""

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


class _Place:
    """One directory. What keeps us from its lock keeps us for as long as this lasts: it was waited for once."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.lock: ProcessLock | None = None
        self.refusal: MigrationError | None = None


class SharedLocks:
    """A context manager: a lock that was needed once is held to its end, by several threads if need be.

    Which of them works on which database is theirs to see to.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._paths: dict[str, Path] = {}
        self._places: dict[Path, _Place] = {}

    @contextmanager
    def hold(
        self, database: str, timeout: float, *, cancelled: Callable[[], bool], waiting: Callable[[str], None]
    ) -> Iterator[None]:
        """Hold the lock of a database's directory. Raises as `ProcessLock.acquire`."""
        # Imported here: most often there is nothing to do, and that should cost little.
        from migrated.system.file_locks import ProcessLock

        path = self._path(database)
        with self._mutex:
            place = self._places.setdefault(path, _Place())
        with place.mutex:
            if place.refusal is not None:
                # The same for each: what it was raised from last is of no interest, and would grow.
                raise place.refusal.with_traceback(None)
            if place.lock is None:
                lock = ProcessLock(path)
                try:
                    lock.acquire(timeout, cancelled=cancelled, waiting=waiting)
                except MigrationError as refusal:
                    place.refusal = refusal
                    raise
                place.lock = lock
        yield

    def _path(self, database: str) -> "Path":
        """Of the lock; looked up once for each directory."""
        from migrated.system.file_locks import APPLYING, lock_path

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
        for place in self._places.values():
            if place.lock is not None:
                place.lock.release()
        self._places.clear()
