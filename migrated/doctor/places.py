"""Checks of the directories that databases lie in: who holds the locks there, does the disk keep the same time."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from migrated.doctor.findings import Finding, ok, warning
from migrated.system import file_locks

_LONGEST_DIFFERENCE = 2.0
_FIELDS = 8


def check_locks(database: str) -> Iterator[Finding]:
    """Whether a daemon is running, and whether somebody is applying. The locks themselves are not touched."""
    for which, held, free in (
        (file_locks.DAEMON, "a daemon is running", "no daemon is running"),
        (file_locks.APPLYING, "migrations are being applied", "nothing is being applied"),
    ):
        path = file_locks.lock_path(database, which)
        if not path.exists():
            yield ok(f"locks.{which.partition('.')[0]}", str(path), f"{free}: the lock was never taken")
        elif (found := _is_held(path)) is None:
            yield ok(f"locks.{which.partition('.')[0]}", str(path), "whether it is held cannot be told")
        else:
            text = f"{held}: {file_locks.ProcessLock(path).holder()}" if found else free
            yield ok(f"locks.{which.partition('.')[0]}", str(path), text)


def _is_held(path: Path) -> bool | None:
    """Whether anybody has the lock: read from the kernel's list, as trying to take it could turn a daemon away."""
    status = path.stat()
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF; one that is waited for has "->" second.
    held = [fields for line in lines if len(fields := line.split()) == _FIELDS and fields[1] == "FLOCK"]
    for fields in held:
        major, minor, inode = fields[5].split(":")
        device = int(major, 16), int(minor, 16)
        # btrfs and overlays tell stat() another device than the kernel's own lists.
        same = device == (os.major(status.st_dev), os.minor(status.st_dev)) or not device[0]
        if int(inode) == status.st_ino and same:
            return True
    return False


def check_clock(directory: str) -> Iterator[Finding]:
    """Whether a file that is written now has the time of now. It has no name, so nothing can stay behind."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return
    before = time.time()
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"now")
        file.flush()
        yield judge_clock(directory, os.fstat(file.fileno()).st_mtime - before)


def judge_clock(directory: str, difference: float) -> Finding:
    """What to say of a file that is this many seconds younger than the clock."""
    if abs(difference) <= _LONGEST_DIFFERENCE:
        return ok("clock.files", directory, "its files have the time of this machine")
    return warning(
        "clock.files",
        directory,
        f"its files are {difference:+.0f} s off the clock of this machine",
        "synchronise the clocks of both: whether a file has rested is told by its time",
    )
