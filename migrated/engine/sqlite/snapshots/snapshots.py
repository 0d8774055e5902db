"""Snapshots: whole copies of a database, taken before it is changed.

The last act of taking one is to give the file its name: whatever has a snapshot's name is whole and was found
sound, and nothing has to be opened to list them.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import apsw

from migrated.config.settings import SnapshotPolicy, SnapshotWhen
from migrated.core.errors import INTERRUPTED, DatabaseError
from migrated.core.records import Snapshot, highest_version
from migrated.engine.backend import Observer
from migrated.engine.sqlite import ledger
from migrated.engine.sqlite.connection import BusyHandler, as_database_error, content_size, open_for_reading
from migrated.engine.sqlite.disk_space import readable_size, require_free
from migrated.engine.sqlite.snapshots.catalog import (
    BACK_REASONS,
    REASONS,
    RUN_REASONS,
    SnapshotName,
    folder_of,
    names_in,
    new_part,
)
from migrated.engine.sqlite.snapshots.copying import (
    copy_to,
    copying_errors,
    damage,
    file_errors,
    nothing,
    put_on_disk,
)
from migrated.system.cancellation import CancelToken

DAMAGED = "SNAPSHOT_DAMAGED"
# For the names, and for what the file system keeps for itself.
_MARGIN = 1_000_000
# The caller has the write lock, and readers need not wait for that: only a recovery could keep us.
_SECONDS = 10.0


def listed(database: str) -> list[Snapshot]:
    """The snapshots of a database, oldest first; none where there is no folder for them."""
    folder = folder_of(database)
    found = []
    with file_errors(database):
        for name, said in names_in(folder).items():
            path = os.path.join(folder, name)
            # One that another process removed a moment ago is not there any more.
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(path).st_size
                found.append(
                    Snapshot(said.identity, database, path, said.taken_at, said.version, size, said.reason)
                )
    return sorted(found, key=lambda snapshot: snapshot.taken_at)


def find(database: str, identity: str) -> Snapshot | None:
    """The snapshot of a database that has this `id`, if there is one."""
    return next((snapshot for snapshot in listed(database) if snapshot.id == identity), None)


def take(
    database: str,
    *,
    reason: str,
    version: int | None,
    keep: int | None = None,
    step: Callable[[], None] = nothing,
    protect: Collection[str] = (),
) -> Snapshot:
    """Copy the database, look the copy over, put it on the disk; then leave the newest `keep` of its kind, or all.

    Those that are taken before a run are one kind, those before the content goes back to an older one the other:
    many of these must not push out what there is to go back to.

    The caller holds the lock of the directory and, through another connection, the database's write lock, so
    that what is copied is what it is about to change. `step` is called every few megabytes; what it raises ends
    the work and goes on to the caller. Never removed are the new snapshot and those whose ids are in `protect`.

    Raises `DatabaseError`: transient with the code DISK_SPACE where there is no room, with SNAPSHOT_DAMAGED where
    the database is at fault, transient for what disks and file systems do. Nothing is left behind then.
    """
    if reason not in REASONS:
        raise ValueError(f"unknown reason {reason!r}")
    busy_handler = BusyHandler(_SECONDS, CancelToken())
    with contextlib.closing(open_for_reading(database, busy_handler)) as source, new_part(database) as part:
        _require_room(source, part.path, database)
        copy_to(part.path, source, database, step)
        _require_sound(part.path, database, step)
        path = part.named(version, reason)
        with file_errors(database):
            size = put_on_disk(part.path, path, os.stat(database))
    snapshot = Snapshot(part.identity, database, path, part.taken_at, version, size, reason)
    if keep is not None:
        _prune(snapshot, part.others, keep, protect)
    return snapshot


def _require_room(source: apsw.Connection, part: str, database: str) -> None:
    with as_database_error(database):
        size = content_size(source)
    require_free(os.path.dirname(part), size + _MARGIN, "a snapshot", database, "snapshots")


def _require_sound(part: str, database: str, step: Callable[[], None]) -> None:
    with copying_errors(database, part):
        fault = damage(part, step)
    if fault:
        raise DatabaseError(
            f"cannot take a snapshot, because the database is damaged: {fault}",
            database=database,
            code=DAMAGED,
            hint="nothing was changed; restore an older snapshot or a backup, or use sqlite3's `.recover`",
        )


def discard(snapshot: Snapshot) -> None:
    """Remove one that nobody needs: the database still is what it holds."""
    _remove(snapshot.path)


def prune(newest: Snapshot, keep: int, spared: Collection[str] = ()) -> None:
    """Leave the `keep` newest of the same database and kind, `newest` and those whose ids are in `spared`."""
    with file_errors(newest.database):
        _prune(newest, names_in(os.path.dirname(newest.path)), keep, spared)


def _prune(newest: Snapshot, others: Mapping[str, SnapshotName], keep: int, spared: Collection[str]) -> None:
    kind = BACK_REASONS if newest.reason in BACK_REASONS else RUN_REASONS
    folder, own = os.path.split(newest.path)
    found = [(newest.taken_at, newest.id, own)] + [
        (other.taken_at, other.identity, name)
        for name, other in others.items()
        if other.reason in kind and name != own
    ]
    for _, identity, name in sorted(found)[:-keep]:
        if identity not in {newest.id, *spared}:
            _remove(os.path.join(folder, name))


def _remove(path: str) -> None:
    # One that cannot be removed (a person may have made it immutable) is no reason to stop a migration.
    with contextlib.suppress(OSError):
        os.unlink(path)


BEFORE_RESTORE = "before-restore"
BEFORE_REDO = "before-redo"


class Snapshotter:
    """Takes the snapshots of one database as its policy says, and tells an observer."""

    def __init__(
        self, database: str, policy: SnapshotPolicy, observer: Observer, cancel_token: CancelToken
    ) -> None:
        self._database = database
        self._policy = policy
        self._observer = observer
        self._cancel_token = cancel_token

    def take_before_step(self, connection: apsw.Connection, *, is_first: bool) -> None:
        """Take one before a step if the policy says so; `is_first` is the first of the run."""
        when = self._policy.when
        if when is SnapshotWhen.NEVER or (when is SnapshotWhen.BEFORE_RUN and not is_first):
            return
        size = content_size(connection)
        if size > self._policy.max_size:
            limit = readable_size(self._policy.max_size)
            self._observer.snapshot_skipped(f"its size is {readable_size(size)}, and max_size is {limit}")
            return
        self.take(when.value, version=highest_version(ledger.read(connection, self._database)))

    @contextlib.contextmanager
    def take_before_redo(self, version: int | None, protect: Collection[str] = ()) -> Iterator[Snapshot]:
        """Take one, whatever the policy says, before migrations are rolled back; it goes when that fails."""
        began = time.monotonic()
        taken = take(self._database, reason=BEFORE_REDO, version=version, step=self.raise_if_stopped)
        elapsed = time.monotonic() - began
        try:
            yield taken
        except BaseException:
            discard(taken)
            raise
        prune(taken, self._policy.keep, protect)
        self._tell(taken, elapsed)

    def take(self, reason: str, *, version: int | None = None, protect: Collection[str] = ()) -> None:
        """Take one; those in `protect` are not removed to make room. Raises `DatabaseError`."""
        began = time.monotonic()
        taken = take(
            self._database,
            reason=reason,
            version=version,
            keep=self._policy.keep,
            step=self.raise_if_stopped,
            protect=protect,
        )
        self._tell(taken, time.monotonic() - began)

    def _tell(self, taken: Snapshot, seconds: float) -> None:
        self._observer.snapshot_taken(taken.id, taken.size, round(seconds * 1000))

    def raise_if_stopped(self) -> None:
        """Raise when what is running has to end: nothing was changed yet."""
        self._cancel_token.beat()
        if self._cancel_token.deadline_passed(time.monotonic()):
            raise DatabaseError(
                f"the snapshot was interrupted: {self._cancel_token.reason}",
                database=self._database,
                code=INTERRUPTED,
                transient=True,
                hint="nothing was changed; run it again",
            )
