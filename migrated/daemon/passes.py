"""One pass: read the directories, find the databases, bring each up to date. Runs in the worker's thread.

It is given what it needs and tells what it found by messages; it owns no state.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from migrated import events
from migrated.daemon.activity import Activity
from migrated.daemon.holding import DaemonLocks
from migrated.daemon.schedule import Fingerprint, Rest
from migrated.discovery import DatabasePath, assign
from migrated.dumping import SchemaFiles
from migrated.errors import DatabaseError, LockHeldError, MigrationFileError, RefusedError
from migrated.fleet import Outcome, Result, internal, work_on
from migrated.logs import Log
from migrated.model import Migration
from migrated.settings import Config, Target
from migrated.sources.directory import Listing, read_directory
from migrated.supervision import Supervision


@dataclass(frozen=True, slots=True)
class Scanned:
    """A directory was read, or could not be; `databases` are the paths of those that take its migrations."""

    directory: str
    listing: Listing | None
    error: RefusedError | None = None
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The databases of all targets, as they are now. Those that are not among them are gone."""

    databases: tuple[DatabasePath, ...]


@dataclass(frozen=True, slots=True)
class Visited:
    """A database was worked on, with these migrations, when it looked like this before."""

    outcome: Outcome
    migrations: int
    fingerprint: Fingerprint
    run_id: str


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The pass is over."""


Message = Scanned | Found | Visited | PassEnded


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass works by: a snapshot of what the owner knows.

    `only` limits it to some databases' paths, which are then tried whatever they rest for.
    """

    config: Config
    run_id: str
    log: Log
    locks: DaemonLocks
    post: Callable[[Message], None]
    supervision: Supervision
    now: float
    known: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    resting: Mapping[str, Rest] = field(default_factory=dict)
    schemas: SchemaFiles = field(default_factory=SchemaFiles)
    activity: Activity = field(default_factory=Activity)

    def run(self) -> None:
        """Do it, and post `PassEnded` whatever happens."""
        self.activity.begin()
        try:
            self.locks.mend()
            assigned = assign(self.config.targets)
            self.post(Found(tuple(database for _, databases in assigned for database in databases)))
            for target, databases in assigned:
                try:
                    self._work_on_target(target, databases)
                except Exception as surprise:  # noqa: BLE001 - one directory's surprise must not stop the others
                    fault = MigrationFileError(file=target.migrations, **internal(surprise))
                    self.post(Scanned(target.migrations, None, fault, _paths(databases)))
        finally:
            self.activity.end()
            self.post(PassEnded())

    def _work_on_target(self, target: Target, databases: list[DatabasePath]) -> None:
        for database in databases:
            if database.path not in self.known:
                self.log(events.DATABASE_DISCOVERED, database=database.name)
        try:
            listing = read_directory(target.migrations, self.config.trust())
        except RefusedError as error:
            self.post(Scanned(target.migrations, None, error, _paths(databases)))
            return
        self.post(Scanned(target.migrations, listing, None, _paths(databases)))
        if listing.invalid or listing.unfinished:
            return
        mark = _mark(listing.migrations)
        for database in databases:
            if self.supervision.stop_requested():
                return
            self._visit(target, database, listing.migrations, mark, is_first=database is databases[0])

    def _visit(
        self, target: Target, database: DatabasePath, migrations: list[Migration], mark: int, *, is_first: bool
    ) -> None:
        self.supervision.beat()
        if self.only is not None and database.path not in self.only:
            return
        fingerprint = look_at(database.path)
        rest = self.resting.get(database.path) if self.only is None else None
        if rest is not None and not rest.is_over(mark, fingerprint, self.now):
            return
        self.activity.visit(database.name)
        outcome = self._work(target, database, migrations)
        if is_first:
            self.schemas.update(target, outcome, self.log, self.supervision)
        # What we wrote ourselves must not pass for somebody else's change.
        after = look_at(database.path)
        self.post(Visited(outcome, mark, after, self.run_id))

    def _work(self, target: Target, database: DatabasePath, migrations: list[Migration]) -> Outcome:
        try:
            self.locks.ensure(database.path)
            return work_on(
                database,
                target,
                migrations,
                lambda runner: runner.run(),
                self.log,
                lock_timeout=self.config.lock_timeout,
                supervision=self.supervision,
                also=self.activity,
            )
        except (LockHeldError, DatabaseError) as error:
            return Outcome(database, Result.UNAVAILABLE, error=error)


def _paths(databases: list[DatabasePath]) -> tuple[str, ...]:
    return tuple(database.path for database in databases)


def _mark(migrations: list[Migration]) -> int:
    return hash(tuple(migrations))


def look_at(path: str) -> Fingerprint:
    """A database's fingerprint: two calls of stat()."""
    try:
        status = os.stat(path)
    except OSError:
        return Fingerprint(None, ())
    try:
        # Beside the file itself, also where the path is a link to it.
        log = os.stat(f"{os.path.realpath(path)}-wal")
        written: tuple[int, ...] = (log.st_size, log.st_mtime_ns)
    except OSError:
        written = ()
    return Fingerprint((status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns, *written))
