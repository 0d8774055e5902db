"""What comes before the first statement of a step, once the write lock is ours."""

import contextlib
import time
from collections.abc import Collection, Iterator

import apsw

from migrated.config.settings import SnapshotPolicy, SnapshotWhen
from migrated.core.errors import INTERRUPTED, DatabaseError
from migrated.core.migration import Step
from migrated.core.records import Snapshot, highest_version
from migrated.engine.backend import Observer
from migrated.sqlite import ledger, snapshots
from migrated.sqlite.content import content_size, has_objects
from migrated.sqlite.failures import failure
from migrated.sqlite.rewriting import require_room
from migrated.sqlite.space import readable_size
from migrated.system.cancellation import Supervision

BEFORE_RESTORE = "before-restore"
BEFORE_REDO = "before-redo"


class Keeper:
    """Takes the snapshots of one database as its policy says, and tells an observer."""

    def __init__(
        self, database: str, policy: SnapshotPolicy, observer: Observer, supervision: Supervision
    ) -> None:
        self._database = database
        self._policy = policy
        self._observer = observer
        self._supervision = supervision

    def keep_before(self, connection: apsw.Connection, *, is_first: bool) -> None:
        """Take one before a step if the policy says so; `is_first` is the first of the run."""
        when = self._policy.when
        if when is SnapshotWhen.NEVER or (when is SnapshotWhen.BEFORE_RUN and not is_first):
            return
        size = content_size(connection)
        if size > self._policy.max_size:
            limit = readable_size(self._policy.max_size)
            self._observer.snapshot_skipped(f"it has {readable_size(size)}, and max_size is {limit}")
            return
        self.keep(when.value, version=highest_version(ledger.read(connection, self._database)))

    @contextlib.contextmanager
    def redoing(self, version: int | None, spare: Collection[str] = ()) -> Iterator[Snapshot]:
        """Take one, whatever the policy says, before migrations are rolled back; it goes when that fails."""
        began = time.monotonic()
        taken = snapshots.take(self._database, reason=BEFORE_REDO, version=version, step=self.go_on)
        elapsed = time.monotonic() - began
        try:
            yield taken
        except BaseException:
            snapshots.discard(taken)
            raise
        snapshots.prune(taken, self._policy.keep, spare)
        self._tell(taken, elapsed)

    def keep(self, reason: str, *, version: int | None = None, spare: Collection[str] = ()) -> None:
        """Take one; those in `spare` are not removed to make room. Raises `DatabaseError`."""
        began = time.monotonic()
        taken = snapshots.take(
            self._database, reason=reason, version=version, keep=self._policy.keep, step=self.go_on, spare=spare
        )
        self._tell(taken, time.monotonic() - began)

    def _tell(self, taken: Snapshot, seconds: float) -> None:
        self._observer.snapshot_taken(taken.id, taken.size, round(seconds * 1000))

    def go_on(self) -> None:
        """Raise when what is running has to end: nothing was changed yet."""
        self._supervision.beat()
        if self._supervision.must_end(time.monotonic()):
            raise DatabaseError(
                f"it was interrupted: {self._supervision.reason}",
                database=self._database,
                code=INTERRUPTED,
                transient=True,
                hint="nothing was changed; run it again",
            )


class Preparation:
    """For one database and one run: the first step is prepared otherwise than those after it.

    `application_id` is given to a database that is new; 0 leaves it alone.
    """

    def __init__(self, database: str, keeper: Keeper, application_id: int) -> None:
        self._database = database
        self._keeper = keeper
        self._application_id = application_id
        self._is_first = True

    @contextlib.contextmanager
    def redoing(self, connection: apsw.Connection) -> Iterator[Snapshot | None]:
        """Keep the content in any case; None where there is none, or no file."""
        if not connection.filename or not has_objects(connection):
            yield None
            return
        with self._keeper.redoing(highest_version(ledger.read(connection, self._database))) as snapshot:
            yield snapshot

    def __call__(self, connection: apsw.Connection, step: Step, *, goes_on: bool, is_kept: bool = False) -> bool:
        """Prepare a step that begins a transaction, or that `goes_on` in one; return whether the database is new.

        The content `is_kept` already, or is kept as the policy says. Raises `DatabaseError` when there is no room
        for what will be written, or the snapshot fails.
        """
        is_new = not goes_on and not has_objects(connection)
        if is_new and self._application_id:
            connection.pragma("application_id", self._application_id)
        if connection.filename and not is_new and not goes_on and not is_kept:
            self._keep(connection, step)
        if connection.filename and not is_new:
            require_room(connection, step, self._database)
        self._is_first = False
        return is_new

    def _keep(self, connection: apsw.Connection, step: Step) -> None:
        try:
            self._keeper.keep_before(connection, is_first=self._is_first)
        except DatabaseError as error:
            if error.code != INTERRUPTED:
                raise
            # The step has begun as far as anybody else can tell.
            raise failure(step, error.message, hint=error.hint, code=INTERRUPTED, transient=True) from error
