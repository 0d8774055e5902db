"""HookCollector: the hook events of a pass, and their environment variables."""

import os

import pytest

from migrated.config.settings import HookName
from migrated.core.errors import (
    INTERRUPTED,
    ChecksumMismatchError,
    DatabaseError,
    ExecutionFailedError,
    InvalidFormatError,
    MigrationError,
)
from migrated.core.migration import Migration
from migrated.core.status import examine
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.hook_events import HookCollector
from migrated.fleet.hooks import LONGEST_VARIABLE, HookEvent
from migrated.fleet.outcome import Outcome, OutcomeKind

APPLY, FAILURE = HookName.AFTER_APPLY, HookName.ON_FAILURE
BROKEN = ExecutionFailedError("no such table: x", version=7, name="seven", file="/srv/7_seven.sql")
BUSY = DatabaseError("database is locked", transient=True)
CHANGED = ChecksumMismatchError(
    "2 migrations were changed", offenders=examine([Migration(n, "x", "SELECT 1;") for n in (3, 4)], []), version=3
)


def outcome(
    name: str, result: OutcomeKind, *versions: int, error: MigrationError | None = None, rolled_back: int = 0
) -> Outcome:
    path = DatabasePath(name, f"/srv/{name}")
    return Outcome(path, result, len(versions), rolled_back, error=error, versions=versions)


def hook_events(*outcomes: Outcome, is_new: bool = True) -> list[HookEvent]:
    collector = HookCollector("r1")
    for each in outcomes:
        collector.add(each, is_new=is_new)
    return collector.hook_events()


def test_no_change_and_no_failure_make_no_event() -> None:
    assert hook_events() == []
    assert hook_events(outcome("a", OutcomeKind.CURRENT), outcome("b", OutcomeKind.CURRENT)) == []


def test_all_changes_are_one_event() -> None:
    found = hook_events(
        outcome("b", OutcomeKind.APPLIED, 9, 10),
        outcome("c", OutcomeKind.CURRENT),
        outcome("a", OutcomeKind.APPLIED, 10, 2),
    )

    assert found == [HookEvent(APPLY, "r1", "applied", ("/srv/b", "/srv/a"), (2, 9, 10))]


def test_all_failures_are_one_event_with_the_worst_outcome() -> None:
    found = hook_events(
        outcome("a", OutcomeKind.UNAVAILABLE, error=BUSY),
        outcome("b", OutcomeKind.REFUSED, error=CHANGED),
        outcome("c", OutcomeKind.FAILED, error=BROKEN),
    )

    assert found == [
        HookEvent(
            FAILURE,
            "r1",
            "failed",
            ("/srv/a", "/srv/b", "/srv/c"),
            (3, 4, 7),
            "no such table: x",
            "/srv/7_seven.sql",
        )
    ]


def test_changes_before_a_failure_are_a_separate_event() -> None:
    found = hook_events(
        outcome("a", OutcomeKind.FAILED, 5, 6, error=BROKEN),
        outcome("b", OutcomeKind.APPLIED, 8),
    )

    assert [(each.hook, each.outcome, each.databases, each.versions) for each in found] == [
        (APPLY, "failed", ("/srv/a", "/srv/b"), (5, 6, 8)),
        (FAILURE, "failed", ("/srv/a",), (7,)),
    ]


def test_known_failure_makes_no_event_but_changes_do() -> None:
    assert hook_events(outcome("a", OutcomeKind.FAILED, error=BROKEN), is_new=False) == []
    (found,) = hook_events(outcome("a", OutcomeKind.FAILED, 5, error=BROKEN), is_new=False)
    assert (found.hook, found.versions) == (APPLY, (5,))


def test_requested_interruption_is_not_a_failure() -> None:
    interrupted = ExecutionFailedError("the migration was interrupted: SIGTERM", version=7, code=INTERRUPTED)

    assert hook_events(outcome("a", OutcomeKind.FAILED, error=interrupted)) == []


def test_error_of_a_directory_concerns_its_databases() -> None:
    collector = HookCollector("r1")
    fault = InvalidFormatError("version 7 is claimed twice", version=7, file="/srv/007_x.sql")
    collector.add_failure(OutcomeKind.REFUSED, fault, ["/srv/a", "/srv/b"])

    reason, file = "version 7 is claimed twice", "/srv/007_x.sql"
    assert collector.hook_events() == [
        HookEvent(FAILURE, "r1", "refused", ("/srv/a", "/srv/b"), (7,), reason, file),
    ]


def test_merged_events_have_all_databases_and_the_later_outcome() -> None:
    first = HookEvent(FAILURE, "r1", "failed", ("/srv/a", "/srv/b"), (7, 9), "first", "/srv/7_x.sql")
    second = HookEvent(FAILURE, "r2", "refused", ("/srv/c", "/srv/a"), (8,), "second")

    assert first.followed_by(second) == HookEvent(
        FAILURE, "r2", "refused", ("/srv/a", "/srv/b", "/srv/c"), (7, 8, 9), "second", None
    )


# Environment variables


def test_environment_variables() -> None:
    told = HookEvent(FAILURE, "r1", "failed", ("/srv/a",), (7, 9), "no such table: x", "/srv/7_x.sql").variables()

    assert told == {
        "MIGRATED_EVENT": "on_failure",
        "MIGRATED_DATABASE": "/srv/a",
        "MIGRATED_DATABASES": "/srv/a",
        "MIGRATED_VERSIONS": "7 9",
        "MIGRATED_OUTCOME": "failed",
        "MIGRATED_RUN_ID": "r1",
        "MIGRATED_REASON": "no such table: x",
        "MIGRATED_FILE": "/srv/7_x.sql",
    }


def test_several_databases_set_no_single_database_variable() -> None:
    told = HookEvent(APPLY, "r1", "applied", ("/srv/a", "/srv/b")).variables()

    assert told == {
        "MIGRATED_EVENT": "after_apply",
        "MIGRATED_DATABASES": "/srv/a\n/srv/b",
        "MIGRATED_VERSIONS": "",
        "MIGRATED_OUTCOME": "applied",
        "MIGRATED_RUN_ID": "r1",
    }


@pytest.mark.parametrize("name", ["tenant", "täñänt", os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_too_long_list_is_cut_between_two_entries_and_marked(name: str) -> None:
    paths = [f"/srv/{name}{number}.db" for number in range(20_000)]
    told = HookEvent(APPLY, "r1", "applied", tuple(paths), tuple(range(10**14, 10**14 + 20_000))).variables()

    kept = told["MIGRATED_DATABASES"].split("\n")
    assert kept == paths[: len(kept)]
    assert 0.99 * LONGEST_VARIABLE < len(os.fsencode(told["MIGRATED_DATABASES"])) <= LONGEST_VARIABLE
    assert set(map(len, told["MIGRATED_VERSIONS"].split(" "))) == {15}
    assert told["MIGRATED_TRUNCATED"] == "1"
    assert "MIGRATED_TRUNCATED" not in HookEvent(APPLY, "r1", "applied", tuple(paths[:10])).variables()
