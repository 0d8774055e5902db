"""The folder beside a database where its snapshots lie, and the names in it.

A name says everything about a snapshot: `app.db.20261019T120000000000Z.7.before-run.snapshot`. A copy that is not
finished has a hidden name, `.app.db.20261019T120000000000Z.part`.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from migrated.discovery import FOLDER
from migrated.sqlite.copying import be_like, file_errors, sync_directory

RUN_REASONS = ("before-run", "before-each")
BACK_REASONS = ("before-restore", "before-redo")
REASONS = RUN_REASONS + BACK_REASONS
_FOLDER = "snapshots"
_STAMP = "%Y%m%dT%H%M%S%fZ"
_SNAPSHOT = re.compile(
    r"(?P<identity>(?P<database>.+)\.(?P<stamp>\d{8}T\d{12}Z))\.(?P<version>0|[1-9]\d{0,18})"
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


def folder_of(database: str) -> str:
    """Where the snapshots of a database lie, whether or not there are any."""
    return os.path.join(os.path.dirname(os.path.realpath(database)), FOLDER, _FOLDER)


def names_in(database: str) -> dict[str, SnapshotName]:
    """The names of the snapshots of a database, and what each says; none where the folder is missing."""
    ours = _called(database)
    return {name: found for name in _entries(folder_of(database)) if (found := _read(name, ours))}


def leftovers(database: str) -> list[str]:
    """The paths of unfinished copies, which somebody is at work on or was killed over."""
    folder = folder_of(database)
    return [os.path.join(folder, name) for name in sorted(_leftovers(folder, _called(database)))]


def snapshot_path(part: str, version: int | None, reason: str) -> str:
    """The path for an unfinished copy once it is a snapshot."""
    return os.path.join(os.path.dirname(part), f"{_identity(part)}.{version or 0}.{reason}.snapshot")


@contextlib.contextmanager
def new_part(database: str) -> Iterator[str]:
    """The path for one unfinished copy. Whatever lies there in the end is removed.

    So is what killed processes left: the caller holds the lock of the directory, nobody else makes copies.
    """
    with file_errors(database):
        folder = _made(database)
        _remove(folder, _leftovers(folder, _called(database)))
        part = os.path.join(folder, f".{_free_identity(database)}.part")
    try:
        yield part
    finally:
        name = os.path.basename(part)
        _remove(folder, (name + suffix for suffix in ("", "-wal", "-shm", "-journal")))


def _called(database: str) -> str:
    """The part of a name that stands for the database: its own name, or what fits of it and a hash.

    A shortened one is longer than any that was left as it is, so that none is taken for another's.
    """
    name = os.path.basename(os.path.realpath(database))
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
        taken_at = datetime.strptime(found["stamp"], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return SnapshotName(found["identity"], taken_at, int(found["version"]) or None, found["reason"])


def _identity(part: str) -> str:
    return os.path.basename(part).removeprefix(".").removesuffix(".part")


def _free_identity(database: str) -> str:
    taken = {name.identity for name in names_in(database).values()}
    now = datetime.now(UTC)
    while (identity := f"{_called(database)}.{now:{_STAMP}}") in taken:
        now += timedelta(microseconds=1)
    return identity


def _made(database: str) -> str:
    folder = folder_of(database)
    if not os.path.isdir(folder):
        # Another thread may be at the same for another database.
        os.makedirs(folder, 0o700, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            be_like(descriptor, os.stat(os.path.dirname(os.path.realpath(database))))
        finally:
            os.close(descriptor)
        sync_directory(os.path.dirname(folder))
    return folder


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _leftovers(folder: str, ours: str) -> Iterator[str]:
    for name in _entries(folder):
        found = _PART.fullmatch(name)
        if found and found["database"] == ours:
            yield name


def _remove(folder: str, names: Iterable[str]) -> None:
    for name in names:
        # What cannot be removed now is tried again by whoever makes the next copy.
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
