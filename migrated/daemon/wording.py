"""What is wrong with a database, in the few words that a line of status has room for."""

import textwrap

from migrated.core.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationError,
    MigrationNotFoundError,
    RefusedError,
    UnfinishedError,
)
from migrated.fleet.outcome import Outcome, Result

_STATUS_WIDTH = 100
_KINDS = {
    ChecksumMismatchError.code: "checksum mismatch in",
    MigrationNotFoundError.code: "no file any more of",
    LateMigrationError.code: "too late:",
    UnfinishedError.code: "stopped half way:",
}


def is_foreign(outcome: Outcome) -> bool:
    """Whether a pattern matches a file that is no database: that is said once, and no trouble of ours."""
    return outcome.database.matched and outcome.error is not None and outcome.error.code == "SQLITE_NOTADB"


def short(outcome: Outcome) -> str:
    """What is wrong with a database, with what matters most in front."""
    error = outcome.error
    if error is None:
        return outcome.database.name
    if isinstance(error, RefusedError) and error.code in _KINDS:
        text = f"{_KINDS[error.code]} {_labels(error)} ({outcome.database.name})"
    elif outcome.result is Result.FAILED and error.version is not None:
        text = f"{_labels(error)} failed ({outcome.database.name}): {error.message}"
    else:
        text = f"{outcome.database.name}: {error.message}"
    return textwrap.shorten(text, _STATUS_WIDTH, placeholder=" ...")


def _labels(error: MigrationError) -> str:
    offenders = error.offenders if isinstance(error, RefusedError) else ()
    first = f"{error.version}_{error.name}" if error.version is not None else offenders[0].label
    return first if len(offenders) <= 1 else f"{first} and {len(offenders) - 1} more"
