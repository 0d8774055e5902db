"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum

from migrated.core.errors import MigrationError


class Level(StrEnum):
    """Severity of a finding. Only a problem prevents the daemon from working."""

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
    """Return a finding without a problem."""
    return Finding(Level.OK, check, subject, message)


def warning(check: str, subject: str, message: str, hint: str) -> Finding:
    """Return a finding about something that works now but may fail."""
    return Finding(Level.WARNING, check, subject, message, hint)


def problem(check: str, subject: str, message: str, hint: str | None) -> Finding:
    """Return a finding about something that does not work."""
    return Finding(Level.PROBLEM, check, subject, message, hint)


def from_error(check: str, subject: str, error: MigrationError) -> Finding:
    """Return a problem with the error's message, preceded by the place unless its file is the subject."""
    place = f"{error.place}: " if error.place and error.file != subject else ""
    return problem(check, subject, place + error.message, error.hint)
