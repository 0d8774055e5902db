"""The closed vocabulary of failures. Attributes are the interface, the text is for people."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def label_of(version: object, name: str) -> str:
    """How people name a migration: `<version>_<name>`; a repeatable one has only its name, `R__<name>`."""
    return f"{version}_{name}" if version else name


class MigrationError(Exception):
    """Base of every failure of this package; never raised itself.

    `message` says what was found and what was expected, `hint` what to do next; `str()` gives both,
    with the place in front. Lines and columns count from 1 and refer to `file`. `completed` holds
    the `AppliedMigration`s that were committed before the failure, going the same way. `code` is stable:
    SQLite's name of the result where SQLite reported the failure, else the class's own or a narrower one.
    `transient` says that trying again later, with nothing changed by a person, may help.
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
        self.completed = tuple(completed)

    @property
    def label(self) -> str:
        """The migration's, as people name it; an empty string where the failure is not one's."""
        return label_of(self.version, self.name or "")

    @property
    def place(self) -> str:
        """`file:line:column` as far as known, else an empty string."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def __str__(self) -> str:
        first = f"{self.place}: {self.message}" if self.place else self.message
        hint = f"hint: {self.hint}" if self.hint else None
        return "\n".join(part for part in (first, self.excerpt, hint) if part)


INTERRUPTED = "INTERRUPTED"
"""The code of a failure that was asked for: the program was told to stop."""


class ExecutionFailedError(MigrationError):
    """A statement of a migration failed, is not allowed there, or was interrupted.

    All of that migration was undone; of one without a transaction, only the failing statement was.
    """

    code = "EXECUTION_FAILED"


class RollbackFailedError(MigrationError):
    """A rollback cannot begin (a step has no down text) or failed and was undone."""

    code = "ROLLBACK_FAILED"


class RefusedError(MigrationError):
    """Base of what blocks a database until a person settles it: nothing was changed.

    `offenders` names every migration concerned, lowest version first. `recorded` has, by version, those of them
    whose text changed as they were when applied, as far as that was recorded.
    """

    exit_code = 4
    code = "REFUSED"

    def __init__(self, message: str, *, offenders: Sequence[Any] = (), **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.offenders = tuple(offenders)
        self.recorded: Mapping[int, Any] = {}


class ChecksumMismatchError(RefusedError):
    """Applied migrations whose text is no longer what was applied.

    `expected` (as recorded when applied) and `found` (of the present text) are those of the first one.
    """

    code = "CHECKSUM_MISMATCH"

    def __init__(
        self, message: str, *, expected: str | None = None, found: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(message, **attributes)
        self.expected = expected
        self.found = found


class MigrationNotFoundError(RefusedError):
    """A version was asked for, or is recorded as applied, and no migration has it."""

    code = "MIGRATION_NOT_FOUND"


class LateMigrationError(RefusedError):
    """Pending migrations lie below the highest applied one, and `on_late` is `refuse`."""

    code = "LATE_MIGRATION"


class UnfinishedError(RefusedError):
    """A migration without a transaction stopped half way; a person has to say how it goes on."""

    code = "UNFINISHED"


class InvalidFormatError(RefusedError):
    """A migration's name, text, header or directive is not what the file format asks for."""

    code = "INVALID_FORMAT"


class MigrationFileError(RefusedError):
    """The migrations directory or a file in it is missing, unreadable or still being written."""

    code = "MIGRATION_FILE"


class DatabaseError(MigrationError):
    """A database could not be opened, read or written. `code` is SQLite's name of the result, or ours.

    `transient` for what passes by itself: busy, I/O errors, a full disk, a file not there yet. `holder` names
    the process that keeps it busy, where that can be told.
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
    """Another process holds the lock; `holder` is what it wrote there (pid, host, command, since).

    Always `transient`: the kernel frees the lock when its holder ends, however it ends.
    """

    exit_code = 5
    code = "LOCK_HELD"

    def __init__(self, message: str, *, holder: str | None = None, **attributes: Any) -> None:
        super().__init__(message, transient=True, **attributes)
        self.holder = holder


class NoDaemonError(MigrationError):
    """A running daemon was to be asked something, and none that looks after these databases answered."""

    exit_code = 3
    code = "NO_DAEMON"


class ConfigError(MigrationError):
    """The configuration has faults; `faults` lists every one, each with its key and line where known."""

    exit_code = 78
    code = "CONFIG"

    def __init__(self, message: str, *, faults: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(message, **attributes)
        self.faults = tuple(faults)


class UnsupportedPythonError(MigrationError):
    """This Python is too old, or cannot read SQL text correctly. Nothing was read or run."""

    exit_code = 78
    code = "UNSUPPORTED_PYTHON"


_SEVERITY = (ExecutionFailedError.exit_code, RefusedError.exit_code, DatabaseError.exit_code, 5)


def combined_exit_code(codes: Collection[int]) -> int:
    """The one exit code for work on several databases: the first of 1, 4, 6, 5 that occurred, else 0."""
    return next((code for code in _SEVERITY if code in codes), 0)
