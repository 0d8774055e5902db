"""All errors that this package raises. Attributes are the interface; texts may change."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def label_of(version: object, name: str) -> str:
    """Return `<version>_<name>`, or the name alone (`R__<name>`) for a repeatable migration."""
    return f"{version}_{name}" if version else name


class MigrationError(Exception):
    """Base class of all errors of this package; never raised itself.

    `message` says what was found and what was expected, `hint` what to do next; `str()` contains both, after the
    place. Lines and columns count from 1 and refer to `file`. `completed` holds the `AppliedMigration`s that were
    committed before the failure, in the same direction. `code` is stable: SQLite's name of the result code if
    SQLite reported the failure, otherwise the code of the class or a more specific one. `transient` means that a
    retry may succeed without anybody changing anything. `traceback` is the text of the traceback, its end if it is
    long, if the error stands for an exception that is a bug in migrated; otherwise None.
    """

    exit_code = 1
    code = "MIGRATION"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        version: int | None = None,
        name: str | None = None,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        statement: str | None = None,
        excerpt: str | None = None,
        code: str | None = None,
        transient: bool = False,
        traceback: str | None = None,
        completed: Sequence[Any] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.version = version
        self.name = name
        self.file = file
        self.line = line
        self.column = column
        self.statement = statement
        self.excerpt = excerpt
        self.code = code or type(self).code
        self.transient = transient
        self.traceback = traceback
        self.completed = tuple(completed)

    @property
    def label(self) -> str:
        """The label of the migration; empty if the error is not about one."""
        return label_of(self.version, self.name or "")

    @property
    def place(self) -> str:
        """`file:line:column` as far as known; empty if unknown."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def __str__(self) -> str:
        first = f"{self.place}: {self.message}" if self.place else self.message
        hint = f"hint: {self.hint}" if self.hint else None
        return "\n".join(part for part in (first, self.excerpt, hint) if part)


INTERRUPTED = "INTERRUPTED"
"""The error code if a migration was interrupted by a stop request."""


class ExecutionFailedError(MigrationError):
    """A statement of a migration failed, is not allowed, or was interrupted.

    The whole migration was rolled back. Without a transaction, only the failing statement was.
    """

    code = "EXECUTION_FAILED"


class RollbackFailedError(MigrationError):
    """A rollback cannot start (a step has no down text), or failed and was undone."""

    code = "ROLLBACK_FAILED"


class RefusedError(MigrationError):
    """Base class of errors that block a database until a person acts. Nothing was changed.

    `offenders` holds the status of every migration concerned, lowest version first. `recorded` maps the version of
    each changed migration to the migration as it was applied, as far as the history has it.
    """

    exit_code = 4
    code = "REFUSED"

    def __init__(self, message: str, *, offenders: Sequence[Any] = (), **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.offenders = tuple(offenders)
        self.recorded: Mapping[int, Any] = {}


class ChecksumMismatchError(RefusedError):
    """The text of applied migrations has changed.

    `expected` (recorded when applied) and `found` (of the current text) are the checksums of the first one.
    """

    code = "CHECKSUM_MISMATCH"

    def __init__(
        self, message: str, *, expected: str | None = None, found: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(message, **attributes)
        self.expected = expected
        self.found = found


class MigrationNotFoundError(RefusedError):
    """A requested or applied version does not exist among the migrations."""

    code = "MIGRATION_NOT_FOUND"


class LateMigrationError(RefusedError):
    """Pending migrations are below the highest applied version, and `on_late` is `refuse`."""

    code = "LATE_MIGRATION"


class UnfinishedError(RefusedError):
    """A migration without a transaction stopped in the middle; `migrated repair` resolves it."""

    code = "UNFINISHED"


class InvalidFormatError(RefusedError):
    """The name, text, header or a directive of a migration is invalid."""

    code = "INVALID_FORMAT"


class MigrationFileError(RefusedError):
    """The migrations directory or a file in it is missing, unreadable or still being written."""

    code = "MIGRATION_FILE"


class DatabaseError(MigrationError):
    """A database could not be opened, read or written.

    `code` is SQLite's name of the result code, or one of ours. `transient` is set for busy databases, I/O errors,
    a full disk and a file that does not exist yet. `holder` names the process that keeps it busy, if known.
    """

    exit_code = 6
    code = "DATABASE"

    def __init__(
        self, message: str, *, database: str | None = None, holder: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(message, **attributes)
        self.database = database
        self.holder = holder


class LockHeldError(MigrationError):
    """Another process holds the lock; `holder` is the note in the lock file (pid, host, command, since).

    Always `transient`: the kernel releases the lock when its holder exits, even by a crash.
    """

    exit_code = 5
    code = "LOCK_HELD"

    def __init__(self, message: str, *, holder: str | None = None, **attributes: Any) -> None:
        super().__init__(message, transient=True, **attributes)
        self.holder = holder


class NoDaemonError(MigrationError):
    """No daemon that manages these databases answered on its control socket."""

    exit_code = 3
    code = "NO_DAEMON"


class ConfigError(MigrationError):
    """The configuration is invalid; `faults` lists every fault with its key, and line if known."""

    exit_code = 78
    code = "CONFIG"

    def __init__(self, message: str, *, faults: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.faults = tuple(faults)


class UnsupportedPythonError(MigrationError):
    """This Python is too old, or its `re` reads SQL incorrectly. Nothing was read or run."""

    exit_code = 78
    code = "UNSUPPORTED_PYTHON"


# A failed migration matters more than a refusal, that more than an unavailable database or a held lock (5).
_SEVERITY = (ExecutionFailedError.exit_code, RefusedError.exit_code, DatabaseError.exit_code, 5)


def combined_exit_code(codes: Collection[int]) -> int:
    """Return the exit code for several databases: the first of 1, 4, 6, 5 that occurred, else 0."""
    return next((code for code in _SEVERITY if code in codes), 0)
