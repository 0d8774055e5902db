"""Write the schema file of a target after its first database changed, and log the result."""

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
_SUCCEEDED = (OutcomeKind.CURRENT, OutcomeKind.APPLIED)
_HINT = "check schema_file and what exists at that path"


class SchemaFiles:
    """Remembers the last text and the last logged failure of each schema file. Not thread-safe."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._logged: dict[str, str] = {}

    def update(self, target: Target, outcome: Outcome, log: Log, cancel_token: CancelToken) -> None:
        """Write the schema file of a target, if it has one, after work on its first database.

        Does nothing after a failure that changed nothing, or if the schema equals the one that this object last
        wrote or compared, even if the file was edited since. A failure to write is logged once per cause and
        never raised.
        """
        file = target.schema_file
        changed = outcome.applied or outcome.rolled_back
        if file is None or not (changed or outcome.result in _SUCCEEDED):
            return
        log = log.bind(database=outcome.database.name, file=file)
        try:
            written = self._write(file, outcome.database.path, target.busy_timeout, cancel_token)
        except DatabaseError as error:
            self._log_failure(file, log, failure_keys(error))
        except OSError as error:
            self._log_failure(file, log, _keys_of(error))
        except Exception as error:  # noqa: BLE001 - the migrations are applied; this file must not fail the run
            self._log_failure(file, log, failure_keys(DatabaseError(**internal_error(error))))
        else:
            self._logged.pop(file, None)
            if written:
                log(events.SCHEMA_DUMPED)

    def _write(self, file: str, database: str, busy_timeout: float, cancel_token: CancelToken) -> bool:
        # Imported here: most targets have no schema file, and `migrated up` starts faster without it.
        from migrated.system.files import replace_if_changed

        read = partial(read_schema, database, busy_timeout, cancel_token)
        written = False
        # Read again after each write: otherwise the process that writes last may have read before the others
        # changed the schema, and the file would stay old.
        while (text := read()) is not None and text != self._last.get(file):
            written |= replace_if_changed(file, text)
            self._last[file] = text
        return written

    def _log_failure(self, file: str, log: Log, keys: dict[str, object]) -> None:
        cause = str(keys["reason"])
        if self._logged.get(file) != cause:
            self._logged[file] = cause
            log(events.SCHEMA_DUMP_FAILED, **{key: value for key, value in keys.items() if key != "file"})


def _keys_of(error: OSError) -> dict[str, object]:
    code = errno.errorcode.get(error.errno or 0)
    return {
        "reason": error.strerror or str(error),
        "hint": _HINTS.get(error.errno or 0, _HINT),
        "error": {"type": type(error).__name__, "message": str(error), "code": code},
    }
