"""How a database stands, as the daemon tells it."""

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


def came_to(result: OutcomeKind, error: MigrationError | None = None, *, pending: int = 0) -> Outcome:
    return Outcome(APP, result, error=error, pending=pending)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(came_to(OutcomeKind.CURRENT), "current", id="current"),
        pytest.param(came_to(OutcomeKind.APPLIED), "current", id="applied"),
        pytest.param(came_to(OutcomeKind.APPLIED, pending=2), "pending", id="cut short"),
        pytest.param(came_to(OutcomeKind.FAILED, ExecutionFailedError("x"), pending=1), "blocked", id="failed"),
        pytest.param(came_to(OutcomeKind.UNAVAILABLE, DatabaseError("x")), "unavailable", id="unavailable"),
    ],
)
def test_the_state_is_what_the_last_visit_came_to(
    databases: DatabaseRegistry, outcome: Outcome, expected: str
) -> None:
    assert state(databases) == ("unknown", 1.0)
    databases.visited(outcome, 2.0)

    assert state(databases) == (expected, 2.0)
    assert state(databases, OTHER.path) == ("unknown", 1.0)


def test_it_has_been_so_since_it_was_another(databases: DatabaseRegistry) -> None:
    for now in (2.0, 3.0):
        databases.visited(came_to(OutcomeKind.CURRENT), now)
        databases.found([APP, OTHER], now)

    assert state(databases) == ("current", 2.0)


def test_nothing_from_a_directory_with_a_fault_is_applied(databases: DatabaseRegistry) -> None:
    databases.visited(came_to(OutcomeKind.CURRENT), 2.0)
    databases.scanned(
        DirectoryScanned("/m", Listing("/m", invalid=[InvalidFormatError("claimed twice")]), None, BOTH), 3.0
    )
    assert state(databases) == ("blocked", 3.0)
    assert databases.why_not_current([APP.path]) == ["app.db: blocked: claimed twice"]
    databases.scanned(DirectoryScanned("/m", Listing("/m"), None, BOTH), 4.0)

    assert state(databases) == ("current", 4.0)


def test_a_file_that_is_being_written_is_waited_for(databases: DatabaseRegistry) -> None:
    databases.visited(came_to(OutcomeKind.CURRENT), 2.0)
    listing = Listing("/m", unfinished=[Remark("/m/1_x.sql", "open for writing")])
    databases.scanned(DirectoryScanned("/m", listing, None, BOTH), 3.0)

    assert state(databases) == ("pending", 3.0)
    assert databases.why_not_current([APP.path]) == ["app.db: waiting until /m/1_x.sql is complete"]


def test_what_is_missing_is_told_of_those_asked_for(databases: DatabaseRegistry) -> None:
    databases.visited(came_to(OutcomeKind.APPLIED, pending=2), 2.0)

    assert databases.why_not_current([]) == ["app.db: 2 pending", "other.db: not checked yet"]
    assert databases.why_not_current([OTHER.path]) == ["other.db: not checked yet"]
    assert databases.why_not_current(["/srv/nix.db"]) == ["/srv/nix.db: not managed by this daemon"]
    databases.visited(came_to(OutcomeKind.CURRENT), 3.0)
    assert databases.why_not_current([APP.path]) == []


def test_a_database_is_found_by_path_and_by_name_and_forgotten_when_it_is_gone(
    databases: DatabaseRegistry,
) -> None:
    assert databases.get("app.db") is databases.get("/srv/app.db") is not None
    databases.found([OTHER], 2.0)

    assert databases.get("app.db") is None
    assert [each.database for each in databases.all()] == [OTHER]


def test_those_asked_for_are_given_or_all(databases: DatabaseRegistry) -> None:
    assert [each.database for each in databases.of([OTHER.path, "/srv/nix.db"])] == [OTHER]
    assert [each.database for each in databases.of([])] == [APP, OTHER]
