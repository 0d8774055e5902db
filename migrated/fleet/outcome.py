"""What an operation came to on one database, and the cause where it failed."""

import os
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from migrated.core.errors import MigrationError, RefusedError
from migrated.fleet.discovery import DatabasePath


class OutcomeKind(StrEnum):
    """What became of one database."""

    APPLIED = "applied"
    CURRENT = "current"
    FAILED = "failed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


class Outcome(NamedTuple):
    """What one piece of work on one database came to. `pending` is what is left; 0 where it cannot be told.

    `versions` are those that were applied or rolled back, in that order. `changes` has, by version, what the log
    says of the text of each changed migration, and `what` happened to it for the sentence.
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
        """Whether it went away meanwhile: what a pattern matched and is there no more was removed on purpose."""
        return (
            self.database.matched
            and self.result is OutcomeKind.UNAVAILABLE
            and not os.path.lexists(self.database.path)
        )

    @property
    def did_something(self) -> bool:
        """Whether there is anything to tell."""
        return self.result is not OutcomeKind.CURRENT


def internal_error(error: Exception) -> dict[str, str]:
    """What there is to say of a fault of our own."""
    import traceback

    return {
        "message": f"internal error: {error!r}",
        "hint": "this is a bug in migrated; please report it with this line",
        "statement": "".join(traceback.format_exception(error))[-1500:],
    }


class FailureCause(NamedTuple):
    """What databases have in common that are in trouble for one reason, whatever its exact words."""

    result: OutcomeKind
    error: str
    code: str | None
    versions: tuple[int | None, ...]


def cause_of(outcome: Outcome) -> FailureCause | None:
    """Why a database is in trouble; None where it is not."""
    error = outcome.error
    if error is None:
        return None
    offenders = tuple(offender.version for offender in error.offenders) if isinstance(error, RefusedError) else ()
    return FailureCause(outcome.result, type(error).__name__, error.code, offenders or (error.version,))
