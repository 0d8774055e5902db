"""The folder beside a database where its snapshots lie, and the names in it.

Each database has a folder of its own, so that a snapshot does not cost more where many databases lie. A name says
everything about one: `app.db/app.db.20261019T120000000000Z.7.before-run.snapshot`. A copy that is not finished has
a hidden name, `.app.db.20261019T120000000000Z.part`.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from migrated.engine.sqlite.snapshots.copying import file_errors
from migrated.system.files import FOLDER, be_like, sync_directory

RUN_REASONS = ("before-run", "before-each")
BACK_REASONS = ("before-restore", "before-redo")
REASONS = RUN_REASONS + BACK_REASONS
_FOLDER = "snapshots"
_STAMP = "%Y%m%dT%H%M%S%fZ"
_SNAPSHOT = re.compile(
    r"(?P<identity>(?P<database>.+)\.(?P<second>\d{8}T\d{6})(?P<fraction>\d{6})Z)\.(?P<version>0|[1-9]\d{0,18})"
    rf"\.(?P<reason>{'|'.join(REASONS)})\.snapshot",
    re.ASCII | re.DOTALL,
)
_PART = re.compile(r"\.(?P<database>.+)\.\d{8}T\d{12}Z\.part(?:-wal|-shm|-journal)?", re.ASCII | re.DOTALL)
# Up to 67 bytes of ours follow, and a file system takes 255.
_LONGEST = 160


class SnapshotName(NamedTuple):
    """What the name of a snapshot says."""

    identity: str
    taken_at: datetime
    version: int | None
    reason: str


class Part(NamedTuple):
    """The path for an unfinished copy, what it will be called as a snapshot, and what snapshots there are."""

    path: str
    identity: str
    taken_at: datetime
    others: dict[str, SnapshotName]

    def named(self, version: int | None, reason: str) -> str:
        """The path for the copy once it is a snapshot."""
        return os.path.join(os.path.dirname(self.path), f"{self.identity}.{version or 0}.{reason}.snapshot")


def folder_of(database: str) -> str:
    """Where the snapshots of a database lie, and nobody else's, whether or not there are any."""
    directory, name = os.path.split(os.path.realpath(database))
    return os.path.join(directory, FOLDER, _FOLDER, _safe_name(name))


def names_in(folder: str) -> dict[str, SnapshotName]:
    """The names of the snapshots in the folder of a database, and what each says; none where it is missing."""
    return _snapshots(_entries(folder), os.path.basename(folder))


def leftovers(database: str) -> list[str]:
    """The paths of unfinished copies, which somebody is at work on or was killed over."""
    folder = folder_of(database)
    return [os.path.join(folder, name) for name in sorted(_leftovers(_entries(folder), os.path.basename(folder)))]


@contextlib.contextmanager
def new_part(database: str) -> Iterator[Part]:
    """One unfinished copy. Whatever lies at its path in the end is removed.

    So is what killed processes left: the caller holds the lock of the directory, and no other thread of this
    process makes copies of the same database; of its neighbours one may.
    """
    with file_errors(database):
        folder = folder_of(database)
        ours = os.path.basename(folder)
        entries = _made(folder)
        _remove(folder, _leftovers(entries, ours))
        part = _new(folder, ours, _snapshots(entries, ours))
    try:
        yield part
    finally:
        # SQLite removes its files beside a copy and ignores it if that fails. Where the copy became a snapshot, or
        # took the place of the database, they would stay until the next copy is made.
        name = os.path.basename(part.path)
        _remove(folder, (name + suffix for suffix in ("", "-wal", "-shm", "-journal")))


def _safe_name(name: str) -> str:
    """What stands for a database of this name: the name itself, or what fits of it and a hash.

    A shortened one is longer than any that was left as it is, so that none is taken for another's.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST:
        return name
    start = encoded[: _LONGEST - 32].decode(errors="ignore")
    digest = hashlib.sha256(encoded).hexdigest()
    return f"{start}~{digest[: _LONGEST - len(start.encode())]}"


def _read(name: str, ours: str) -> SnapshotName | None:
    found = _SNAPSHOT.fullmatch(name)
    # Compared as a whole: the name of one database may be the beginning of another's.
    if found is None or found["database"] != ours:
        return None
    try:
        # `strptime` would need no dot, and many times as long.
        taken_at = datetime.fromisoformat(f"{found['second']}.{found['fraction']}Z")
    except ValueError:
        return None
    return SnapshotName(found["identity"], taken_at, int(found["version"]) or None, found["reason"])


def _new(folder: str, ours: str, others: dict[str, SnapshotName]) -> Part:
    taken = {other.taken_at for other in others.values()}
    now = datetime.now(UTC)
    while now in taken:
        now += timedelta(microseconds=1)
    identity = f"{ours}.{now:{_STAMP}}"
    return Part(os.path.join(folder, f".{identity}.part"), identity, now, others)


def _made(folder: str) -> list[str]:
    """What is in the folder of a database, which is made if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    of_all = os.path.dirname(folder)
    ours = os.path.dirname(of_all)
    os.makedirs(ours, exist_ok=True)
    for each in (of_all, folder):
        _make(each, os.stat(os.path.dirname(ours)))
    # Another thread that has just made one of them may not have come to this yet.
    for each in (ours, of_all):
        sync_directory(each)
    return []


def _make(folder: str, like: os.stat_result) -> None:
    # Another thread may be at the same for another database.
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            be_like(descriptor, like)
        finally:
            os.close(descriptor)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _snapshots(entries: Iterable[str], ours: str) -> dict[str, SnapshotName]:
    return {name: found for name in entries if (found := _read(name, ours))}


def _leftovers(entries: Iterable[str], ours: str) -> Iterator[str]:
    for name in entries:
        found = _PART.fullmatch(name)
        if found and found["database"] == ours:
            yield name


def _remove(folder: str, names: Iterable[str]) -> None:
    for name in names:
        # What cannot be removed now is tried again by whoever makes the next copy.
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
