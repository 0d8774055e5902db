"""The messages that the daemon's loop receives from the worker, the watchers and the signal handlers."""

from dataclasses import dataclass

from migrated.core.errors import RefusedError
from migrated.daemon.scheduler import Fingerprint
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome
from migrated.fleet.rollout import Halt
from migrated.sources.directory import Listing


@dataclass(frozen=True, slots=True)
class HookEnded:
    """The program of a hook has ended, however that was."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A directory, or any where it is not said, may have changed; of `name` see `DirectoryWatch`."""

    directory: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal came."""

    number: int


HALTED = "FLEET_HALTED"


@dataclass(frozen=True, slots=True)
class DirectoryScanned:
    """A directory was read, or could not be; `databases` are the paths of those that take its migrations."""

    directory: str
    listing: Listing | None
    error: RefusedError | None = None
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabasesFound:
    """The databases of all targets, as they are now. Those that are not among them are gone."""

    databases: tuple[DatabasePath, ...]


@dataclass(frozen=True, slots=True)
class DatabaseDone:
    """A database was worked on, with these migrations, when it looked like this before."""

    outcome: Outcome
    migrations: int
    fingerprint: Fingerprint
    run_id: str


@dataclass(frozen=True, slots=True)
class RolloutHalted:
    """These databases, of so many, are not worked on: what is new for them failed in others, now or earlier."""

    databases: tuple[DatabasePath, ...]
    error: RefusedError
    halt: Halt
    total: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class PassEnded:
    """The pass is over."""


Message = DirectoryScanned | DatabasesFound | DatabaseDone | RolloutHalted | PassEnded
