"""How every database stands, for those who ask while the daemon runs."""

from collections.abc import Iterable
from dataclasses import dataclass

from migrated.core.errors import MigrationError
from migrated.daemon.messages import DirectoryScanned, RolloutHalted
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind

# One for all that are well: there may be ten thousand, of which nothing more is asked.
_CURRENT = Outcome(DatabasePath("", ""), OutcomeKind.CURRENT)
_STATES = {OutcomeKind.FAILED: "blocked", OutcomeKind.REFUSED: "blocked", OutcomeKind.UNAVAILABLE: "unavailable"}


@dataclass(slots=True)
class DatabaseState:
    """One database. `state` is unknown, current, pending, blocked or unavailable, and has been since `since`."""

    database: DatabasePath
    state: str
    since: float
    outcome: Outcome | None = None
    fault: MigrationError | None = None
    unfinished: str | None = None

    @property
    def error(self) -> MigrationError | None:
        """Why it is not current."""
        return self.fault or (self.outcome.error if self.outcome else None)

    @property
    def pending(self) -> int:
        """How many could be applied, as far as is known."""
        return self.outcome.pending if self.outcome else 0

    def why_not_current(self) -> str | None:
        """What is missing to its being current, in a line; None where it is."""
        if self.state == "current":
            return None
        if self.error is not None:
            return f"{self.database.name}: {self.state}: {self.error.message}"
        waiting = self.unfinished or (f"{self.pending} pending" if self.pending else "not checked yet")
        return f"{self.database.name}: {waiting}"

    def refresh(self, now: float) -> None:
        """Find the state anew."""
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
    """Owned by the daemon's loop. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._states: dict[str, DatabaseState] = {}

    def found(self, databases: Iterable[DatabasePath], now: float) -> None:
        """Take the present set of databases: those gone are forgotten."""
        self._states = {
            database.path: self._states.get(database.path) or DatabaseState(database, "unknown", now)
            for database in databases
        }

    def scanned(self, scan: DirectoryScanned, now: float) -> None:
        """Take what reading a directory gave: nothing from one with a fault is applied."""
        errors = scan.listing.invalid if scan.listing else [scan.error]
        unfinished = scan.listing.unfinished if scan.listing else []
        for path in scan.databases:
            if state := self._states.get(path):
                state.fault = errors[0] if errors else None
                state.unfinished = f"waiting until {unfinished[0].file} is complete" if unfinished else None
                state.refresh(now)

    def visited(self, outcome: Outcome, now: float) -> None:
        """Take what working on a database came to."""
        if state := self._states.get(outcome.database.path):
            state.outcome = outcome if outcome.result in _STATES or outcome.pending else _CURRENT
            state.refresh(now)

    def halted(self, halted: RolloutHalted, now: float) -> None:
        """Take that these are not worked on."""
        for database in halted.databases:
            self.visited(Outcome(database, OutcomeKind.REFUSED, error=halted.error), now)

    def all(self) -> list[DatabaseState]:
        """Every one, in the order of the configuration."""
        return list(self._states.values())

    def of(self, paths: Iterable[str]) -> list[DatabaseState]:
        """Those of these databases, as far as they are known, or all where none is named."""
        wanted = list(paths)
        return [self._states[path] for path in wanted if path in self._states] if wanted else self.all()

    def get(self, name: str) -> DatabaseState | None:
        """That of the database with this path, or else with this name."""
        return self._states.get(name) or next((state for state in self.all() if state.database.name == name), None)

    def why_not_current(self, paths: Iterable[str]) -> list[str]:
        """What is missing to these databases' being current, or to that of all where none is named."""
        lines = []
        for path in list(paths) or list(self._states):
            state = self._states.get(path)
            line = state.why_not_current() if state else f"{path}: not managed by this daemon"
            lines += [line] if line else []
        return lines
