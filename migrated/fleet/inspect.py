"""What the reading commands share: the state of every database, with nothing changed anywhere."""

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from migrated.config.settings import Config, Target, following
from migrated.core import refusals
from migrated.core.errors import DatabaseError, MigrationError, RefusedError
from migrated.core.migration import Migration
from migrated.core.records import LedgerState, Unfinished
from migrated.core.status import DatabaseStatus, MigrationState, Policy, evaluate
from migrated.engine.database import open_database
from migrated.fleet.discovery import DatabasePath, assign, require_some
from migrated.sources.directory import PATIENCE_SECONDS, Listing, read_finished

if TYPE_CHECKING:
    from migrated.engine.backend import Database

SUMMARIES = ("current", "pending", "blocked", "unavailable")
"""What a database can be, in a word."""
_WAITING = {MigrationState.PENDING, MigrationState.LATE, MigrationState.CHANGED}


class DatabaseView:
    """One database as it is, or why it cannot be read; and what a run would refuse."""

    def __init__(self, database: DatabasePath, target: Target, handle: "Database") -> None:
        self.database = database
        self.target = target
        self.handle = handle
        self.record = LedgerState([])
        self.findings = DatabaseStatus([])
        self.error: MigrationError | None = None
        self.refusal: MigrationError | None = None

    def look(self, migrations: Sequence[Migration], policy: Policy) -> None:
        """Read the record, and find the states of all migrations and what a run under this policy would refuse."""
        try:
            self.record = self.handle.look()
        except DatabaseError as error:
            self.error = error
            return
        self.findings = evaluate(migrations, self.record)
        try:
            refusals.refuse_by_policy(self.findings.statuses, policy, self.handle.stored_migrations)
        except RefusedError as refusal:
            # The texts that it carries may be large, and nothing shown by reading commands needs them.
            refusal.recorded = {}
            self.refusal = refusal

    @property
    def name(self) -> str:
        """As people know it."""
        return self.database.name

    @property
    def fault(self) -> MigrationError | None:
        """What keeps a run from it, if anything does."""
        return self.error or self.refusal

    @property
    def applied(self) -> int:
        """How many the ledger has."""
        return len(self.record.applied)

    @property
    def pending(self) -> int:
        """How many could be applied, repeatable ones included."""
        return self.findings.pending

    @property
    def waiting(self) -> list[str]:
        """The labels of those that a run would apply, or do again, if it refused nothing."""
        versioned = [status.label for status in self.findings.statuses if status.state in _WAITING]
        repeatables = [
            each.migration for each in self.findings.repeatables if each.state is MigrationState.PENDING
        ]
        return versioned + [each.label for each in repeatables if each]

    @property
    def unfinished(self) -> Unfinished | None:
        """What stopped half way there."""
        return self.record.unfinished

    @property
    def summary(self) -> str:
        """One word, of `SUMMARIES`."""
        if self.error:
            return "unavailable"
        if self.refusal:
            return "blocked"
        # One that was changed and is not refused waits to be redone.
        return "pending" if self.waiting else "current"


class TargetView:
    """One target: what its directory holds, or why that cannot be told, and which databases it has.

    Where it cannot be told, no database is looked at, and `databases` is empty.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.listing: Listing | None = None
        self.error: MigrationError | None = None
        self.databases: Sequence[DatabasePath] = ()

    @property
    def problems(self) -> list[MigrationError]:
        """Everything that keeps the target from being worked on."""
        return [*([self.error] if self.error else []), *(self.listing.invalid if self.listing else [])]

    def views(self, developed: Collection[str] = ()) -> Iterator[DatabaseView]:
        """Look at each database, one after the other, and keep nothing of it.

        Those whose paths are in `developed` are judged as a daemon for development does.
        """
        if self.listing is None:
            return
        fault = self.listing.invalid[0] if self.listing.invalid else None
        policy, followed = self.target.policy, following(self.target.policy)
        for database in self.databases:
            view = DatabaseView(database, self.target, _handle(database, self.target))
            is_developed = fault is None and database.path in developed
            view.look(self.listing.migrations, followed if is_developed else policy)
            # Nothing from a directory with an invalid file is applied to anything.
            view.refusal = view.refusal or fault
            yield view


def look(config: Config, *, patience: float = PATIENCE_SECONDS) -> Iterator[TargetView]:
    """Read the directory of every target, waiting up to `patience` seconds for a file that is being written."""
    for target, databases in assign(config.targets):
        view = TargetView(target)
        try:
            view.listing = read_finished(target.migrations, config.trust(), timeout=patience)
            require_some(target, databases)
        except MigrationError as error:
            view.error = error
        else:
            view.databases = databases
        yield view


def _handle(database: DatabasePath, target: Target) -> "Database":
    return open_database(
        database.path,
        create=target.create,
        must_exist=database.matched,
        busy_timeout=target.busy_timeout,
        application_id=target.application_id,
    )


def error_dict(error: MigrationError | None) -> dict[str, Any] | None:
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
