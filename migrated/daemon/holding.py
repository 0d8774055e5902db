"""The daemon's lock files: one in every directory that contains a configured database."""

import threading
from collections.abc import Collection
from contextlib import suppress

from migrated.config.settings import Config
from migrated.core.errors import DatabaseError, LockHeldError
from migrated.fleet.discovery import assign
from migrated.system.file_locks import DAEMON, ProcessLock, lock_path


class DaemonLocks:
    """Locks held from first use until `release`.

    `ensure` is thread-safe; the other methods must not be called concurrently.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: dict[str, ProcessLock] = {}
        self._also: dict[str, str] = {}

    def ensure(self, database: str) -> None:
        """Acquire the lock for the directory of `database`, unless it is already held.

        Raises `LockHeldError` naming the other daemon, `DatabaseError` if the directory does not exist.
        """
        path = lock_path(database, DAEMON)
        # Worker threads visit databases of the same directory at once. Without the mutex the second one would find
        # the lock taken by us and raise.
        with self._mutex:
            if str(path) not in self._held:
                lock = ProcessLock(path, self._also)
                lock.acquire()
                self._held[str(path)] = lock

    def ensure_all(self, config: Config) -> None:
        """Acquire the locks of all configured databases, skipping missing directories. Raises `LockHeldError`."""
        for _, databases in assign(config.targets):
            for database in databases:
                with suppress(DatabaseError):
                    self.ensure(database.path)

    def release_unconfigured(self, config: Config) -> None:
        """Release the locks of directories that no longer contain a configured database."""
        assigned = assign(config.targets)
        self.release({str(lock_path(each.path, DAEMON)) for _, databases in assigned for each in databases})

    def reacquire_replaced(self) -> None:
        """Re-acquire every lock whose file was removed or replaced, including those of idle databases.

        Another daemon could otherwise lock the new file while we hold only the deleted one. If it already has, our
        lock is dropped, and `ensure` raises when a database of that directory is visited.
        """
        # A copy, because the loop deletes entries.
        for path, lock in list(self._held.items()):
            if not lock.is_intact():
                lock.release()
                try:
                    lock.acquire()
                except (LockHeldError, DatabaseError):
                    del self._held[path]

    def note(self, also: dict[str, str]) -> None:
        """Write `also` into the note of every lock held now and acquired later."""
        if also != self._also:
            self._also = also
            for lock in self._held.values():
                lock.note(also)

    def first(self) -> str | None:
        """Return the path of the lock that has been held longest; None if none is held."""
        return next(iter(self._held), None)

    def held(self) -> frozenset[str]:
        """Return the paths of all locks held."""
        return frozenset(self._held)

    def release(self, keeping: Collection[str] = ()) -> None:
        """Release all locks except those at the paths `keeping`."""
        for path in self.held() - set(keeping):
            self._held.pop(path).release()
