"""Cache of a migrations directory: a file with unchanged metadata is not opened again."""

import os
import time
from typing import NamedTuple

from migrated.core.migration import Migration
from migrated.sources.directory import Listing, read_directory
from migrated.system.permissions import Trust

# The coarsest timestamps of a file system in use: FAT has two seconds.
_YOUNG_NS = 2_000_000_000

_Stamp = tuple[int, ...]


def timestamps_are_reliable(*times_ns: int) -> bool:
    """Return True if a later write is certain to change these timestamps.

    Within one tick of the file system's clock, a second write leaves the timestamps unchanged. Some file systems
    tick only every two seconds (https://git-scm.com/docs/racy-git).
    """
    return time.time_ns() - max(times_ns) > _YOUNG_NS


class Reading(NamedTuple):
    """A listing, and a number that changes whenever the migrations change."""

    listing: Listing
    directory_revision: int


class _Files:
    """Parsed files of one directory, each with its metadata from just before it was read."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[_Stamp, Migration]] = {}
        self._seen: dict[str, _Stamp] = {}
        self._kept: dict[str, tuple[_Stamp, Migration]] = {}

    def recall(self, file: str) -> Migration | None:
        """Return the parsed migration if the file's metadata is unchanged; otherwise None."""
        try:
            stamp = _stamp(os.stat(file))
        except OSError:
            return None
        cached = self._read.get(file)
        if cached is not None and cached[0] == stamp:
            self._kept[file] = cached
            return cached[1]
        # From before the read: if the file is written meanwhile, the next reading sees other metadata.
        self._seen[file] = stamp
        return None

    def learn(self, file: str, migration: Migration) -> None:
        """Store a migration that was just parsed because `recall` returned None."""
        stamp = self._seen.get(file)
        if stamp and timestamps_are_reliable(*stamp[-2:]):
            self._kept[file] = stamp, migration

    def end(self) -> None:
        """End one pass over the directory: drop the files that were not seen in it."""
        self._read, self._kept = self._kept, {}
        self._seen.clear()


class DirectoryReader:
    """Reads directories with a cache. Not thread-safe."""

    def __init__(self) -> None:
        self._files: dict[str, _Files] = {}
        self._last: dict[str, Reading] = {}

    def read(self, directory: str, trust: Trust | None = None) -> Reading:
        """Read like `read_directory`, raising the same errors.

        Returns the same object as before if nothing has changed.
        """
        files = self._files.setdefault(directory, _Files())
        listing = read_directory(directory, trust, files)
        files.end()
        last = self._last.get(directory)
        if last is None or not _is_same(listing, last.listing):
            last = self._last[directory] = Reading(listing, hash(tuple(listing.migrations)))
        return last


def _is_same(one: Listing, other: Listing) -> bool:
    if one.invalid or other.invalid or one.unfinished or other.unfinished or one.ignored != other.ignored:
        return False
    return len(one.migrations) == len(other.migrations) and all(
        # Identity suffices: the cache returns the same object for an unchanged file.
        migration is before
        for migration, before in zip(one.migrations, other.migrations, strict=True)
    )


def _stamp(status: os.stat_result) -> _Stamp:
    rights = status.st_mode, status.st_uid, status.st_gid
    # ctime also changes if the content is replaced and mtime is set back afterwards.
    return status.st_dev, status.st_ino, *rights, status.st_size, status.st_mtime_ns, status.st_ctime_ns
