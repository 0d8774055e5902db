"""The outcome of an operation on one database, and the cause of a failure."""

import os
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from migrated.core.errors import MigrationError, RefusedError
from migrated.fleet.discovery import DatabasePath


class OutcomeKind(StrEnum):
    """How an operation on one database ended."""

    APPLIED = "applied"
    CURRENT = "current"
    FAILED = "failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


class Outcome(NamedTuple):
    """The outcome of one operation on one database.

    `pending` is the number of migrations left, 0 if unknown. `versions` were applied or rolled back, in order.
    `changes` has, by version, the log keys about the text of each changed migration, and `what` for the sentence.
    """

    database: DatabasePath
    result: OutcomeKind
    applied: int = 0
    rolled_back: int = 0
    pending: int = 0
    execution_time_ms: int = 0
    error: MigrationError | None = None
    changes: Mapping[int, Mapping[str, object]] = MappingProxyType({})
    versions: tuple[int, ...] = ()

    @property
    def is_gone(self) -> bool:
        """True if the file that a glob matched no longer exists: it was removed on purpose, which is no error."""
        return (
            self.database.matched
            and self.result is OutcomeKind.UNAVAILABLE
            and not os.path.lexists(self.database.path)
        )

    @property
    def did_something(self) -> bool:
        """True unless nothing was pending."""
        return self.result is not OutcomeKind.CURRENT


def internal_error(error: Exception) -> dict[str, str]:
    """Return message, hint and traceback for an exception that is a bug in migrated."""
    import traceback

    from migrated.logs.sink import LONGEST_LINE

    return {
        "message": f"internal error: {error!r}",
        "hint": "this is a bug in migrated; please report it with this line",
        # The end of a traceback has the raising frames. Outcomes are kept for hours, and no log line has room for
        # more.
        "traceback": "".join(traceback.format_exception(error))[-LONGEST_LINE:],
    }


class FailureCause(NamedTuple):
    """What failures with one cause have in common, even if their messages differ."""

    result: OutcomeKind
    error: str
    code: str | None
    versions: tuple[int | None, ...]


def cause_of(outcome: Outcome) -> FailureCause | None:
    """Return the cause of a failed outcome; None if it has no error."""
    # The versions, not the message, identify a cause: messages contain names and paths.
    error = outcome.error
    if error is None:
        return None
    offenders = tuple(offender.version for offender in error.offenders) if isinstance(error, RefusedError) else ()
    # An internal error has the class and code of an unavailable database, but is no such thing.
    kind = "internal error" if error.traceback else type(error).__name__
    return FailureCause(outcome.result, kind, error.code, offenders or (error.version,))
