"""One pass of the daemon: read the directories, find the databases, migrate each one.

A pass runs in the worker thread. It gets a snapshot of the main thread's state and posts its results as messages.
`ReconcileCache` keeps what the next pass can reuse.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from migrated.config.settings import Config, Target
from migrated.core.errors import DatabaseError, LockHeldError, MigrationFileError, RefusedError
from migrated.daemon.holding import DaemonLocks
from migrated.daemon.messages import (
    HALTED,
    DatabaseDone,
    DatabasesFound,
    DirectoryScanned,
    Message,
    PassEnded,
    RolloutHalted,
)
from migrated.daemon.scheduler import BackOff, Fingerprint
from migrated.daemon.status import Activity
from migrated.daemon.watcher import git_checkout_in_progress
from migrated.fleet.discovery import DatabasePath, Discovery
from migrated.fleet.job import DatabaseJob, Prototype
from migrated.fleet.locks import SharedLocks
from migrated.fleet.outcome import FailureCause, Outcome, OutcomeKind, cause_of, internal_error
from migrated.fleet.reporting import FEW
from migrated.fleet.rollout import BUSY_SECONDS, Halt, Rollout, Visit
from migrated.fleet.schema_dump import SchemaFiles
from migrated.fleet.waves import Waves
from migrated.logs import events
from migrated.logs.logger import Log
from migrated.sources.cache import DirectoryReader, Reading, timestamps_are_reliable
from migrated.sources.directory import Listing, Remark
from migrated.system.cancellation import CancelToken

_UNKNOWN = Fingerprint(None, ())


class ReconcileCache:
    """What passes remember, so that an idle pass opens no file. Used by the worker thread only."""

    def __init__(self) -> None:
        self.discovery = Discovery()
        self.reader = DirectoryReader()
        self.halts: dict[str, tuple[int, Halt]] = {}
        self.scanned: dict[str, tuple[Reading, list[DatabasePath]]] = {}
        # Hash of the directory revision and file stamp of each database that needs no visit. A hash instead of the
        # tuple saves memory with ten thousand databases.
        self._known: dict[str, int] = {}
        self._logs: dict[str, str] = {}

    def directory_changed(self, target: str, reading: Reading, databases: list[DatabasePath]) -> bool:
        """True if a target's directory or its list of databases changed since the previous pass."""
        reading_before, databases_before = self.scanned.get(target, (None, None))
        self.scanned[target] = reading, databases
        return reading is not reading_before or databases is not databases_before

    def changed(self, databases: Iterable[DatabasePath], revision: int) -> list[DatabasePath]:
        """Return the databases that must be visited. Costs two calls of stat() for each; no file is opened."""
        known, logs = self._known, self._logs
        found = []
        for database in databases:
            path = database.path
            if known.get(path) != hash((revision, *_stamp(path, logs.get(path) or f"{path}-wal"))):
                found.append(database)
        return found

    def remember(self, path: str, revision: int) -> None:
        """Remember that visiting this database again would change nothing: it is current, or refused.

        A database written too recently is not remembered: a further write within the same tick of the file
        system's clock would leave the same time stamp.
        """
        log = _log_of(path)
        stamp = _stamp(path, log)
        self.forget(path)
        # stamp[3] is the time of the database file, stamp[-1] that of its WAL if there is one.
        if stamp and timestamps_are_reliable(stamp[3], stamp[-1]):
            self._known[path] = hash((revision, *stamp))
            if log != f"{path}-wal":
                self._logs[path] = log

    def forget(self, path: str) -> None:
        """Forget a database, so that the next full pass visits it."""
        self._known.pop(path, None)
        self._logs.pop(path, None)

    def keep(self, paths: Iterable[str]) -> None:
        """Forget all databases that are not in `paths`."""
        for path in self._known.keys() - set(paths):
            self.forget(path)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """One pass, with a snapshot of the main thread's state.

    `only` limits the pass to these paths and ignores their back-off. Paths in `requested` are visited even if
    their rollout is halted. `resume_rollouts` ends all halts first. `failing` maps databases to the cause of their
    last failure: a failure known before the pass does not count towards a halt.
    """

    config: Config
    run_id: str
    log: Log
    locks: DaemonLocks
    post: Callable[[Message], None]
    cancel_token: CancelToken
    now: float
    known: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    requested: frozenset[str] = frozenset()
    back_offs: Mapping[str, BackOff] = field(default_factory=dict)
    failing: Mapping[str, FailureCause | None] = field(default_factory=dict)
    schemas: SchemaFiles = field(default_factory=SchemaFiles)
    activity: Activity = field(default_factory=Activity)
    cache: ReconcileCache = field(default_factory=ReconcileCache)
    resume_rollouts: bool = False

    def run(self) -> None:
        """Run the pass. Always posts `PassEnded`, also after an exception."""
        self.activity.begin()
        try:
            self.locks.reacquire_replaced()
            if self.resume_rollouts:
                self._resume_rollouts()
            assigned = self.cache.discovery.assign(self.config.targets)
            self._report_databases([database for _, databases in assigned for database in databases])
            for target, databases in assigned:
                try:
                    self._work_on_target(target, databases)
                except Exception as surprise:  # noqa: BLE001 - a bug met in one directory must not stop the others
                    fault = MigrationFileError(file=target.migrations, **internal_error(surprise))
                    self.post(DirectoryScanned(target.migrations, None, fault, _paths(databases)))
        finally:
            self.activity.end()
            self.post(PassEnded())

    def _resume_rollouts(self) -> None:
        for _, halt in self.cache.halts.values():
            self.log(events.FLEET_RESUMED, reason=f"`migrated resume`: trying {halt.error.label} again")
        self.cache.halts.clear()

    def _report_databases(self, databases: Sequence[DatabasePath]) -> None:
        new = [database for database in databases if database.path not in self.known]
        # Nothing new and the same number means the same set; comparing the sets at every pass would cost more.
        if new or len(databases) != len(self.known):
            self.post(DatabasesFound(tuple(databases)))
            self.cache.keep(database.path for database in databases)
        for database in new[:FEW]:
            self.log(events.DATABASE_DISCOVERED, database=database.name)
        if len(new) > FEW:
            others = events.DATABASE_DISCOVERED._replace(sentence="found {databases} more databases")
            self.log(others, databases=len(new) - FEW)

    def _work_on_target(self, target: Target, databases: list[DatabasePath]) -> None:
        try:
            reading = self._read(target.migrations)
        except RefusedError as error:
            self.cache.scanned.pop(_key(target), None)
            self.post(DirectoryScanned(target.migrations, None, error, _paths(databases)))
            return
        listing = reading.listing
        if self.cache.directory_changed(_key(target), reading, databases):
            self.post(DirectoryScanned(target.migrations, listing, None, _paths(databases)))
        if listing.invalid or listing.unfinished:
            return
        wanted = self._select(target, databases, reading.directory_revision)
        if wanted:
            self._roll_out(target, databases, wanted, reading)

    def _read(self, directory: str) -> Reading:
        """Read a migrations directory. If git began a checkout meanwhile, the listing counts as unfinished.

        Without that, the development policy would roll back a migration whose file git is just replacing. A lock
        that was there before does not count: a killed git leaves it behind, and the loop has waited for it.
        """
        was_in_progress = git_checkout_in_progress(directory)
        reading = self.cache.reader.read(directory, self.config.trust())
        if was_in_progress or not git_checkout_in_progress(directory):
            return reading
        remark = Remark("the git checkout", "git holds index.lock")
        return reading._replace(listing=Listing(directory, unfinished=[remark]))

    def _select(self, target: Target, databases: list[DatabasePath], revision: int) -> list[DatabasePath]:
        """Return the databases that this pass must visit."""
        halted_by, halt = self.cache.halts.get(_key(target), (revision, None))
        if halt and halted_by != revision:
            del self.cache.halts[_key(target)]
            self.log(
                events.FLEET_RESUMED,
                reason=f"the migrations changed since {halt.error.label} failed",
            )
            halt = None
        if halt:
            self._report_halt([each for each in databases if each.path not in self.known], halt, len(databases))
            return [database for database in databases if database.path in self.requested]
        if self.only is not None:
            return [database for database in databases if database.path in self.only]
        changed = self.cache.changed(databases, revision)
        # With `schema_file` the first database is always visited, so that a schema file that could not be written
        # is tried again at each pass.
        first = databases[:1] if target.schema_file is not None else []
        selected = [*first, *(each for each in changed if each not in first)]
        return [database for database in selected if not self._is_backing_off(database.path, revision)]

    def _is_backing_off(self, path: str, revision: int) -> bool:
        back_off = self.back_offs.get(path)
        return back_off is not None and not back_off.is_over(revision, fingerprint_of(path), self.now)

    def _roll_out(
        self, target: Target, databases: list[DatabasePath], wanted: list[DatabasePath], reading: Reading
    ) -> None:
        is_fleet = len(databases) > 1
        locked_directories: set[str] = set()
        with SharedLocks() as locks:
            job = DatabaseJob(
                target,
                reading.listing.migrations,
                lambda runner: runner.run(),
                self.log,
                lock_timeout=self.config.lock_timeout,
                cancel_token=self.cancel_token,
                lock_factory=locks.acquire,
                applies_all=True,
                in_fleet=is_fleet,
                prototype=Prototype(target, reading.listing.migrations),
            )
            rollout = Rollout(
                lambda visit: self._visit(job, visit, BUSY_SECONDS if is_fleet else None, locked_directories),
                lambda outcome: self._report(
                    target, outcome, reading.directory_revision, is_first=outcome.database is databases[0]
                ),
                Waves(len(databases), target.waves),
                self.config.workers,
                self.cancel_token,
                is_known=lambda outcome: self.failing.get(outcome.database.path) == cause_of(outcome),
            )
            halt = rollout.run(wanted)
        if halt is not None:
            self.cache.halts[_key(target)] = reading.directory_revision, halt
            self._report_halt(halt.untouched, halt, len(databases), is_new=True)

    def _visit(
        self, job: DatabaseJob, visit: Visit, busy_timeout: float | None, locked_directories: set[str]
    ) -> Outcome:
        """Migrate one database. `locked_directories` are those whose daemon lock this pass has checked."""
        database = visit.database
        self.cancel_token.beat()
        self.activity.visit(database.name)
        try:
            # The lock is in the directory of the real file, so a link needs a check of its own.
            folder = os.path.dirname(database.path)
            if folder not in locked_directories or os.path.islink(database.path):
                self.locks.ensure(database.path)
                locked_directories.add(folder)
            return job.run(database, self.activity, busy_timeout=busy_timeout, verbose=visit.verbose)
        except (LockHeldError, DatabaseError) as error:
            return Outcome(database, OutcomeKind.UNAVAILABLE, error=error)
        finally:
            self.activity.leave()

    def _report(self, target: Target, outcome: Outcome, revision: int, *, is_first: bool) -> None:
        if is_first:
            self.schemas.update(target, outcome, self.log, self.cancel_token)
        path = outcome.database.path
        # A refusal depends only on the ledger and the files: visiting again while both are unchanged is pointless.
        if outcome.result is OutcomeKind.REFUSED or (outcome.error is None and not outcome.pending):
            self.cache.remember(path, revision)
        else:
            self.cache.forget(path)
        # Taken after the run: our own writes must not count as a change by somebody else, which ends a back-off.
        fingerprint = fingerprint_of(path) if outcome.error else _UNKNOWN
        self.post(DatabaseDone(outcome, revision, fingerprint, self.run_id))

    def _report_halt(
        self, databases: Sequence[DatabasePath], halt: Halt, total: int, *, is_new: bool = False
    ) -> None:
        if databases:
            error = RefusedError(
                f"rollout halted: {halt.error.label} failed in {halt.failures} of {total} databases: "
                f"{halt.error.message}",
                version=halt.error.version,
                name=halt.error.name,
                code=HALTED,
                hint="fix the file, or run `migrated resume` to continue with the other databases",
            )
            self.post(RolloutHalted(tuple(databases), error, halt, total, is_new))


def _paths(databases: list[DatabasePath]) -> tuple[str, ...]:
    return tuple(database.path for database in databases)


def _key(target: Target) -> str:
    # Two targets may share a directory, each with its own halts and databases.
    return f"{target.migrations}: {target.databases}"


_Stamp = tuple[int, ...]


def _stamp(path: str, log: str) -> _Stamp:
    """Return what stat() says of a database and its WAL file; an empty tuple if the database does not exist."""
    try:
        file = os.stat(path)
    except OSError:
        return ()
    try:
        written = os.stat(log)
    except OSError:
        return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns
    return file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, written.st_size, written.st_mtime_ns


def _log_of(path: str) -> str:
    # SQLite follows symbolic links and puts the WAL beside the real file.
    return f"{os.path.realpath(path)}-wal"


def fingerprint_of(path: str) -> Fingerprint:
    """Return a database's fingerprint, with two calls of stat()."""
    stamp = _stamp(path, _log_of(path))
    return Fingerprint(stamp[:2] or None, stamp[2:])
