"""Run an operation while no daemon manages the database, because a daemon would apply the migrations again."""

from collections.abc import Callable
from pathlib import Path

from migrated.core.errors import LockHeldError, MigrationError
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.system import file_locks

_OWN_COMMANDS = ("migrated down", "migrated restore")


def with_daemon_lock(database: DatabasePath, work: Callable[[], Outcome]) -> Outcome:
    """Run `work` while holding the daemon's lock.

    If another process holds the lock, `work` is not called and the outcome names the holder.
    """
    lock = file_locks.lock_path(database.path, file_locks.DAEMON)
    if not Path(database.path).exists() and not lock.exists():
        # There is no database and never was a daemon: taking the lock would only create the folder `.migrated`.
        return work()
    try:
        with file_locks.file_lock(database.path, file_locks.DAEMON, 0):
            return work()
    except LockHeldError as held:
        own_command = next((command for command in _OWN_COMMANDS if command in (held.holder or "")), None)
        if own_command is not None:
            held.message = f"another `{own_command}` is running on {database.name}: {held.holder}"
            held.hint = "wait until it has finished"
        else:
            held.message = (
                f"a daemon is running on {database.name} and would apply the migrations again: {held.holder}"
            )
            held.hint = "first move the file out of the migrations directory, or stop the daemon"
        return Outcome(database, OutcomeKind.UNAVAILABLE, error=held)
    except MigrationError as error:
        return Outcome(database, OutcomeKind.UNAVAILABLE, error=error)
