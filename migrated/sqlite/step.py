"""Running one step in the transaction that is open, and recording it there."""

import time

import apsw

from migrated.core.migration import Step
from migrated.engine.backend import Done
from migrated.sqlite import history, repeatables
from migrated.sqlite.checks import Checks, UnacceptableError
from migrated.sqlite.failures import failure, interrupted, translated
from migrated.sqlite.history import Course
from migrated.sqlite.oversight import Oversight
from migrated.sqlite.script import StatementError, run_script


def run_step(
    connection: apsw.Connection,
    step: Step,
    checks: Checks,
    oversight: Oversight,
    database: str,
    *,
    reason: str | None = None,
) -> Done:
    """Run the text of a migration to its end and enter it in the ledger; the caller commits or undoes both."""
    started, changes = time.monotonic(), connection.total_changes()

    def before(offset: int, text: str) -> None:
        oversight.statement_begins(offset)
        # A statement of a long script does what those before it did.
        if checks.guard.has_touched:
            with oversight.checking():
                checks.before(text)

    try:
        with oversight.over(connection, step):
            run_script(connection, step.sql, checks.guard, before)
            if not connection.in_transaction:
                raise failure(step, "the migration ended its own transaction")
            with oversight.checking():
                checks.require_acceptable()
    except StatementError as error:
        raise translated(error, step, database, oversight) from error.__cause__
    except UnacceptableError as error:
        raise failure(step, error.message, hint=error.hint, code=error.code) from None
    except apsw.InterruptError as error:
        # While we looked at the foreign keys.
        raise interrupted(step, oversight) or error from error
    rows_changed = connection.total_changes() - changes
    elapsed = round((time.monotonic() - started) * 1000)
    dropped = checks.dropped()
    course = Course(elapsed, rows_changed, reason=reason)
    if step.migration.is_repeatable:
        entry = repeatables.enter(connection, step.migration, elapsed, checks.guard.made)
        history.record_repeatable(connection, step.migration, course)
    else:
        entry = history.record_step(connection, step, course)
    return Done(entry, elapsed, rows_changed, dropped)
