"""A file that has one whole text or another: compared first, and replaced by a rename."""

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress

from migrated.owners import give_to_owner_of
from migrated.sqlite.copying import be_like, sync_directory

_DATABASE = b"SQLite format 3\0"
_LEFT_BEHIND_SECONDS = 3600.0


def write_if_other(path: str, text: bytes) -> bool:
    """Make a file have this text; return whether it had another, or none.

    Who reads it meanwhile gets the old text or the new one. A link stays one, and the mode and the owner stay.
    Raises `OSError`, with the file as it was; also for what is there and is no text: a directory, a database.
    """
    path = os.path.realpath(path)
    before = _present(path)
    if before is not None and _has(path, text):
        return False
    directory, name = os.path.split(path)
    for leftover in _leftovers(directory, name):
        with suppress(OSError):
            os.unlink(leftover)
    # A name of its own, and not that of the process: those of two containers may have one number.
    part = os.path.join(directory, f".{name}.{os.urandom(4).hex()}.part")
    try:
        _write(part, text, before)
        os.rename(part, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
    sync_directory(directory)
    return True


def _present(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(None, "it is not a file", path)
    return status


def _has(path: str, text: bytes) -> bool:
    with open(path, "rb") as file:
        found = file.read(len(text) + len(_DATABASE))
    if found.startswith(_DATABASE):
        raise FileExistsError(None, "it is a database", path)
    return found == text


def _write(part: str, text: bytes, before: os.stat_result | None) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(part, flags, 0o666), "wb") as file:
        if before is not None:
            be_like(file.fileno(), before)
        else:
            give_to_owner_of(os.path.dirname(part), file.fileno())
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _leftovers(directory: str, name: str) -> Iterator[str]:
    """What killed processes left. Nobody takes an hour to write one, so that none of those is somebody's."""
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.part")
    for entry in os.listdir(directory):
        if pattern.fullmatch(entry):
            path = os.path.join(directory, entry)
            with suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > _LEFT_BEHIND_SECONDS:
                    yield path
