"""Keeping the schema files of targets as their first databases are, and telling the log."""

import errno
from functools import partial

from migrated.config.settings import Target
from migrated.core.errors import DatabaseError
from migrated.engine.database import read_schema
from migrated.fleet.outcome import Outcome, OutcomeKind, internal_error
from migrated.logs import events
from migrated.logs.logger import Log, failure_keys
from migrated.system.cancellation import CancelToken

_HINTS = {
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "create its directory, or set schema_file to another path"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give this user write access to its directory"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space on the disk"),
}
_WELL = (OutcomeKind.CURRENT, OutcomeKind.APPLIED)
_HINT = "check schema_file and what exists at that path"


class SchemaFiles:
    """What was written last to each, and the complaint that was made. Used by one thread at a time."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._told: dict[str, str] = {}

    def update(self, target: Target, outcome: Outcome, log: Log, supervision: CancelToken) -> None:
        """Write the schema file of a target, if it has one, after work on its first database.

        Not where nothing was changed and not all is well; nor where the schema is as it was when this object wrote
        or compared it last, whatever became of the file since. A failure is logged, once for each cause, and
        never raised.
        """
        file = target.schema_file
        changed = outcome.applied or outcome.rolled_back
        if file is None or not (changed or outcome.result in _WELL):
            return
        log = log.bind(database=outcome.database.name, file=file)
        try:
            written = self._write(file, outcome.database.path, target.busy_timeout, supervision)
        except DatabaseError as error:
            self._complain(file, log, failure_keys(error))
        except OSError as error:
            self._complain(file, log, _keys_of(error))
        except Exception as surprise:  # noqa: BLE001 - the migrations are applied, whatever befalls this file
            self._complain(file, log, failure_keys(DatabaseError(**internal_error(surprise))))
        else:
            self._told.pop(file, None)
            if written:
                log(events.SCHEMA_DUMPED)

    def _write(self, file: str, database: str, busy_timeout: float, supervision: CancelToken) -> bool:
        # Imported here: most targets have no schema file, and `migrated up` starts sooner without.
        from migrated.system.files import write_if_other

        read = partial(read_schema, database, busy_timeout, supervision)
        written = False
        # Read again after each time: who writes last, of several processes, must not have read before the others.
        while (text := read()) is not None and text != self._last.get(file):
            written |= write_if_other(file, text)
            self._last[file] = text
        return written

    def _complain(self, file: str, log: Log, keys: dict[str, object]) -> None:
        cause = str(keys["reason"])
        if self._told.get(file) != cause:
            self._told[file] = cause
            log(events.SCHEMA_DUMP_FAILED, **{key: value for key, value in keys.items() if key != "file"})


def _keys_of(error: OSError) -> dict[str, object]:
    code = errno.errorcode.get(error.errno or 0)
    return {
        "reason": error.strerror or str(error),
        "hint": _HINTS.get(error.errno or 0, _HINT),
        "error": {"type": type(error).__name__, "message": str(error), "code": code},
    }
