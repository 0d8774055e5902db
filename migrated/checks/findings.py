"""What a check found, as a value."""

from dataclasses import dataclass
from enum import StrEnum

from migrated.core.errors import MigrationError


class Level(StrEnum):
    """How bad it is. Only a problem keeps the daemon from its work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about `subject`: a path, or a part of the machine. `hint` says what to do.

    `check` is a stable name for programs.
    """

    level: Level
    check: str
    subject: str
    message: str
    hint: str | None = None


def ok(check: str, subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, subject, message)


def warning(check: str, subject: str, message: str, hint: str) -> Finding:
    """It works, and may not always."""
    return Finding(Level.WARNING, check, subject, message, hint)


def problem(check: str, subject: str, message: str, hint: str | None) -> Finding:
    """It does not work."""
    return Finding(Level.PROBLEM, check, subject, message, hint)


def from_error(check: str, subject: str, error: MigrationError) -> Finding:
    """What an error says; its file is named where that is not the subject."""
    place = f"{error.place}: " if error.place and error.file != subject else ""
    return problem(check, subject, place + error.message, error.hint)
