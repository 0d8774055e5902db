"""Working on a database while no daemon looks after it: what a daemon would undo by applying again."""

from collections.abc import Callable
from pathlib import Path

from migrated.core.errors import LockHeldError, MigrationError
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.system import file_locks

_OURS = ("migrated down", "migrated restore")


def without_a_daemon(database: DatabasePath, work: Callable[[], Outcome]) -> Outcome:
    """Hold the daemon's lock meanwhile; refuse, naming the holder, where another has it."""
    lock = file_locks.lock_path(database.path, file_locks.DAEMON)
    if not Path(database.path).exists() and not lock.exists():
        # Nothing is there, and nobody was: the lock would only leave a folder behind.
        return work()
    try:
        with file_locks.holding(database.path, file_locks.DAEMON, 0):
            return work()
    except LockHeldError as held:
        ours = next((command for command in _OURS if command in (held.holder or "")), None)
        if ours is not None:
            held.message = f"another `{ours}` is running on {database.name}: {held.holder}"
            held.hint = "wait until it has finished"
        else:
            held.message = (
                f"a daemon is running on {database.name} and would apply the migrations again: {held.holder}"
            )
            held.hint = "first move the file out of the migrations directory, or stop the daemon"
        return Outcome(database, OutcomeKind.UNAVAILABLE, error=held)
    except MigrationError as error:
        return Outcome(database, OutcomeKind.UNAVAILABLE, error=error)
