"""The daemon's own lock in every directory that has a database of its."""

from migrated.locks import DAEMON, ProcessLock, lock_path


class DaemonLocks:
    """Held from first use to the end. Used by one thread at a time."""

    def __init__(self) -> None:
        self._held: dict[str, ProcessLock] = {}

    def ensure(self, database: str) -> None:
        """Hold the lock for the directory of `database`.

        A lock file that somebody removed or replaced is taken anew, for another daemon could hold the new one.
        Raises `LockHeldError` naming another daemon, `DatabaseError` when the directory is not there.
        """
        path = lock_path(database, DAEMON)
        lock = self._held.get(str(path))
        if lock is not None:
            if lock.is_intact():
                return
            lock.release()
            del self._held[str(path)]
        lock = ProcessLock(path)
        lock.acquire()
        self._held[str(path)] = lock

    def release(self) -> None:
        """Give all of them back."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()
