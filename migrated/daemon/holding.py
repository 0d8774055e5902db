"""The daemon's own lock in every directory that has a database of its."""

import threading
from collections.abc import Collection
from contextlib import suppress

from migrated.config.settings import Config
from migrated.core.errors import DatabaseError, LockHeldError
from migrated.fleet.discovery import assign
from migrated.system.file_locks import DAEMON, ProcessLock, lock_path


class DaemonLocks:
    """Held from first use to the end. `ensure` may be called in several threads, all else in one at a time."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: dict[str, ProcessLock] = {}
        self._also: dict[str, str] = {}

    def ensure(self, database: str) -> None:
        """Hold the lock for the directory of `database`.

        Raises `LockHeldError` naming another daemon, `DatabaseError` when the directory is not there.
        """
        path = lock_path(database, DAEMON)
        with self._mutex:
            if str(path) not in self._held:
                lock = ProcessLock(path, self._also)
                lock.acquire()
                self._held[str(path)] = lock

    def ensure_all(self, config: Config) -> None:
        """Hold those of all databases that have a directory. Raises `LockHeldError`."""
        for _, databases in assign(config.targets):
            for database in databases:
                with suppress(DatabaseError):
                    self.ensure(database.path)

    def release_unconfigured(self, config: Config) -> None:
        """Give back those of directories that have no database of the configuration any more."""
        assigned = assign(config.targets)
        self.release({str(lock_path(each.path, DAEMON)) for _, databases in assigned for each in databases})

    def reacquire_replaced(self) -> None:
        """Take anew every lock whose file was removed or replaced, also where there is nothing to work on.

        One that another daemon took meanwhile is given up; `ensure` says so when its databases' turn comes.
        """
        for path, lock in list(self._held.items()):
            if not lock.is_intact():
                lock.release()
                try:
                    lock.acquire()
                except (LockHeldError, DatabaseError):
                    del self._held[path]

    def note(self, also: dict[str, str]) -> None:
        """Have other keys in the notes of those that are held, and of those to come."""
        if also != self._also:
            self._also = also
            for lock in self._held.values():
                lock.note(also)

    def first(self) -> str | None:
        """The path of the one that has been held for longest."""
        return next(iter(self._held), None)

    def held(self) -> frozenset[str]:
        """The paths of those that are held."""
        return frozenset(self._held)

    def release(self, keeping: Collection[str] = ()) -> None:
        """Give back all but those at the paths `keeping`."""
        for path in self.held() - set(keeping):
            self._held.pop(path).release()
