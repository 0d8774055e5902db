"""Inspect every database without changing anything, for the commands that only read."""

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
from migrated.sources.directory import UNFINISHED_TIMEOUT_SECONDS, Listing, read_finished

if TYPE_CHECKING:
    from migrated.engine.backend import Database

SUMMARIES = ("current", "pending", "blocked", "unavailable")
"""The states of a database, as `status` shows them."""
_WAITING = {MigrationState.PENDING, MigrationState.LATE, MigrationState.CHANGED}


class DatabaseView:
    """One database: its status, or why it cannot be read; and what a run would refuse."""

    def __init__(self, database: DatabasePath, target: Target, handle: "Database") -> None:
        self.database = database
        self.target = target
        self.handle = handle
        self.ledger = LedgerState([])
        self.status = DatabaseStatus([])
        self.error: MigrationError | None = None
        self.refusal: MigrationError | None = None

    def look(self, migrations: Sequence[Migration], policy: Policy) -> None:
        """Read the ledger; evaluate all migrations and what a run with this policy would refuse.

        An error is stored in `error` or `refusal`, never raised.
        """
        try:
            self.ledger = self.handle.look()
        except DatabaseError as error:
            self.error = error
            return
        self.status = evaluate(migrations, self.ledger)
        try:
            refusals.refuse_by_policy(self.status.statuses, policy, self.handle.stored_migrations)
        except RefusedError as refusal:
            # These SQL texts may be large, and no reading command shows them.
            refusal.recorded = {}
            self.refusal = refusal

    @property
    def name(self) -> str:
        """The name as configured or matched."""
        return self.database.name

    @property
    def problem(self) -> MigrationError | None:
        """What would prevent a run, or None."""
        return self.error or self.refusal

    @property
    def applied(self) -> int:
        """The number of applied migrations."""
        return len(self.ledger.applied)

    @property
    def pending(self) -> int:
        """The number of migrations that could be applied, repeatable ones included."""
        return self.status.pending

    @property
    def waiting(self) -> list[str]:
        """The labels of the migrations that a run would apply or redo, if nothing were refused."""
        versioned = [status.label for status in self.status.statuses if status.state in _WAITING]
        repeatables = [each.migration for each in self.status.repeatables if each.state is MigrationState.PENDING]
        return versioned + [each.label for each in repeatables if each]

    @property
    def unfinished(self) -> Unfinished | None:
        """The stopped migration of this database, or None."""
        return self.ledger.unfinished

    @property
    def summary(self) -> str:
        """The state of the database: one of `SUMMARIES`."""
        if self.error:
            return "unavailable"
        if self.refusal:
            return "blocked"
        # A changed migration that is not refused counts as pending: it will be redone.
        return "pending" if self.waiting else "current"


class TargetView:
    """One target: its migrations, or why they cannot be read, and its databases.

    If `error` is set, no database is inspected and `databases` is empty.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.listing: Listing | None = None
        self.error: MigrationError | None = None
        self.databases: Sequence[DatabasePath] = ()

    @property
    def problems(self) -> list[MigrationError]:
        """Every error that prevents a run on this target."""
        return [*([self.error] if self.error else []), *(self.listing.invalid if self.listing else [])]

    def views(self, developed: Collection[str] = ()) -> Iterator[DatabaseView]:
        """Inspect one database after the other; memory does not grow with their number.

        Paths in `developed` are judged by the policy of `migrated dev`.
        """
        if self.listing is None:
            return
        invalid = self.listing.invalid[0] if self.listing.invalid else None
        policy, developing = self.target.policy, following(self.target.policy)
        for database in self.databases:
            view = DatabaseView(database, self.target, _handle(database, self.target))
            is_developing = invalid is None and database.path in developed
            view.look(self.listing.migrations, developing if is_developing else policy)
            # A run applies nothing from a directory with an invalid file.
            view.refusal = view.refusal or invalid
            yield view


def look(config: Config, *, timeout: float = UNFINISHED_TIMEOUT_SECONDS) -> Iterator[TargetView]:
    """Read the directory of every target. Wait up to `timeout` seconds for a file that is being written."""
    for target, databases in assign(config.targets):
        view = TargetView(target)
        try:
            view.listing = read_finished(target.migrations, config.trust(), timeout=timeout)
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
        # A file that a glob matched and that was deleted since must not be created again.
        must_exist=database.matched,
        busy_timeout=target.busy_timeout,
        application_id=target.application_id,
    )


def error_dict(error: MigrationError | None) -> dict[str, Any] | None:
    """Return an error as a JSON object: type, message, hint and place, without empty keys."""
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
