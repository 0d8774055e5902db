"""Checks of a migrations directory: can it be read, is it safe, is what happens there heard."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from migrated.config.settings import WatchMode
from migrated.daemon.watcher import DirectoryWatch, WatchdogComplaints
from migrated.doctor.findings import Finding, of_error, ok, problem, warning
from migrated.sources.directory import Listing
from migrated.system import permissions
from migrated.system.files import file_system, is_shared
from migrated.system.permissions import Trust

HEARING_SECONDS = 2.0


def check_files(directory: str, listing: Listing) -> Iterator[Finding]:
    """What is in a directory that could be read."""
    for error in listing.invalid:
        yield of_error("migrations.files", error.file or directory, error)
    for remark in listing.unfinished:
        yield warning(
            "migrations.files", remark.file, f"not finished: {remark.reason}", "try again once it is whole"
        )
    for remark in listing.ignored:
        yield warning("migrations.files", remark.file, f"not used: {remark.reason}", "rename it, or move it away")
    drafts = sum(migration.is_draft for migration in listing.migrations)
    if not listing.invalid:
        text = f"{len(listing.migrations) - drafts} migrations" + (f", {drafts} drafts" if drafts else "")
        yield ok("migrations.files", directory, text)


def check_safety(directory: str, listing: Listing, *, insecure_allowed: bool) -> Iterator[Finding]:
    """Who could change what is run. What is refused was told by reading it."""
    trust = Trust()
    if insecure_allowed:
        files = [migration.file for migration in listing.migrations if migration.file]
        for path in [directory, *files]:
            if weakness := trust.of(path, os.stat(path)):
                reason = f"{weakness.reason}, which allow_insecure_permissions permits"
                yield warning("migrations.permissions", path, reason, f"`{weakness.fix}`")
    owner = os.stat(directory).st_uid
    if os.geteuid() == 0 != owner:
        name = permissions.name_of(owner)
        yield warning(
            "migrations.permissions",
            directory,
            f"it belongs to {name}, and what is put there is run as root",
            f"run the program as {name} (User= in the unit)",
        )


def check_hearing(directory: str, mode: WatchMode) -> Iterator[Finding]:
    """Whether a change is heard: tried in a directory made for that beside it, on the same file system.

    That directory is removed again. Nothing is written into the migrations directory itself, as a daemon may be
    watching it.
    """
    real = os.path.realpath(directory)
    kind = file_system(real)
    if is_shared(real) and mode == "events":
        yield problem(
            "watch.hears",
            directory,
            f"it lies on {kind}, where what other machines change makes no events",
            'set watch = "auto" or "polling"',
        )
        return
    parent = os.path.dirname(real)
    if os.stat(parent).st_dev != os.stat(real).st_dev or not os.access(parent, os.W_OK | os.X_OK):
        yield ok("watch.hears", directory, f"not tried: nothing may be made beside it on its file system ({kind})")
        return
    beside = tempfile.mkdtemp(prefix=".migrated-doctor-", dir=parent)
    try:
        # It has something to say of being stopped, which would go to standard error.
        with WatchdogComplaints(lambda: None):
            yield _probe(directory, beside, mode, kind)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _probe(directory: str, beside: str, mode: WatchMode, kind: str) -> Finding:
    heard = threading.Event()
    watch = DirectoryWatch(beside, mode, lambda _name: heard.set())
    try:
        news = watch.check()
        if news is None or news.kind == "lost":
            reason = news.reason if news else "no reason is known"
            return problem("watch.hears", directory, f"it cannot be watched: {reason}", 'set watch = "polling"')
        (Path(beside) / "probe").write_bytes(b"")
        if not heard.wait(HEARING_SECONDS):
            text = f"a file was written on its file system ({kind}), and no event came in {HEARING_SECONDS:g} s"
            return problem("watch.hears", directory, text, 'set watch = "polling"')
    finally:
        watch.stop()
    if news.reason == "polling" and mode == "auto" and not is_shared(beside):
        hint = "raise fs.inotify.max_user_instances and max_user_watches (sysctl)"
        return warning("watch.hears", directory, "it is polled: there are no inotify watches left", hint)
    return ok("watch.hears", directory, f"changes are heard by {news.reason} ({kind})")
