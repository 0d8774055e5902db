"""Checks of the databases and the migrations directories."""

import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from migrated.checks.findings import Finding, from_error, ok, problem, warning
from migrated.config.settings import SnapshotPolicy, SnapshotWhen, Target, WatchMode
from migrated.core import refusals
from migrated.core.errors import DatabaseError, RefusedError
from migrated.core.migration import Migration
from migrated.core.status import evaluate
from migrated.daemon.watcher import DirectoryWatch, WatchdogWarnings
from migrated.engine.sqlite import preflight
from migrated.engine.sqlite.connection import journal_mode
from migrated.engine.sqlite.database import SqliteDatabase
from migrated.engine.sqlite.disk_space import free_space, readable_size
from migrated.engine.sqlite.snapshots import catalog
from migrated.fleet.discovery import DatabasePath
from migrated.sources.directory import Listing
from migrated.system import file_locks, permissions
from migrated.system.files import file_system, is_shared
from migrated.system.permissions import Trust

BUSY_SECONDS = 1.0
_SIBLINGS = ("-wal", "-shm", "-journal")
_REBUILD = 3
"""Free space that a table rebuild may need for a while, in multiples of the database size."""
_MARGIN = 1_000_000
"""Free space in bytes that a snapshot must leave, for the migrations themselves and the log."""


def check_usable(database: DatabasePath, target: Target) -> Iterator[Finding]:
    """Check that this user can migrate the database, and its owner use it afterwards. Raises `DatabaseError`."""
    # A glob matches existing files only, so a run never creates its databases.
    may_be_created = target.create and not database.matched
    preflight.require_usable(database.path, create=may_be_created)
    try:
        status = os.stat(database.path)
    except FileNotFoundError:
        if may_be_created:
            yield ok("database.usable", database.name, "does not exist yet; the first run creates it")
        else:
            hint = "check the path, or set create = true"
            yield problem("database.usable", database.name, "missing, and may not be created", hint)
        return
    owner = permissions.name_of(status.st_uid)
    yield ok("database.usable", database.name, f"writable, owned by {owner}")
    if os.geteuid() == 0 != status.st_uid:
        hint = f"run `migrated doctor` as {owner}, if the service does"
        yield warning("database.usable", database.name, f"checked as root, who has more access than {owner}", hint)


def check_content(
    database: DatabasePath, target: Target, migrations: Sequence[Migration] | None
) -> Iterator[Finding]:
    """Check what is applied, and what a run would refuse. Without `migrations` only the ledger is read."""
    handle = SqliteDatabase(
        database.path,
        create=target.create,
        must_exist=database.matched,
        busy_timeout=min(BUSY_SECONDS, target.busy_timeout),
        application_id=target.application_id,
    )
    if not os.path.exists(database.path):
        return
    try:
        ledger = handle.look()
        mode = journal_mode(database.path, busy_timeout=BUSY_SECONDS)
    except DatabaseError as error:
        # A busy database is no problem: another process may be migrating it right now.
        if not error.code.startswith("SQLITE_BUSY"):
            raise
        by = f", by {error.holder}" if error.holder else ""
        yield warning("database.content", database.name, f"in use at the moment{by}", "try again later")
        return
    counts = f"{len(ledger.applied)} applied"
    if migrations is None:
        yield ok("database.content", database.name, f"{counts}, journal mode {mode}")
        return
    status = evaluate(migrations, ledger)
    try:
        refusals.refuse_by_policy(status.statuses, target.policy, handle.stored_migrations)
    except RefusedError as refusal:
        yield from_error("database.content", database.name, refusal)
        return
    yield ok("database.content", database.name, f"{counts}, {status.pending} pending, journal mode {mode}")


def check_file_system(database: DatabasePath) -> Iterator[Finding]:
    """Check that SQLite's locks work on the file system of the database."""
    real = os.path.realpath(database.path)
    yield judge_file_system(
        database.name, file_system(real), shared=is_shared(real), wal=os.path.exists(f"{real}-wal")
    )


def judge_file_system(name: str, kind: str, *, shared: bool, wal: bool) -> Finding:
    """Return the finding for a file system of this kind."""
    if not shared:
        return ok("database.file_system", name, f"on {kind or 'an unknown file system'}")
    hint = "keep the database on a local disk of the machine that uses it"
    if wal:
        return problem(
            "database.file_system", name, f"on {kind}, where WAL mode does not work between machines", hint
        )
    return warning("database.file_system", name, f"on {kind}, where file locks are unreliable", hint)


def check_owners(database: DatabasePath) -> Iterator[Finding]:
    """Check that the owner and this user can use SQLite's files beside the database, and our folder of locks."""
    real = os.path.realpath(database.path)
    try:
        owner = os.stat(real).st_uid
    except OSError:
        return
    # A default ACL decides who can use new files here; judging by mode bits would give false alarms.
    if permissions.has_default_acl(os.path.dirname(real)):
        return
    snapshots = catalog.folder_of(real)
    both_locks = [
        os.fspath(file_locks.lock_path(real, which)) for which in (file_locks.DAEMON, file_locks.APPLYING)
    ]
    ours = [os.path.dirname(both_locks[0]), *both_locks, os.path.dirname(snapshots), snapshots]
    for path in [*(real + ending for ending in _SIBLINGS), *ours]:
        for user in dict.fromkeys((owner, os.geteuid())):
            if (owned_by := _owner_unless_writable(user, path)) is None:
                continue
            text = f"owned by {permissions.name_of(owned_by)}, not writable by {permissions.name_of(user)}"
            hint = f"`chown --reference={shlex.quote(real)} {shlex.quote(path)}`; do not delete it"
            # If another user runs migrated, the owner of the database does not need our files.
            severity = warning if path in ours and user != os.geteuid() else problem
            yield severity("database.owners", path, text, hint)


def _owner_unless_writable(user: int, path: str) -> int | None:
    """Return the owner of a file that `user` cannot write; None if it is missing or writable."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    usable = status.st_uid == user or permissions.could_use(user, group=status.st_gid, mode=status.st_mode)
    return None if usable else status.st_uid


def check_room(database: DatabasePath, target: Target) -> Iterator[Finding]:
    """Check that the disk has space for what a run may write."""
    try:
        size = os.stat(database.path).st_size
    except OSError:
        return
    free = free_space(os.path.dirname(os.path.realpath(database.path)))
    if free is not None:
        yield judge_room(database.name, size, free, target.snapshots)


def judge_room(name: str, size: int, free: int, snapshots: SnapshotPolicy) -> Finding:
    """Return the finding for `free` bytes on the disk of a database of `size` bytes."""
    text = f"{readable_size(free)} free on its disk, database size {readable_size(size)}"
    wanted = snapshots.when is not SnapshotWhen.NEVER and size <= snapshots.max_size
    if wanted and free < size + _MARGIN:
        hint = "free some space, or store fewer snapshots (keep, max_size); see `migrated help snapshots`"
        return problem("database.room", name, f"{text}: not enough for a snapshot", hint)
    if free < _REBUILD * size:
        hint = f"keep {_REBUILD} times its size free"
        return warning("database.room", name, f"{text}: a migration that rebuilds a large table may not fit", hint)
    return ok("database.room", name, text)


def check_leftovers(database: DatabasePath) -> Iterator[Finding]:
    """Report unfinished snapshots that a killed process left."""
    for path in catalog.leftovers(database.path):
        size = os.stat(path).st_size
        yield warning(
            "database.leftovers",
            path,
            f"unfinished snapshot ({readable_size(size)})",
            f"the next snapshot removes it; or `rm {shlex.quote(path)}` while no migration is running",
        )


EVENT_TIMEOUT_SECONDS = 2.0


def check_files(directory: str, listing: Listing) -> Iterator[Finding]:
    """Report the files of a readable migrations directory: invalid, unfinished, ignored, and counts."""
    for error in listing.invalid:
        yield from_error("migrations.files", error.file or directory, error)
    for remark in listing.unfinished:
        yield warning(
            "migrations.files",
            remark.file,
            f"incomplete: {remark.reason}",
            "try again once the file is complete",
        )
    for remark in listing.ignored:
        yield warning("migrations.files", remark.file, f"ignored: {remark.reason}", "rename it, or move it away")
    drafts = sum(migration.is_draft for migration in listing.migrations)
    if not listing.invalid:
        text = f"{len(listing.migrations) - drafts} migrations" + (f", {drafts} drafts" if drafts else "")
        yield ok("migrations.files", directory, text)


def check_safety(directory: str, listing: Listing, *, insecure_allowed: bool) -> Iterator[Finding]:
    """Report who else can change migrations. Refused permissions were already reported by reading the files."""
    trust = Trust()
    # Without the setting, reading the directory has already refused weak permissions.
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
            f"owned by {name}, while migrations run as root: {name} can then act as root",
            f"run migrated as {name} (User= in the unit)",
        )


def check_events(directory: str, mode: WatchMode) -> Iterator[Finding]:
    """Test that changes are noticed, in a temporary directory beside it, on the same file system.

    Nothing is written into the migrations directory itself, because a daemon may be watching it.
    """
    real = os.path.realpath(directory)
    kind = file_system(real)
    if is_shared(real) and mode == "events":
        yield problem(
            "watch.hears",
            directory,
            f"on {kind}, where changes made by other machines cause no events",
            'set watch = "auto" or "polling"',
        )
        return
    parent = os.path.dirname(real)
    # On another file system the test would prove nothing about this one.
    if os.stat(parent).st_dev != os.stat(real).st_dev or not os.access(parent, os.W_OK | os.X_OK):
        yield ok(
            "watch.hears", directory, f"not tested: no writable directory beside it on its file system ({kind})"
        )
        return
    beside = tempfile.mkdtemp(prefix=".migrated-doctor-", dir=parent)
    try:
        # watchdog logs an error when it is stopped, which would be printed on standard error.
        with WatchdogWarnings(lambda: None):
            yield _probe(directory, beside, mode, kind)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _probe(directory: str, beside: str, mode: WatchMode, kind: str) -> Finding:
    event_received = threading.Event()
    watch = DirectoryWatch(beside, mode, lambda _name: event_received.set())
    try:
        change = watch.check()
        if change is None or change.kind == "lost":
            reason = change.reason if change else "unknown reason"
            return problem("watch.hears", directory, f"cannot be watched: {reason}", 'set watch = "polling"')
        (Path(beside) / "probe").write_bytes(b"")
        if not event_received.wait(EVENT_TIMEOUT_SECONDS):
            text = (
                f"no event within {EVENT_TIMEOUT_SECONDS:g} s after a file was written on its file system ({kind})"
            )
            return problem("watch.hears", directory, text, 'set watch = "polling"')
    finally:
        watch.stop()
    # Polling was not configured, so the fallback has a cause that the administrator can remove.
    if change.reason == "polling" and mode == "auto" and not is_shared(beside):
        hint = "raise fs.inotify.max_user_instances and max_user_watches (sysctl)"
        return warning("watch.hears", directory, "polled, because no inotify watches are left", hint)
    return ok("watch.hears", directory, f"changes are noticed by {change.reason} ({kind})")
