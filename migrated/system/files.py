"""Files and folders: replaced only when they differ, grouped by folder, on which file system."""

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from migrated.system.permissions import give_to_owner_of

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
        raise FileExistsError(None, "it is not a regular file", path)
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


FOLDER = ".migrated"
"""Where the locks of the databases of a directory are kept."""


def by_folder(databases: Iterable[str]) -> dict[str, list[str]]:
    """Every directory that one of the databases lies in, wherever links lead, each with the paths that lead there.

    Each directory is looked up once: a fleet has few.
    """
    real: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for database in databases:
        folder = os.path.dirname(database)
        if os.path.islink(database):
            # Beside the file itself, where SQLite keeps its journal too.
            home = os.path.dirname(os.path.realpath(database))
        else:
            home = real.get(folder) or real.setdefault(folder, os.path.realpath(folder))
        found.setdefault(home, []).append(database)
    return found


def joined(base: str, path: str | os.PathLike[str]) -> str:
    """`path` as seen from `base`, without what means nothing: `.`, doubled slashes and one at the end.

    What `pathlib` gives, which takes 3 ms to load. `..` stays: behind a link it leads elsewhere.
    """
    whole = os.path.join(base, path)
    root = "/" if whole.startswith("/") else ""
    return root + "/".join(part for part in whole.split("/") if part not in {"", "."}) or "."


# What other machines, or programs below the mount, change there gives no events, and leases are not what they are
# on a local disk.
_SHARED = re.compile(r"nfs\d*|cifs|smb\d*|smbfs|9p|virtiofs|fuse\b.*|afs|ceph|glusterfs|lustre|ncpfs")


def is_shared(real_path: str) -> bool:
    """Whether others may change files there behind this kernel's back."""
    return _SHARED.fullmatch(file_system(real_path)) is not None


def file_system(path: str) -> str:
    """The type of the file system that a real path lies on, in the kernel's words; "" where it cannot be told."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        # Blanks and the like are written as \040 (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        # Of two mounts on one point the later one is seen.
        if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, rest.split(" ")[0]
    return kind


def be_like(descriptor: int, like: os.stat_result) -> None:
    """Give an open file or directory of ours the owner (where we are root), the group and the mode of another."""
    mode = stat.S_IMODE(like.st_mode) & ~stat.S_ISUID
    try:
        os.fchown(descriptor, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
    except PermissionError:
        # What the mode lets a group do was meant for that group alone.
        mode &= ~stat.S_IRWXG
    os.fchmod(descriptor, mode)


def sync_directory(directory: str) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
