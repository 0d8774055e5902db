"""What the reading commands share: the state of every database, with nothing changed anywhere."""

from collections.abc import Iterator, Sequence
from typing import Any

from migrated import refusals
from migrated.agenda import Findings, find
from migrated.discovery import DatabasePath, assign, require_some
from migrated.errors import DatabaseError, MigrationError
from migrated.model import Migration, Unfinished
from migrated.planning import Policy, State, Status
from migrated.settings import Config, Target
from migrated.sources.directory import PATIENCE_SECONDS, Listing, read_finished
from migrated.sqlite.database import SqliteDatabase


class View:
    """One database as it is, or why it cannot be read; and what a run would refuse."""

    def __init__(self, database: DatabasePath, target: Target, handle: SqliteDatabase) -> None:
        self.database = database
        self.target = target
        self.handle = handle
        self.findings = Findings([])
        self.error: MigrationError | None = None
        self.refusal: MigrationError | None = None

    @property
    def statuses(self) -> Sequence[Status]:
        """Of the migrations with a version."""
        return self.findings.statuses

    def count(self, *states: State) -> int:
        """How many migrations are in one of these states."""
        return sum(status.state in states for status in self.statuses)

    @property
    def pending(self) -> int:
        """How many could be applied, repeatable ones included."""
        return self.findings.pending

    @property
    def applied(self) -> int:
        """How many the ledger has."""
        return sum(status.applied is not None for status in self.statuses)

    @property
    def unfinished(self) -> Unfinished | None:
        """What stopped half way there."""
        return next((status.unfinished for status in self.statuses if status.unfinished), None)

    @property
    def summary(self) -> str:
        """One word."""
        if self.error:
            return "unavailable"
        if self.refusal:
            return "blocked"
        # One that was changed and is not refused waits to be redone.
        return "pending" if self.pending or self.count(State.CHANGED) else "current"

    def judge(self, policy: Policy) -> None:
        """Find out what a run under this policy would refuse."""
        self.refusal = None
        try:
            refusals.refuse_by_policy(self.statuses, policy)
        except MigrationError as refusal:
            self.refusal = refusal


class TargetView:
    """One target: what its directory holds, or why that cannot be told, and its databases."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.listing: Listing | None = None
        self.error: MigrationError | None = None
        self.databases: list[View] = []

    @property
    def problems(self) -> list[MigrationError]:
        """Everything that keeps the target from being worked on."""
        return [*([self.error] if self.error else []), *(self.listing.invalid if self.listing else [])]


def look(config: Config, *, patience: float = PATIENCE_SECONDS) -> Iterator[TargetView]:
    """Look at every target, waiting up to `patience` seconds for a file that is being written."""
    for target, databases in assign(config.targets):
        view = TargetView(target)
        try:
            view.listing = read_finished(target.migrations, config.trust(), timeout=patience)
            require_some(target, databases)
        except MigrationError as error:
            view.error = error
        else:
            view.databases = [_view(database, target, view.listing.migrations) for database in databases]
            for database in view.databases if view.listing.invalid else []:
                # Nothing from a directory with an invalid file is applied to anything.
                database.refusal = database.refusal or view.listing.invalid[0]
        yield view


def _view(database: DatabasePath, target: Target, migrations: list[Migration]) -> View:
    handle = SqliteDatabase(
        database.path,
        create=database.may_be_made(target),
        busy_timeout=target.busy_timeout,
        application_id=target.application_id,
    )
    view = View(database, target, handle)
    try:
        view.findings = find(migrations, handle.look())
    except DatabaseError as error:
        view.error = error
        return view
    view.judge(target.policy)
    return view


def problem(error: MigrationError | None) -> dict[str, Any] | None:
    """An error as JSON: type, message, hint and place, those that it has."""
    if error is None:
        return None
    known = {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "version": error.version,
        "name": error.name,
        "file": error.file,
        "line": error.line,
        "expected": getattr(error, "expected", None),
        "found": getattr(error, "found", None),
    }
    return {key: value for key, value in known.items() if value is not None}
