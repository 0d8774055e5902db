"""The state of every database, for requests on the control socket."""

from collections.abc import Iterable
from dataclasses import dataclass

from migrated.core.errors import MigrationError
from migrated.daemon.messages import DirectoryScanned, RolloutHalted
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind

# Shared by all current databases: there may be ten thousand, and none of their outcomes is read again.
_CURRENT = Outcome(DatabasePath("", ""), OutcomeKind.CURRENT)
_STATES = {OutcomeKind.FAILED: "blocked", OutcomeKind.REFUSED: "blocked", OutcomeKind.UNAVAILABLE: "unavailable"}


@dataclass(slots=True)
class DatabaseState:
    """State of one database: `unknown`, `current`, `pending`, `blocked` or `unavailable`, and since when.

    `fault` is an error of its migrations directory, `unfinished` the reason why that directory is not applied yet.
    """

    database: DatabasePath
    state: str
    since: float
    outcome: Outcome | None = None
    fault: MigrationError | None = None
    unfinished: str | None = None

    @property
    def error(self) -> MigrationError | None:
        """The error that blocks the database or makes it unavailable; None if there is none."""
        return self.fault or (self.outcome.error if self.outcome else None)

    @property
    def pending(self) -> int:
        """Number of pending migrations, as of the last run; 0 if unknown."""
        return self.outcome.pending if self.outcome else 0

    def why_not_current(self) -> str | None:
        """Return one line saying why the database is not current; None if it is."""
        if self.state == "current":
            return None
        if self.error is not None:
            return f"{self.database.name}: {self.state}: {self.error.message}"
        waiting = self.unfinished or (f"{self.pending} pending" if self.pending else "not checked yet")
        return f"{self.database.name}: {waiting}"

    def refresh(self, now: float) -> None:
        """Recompute the state. `since` changes only if the state does."""
        state = self._compute()
        if state != self.state:
            self.state, self.since = state, now

    def _compute(self) -> str:
        if self.fault is not None:
            return "blocked"
        if self.outcome is None:
            return "unknown"
        if self.outcome.result in _STATES:
            return _STATES[self.outcome.result]
        return "pending" if self.unfinished or self.outcome.pending else "current"


class DatabaseRegistry:
    """All databases by path. Used by the main thread only. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._states: dict[str, DatabaseState] = {}

    def found(self, databases: Iterable[DatabasePath], now: float) -> None:
        """Replace the set of databases: add new ones as `unknown`, and forget those that are gone."""
        # Keep the objects of known databases: they hold the state and its `since`.
        self._states = {
            database.path: self._states.get(database.path) or DatabaseState(database, "unknown", now)
            for database in databases
        }

    def scanned(self, scan: DirectoryScanned, now: float) -> None:
        """Record the result of reading a directory. An invalid file blocks every database of that directory."""
        errors = scan.listing.invalid if scan.listing else [scan.error]
        unfinished = scan.listing.unfinished if scan.listing else []
        for path in scan.databases:
            if state := self._states.get(path):
                state.fault = errors[0] if errors else None
                state.unfinished = f"waiting until {unfinished[0].file} is complete" if unfinished else None
                state.refresh(now)

    def visited(self, outcome: Outcome, now: float) -> None:
        """Record the outcome of a run on one database."""
        if state := self._states.get(outcome.database.path):
            state.outcome = outcome if outcome.result in _STATES or outcome.pending else _CURRENT
            state.refresh(now)

    def halted(self, halted: RolloutHalted, now: float) -> None:
        """Record databases that a halted rollout did not reach as blocked."""
        for database in halted.databases:
            self.visited(Outcome(database, OutcomeKind.REFUSED, error=halted.error), now)

    def all(self) -> list[DatabaseState]:
        """Return the states of all databases in the order of the configuration."""
        return list(self._states.values())

    def select(self, paths: Iterable[str]) -> list[DatabaseState]:
        """Return the states of the databases at `paths`, without unknown paths; all if `paths` is empty."""
        wanted = list(paths)
        return [self._states[path] for path in wanted if path in self._states] if wanted else self.all()

    def get(self, name: str) -> DatabaseState | None:
        """Return the state of the database with this path or, failing that, this name; None if there is none."""
        return self._states.get(name) or next((state for state in self.all() if state.database.name == name), None)

    def why_not_current(self, paths: Iterable[str]) -> list[str]:
        """Return one line for each of these databases that is not current; of all if `paths` is empty."""
        lines = []
        for path in list(paths) or list(self._states):
            state = self._states.get(path)
            line = state.why_not_current() if state else f"{path}: not managed by this daemon"
            lines += [line] if line else []
        return lines
