"""Reading a migrations directory again and again: what looks as it did is not opened."""

import os
import time
from dataclasses import dataclass

from migrated.sources.directory import Listing, read_directory
from migrated.trust import Trust

_YOUNG_NS = 2_000_000_000
"""What was written less than that ago may have been written once more without its time showing that."""

_Stamps = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Reading:
    """A listing, and a number that is another one whenever the migrations are others."""

    listing: Listing
    mark: int


class DirectoryReader:
    """Used by one thread at a time."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[_Stamps, Reading]] = {}

    def read(self, directory: str, trust: Trust | None = None) -> Reading:
        """As `read_directory`. Raises as that does."""
        now = time.time_ns()
        stamps = _stamps(directory)
        stamped, reading = self._last.get(directory, ({}, None))
        if reading and stamps and stamps == stamped and _is_trusted(directory, trust):
            return reading
        listing = read_directory(directory, trust)
        reading = Reading(listing, hash(tuple(listing.migrations)))
        is_old = all(now - max(stamp[-2:]) > _YOUNG_NS for stamp in stamps.values())
        if is_old and not listing.unfinished:
            self._last[directory] = stamps, reading
        else:
            self._last.pop(directory, None)
        return reading


def _is_trusted(directory: str, trust: Trust | None) -> bool:
    # That depends on the directories above it too; a file's own rights are seen from outside.
    return trust is None or trust.of(directory, os.stat(directory)) is None


def _stamps(directory: str) -> _Stamps:
    """How every file of the directory, and it itself, looks from outside; nothing where that cannot be told."""
    found = {}
    try:
        found["."] = _stamp(os.stat(directory))
        for name in os.listdir(directory):
            if name.lower().endswith(".sql"):
                found[name] = _stamp(os.stat(os.path.join(directory, name)))
    except OSError:
        return {}
    return found


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    rights = status.st_mode, status.st_uid, status.st_gid
    return status.st_dev, status.st_ino, *rights, status.st_size, status.st_mtime_ns, status.st_ctime_ns
