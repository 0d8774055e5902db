"""Files and directories: atomic replacement, grouping by directory, file-system type."""

import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from migrated.system.permissions import give_to_owner_of

_DATABASE = b"SQLite format 3\0"
_LEFT_BEHIND_SECONDS = 3600.0


def replace_if_changed(path: str, text: bytes) -> bool:
    """Write `text` to a file atomically, unless the file already has it. Return True if it was written.

    Concurrent readers get the old text or the new one. A symbolic link, the mode and the owner are preserved.
    Raises `OSError` and leaves the file unchanged on failure, and if the path is a directory or an SQLite
    database.
    """
    path = os.path.realpath(path)
    before = _status_of(path)
    if before is not None and _has_content(path, text):
        return False
    directory, name = os.path.split(path)
    for leftover in _leftovers(directory, name):
        with suppress(OSError):
            os.unlink(leftover)
    # A random name, not the pid: processes in two containers can have the same pid.
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


def _status_of(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(None, "it is not a regular file", path)
    return status


def _has_content(path: str, text: bytes) -> bool:
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
    """Yield temporary files of killed processes: those older than an hour.

    No write takes that long, so none of them is still in use.
    """
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.part")
    for entry in os.listdir(directory):
        if pattern.fullmatch(entry):
            path = os.path.join(directory, entry)
            with suppress(OSError):
                if time.time() - os.lstat(path).st_mtime > _LEFT_BEHIND_SECONDS:
                    yield path


FOLDER = ".migrated"
"""Name of the folder beside the databases that holds their locks."""


def by_folder(databases: Iterable[str]) -> dict[str, list[str]]:
    """Group databases by the directory of the real file, after following links.

    Each directory is resolved once: a fleet has many databases in few directories.
    """
    real: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for database in databases:
        folder = os.path.dirname(database)
        if os.path.islink(database):
            # The directory of the real file, where SQLite puts the journal.
            home = os.path.dirname(os.path.realpath(database))
        else:
            home = real.get(folder) or real.setdefault(folder, os.path.realpath(folder))
        found.setdefault(home, []).append(database)
    return found


def joined(base: str, path: str | os.PathLike[str]) -> str:
    """Join `base` and `path`, and remove `.`, doubled slashes and a trailing slash.

    Same result as `pathlib`, whose import takes 3 ms. `..` is kept: after a link it leads elsewhere.
    """
    whole = os.path.join(base, path)
    root = "/" if whole.startswith("/") else ""
    return root + "/".join(part for part in whole.split("/") if part not in {"", "."}) or "."


# On these file systems, changes by other machines, or by programs behind the mount, cause no inotify events, and
# leases do not work as on a local disk.
_SHARED = re.compile(r"nfs\d*|cifs|smb\d*|smbfs|9p|virtiofs|fuse\b.*|afs|ceph|glusterfs|lustre|ncpfs")


def is_shared(real_path: str) -> bool:
    """Return True if files there can change without this kernel noticing."""
    return _SHARED.fullmatch(file_system(real_path)) is not None


def file_system(path: str) -> str:
    """Return the kernel's name of the file-system type of a real path; "" if unknown."""
    try:
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for mount in mounts:
        fields, _, rest = mount.partition(" - ")
        # Spaces etc. are escaped as \040 (https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4])
        # `>=`: of two mounts on one mount point, the later one is visible.
        if len(point) >= len(best) and (path + "/").startswith(point.rstrip("/") + "/"):
            best, kind = point, rest.split(" ")[0]
    return kind


def be_like(descriptor: int, like: os.stat_result) -> None:
    """Copy group, mode and (as root) owner from a status to an open file or directory."""
    mode = stat.S_IMODE(like.st_mode) & ~stat.S_ISUID
    try:
        os.fchown(descriptor, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
    except PermissionError:
        # The group stays ours, and the mode's group permissions were meant for the other group only.
        mode &= ~stat.S_IRWXG
    os.fchmod(descriptor, mode)


def sync_directory(directory: str) -> None:
    """Flush a directory, so that its names survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
