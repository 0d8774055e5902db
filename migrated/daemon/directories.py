"""The migrations directories: their watches, what was said of their files, and when to look again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from migrated.config.settings import Config
from migrated.core.errors import MigrationFileError
from migrated.daemon.messages import DirectoryScanned
from migrated.daemon.scheduler import RepeatTimer
from migrated.daemon.watcher import DirectoryWatch, WatchNews, is_under_way
from migrated.logs import events
from migrated.logs.logger import Log, failure_keys
from migrated.sources.directory import Listing
from migrated.sources.formats.native import FileName, read_name

LOOK_AGAIN_SECONDS = 0.1
"""How soon a directory is read again when a file of it is being written or could not be read, at first."""

LONGEST_LOOK_SECONDS = 5.0
"""And how soon at the latest, for as long as that lasts."""

PATIENCE_SECONDS = 5.0
"""How long a file may be unfinished before it is spoken of."""

_WATCH_EVENTS = {
    "started": events.WATCH_STARTED,
    "lost": events.WATCH_LOST,
    "restored": events.WATCH_RESTORED,
}


@dataclass(slots=True)
class _Directory:
    watch: DirectoryWatch
    listing: Listing | None = None
    fault: DirectoryScanned | None = None
    unsettled_since: float | None = None
    backend: str | None = None
    since: float = 0.0
    told: set[tuple[str, str]] = field(default_factory=set)
    complaint: RepeatTimer = field(default_factory=RepeatTimer)
    loss: RepeatTimer = field(default_factory=RepeatTimer)


class Directories:
    """Owned by the daemon's loop. `changed` is called, from other threads, with a directory to be looked at.

    And with what is known of the change, as `DirectoryWatch` says.

    `restarts` counts the watches that were built anew.
    """

    def __init__(self, log: Log, changed: Callable[[str, str | None], None]) -> None:
        self._log = log
        self._changed = changed
        self._directories: dict[str, _Directory] = {}
        self.look_at: float | None = None
        self.restarts = 0

    def watch(self, config: Config) -> None:
        """Watch what the configuration names, and nothing else any more."""
        wanted = dict.fromkeys(target.migrations for target in config.targets)
        self.stop()
        self._directories = {
            path: _Directory(DirectoryWatch(path, config.watch, partial(self._changed, path))) for path in wanted
        }
        self.check()

    def check(self) -> bool:
        """See after every watch; whether there is news of one."""
        now = time.monotonic()
        is_news = False
        for path, directory in self._directories.items():
            news = directory.watch.check()
            if news is not None:
                is_news = True
                self._tell(path, directory, news, now)
        return is_news

    def is_new_on_top(self, paths: Iterable[str], name: str) -> bool:
        """Whether a file of these directories is a new migration above all others, and nothing else is open."""
        named = read_name(name)
        listings = [self._directories[path].listing for path in paths if path in self._directories]
        return isinstance(named, FileName) and all(
            listing is not None
            and not listing.invalid
            and not listing.unfinished
            and _is_below(listing, named.version)
            for listing in listings
        )

    def are_in_a_checkout(self) -> bool:
        """Whether git is changing the files of one of them."""
        return any(is_under_way(path) for path in self._directories)

    def stop(self) -> None:
        """End every watch."""
        for directory in self._directories.values():
            directory.watch.stop()

    def scanned(self, scan: DirectoryScanned, now: float) -> None:
        """Take what reading a directory gave, and say what is new."""
        directory = self._directories.get(scan.directory)
        if directory is None:
            return
        if scan.error is not None:
            # Most often the directory is gone; its watch knows how to say that, once.
            self.check()
        directory.listing = scan.listing
        directory.fault = scan if scan.error else None
        if scan.listing is not None:
            self._remark(directory, scan.listing)
        self._look_again(directory, now)
        self._complain(directory, now)

    def take_look(self, now: float) -> bool:
        """Whether it is time to look again at an unfinished file; if so, that is done with."""
        due = self.look_at is not None and now >= self.look_at
        if due:
            self.look_at = None
        return due

    def repeat_complaints(self, now: float) -> None:
        """Say again what has been standing for long."""
        for path, directory in self._directories.items():
            lost = directory.watch.lost_because
            if lost is not None and directory.loss.should_log(lost, now):
                self._log(events.WATCH_LOST, file=path, reason=lost, repeated=directory.loss.repeated)
            self._complain(directory, now)

    def summary(self) -> str:
        """What is wrong with them, for people; nothing when all is well."""
        parts = []
        for path, directory in self._directories.items():
            if directory.watch.lost_because is not None:
                parts.append(f"{path}: {directory.watch.lost_because}")
            elif directory.listing is not None and directory.listing.invalid:
                parts.append(f"{path}: invalid files: {len(directory.listing.invalid)}")
            elif directory.listing is not None and directory.listing.unfinished:
                parts.append(f"{path}: waiting until {directory.listing.unfinished[0].file} is complete")
        return "; ".join(parts)

    def views(self, now: float) -> list[dict[str, object]]:
        """Each with how it is watched, or why not, and for how many seconds that has been so."""
        return [
            {
                "directory": path,
                "backend": directory.backend,
                "lost": directory.watch.lost_because,
                "seconds": round(now - directory.since, 3),
            }
            for path, directory in self._directories.items()
        ]

    def _tell(self, path: str, directory: _Directory, news: WatchNews, now: float) -> None:
        self.restarts += news.kind == "restored"
        directory.backend, directory.since = None if news.kind == "lost" else news.reason, now
        if news.kind == "lost":
            directory.loss = RepeatTimer()
            directory.loss.should_log(news.reason, now)
        self._log(_WATCH_EVENTS[news.kind], file=path, reason=news.reason)

    def _remark(self, directory: _Directory, listing: Listing) -> None:
        remarks = {(remark.file, remark.reason) for remark in listing.ignored}
        drafts = {
            (migration.origin.file, ""): migration
            for migration in listing.migrations
            if migration.is_draft and migration.origin
        }
        for file, reason in sorted(remarks - directory.told):
            self._log(events.FILE_IGNORED, file=file, reason=reason)
        for key in sorted(drafts.keys() - directory.told):
            draft = drafts[key]
            self._log(events.FILE_DRAFT, file=key[0], version=draft.version, name=draft.name)
        # What is gone is forgotten, so that it is told again if it comes back.
        directory.told = remarks | drafts.keys()

    def _look_again(self, directory: _Directory, now: float) -> None:
        """Come back soon for what passes without an event: a file being written, an error of the disk."""
        listing = directory.listing
        passing = directory.fault is not None or (
            listing is not None
            and (listing.unfinished or any(isinstance(error, MigrationFileError) for error in listing.invalid))
        )
        if not passing:
            directory.unsettled_since = None
            return
        if directory.unsettled_since is None:
            directory.unsettled_since = now
        waited = now - directory.unsettled_since
        self.look_at = now + max(LOOK_AGAIN_SECONDS, min(waited / 10, LONGEST_LOOK_SECONDS))

    def _complain(self, directory: _Directory, now: float) -> None:
        if directory.watch.lost_because is not None:
            return
        if directory.fault is not None and directory.fault.error is not None:
            error = directory.fault.error
            if directory.complaint.should_log(str(error), now):
                self._invalid(failure_keys(error), directory)
            return
        listing = directory.listing
        if listing is None:
            return
        overdue = directory.unsettled_since is not None and now - directory.unsettled_since >= PATIENCE_SECONDS
        unfinished = listing.unfinished if overdue else []
        if not listing.invalid and not unfinished:
            directory.complaint = RepeatTimer()
            return
        cause = "\n".join(
            [*map(str, listing.invalid), *(f"{remark.file}: {remark.reason}" for remark in unfinished)]
        )
        if directory.complaint.should_log(cause, now):
            for error in listing.invalid:
                self._invalid(failure_keys(error), directory)
            for remark in unfinished:
                hint = "nothing from this directory is applied until the file is complete"
                self._invalid(
                    {"file": remark.file, "reason": f"incomplete file: {remark.reason}", "hint": hint}, directory
                )

    def _invalid(self, keys: dict[str, object], directory: _Directory) -> None:
        self._log(events.FILE_INVALID, **keys, repeated=directory.complaint.repeated or None)


def _is_below(listing: Listing, version: int) -> bool:
    return all(migration.version < version for migration in listing.migrations)
