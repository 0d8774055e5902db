"""Room on the disk, asked for before it is needed."""

import os

from migrated.errors import DatabaseError

DISK_SPACE = "DISK_SPACE"
_UNITS = ("kB", "MB", "GB", "TB")
_THOUSAND = 1000


def free_space(directory: str) -> int | None:
    """Bytes that this user may still write there; None where that cannot be told."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def require_free(directory: str, needed: int, purpose: str, database: str) -> None:
    """Raise `DatabaseError` (code DISK_SPACE, transient) unless `needed` bytes are free there."""
    free = free_space(directory)
    if free is None or free >= needed:
        return
    raise DatabaseError(
        f"{purpose}: {readable_size(needed)} are needed in {directory}, {readable_size(free)} are free",
        database=database,
        code=DISK_SPACE,
        transient=True,
        hint="free some space on the disk; nothing was changed",
    )


def readable_size(size: int) -> str:
    """Such as "12.3 MB", in powers of 1000."""
    if size < _THOUSAND:
        return f"{size} bytes"
    number = float(size)
    for unit in _UNITS:
        number /= _THOUSAND
        if number < _THOUSAND:
            return f"{number:.1f} {unit}"
    return f"{number:.1f} {_UNITS[-1]}"
