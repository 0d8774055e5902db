"""watchdog -> "something changed", and noticing when that has gone deaf.

An event is only a hint that a directory should be looked at. Watches end silently when their directory is
deleted, moved, mounted over or swapped behind a symlink, so once a second the path is compared with what is
watched, and the whole observer is built anew when they differ.

`git_checkout_in_progress` tells whether git is checking files out.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from watchdog.events import (
    EVENT_TYPE_CLOSED_NO_WRITE,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_OPENED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from migrated.config.settings import WatchMode
from migrated.sources.formats.native import read_name
from migrated.system.files import is_shared

POLLING_SECONDS = 1.0
_JOIN_SECONDS = 5.0
_RESCANS_AFTER_START = 2
_NO_MORE_WATCHES = {errno.ENOSPC, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True, slots=True)
class _Identity:
    """What the path leads to at the moment."""

    real: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change of a watch's own state. `reason` is the backend in use, or why there is none."""

    kind: Literal["started", "lost", "restored"]
    reason: str


class DirectoryWatch:
    """Calls `changed` from a thread of its own whenever the directory may have changed, and when it came back.

    With the name of the file, an empty one where the change is of no migration, None where that is not known.
    Not recursive. `check` must be called every second or so by one thread; it never raises.
    """

    def __init__(self, directory: str, mode: WatchMode, changed: Callable[[str | None], None]) -> None:
        self.directory = directory
        self._mode = mode
        self._changed = changed
        self._observer: BaseObserver | None = None
        self._watched: _Identity | None = None
        self._lost: str | None = None
        self._was_started = False
        self._rescans_owed = 0

    @property
    def lost_reason(self) -> str | None:
        """Why the directory is not watched; None while it is."""
        return self._lost

    def check(self) -> WatchEvent | None:
        """Compare the path with what is watched, mend the watch if need be, and say what is new."""
        found = _identify(self.directory)
        if isinstance(found, str):
            return self._report_lost(found)
        if found == self._watched and self._receives_events():
            if self._rescans_owed:
                self._rescans_owed -= 1
                self._changed(None)
            return None
        try:
            backend = self._start(found)
        except (OSError, RuntimeError) as error:
            # RuntimeError: no more threads.
            return self._report_lost(getattr(error, "strerror", None) or str(error))
        kind: Literal["started", "restored"] = "restored" if self._was_started or self._lost else "started"
        self._lost, self._was_started = None, True
        if kind == "restored":
            # What happened while nobody listened; after a start a pass follows anyway.
            self._changed(None)
        return WatchEvent(kind, backend)

    def stop(self) -> None:
        """End the observer and its threads."""
        if self._observer is not None:
            self._observer.stop()
            if self._observer.is_alive():
                self._observer.join(_JOIN_SECONDS)
        self._observer, self._watched = None, None

    def _report_lost(self, reason: str) -> WatchEvent | None:
        self.stop()
        if reason == self._lost:
            return None
        self._lost = reason
        return WatchEvent("lost", reason)

    def _receives_events(self) -> bool:
        observer = self._observer
        if observer is None or not observer.is_alive():
            return False
        return bool(observer.emitters) and all(emitter.is_alive() for emitter in observer.emitters)

    def _start(self, found: _Identity) -> str:
        self.stop()
        if self._mode == "polling" or (self._mode == "auto" and is_shared(found.real)):
            return self._start_observer(PollingObserver(timeout=POLLING_SECONDS), found, "polling")
        try:
            return self._start_observer(Observer(), found, "events")
        except OSError as error:
            if self._mode == "events" or error.errno not in _NO_MORE_WATCHES:
                raise
            return self._start_observer(PollingObserver(timeout=POLLING_SECONDS), found, "polling")

    def _start_observer(self, observer: BaseObserver, found: _Identity, backend: str) -> str:
        self._observer = observer
        # Not the path as given: an observer on a symlink sees nothing at all.
        observer.schedule(_Handler(self._changed), found.real, recursive=False)
        observer.start()
        self._watched = found
        # Its thread takes its first look when it comes to that; what was changed before then is no change to it.
        self._rescans_owed = _RESCANS_AFTER_START if backend == "polling" else 0
        return backend


class _Handler(FileSystemEventHandler):
    """Must not raise: that would end watchdog's dispatching thread for good."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        self._changed = changed

    def dispatch(self, event: FileSystemEvent) -> None:
        # Our own reading of the files makes these two; taking them for changes would be an endless loop.
        if event.event_type in {EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE}:
            return
        if event.is_directory:
            # The directory itself is told to be modified with each of its files.
            self._changed("" if event.event_type == EVENT_TYPE_MODIFIED else None)
            return
        for path in (event.src_path, event.dest_path):
            name = os.path.basename(os.fsdecode(path))
            if name:
                self._changed(name if read_name(name) else "")


class WatchdogWarnings(logging.Handler):
    """watchdog only logs a lost event (its queue ran over): take every warning for a change.

    A context manager, during which the warnings reach `changed`.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._changed = changed
        self._logger = logging.getLogger("watchdog")

    def emit(self, _record: logging.LogRecord) -> None:
        """Take one warning."""
        self._changed()

    def __enter__(self) -> None:
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def _identify(directory: str) -> _Identity | str:
    """What the path leads to, or why it cannot be watched."""
    try:
        real = os.path.realpath(directory, strict=True)
        status = os.stat(real)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "not a directory"
    # A watch on a directory that may not be read starts without complaint and never says anything.
    if not os.access(real, os.R_OK | os.X_OK):
        return "Permission denied"
    return _Identity(real, status.st_dev, status.st_ino)


_LOCK = "index.lock"


def git_checkout_in_progress(directory: str) -> bool:
    """Whether the repository that `directory` lies in is locked, as it is for the whole of a checkout or a merge.

    A lock that a killed git left behind looks the same: do not wait for its end for ever
    (https://git-scm.com/docs/api-lockfile).
    """
    place = os.path.realpath(directory)
    while True:
        git = os.path.join(place, ".git")
        if os.path.lexists(git):
            return os.path.lexists(os.path.join(_git_directory(git), _LOCK))
        if place == (place := os.path.dirname(place)):
            return False


def _git_directory(git: str) -> str:
    """`.git` itself, or where it points in a worktree of its own (https://git-scm.com/docs/gitrepository-layout)."""
    try:
        with open(git, encoding="utf-8", errors="surrogateescape") as file:
            kind, _, path = file.readline().strip().partition(": ")
    except OSError:
        return git
    return os.path.join(os.path.dirname(git), path) if kind == "gitdir" else git
