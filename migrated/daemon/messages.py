"""Messages posted to the daemon's main loop by the worker, the watchers, hooks and signal handlers."""

from dataclasses import dataclass

from migrated.core.errors import RefusedError
from migrated.daemon.scheduler import Fingerprint
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome
from migrated.fleet.rollout import Halt
from migrated.sources.directory import Listing


@dataclass(frozen=True, slots=True)
class HookEnded:
    """A hook program has ended, successfully or not."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A directory may have changed; None: any of them. For `name` see `DirectoryWatch`."""

    directory: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Signalled:
    """The process received signal `number`."""

    number: int


HALTED = "FLEET_HALTED"


@dataclass(frozen=True, slots=True)
class DirectoryScanned:
    """A directory was read, or failed with `error`. `databases` are the paths of the databases that use it."""

    directory: str
    listing: Listing | None
    error: RefusedError | None = None
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabasesFound:
    """The current databases of all targets. Known databases that are not among them are gone."""

    databases: tuple[DatabasePath, ...]


@dataclass(frozen=True, slots=True)
class DatabaseDone:
    """A run on one database has ended.

    `migrations` is the revision of the directory; `fingerprint` is that of the file after a failed run.
    """

    outcome: Outcome
    migrations: int
    fingerprint: Fingerprint
    run_id: str


@dataclass(frozen=True, slots=True)
class RolloutHalted:
    """A rollout is halted: `databases`, of `total`, are not migrated because a migration failed in others.

    `is_new` is false if an earlier pass halted the rollout.
    """

    databases: tuple[DatabasePath, ...]
    error: RefusedError
    halt: Halt
    total: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The pass has ended."""


Message = DirectoryScanned | DatabasesFound | DatabaseDone | RolloutHalted | PassEnded
