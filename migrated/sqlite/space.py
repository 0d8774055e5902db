"""Whether a disk has room for what is about to be written to it."""

import os

from migrated.core.errors import DatabaseError

_UNITS = ("kB", "MB", "GB", "TB")
_STEP = 1000


def free_space(directory: str) -> int | None:
    """Bytes that this user may still write there; None where that cannot be told. Quotas are not seen."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    # A file system that does not know its size says 0 of 0.
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def require_free(directory: str, needed: int, purpose: str, database: str) -> None:
    """Raise `DatabaseError` with the code DISK_SPACE when a directory's disk has fewer than `needed` bytes free.

    `purpose` begins the message: "a snapshot", "the restore". Quotas are not seen.
    """
    free = free_space(directory)
    if free is not None and free < needed:
        raise DatabaseError(
            f"{purpose} needs {readable_size(needed)}, and {directory} has {readable_size(free)} free",
            database=database,
            transient=True,
            code="DISK_SPACE",
            hint="free some space on that disk; nothing was changed",
        )


def readable_size(size: int) -> str:
    """Bytes for people, in powers of 1000: `12.3 MB`."""
    if size < _STEP:
        return "1 byte" if size == 1 else f"{size} bytes"
    value, units = size / _STEP, iter(_UNITS)
    unit = next(units)
    # Rounded as it is shown: 999.96 kB is 1.0 MB.
    while round(value, 1) >= _STEP and (larger := next(units, None)):
        value, unit = value / _STEP, larger
    return f"{value:.1f} {unit}"
