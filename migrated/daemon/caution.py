"""A word about running as root, which no migration needs."""

import os

from migrated.config.settings import Config
from migrated.logs import events
from migrated.logs.log import Log
from migrated.system import permissions


def warn_of_root(config: Config, log: Log) -> None:
    """Say it where this is root, naming the users to whom directories of migrations belong."""
    if os.geteuid() != 0:
        return
    strangers = {user for target in config.targets if (user := _owner(target.migrations))}
    reason = "whoever can write the migrations changes databases as root"
    if strangers:
        names = ", ".join(sorted(map(permissions.name_of, strangers)))
        reason = f"what {names} puts among the migrations is run as root"
    hint = "run it as the user to whom the databases belong (User= in the unit)"
    log(events.DAEMON_AS_ROOT, reason=reason, hint=hint)


def _owner(directory: str) -> int | None:
    try:
        return os.stat(directory).st_uid
    except OSError:
        return None
