"""Watches directories with watchdog, and detects watches that no longer work.

An event is only a hint that a directory should be read again. A watch ends silently when its directory is deleted,
moved, mounted over or replaced behind a symlink. Therefore the path is compared once a second with the directory
being watched, and the whole observer is rebuilt when they differ.

`git_checkout_in_progress` tells whether git is writing to the work tree.
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
# The limits of inotify: watches per user, instances per user, open files of the system.
_NO_MORE_WATCHES = {errno.ENOSPC, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True, slots=True)
class _Identity:
    """The directory that a path resolves to."""

    real: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A state change of a watch. `reason` is the backend in use or, after `lost`, why there is none."""

    kind: Literal["started", "lost", "restored"]
    reason: str


class DirectoryWatch:
    """Watches one directory, not recursively.

    `changed` is called from another thread whenever the directory may have changed, and after the watch was
    restored. Its argument is the file name, "" if the change concerns no migration, None if the name is unknown.
    One thread must call `check` about once a second; it never raises `OSError`.
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
        """Why the directory is not watched; None while it is watched."""
        return self._lost

    def check(self) -> WatchEvent | None:
        """Restart the watch if it no longer covers the path. Return the state change, if any."""
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
            # Python raises RuntimeError if it cannot start a thread.
            return self._report_lost(getattr(error, "strerror", None) or str(error))
        kind: Literal["started", "restored"] = "restored" if self._was_started or self._lost else "started"
        self._lost, self._was_started = None, True
        if kind == "restored":
            # Changes made while there was no watch were missed. After the first start a full pass follows anyway.
            self._changed(None)
        return WatchEvent(kind, backend)

    def stop(self) -> None:
        """Stop the observer and join its threads."""
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
        # Watch the resolved path: an observer on a symlink gets no events.
        observer.schedule(_Handler(self._changed), found.real, recursive=False)
        observer.start()
        self._watched = found
        # A poller takes its first snapshot in its own thread, some time after the start. Changes before that are
        # invisible to it, so the next two checks report a change.
        self._rescans_owed = _RESCANS_AFTER_START if backend == "polling" else 0
        return backend


class _Handler(FileSystemEventHandler):
    """Passes events on. Must not raise: an exception would end watchdog's dispatch thread for good."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        self._changed = changed

    def dispatch(self, event: FileSystemEvent) -> None:
        # Reading the files ourselves causes these two events. Treating them as changes would be an endless loop.
        if event.event_type in {EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE}:
            return
        if event.is_directory:
            # Every change of a file also reports the directory as modified.
            self._changed("" if event.event_type == EVENT_TYPE_MODIFIED else None)
            return
        for path in (event.src_path, event.dest_path):
            name = os.path.basename(os.fsdecode(path))
            if name:
                self._changed(name if read_name(name) else "")


class WatchdogWarnings(logging.Handler):
    """Calls `changed` for every warning that watchdog logs, within a `with` block.

    When the kernel's event queue overflows, watchdog loses events and only logs a warning.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._changed = changed
        self._logger = logging.getLogger("watchdog")

    def emit(self, _record: logging.LogRecord) -> None:
        """Report a change for one warning."""
        self._changed()

    def __enter__(self) -> None:
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def _identify(directory: str) -> _Identity | str:
    """Return the directory that the path leads to, or the reason why it cannot be watched."""
    try:
        real = os.path.realpath(directory, strict=True)
        status = os.stat(real)
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "not a directory"
    # Without read permission a watch starts without an error but never reports an event.
    if not os.access(real, os.R_OK | os.X_OK):
        return "Permission denied"
    return _Identity(real, status.st_dev, status.st_ino)


_LOCK = "index.lock"


def git_checkout_in_progress(directory: str) -> bool:
    """True if the index of the git repository containing `directory` is locked.

    Git holds that lock during a whole checkout or merge. A killed git leaves it behind, so callers must limit how
    long they wait (https://git-scm.com/docs/api-lockfile).
    """
    place = os.path.realpath(directory)
    while True:
        git = os.path.join(place, ".git")
        if os.path.lexists(git):
            return os.path.lexists(os.path.join(_git_directory(git), _LOCK))
        if place == (place := os.path.dirname(place)):
            return False


def _git_directory(git: str) -> str:
    """Return the directory that `.git` is or, in a linked worktree, names.

    See https://git-scm.com/docs/gitrepository-layout.
    """
    try:
        with open(git, encoding="utf-8", errors="surrogateescape") as file:
            kind, _, path = file.readline().strip().partition(": ")
    except OSError:
        return git
    return os.path.join(os.path.dirname(git), path) if kind == "gitdir" else git
