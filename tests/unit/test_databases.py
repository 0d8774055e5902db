"""The states of databases that the daemon reports."""

import pytest

from migrated.core.errors import DatabaseError, ExecutionFailedError, InvalidFormatError, MigrationError
from migrated.daemon.databases import DatabaseRegistry
from migrated.daemon.messages import DirectoryScanned
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.sources.directory import Listing, Remark

APP = DatabasePath("app.db", "/srv/app.db")
OTHER = DatabasePath("other.db", "/srv/other.db")
BOTH = ("/srv/app.db", "/srv/other.db")


@pytest.fixture
def databases() -> DatabaseRegistry:
    found = DatabaseRegistry()
    found.found([APP, OTHER], 1.0)
    return found


def state(databases: DatabaseRegistry, path: str = APP.path) -> tuple[str, float]:
    state = databases.get(path)
    assert state is not None
    return state.state, state.since


def outcome_of(result: OutcomeKind, error: MigrationError | None = None, *, pending: int = 0) -> Outcome:
    return Outcome(APP, result, error=error, pending=pending)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(outcome_of(OutcomeKind.CURRENT), "current", id="current"),
        pytest.param(outcome_of(OutcomeKind.APPLIED), "current", id="applied"),
        pytest.param(outcome_of(OutcomeKind.APPLIED, pending=2), "pending", id="cut short"),
        pytest.param(outcome_of(OutcomeKind.FAILED, ExecutionFailedError("x"), pending=1), "blocked", id="failed"),
        pytest.param(outcome_of(OutcomeKind.UNAVAILABLE, DatabaseError("x")), "unavailable", id="unavailable"),
    ],
)
def test_state_follows_the_last_outcome(databases: DatabaseRegistry, outcome: Outcome, expected: str) -> None:
    assert state(databases) == ("unknown", 1.0)
    databases.visited(outcome, 2.0)

    assert state(databases) == (expected, 2.0)
    assert state(databases, OTHER.path) == ("unknown", 1.0)


def test_since_is_the_time_of_the_last_state_change(databases: DatabaseRegistry) -> None:
    for now in (2.0, 3.0):
        databases.visited(outcome_of(OutcomeKind.CURRENT), now)
        databases.found([APP, OTHER], now)

    assert state(databases) == ("current", 2.0)


def test_invalid_directory_blocks_its_databases(databases: DatabaseRegistry) -> None:
    databases.visited(outcome_of(OutcomeKind.CURRENT), 2.0)
    databases.scanned(
        DirectoryScanned("/m", Listing("/m", invalid=[InvalidFormatError("claimed twice")]), None, BOTH), 3.0
    )
    assert state(databases) == ("blocked", 3.0)
    assert databases.why_not_current([APP.path]) == ["app.db: blocked: claimed twice"]
    databases.scanned(DirectoryScanned("/m", Listing("/m"), None, BOTH), 4.0)

    assert state(databases) == ("current", 4.0)


def test_incomplete_file_makes_its_databases_pending(databases: DatabaseRegistry) -> None:
    databases.visited(outcome_of(OutcomeKind.CURRENT), 2.0)
    listing = Listing("/m", unfinished=[Remark("/m/1_x.sql", "open for writing")])
    databases.scanned(DirectoryScanned("/m", listing, None, BOTH), 3.0)

    assert state(databases) == ("pending", 3.0)
    assert databases.why_not_current([APP.path]) == ["app.db: waiting until /m/1_x.sql is complete"]


def test_why_not_current_lists_the_requested_databases(databases: DatabaseRegistry) -> None:
    databases.visited(outcome_of(OutcomeKind.APPLIED, pending=2), 2.0)

    assert databases.why_not_current([]) == ["app.db: 2 pending", "other.db: not checked yet"]
    assert databases.why_not_current([OTHER.path]) == ["other.db: not checked yet"]
    assert databases.why_not_current(["/srv/nix.db"]) == ["/srv/nix.db: not managed by this daemon"]
    databases.visited(outcome_of(OutcomeKind.CURRENT), 3.0)
    assert databases.why_not_current([APP.path]) == []


def test_database_is_found_by_path_and_name_and_forgotten_when_it_is_gone(
    databases: DatabaseRegistry,
) -> None:
    assert databases.get("app.db") is databases.get("/srv/app.db") is not None
    databases.found([OTHER], 2.0)

    assert databases.get("app.db") is None
    assert [each.database for each in databases.all()] == [OTHER]


def test_selection_returns_the_requested_databases_or_all(databases: DatabaseRegistry) -> None:
    assert [each.database for each in databases.select([OTHER.path, "/srv/nix.db"])] == [OTHER]
    assert [each.database for each in databases.select([])] == [APP, OTHER]
