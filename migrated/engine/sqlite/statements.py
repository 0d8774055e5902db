"""Run a script statement by statement; an error names the migration, the statement and its position."""

from collections.abc import Callable
from typing import Any

import apsw

from migrated.core.errors import INTERRUPTED, ExecutionFailedError, MigrationError, RollbackFailedError
from migrated.core.migration import MigrationDirection, Step
from migrated.core.sql import first_token, statement_end
from migrated.engine.sqlite.authorizer import Authorizer, explain, refusal_at_sight
from migrated.engine.sqlite.connection import database_error_of, result_name
from migrated.engine.sqlite.progress import ProgressMonitor

_EXCERPT_WIDTH = 120


class StatementError(Exception):
    """A statement failed. Offsets count characters of the script from 0."""

    def __init__(self, message: str, hint: str | None, *, script: str, start: int, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.script = script
        self.start = start
        self.offset = offset

    @property
    def statement(self) -> str:
        """The failing statement, without the comments above it."""
        return self.script[self.start : statement_end(self.script, self.start)]

    @property
    def line(self) -> int:
        """The line of the fault, counted from 1."""
        return self.script.count("\n", 0, self.offset) + 1

    @property
    def column(self) -> int:
        """The column of the fault in its line, counted from 1."""
        return self.offset - self.script.rfind("\n", 0, self.offset)


def run_script(
    connection: apsw.Connection,
    script: str,
    authorizer: Authorizer,
    before: Callable[[int, str], None] = lambda _offset, _text: None,
    span: tuple[int, int] | None = None,
) -> tuple[Any, ...]:
    """Run every statement of a script, or of a `span` of it, to its end; return the last row.

    `before` is called with the offset and the text of each statement once it is prepared, and may raise. Raises
    `StatementError`, with SQLite's error as its cause, at the first statement that fails or is not allowed.
    """
    start, end = span or (0, len(script))
    begun = prepared = start

    def trace(_cursor: apsw.Cursor, statement: str, _bindings: Any) -> bool:
        # The texts that apsw passes are consecutive pieces of the script, so their lengths give the offset.
        nonlocal begun, prepared
        begun, prepared = prepared, prepared + len(statement)
        before(begun, statement)
        return True

    cursor = connection.cursor()
    cursor.exec_trace = trace
    connection.authorizer = authorizer
    last: tuple[Any, ...] = ()
    try:
        last = _drained(cursor.execute(script[start:end], can_cache=False))
    except apsw.Error as error:
        # Off before _fails_to_prepare: its EXPLAIN must not be refused or counted as an effect.
        connection.authorizer = None
        # Either the last traced statement was running, or the one after it was being prepared.
        in_preparation = authorizer.reason is not None or _fails_to_prepare(
            connection, script[prepared:end], error
        )
        raise _located(error, script, prepared if in_preparation else begun, authorizer) from error
    finally:
        connection.authorizer = None
    return last


def _drained(rows: apsw.Cursor) -> tuple[Any, ...]:
    """Fetch all rows and return the last one: SQLite stops executing where the caller stops fetching."""
    last: tuple[Any, ...] = ()
    while True:
        try:
            for row in rows:
                last = row
        except UnicodeDecodeError:
            # Old databases have texts in other encodings. The row is not needed, and the cursor is past it.
            continue
        return last


def _fails_to_prepare(connection: apsw.Connection, rest: str, error: apsw.Error) -> bool:
    if getattr(error, "error_offset", -1) >= 0:
        return True
    if isinstance(error, apsw.InterruptError):
        return False
    if not connection.in_transaction or not rest:
        return False
    try:
        # Prepared as EXPLAIN, so that nothing runs.
        next(connection.cursor().execute(rest, can_cache=False, explain=1), None)
    except apsw.Error as again:
        return str(again) == str(error)
    return False


def _located(error: apsw.Error, script: str, base: int, authorizer: Authorizer) -> StatementError:
    at = getattr(error, "error_offset", -1)
    start = first_token(script, base)
    start = base if start is None else start
    # SQLite counts bytes of UTF-8; our offsets count characters.
    offset = base + len(script[base:].encode()[:at].decode(errors="ignore")) if at >= 0 else start
    at_sight = refusal_at_sight(script[start : statement_end(script, start)])
    message, hint = (authorizer.reason, authorizer.hint) if authorizer.reason else at_sight or explain(error)
    return StatementError(message, hint, script=script, start=start, offset=max(offset, start))


def excerpt(error: StatementError, first_line: int) -> str:
    """Return the failing line with its number in the file, and a caret under the column."""
    line_start = error.offset - error.column + 1
    line = error.script[line_start:].partition("\n")[0]
    column = error.column - 1
    cut = max(0, column - _EXCERPT_WIDTH // 2)
    shown = line[cut : cut + _EXCERPT_WIDTH]
    under = "".join("\t" if character == "\t" else " " for character in shown[: column - cut])
    number = str(first_line + error.line - 1)
    return f"{number} | {shown}\n{' ' * len(number)} | {under}^"


TIMED_OUT = "STATEMENT_TIMEOUT"


def failure(
    step: Step,
    message: str,
    *,
    hint: str | None = None,
    code: str | None = None,
    transient: bool = False,
) -> MigrationError:
    """Return the error for a failed migration, of the type for its direction."""
    migration = step.migration
    kind = ExecutionFailedError if step.direction is MigrationDirection.UP else RollbackFailedError
    version, name = migration.known_as
    return kind(
        message, hint=hint, code=code, transient=transient, version=version, name=name, file=migration.file
    )


def translated(error: StatementError, step: Step, database: str, monitor: ProgressMonitor) -> MigrationError:
    """Return the error with its position in the file; a `DatabaseError` if the SQL is not the cause."""
    place, migration = step.place, step.migration
    found = interrupted(step, monitor) or _kind_of(error, step, database)
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
    of_environment = database_error_of(cause, database)
    return of_environment or failure(step, error.message, hint=error.hint, code=result_name(cause))


def interrupted(step: Step, monitor: ProgressMonitor) -> MigrationError | None:
    """Return the error for an interrupted step, with the cause; None if it was not interrupted."""
    if monitor.cause is None:
        return None
    if monitor.stopped_on_request:
        hint = "run it again; stop_grace sets how long a migration may take to finish after a stop request"
        return failure(step, monitor.cause, hint=hint, code=INTERRUPTED, transient=True)
    hint = "split the statement into smaller ones, or raise statement_timeout"
    return failure(step, monitor.cause, hint=hint, code=TIMED_OUT)
