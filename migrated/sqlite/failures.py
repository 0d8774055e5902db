"""From an error of SQLite's, or a refusal of ours, to the `MigrationError` that names migration and place."""

import apsw

from migrated.core.errors import INTERRUPTED, ExecutionFailedError, MigrationError, RollbackFailedError
from migrated.core.migration import MigrationDirection, Step
from migrated.sqlite.connection import environment_error, result_name
from migrated.sqlite.oversight import Oversight
from migrated.sqlite.script import StatementError, excerpt

TIMED_OUT = "STATEMENT_TIMEOUT"


def failure(
    step: Step,
    message: str,
    *,
    hint: str | None = None,
    code: str | None = None,
    transient: bool = False,
) -> MigrationError:
    """The failure of a migration on its way up or down."""
    migration = step.migration
    kind = ExecutionFailedError if step.direction is MigrationDirection.UP else RollbackFailedError
    version, name = migration.known_as
    return kind(
        message, hint=hint, code=code, transient=transient, version=version, name=name, file=migration.file
    )


def translated(error: StatementError, step: Step, database: str, oversight: Oversight) -> MigrationError:
    """The same with the place in the file; a `DatabaseError` where the SQL is not to blame."""
    place, migration = step.place, step.migration
    found = interrupted(step, oversight) or _kind_of(error, step, database)
    found.version, found.name = migration.known_as
    found.file = migration.file
    found.line = place.line + error.line - 1
    found.column = error.column + (place.column - 1 if error.line == 1 else 0)
    found.statement = error.statement
    found.excerpt = excerpt(error, place.line)
    return found


def _kind_of(error: StatementError, step: Step, database: str) -> MigrationError:
    cause = error.__cause__
    if not isinstance(cause, apsw.Error):
        return failure(step, error.message, hint=error.hint)
    of_environment = environment_error(cause, database)
    return of_environment or failure(step, error.message, hint=error.hint, code=result_name(cause))


def interrupted(step: Step, oversight: Oversight) -> MigrationError | None:
    """The failure of what was interrupted, with the cause; None where nothing was."""
    if oversight.cause is None:
        return None
    if oversight.was_told_to_stop:
        hint = "run it again; `stop_grace` says how long it may take to finish"
        return failure(step, oversight.cause, hint=hint, code=INTERRUPTED, transient=True)
    hint = "make the statement do less at a time, or raise statement_timeout"
    return failure(step, oversight.cause, hint=hint, code=TIMED_OUT)
