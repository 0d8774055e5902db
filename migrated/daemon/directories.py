"""The migrations directories: their watches, the problems logged about their files, and when to rescan."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from migrated.config.settings import Config
from migrated.core.errors import MigrationFileError
from migrated.daemon.messages import DirectoryScanned
from migrated.daemon.scheduler import RepeatTimer
from migrated.daemon.watcher import DirectoryWatch, WatchEvent, git_checkout_in_progress
from migrated.logs import events
from migrated.logs.events import Event
from migrated.logs.logger import Log, failure_keys
from migrated.sources.directory import Listing
from migrated.sources.formats.native import FileName, read_name

FIRST_RESCAN_SECONDS = 0.1
"""Initial delay before a directory is read again because a file was incomplete or unreadable."""

LONGEST_RESCAN_SECONDS = 5.0
"""Maximum delay between such rescans. The delay grows with the time that the problem lasts."""

INCOMPLETE_LOG_SECONDS = 5.0
"""How long a file may be incomplete before that is logged."""

_WATCH_EVENTS = {
    "started": events.WATCH_STARTED,
    "lost": events.WATCH_LOST,
    "restored": events.WATCH_RESTORED,
}
_INTERNAL_ERROR = events.INTERNAL_ERROR._replace(sentence="{file}: {reason}")


@dataclass(slots=True)
class _Directory:
    watch: DirectoryWatch
    listing: Listing | None = None
    fault: DirectoryScanned | None = None
    unfinished_since: float | None = None
    backend: str | None = None
    since: float = 0.0
    logged_remarks: set[tuple[str, str]] = field(default_factory=set)
    repeat_timer: RepeatTimer = field(default_factory=RepeatTimer)
    lost_timer: RepeatTimer = field(default_factory=RepeatTimer)


class Directories:
    """All migrations directories. Used by the main thread only.

    `changed` is called from other threads with a directory that may have changed and the file name as described at
    `DirectoryWatch`. `restarts` counts restarted watches.
    """

    def __init__(self, log: Log, changed: Callable[[str, str | None], None]) -> None:
        self._log = log
        self._changed = changed
        self._directories: dict[str, _Directory] = {}
        self.rescan_at: float | None = None
        self.restarts = 0

    def watch(self, config: Config) -> None:
        """Stop all watches and watch the directories of `config`. A failure to watch is logged, not raised."""
        wanted = dict.fromkeys(target.migrations for target in config.targets)
        self.stop()
        self._directories = {
            path: _Directory(DirectoryWatch(path, config.watch, partial(self._changed, path))) for path in wanted
        }
        self.check()

    def check(self) -> bool:
        """Check every watch and restart lost ones. Return True if the state of any watch changed."""
        now = time.monotonic()
        has_changed = False
        for path, directory in self._directories.items():
            event = directory.watch.check()
            if event is not None:
                has_changed = True
                self._log_watch_event(path, directory, event, now)
        return has_changed

    def is_next_migration(self, paths: Iterable[str], name: str) -> bool:
        """True if file `name` is a migration newer than all in these directories, and all other files are valid.

        Only then can the caller apply it without waiting for more changes: nothing else is incomplete or invalid.
        """
        named = read_name(name)
        listings = [self._directories[path].listing for path in paths if path in self._directories]
        return isinstance(named, FileName) and all(
            listing is not None
            and not listing.invalid
            and not listing.unfinished
            and _is_below(listing, named.version)
            for listing in listings
        )

    def checkout_in_progress(self) -> bool:
        """True if git is writing to the work tree of any of the directories."""
        return any(git_checkout_in_progress(path) for path in self._directories)

    def stop(self) -> None:
        """Stop every watch."""
        for directory in self._directories.values():
            directory.watch.stop()

    def scanned(self, scan: DirectoryScanned, now: float) -> None:
        """Record the result of reading a directory and log what is new about its files."""
        directory = self._directories.get(scan.directory)
        if directory is None:
            return
        if scan.error is not None:
            # Usually the directory is gone. Checking the watches logs `watch.lost`, which replaces the error here.
            self.check()
        directory.listing = scan.listing
        directory.fault = scan if scan.error else None
        if scan.listing is not None:
            self._log_remarks(directory, scan.listing)
        self._schedule_rescan(directory, now)
        self._log_faults(directory, now)

    def should_rescan(self, now: float) -> bool:
        """Return True if a rescan is due, and clear its time."""
        due = self.rescan_at is not None and now >= self.rescan_at
        if due:
            self.rescan_at = None
        return due

    def log_repeats(self, now: float) -> None:
        """Repeat lines about lost watches and invalid files, when their timers are due."""
        for path, directory in self._directories.items():
            lost = directory.watch.lost_reason
            if lost is not None and directory.lost_timer.should_log(lost, now):
                self._log(events.WATCH_LOST, file=path, reason=lost, repeated=directory.lost_timer.repeated)
            self._log_faults(directory, now)

    def summary(self) -> str:
        """Return the problems of the directories as one line; empty if there are none."""
        parts = []
        for path, directory in self._directories.items():
            if directory.watch.lost_reason is not None:
                parts.append(f"{path}: {directory.watch.lost_reason}")
            elif directory.listing is not None and directory.listing.invalid:
                parts.append(f"{path}: invalid files: {len(directory.listing.invalid)}")
            elif directory.listing is not None and directory.listing.unfinished:
                parts.append(f"{path}: waiting until {directory.listing.unfinished[0].file} is complete")
        return "; ".join(parts)

    def views(self, now: float) -> list[dict[str, object]]:
        """Return for each directory how it is watched, or why it is not, and for how many seconds."""
        return [
            {
                "directory": path,
                "backend": directory.backend,
                "lost": directory.watch.lost_reason,
                "seconds": round(now - directory.since, 3),
            }
            for path, directory in self._directories.items()
        ]

    def _log_watch_event(self, path: str, directory: _Directory, event: WatchEvent, now: float) -> None:
        self.restarts += event.kind == "restored"
        directory.backend, directory.since = None if event.kind == "lost" else event.reason, now
        if event.kind == "lost":
            # The line below is the first one: arm the timer, so that `log_repeats` waits for its interval.
            directory.lost_timer = RepeatTimer()
            directory.lost_timer.should_log(event.reason, now)
        self._log(_WATCH_EVENTS[event.kind], file=path, reason=event.reason)

    def _log_remarks(self, directory: _Directory, listing: Listing) -> None:
        remarks = {(remark.file, remark.reason) for remark in listing.ignored}
        drafts = {
            (migration.origin.file, ""): migration
            for migration in listing.migrations
            if migration.is_draft and migration.origin
        }
        for file, reason in sorted(remarks - directory.logged_remarks):
            self._log(events.FILE_IGNORED, file=file, reason=reason)
        for key in sorted(drafts.keys() - directory.logged_remarks):
            draft = drafts[key]
            self._log(events.FILE_DRAFT, file=key[0], version=draft.version, name=draft.name)
        # Forget remarks that no longer apply, so that they are logged again if they return.
        directory.logged_remarks = remarks | drafts.keys()

    def _schedule_rescan(self, directory: _Directory, now: float) -> None:
        """Schedule a rescan for problems that can end without a file event: incomplete files and read errors."""
        listing = directory.listing
        is_transient = directory.fault is not None or (
            listing is not None
            and (listing.unfinished or any(isinstance(error, MigrationFileError) for error in listing.invalid))
        )
        if not is_transient:
            directory.unfinished_since = None
            return
        if directory.unfinished_since is None:
            directory.unfinished_since = now
        # Often at first, for a writer that is about to finish; rarely if the file stays as it is.
        waited = now - directory.unfinished_since
        self.rescan_at = now + max(FIRST_RESCAN_SECONDS, min(waited / 10, LONGEST_RESCAN_SECONDS))

    def _log_faults(self, directory: _Directory, now: float) -> None:
        if directory.watch.lost_reason is not None:
            # `watch.lost` has been logged for the same cause.
            return
        if directory.fault is not None and directory.fault.error is not None:
            error = directory.fault.error
            if directory.repeat_timer.should_log(str(error), now):
                event = _INTERNAL_ERROR if error.traceback else events.FILE_INVALID
                self._log_invalid(failure_keys(error), directory, event)
            return
        listing = directory.listing
        if listing is None:
            return
        overdue = (
            directory.unfinished_since is not None and now - directory.unfinished_since >= INCOMPLETE_LOG_SECONDS
        )
        unfinished = listing.unfinished if overdue else []
        if not listing.invalid and not unfinished:
            directory.repeat_timer = RepeatTimer()
            return
        # All errors together are the cause: when one of two is fixed, the other is logged again at once.
        cause = "\n".join(
            [*map(str, listing.invalid), *(f"{remark.file}: {remark.reason}" for remark in unfinished)]
        )
        if directory.repeat_timer.should_log(cause, now):
            for error in listing.invalid:
                self._log_invalid(failure_keys(error), directory)
            for remark in unfinished:
                hint = "nothing from this directory is applied until the file is complete"
                self._log_invalid(
                    {"file": remark.file, "reason": f"incomplete file: {remark.reason}", "hint": hint}, directory
                )

    def _log_invalid(
        self, keys: dict[str, object], directory: _Directory, event: Event = events.FILE_INVALID
    ) -> None:
        self._log(event, **keys, repeated=directory.repeat_timer.repeated or None)


def _is_below(listing: Listing, version: int) -> bool:
    return all(migration.version < version for migration in listing.migrations)
