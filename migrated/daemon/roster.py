"""What the passes remember from one to the next, so that what did not change costs a look at it from outside."""

import os
from collections.abc import Iterable

from migrated.daemon.schedule import Fingerprint
from migrated.fleet.discovery import DatabasePath, Discovery
from migrated.fleet.rollout import Halt
from migrated.sources.cache import DirectoryReader, Reading, has_rested

_Stamp = tuple[int, ...]


class Roster:
    """Owned by the thread that does the passes."""

    def __init__(self) -> None:
        self.discovery = Discovery()
        self.reader = DirectoryReader()
        self.halts: dict[str, tuple[int, Halt]] = {}
        self.scanned: dict[str, tuple[Reading, list[DatabasePath]]] = {}
        # Of those that are judged: what each looked like, with the migrations by which it was.
        self._known: dict[str, int] = {}
        self._logs: dict[str, str] = {}

    def is_news(self, target: str, reading: Reading, databases: list[DatabasePath]) -> bool:
        """Whether a target's directory or its databases are others than in the pass before."""
        reading_before, databases_before = self.scanned.get(target, (None, None))
        self.scanned[target] = reading, databases
        return reading is not reading_before or databases is not databases_before

    def changed(self, databases: Iterable[DatabasePath], mark: int) -> list[DatabasePath]:
        """Those that have to be judged anew: that costs two calls of stat() each, and nothing is opened."""
        known, logs = self._known, self._logs
        found = []
        for database in databases:
            path = database.path
            if known.get(path) != hash((mark, *_stamp(path, logs.get(path) or f"{path}-wal"))):
                found.append(database)
        return found

    def note_judged(self, path: str, mark: int) -> None:
        """Note that looking at a database once more would come to the same: it has everything, or is refused."""
        log = _log_of(path)
        stamp = _stamp(path, log)
        self.forget(path)
        if stamp and has_rested(stamp[3], stamp[-1]):
            self._known[path] = hash((mark, *stamp))
            if log != f"{path}-wal":
                self._logs[path] = log

    def forget(self, path: str) -> None:
        """It has to be looked at again in any case."""
        self._known.pop(path, None)
        self._logs.pop(path, None)

    def keep(self, paths: Iterable[str]) -> None:
        """Forget all others: they are gone."""
        for path in self._known.keys() - set(paths):
            self.forget(path)


def _stamp(path: str, log: str) -> _Stamp:
    """What can be told from outside; nothing of a file that is gone, which is like no other."""
    try:
        file = os.stat(path)
    except OSError:
        return ()
    try:
        written = os.stat(log)
    except OSError:
        return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, written.st_size, written.st_mtime_ns


def _log_of(path: str) -> str:
    # Beside the file itself, also where the path is a link to it.
    return f"{os.path.realpath(path)}-wal"


def look_at(path: str) -> Fingerprint:
    """A database's fingerprint: two calls of stat()."""
    stamp = _stamp(path, _log_of(path))
    return Fingerprint(stamp[:2] or None, stamp[2:])
