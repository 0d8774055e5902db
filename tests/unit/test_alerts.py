import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrated.core.errors import (
    ChecksumMismatchError,
    DatabaseError,
    ExecutionFailedError,
    LockHeldError,
    MigrationError,
    RefusedError,
)
from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration
from migrated.core.status import examine
from migrated.daemon.alerts import Alerts
from migrated.daemon.messages import DatabaseDone, RolloutHalted
from migrated.daemon.scheduler import BackOff, Fingerprint
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.rollout import Halt
from migrated.logs import logger

APP = DatabasePath("app.db", "/srv/app.db")
OTHER = DatabasePath("other.db", "/srv/other.db")
FILE = Fingerprint((1, 2), (100, 5))


def internal() -> MigrationError:
    return DatabaseError("internal error: KeyError(1)", transient=True, traceback="Traceback …\nKeyError: 1\n")


def broken() -> MigrationError:
    return ExecutionFailedError("no such table: x", version=7, name="seven")


def busy(*, transient: bool = True) -> MigrationError:
    return DatabaseError("database is locked", transient=transient, code="SQLITE_BUSY")


def refused(message: str = "7_seven was changed") -> RefusedError:
    applied = AppliedMigration(7, "seven", "aa", datetime(2024, 1, 1, tzinfo=UTC), 0)
    return ChecksumMismatchError(message, offenders=examine([Migration(7, "seven", "SELECT 1;")], [applied]))


def visit(
    result: OutcomeKind, error: MigrationError | None = None, *, of: DatabasePath = APP, done: int = 0
) -> DatabaseDone:
    return DatabaseDone(Outcome(of, result, applied=done, error=error), 11, FILE, "r1")


def current(of: DatabasePath = APP) -> DatabaseDone:
    return visit(OutcomeKind.CURRENT, of=of)


def applied(of: DatabasePath = APP) -> DatabaseDone:
    return visit(OutcomeKind.APPLIED, of=of, done=2)


def failed(*, of: DatabasePath = APP, done: int = 0) -> DatabaseDone:
    return visit(OutcomeKind.FAILED, broken(), of=of, done=done)


def refusal(message: str = "7_seven was changed", *, of: DatabasePath = APP) -> DatabaseDone:
    return visit(OutcomeKind.REFUSED, refused(message), of=of)


def unavailable(error: MigrationError | None = None, *, of: DatabasePath = APP) -> DatabaseDone:
    return visit(OutcomeKind.UNAVAILABLE, error or busy(), of=of)


class AlertLog:
    """`Alerts` with a log file, and the lines logged since the last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.alerts = Alerts(logger.configure("json", "debug", self.descriptor), lambda: 1.0)

    def lines(self) -> list[dict[str, Any]]:
        new = self._path.read_text("utf-8").splitlines()[self._read :]
        self._read += len(new)
        return [json.loads(line) for line in new]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def after(self, visited: DatabaseDone, now: float = 0.0) -> list[str]:
        self.alerts.visited(visited, now)
        return self.events()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AlertLog]:
    subject = AlertLog(tmp_path / "log")
    yield subject
    os.close(subject.descriptor)


# Logged events


@pytest.mark.parametrize(
    ("visited", "events"),
    [
        pytest.param(current(), [], id="current"),
        pytest.param(applied(), ["run.finished"], id="applied"),
        pytest.param(failed(), ["migration.failed", "database.blocked", "run.finished"], id="failed"),
        pytest.param(refusal(), ["checksum.mismatch", "database.blocked", "run.finished"], id="refused"),
        pytest.param(unavailable(), ["database.unavailable", "run.finished"], id="unavailable"),
        pytest.param(unavailable(internal()), ["internal.error", "run.finished"], id="internal error"),
        pytest.param(unavailable(LockHeldError("held")), ["lock.held", "run.finished"], id="locked"),
    ],
)
def test_first_visit_logs_these_events(log: AlertLog, visited: DatabaseDone, events: list[str]) -> None:
    assert events == log.after(visited)


@pytest.mark.parametrize(
    ("before", "visited", "events"),
    [
        pytest.param(failed(), current(), ["database.unblocked"], id="failed, then current"),
        pytest.param(failed(), applied(), ["database.unblocked", "run.finished"], id="failed, then applied"),
        pytest.param(refusal(), current(), ["database.unblocked"], id="refused, then current"),
        pytest.param(unavailable(), current(), ["database.recovered"], id="unavailable, then current"),
        pytest.param(
            unavailable(), applied(), ["database.recovered", "run.finished"], id="unavailable, then applied"
        ),
        pytest.param(applied(), current(), [], id="applied, then current"),
        pytest.param(refusal(), refusal(), [], id="refused for the same cause"),
        pytest.param(unavailable(), unavailable(), [], id="unavailable for the same cause"),
        pytest.param(
            refusal(),
            refusal("8_eight was changed"),
            ["checksum.mismatch", "database.blocked", "run.finished"],
            id="refused for another cause",
        ),
        pytest.param(
            unavailable(),
            unavailable(DatabaseError("disk I/O error")),
            ["database.unavailable", "run.finished"],
            id="unavailable for another cause",
        ),
    ],
)
def test_second_visit_logs_only_changes(
    log: AlertLog, before: DatabaseDone, visited: DatabaseDone, events: list[str]
) -> None:
    log.after(before)

    assert events == log.after(visited, 1.0)


@pytest.mark.parametrize("visited", [failed(), refusal(), unavailable()], ids=["failed", "refused", "unavailable"])
def test_problem_is_reported_as_new_once(log: AlertLog, visited: DatabaseDone) -> None:
    assert log.alerts.visited(visited, 0.0)
    # At the next pass, when the log line is repeated, and later.
    assert [log.alerts.visited(visited, now) for now in (1.0, 100.0, 1000.0)] == [False] * 3
    assert not log.alerts.visited(current(), 1001.0)
    assert log.alerts.visited(visited, 1002.0)


def test_other_version_that_fails_for_the_same_reason_is_a_new_problem(log: AlertLog) -> None:
    log.after(failed())
    other = ExecutionFailedError("no such table: x", version=8, name="eight")

    assert log.alerts.visited(visit(OutcomeKind.FAILED, other, done=1), 1.0)
    assert log.events() == ["migration.failed", "database.blocked", "run.finished"]


@pytest.mark.parametrize("visited", [current(), applied()], ids=["current", "applied"])
def test_current_database_is_no_new_problem(log: AlertLog, visited: DatabaseDone) -> None:
    assert not log.alerts.visited(visited, 0.0)


def test_recovery_is_logged_once(log: AlertLog) -> None:
    log.after(refusal())
    log.after(current())

    assert log.after(current()) == []


def test_problem_that_returns_is_logged_at_once(log: AlertLog) -> None:
    log.after(refusal())
    log.after(current())

    assert log.after(refusal(), 1.0) == ["checksum.mismatch", "database.blocked", "run.finished"]


def test_database_that_was_blocked_and_unavailable_recovers_from_both(log: AlertLog) -> None:
    log.after(failed())
    log.after(unavailable())

    assert log.after(current()) == ["database.unblocked", "database.recovered"]


def test_every_failed_try_is_logged(log: AlertLog) -> None:
    log.after(failed())

    assert "migration.failed" in log.after(failed(), 1.0)


def test_migrations_applied_before_the_same_failure_are_logged(log: AlertLog) -> None:
    log.after(failed())
    log.alerts.visited(failed(done=1), 1.0)

    finished = [line for line in log.lines() if line["event"] == "run.finished"]

    assert [(line["outcome"], line["applied"]) for line in finished] == [("failed", 1)]


def test_lines_name_run_and_database(log: AlertLog) -> None:
    log.alerts.visited(refusal(), 0.0)

    assert {(line["run_id"], line["database"]) for line in log.lines()} == {("r1", "app.db")}


def test_refusal_logs_each_offending_migration(log: AlertLog) -> None:
    log.alerts.visited(refusal(), 0.0)

    first = log.lines()[0]

    assert {key: first[key] for key in ("version", "name", "expected", "found")} == {
        "version": 7,
        "name": "seven",
        "expected": "aa",
        "found": Migration.compute_checksum("SELECT 1;"),
    }


def test_blocked_event_has_reason_and_error(log: AlertLog) -> None:
    log.alerts.visited(refusal(), 0.0)

    blocked = log.lines()[1]

    assert blocked["reason"] == "7_seven was changed"
    assert blocked["error"] == {
        "type": "ChecksumMismatchError",
        "message": "7_seven was changed",
        "code": "CHECKSUM_MISMATCH",
    }


@pytest.mark.parametrize(
    ("visited", "events"),
    [
        pytest.param(refusal(), ["checksum.mismatch", "database.blocked"], id="refused"),
        pytest.param(failed(), ["database.blocked"], id="failed"),
        pytest.param(unavailable(), ["database.unavailable"], id="unavailable"),
    ],
)
def test_lasting_problem_is_repeated_at_growing_intervals(
    log: AlertLog, visited: DatabaseDone, events: list[str]
) -> None:
    log.after(visited, 1000.0)
    repeated: dict[float, list[tuple[str, int]]] = {}
    for now in range(1000, 3000):
        log.alerts.log_repeats(float(now))
        lines = log.lines()
        if lines:
            repeated[now - 1000] = [(line["event"], line["repeated"]) for line in lines]

    assert repeated == {
        at: [(event, times) for event in events] for times, at in enumerate([60, 180, 420, 900, 1800], 1)
    }


@pytest.mark.parametrize("visited", [current(), applied()], ids=["current", "applied"])
def test_current_database_is_not_repeated(log: AlertLog, visited: DatabaseDone) -> None:
    log.after(refusal())
    log.after(visited)
    log.alerts.log_repeats(100_000.0)

    assert log.events() == []


@pytest.mark.parametrize(("matched", "times"), [(True, 1), (False, 2)], ids=["matched", "configured"])
def test_file_that_is_no_database_is_logged_once_if_only_a_pattern_matches_it(
    log: AlertLog, *, matched: bool, times: int
) -> None:
    error = DatabaseError("file is not a database", code="SQLITE_NOTADB")
    log.alerts.visited(unavailable(error, of=DatabasePath("x.db", "/srv/x.db", matched)), 0.0)
    log.alerts.log_repeats(100_000.0)

    assert log.events().count("database.unavailable") == times


# Many databases with one problem


def many(size: int) -> list[DatabasePath]:
    return [DatabasePath(f"{number}.db", f"/srv/{number}.db") for number in range(size)]


def test_first_few_databases_are_logged_and_the_others_counted_at_the_end_of_the_pass(log: AlertLog) -> None:
    log.alerts.found(many(10))
    reported_new = [log.alerts.visited(unavailable(of=database), 0.0) for database in many(10)]
    log.alerts.pass_ended(1.0, "r1")
    lines = [line for line in log.lines() if line["event"] == "database.unavailable"]

    # `visited` reports every database as new, so that hooks run for all of them.
    assert reported_new == [True] * 10
    assert [line.get("database") for line in lines] == ["0.db", "1.db", "2.db", None]
    assert lines[-1]["databases"] == 7
    assert "repeated" not in lines[-1]


def test_internal_errors_share_a_line_of_their_own(log: AlertLog) -> None:
    """An unavailable database with the same code is another cause."""
    databases = many(10)
    log.alerts.found(databases)
    for number, database in enumerate(databases):
        error = DatabaseError("unreadable", transient=True) if number < 5 else internal()
        log.alerts.visited(unavailable(error, of=database), 0.0)
    log.alerts.pass_ended(1.0, "r1")
    lines = [line for line in log.lines() if line["event"] == "internal.error"]

    assert [line.get("database") for line in lines] == ["5.db", "6.db", "7.db", None]
    assert lines[-1]["databases"] == 2
    assert ["traceback" in line for line in lines] == [True, True, True, False]


def test_other_databases_are_not_counted_before_the_pass_ends(log: AlertLog) -> None:
    """The daemon calls `log_repeats` once a second, and a pass may take longer."""
    log.alerts.found(many(10))
    for database in many(10):
        log.alerts.visited(unavailable(of=database), 0.0)
        log.alerts.log_repeats(0.5)
    log.alerts.pass_ended(1.0, "r1")

    lines = [line for line in log.lines() if line["event"] == "database.unavailable"]
    assert [line["databases"] for line in lines if "databases" in line] == [7]


def test_grouped_databases_share_one_repeated_line(log: AlertLog) -> None:
    log.alerts.found(many(10))
    for database in many(10):
        log.alerts.visited(unavailable(of=database), 0.0)
    log.alerts.pass_ended(1.0, "r1")
    log.lines()
    log.alerts.log_repeats(100.0)
    log.alerts.log_repeats(101.0)

    assert [(line.get("databases"), line["repeated"]) for line in log.lines()] == [(None, 1)] * 3 + [(7, 1)]


def test_new_cause_is_logged_individually_again(log: AlertLog) -> None:
    log.alerts.found(many(5))
    for database in many(5):
        log.alerts.visited(unavailable(of=database), 0.0)
    log.alerts.pass_ended(1.0, "r1")
    log.lines()
    for database in many(5):
        log.alerts.visited(failed(of=database), 2.0)

    assert log.events().count("migration.failed") == 3
    log.alerts.pass_ended(3.0, "r2")
    assert [line["databases"] for line in log.lines() if "databases" in line] == [2, 5]


def test_first_few_recoveries_are_logged_and_the_others_counted(log: AlertLog) -> None:
    log.alerts.found(many(10))
    for database in many(10):
        log.alerts.visited(unavailable(of=database), 0.0)
    log.lines()
    for database in many(10):
        log.alerts.visited(current(of=database), 1.0)
    log.alerts.pass_ended(2.0, "r2")
    lines = log.lines()

    recovered = [line for line in lines if line["event"] == "database.recovered"]
    assert [line.get("databases") for line in recovered] == [None, None, None, 7]
    assert [line["current"] for line in lines if line["event"] == "fleet.finished"] == [10]


def halted(*databases: DatabasePath, is_new: bool = True) -> RolloutHalted:
    error = RefusedError("rollout halted: 7_seven failed in 1 of 10 databases")
    return RolloutHalted(databases, error, Halt(broken(), 1, 0, databases), 10, is_new)


def test_halted_rollout_is_logged_once_and_repeated_while_databases_wait(log: AlertLog) -> None:
    log.alerts.found(many(3))
    log.alerts.halted(halted(*many(3)[:2]), "r1", 0.0)
    log.alerts.halted(halted(many(3)[2], is_new=False), "r2", 1.0)
    assert log.events() == ["fleet.halted"]
    assert log.alerts.counts()["blocked"] == 3

    log.alerts.log_repeats(100.0)
    assert [(line["event"], line["repeated"]) for line in log.lines()] == [("fleet.halted", 1)]
    for database in many(3):
        log.alerts.visited(applied(of=database), 101.0)
    log.lines()
    log.alerts.log_repeats(100_000.0)
    assert log.events() == []
    assert log.alerts.counts()["current"] == 3


def test_no_totals_after_a_pass_without_changes(log: AlertLog) -> None:
    log.alerts.found(many(3))
    for database in many(3):
        log.alerts.visited(current(of=database), 0.0)
    log.alerts.pass_ended(1.0, "r1")

    assert log.events() == []


def test_problem_of_a_removed_database_is_not_repeated(log: AlertLog) -> None:
    log.after(refusal())
    log.alerts.found([OTHER])
    log.alerts.log_repeats(100_000.0)

    assert log.events() == []


# Known databases


def test_known_databases_are_those_found_last(log: AlertLog) -> None:
    log.alerts.found([APP])
    log.alerts.found([APP, OTHER])
    log.alerts.found([OTHER])

    assert log.alerts.known() == {"/srv/other.db"}


def test_database_found_again_keeps_its_problem(log: AlertLog) -> None:
    log.after(failed())
    log.alerts.found([APP, OTHER])

    assert log.alerts.backing_off().keys() == {"/srv/app.db"}


def test_database_that_was_removed_and_returned_starts_over(log: AlertLog) -> None:
    log.after(failed())
    log.alerts.found([])
    log.alerts.found([APP])

    assert log.alerts.backing_off() == {}


# Retries


@pytest.mark.parametrize(
    ("visited", "back_off"),
    [
        pytest.param(current(), None, id="current"),
        pytest.param(applied(), None, id="applied"),
        pytest.param(refusal(), None, id="refused, evaluated again at every pass"),
        pytest.param(failed(), BackOff(11, FILE, 101.0, permanent=True), id="failed"),
        pytest.param(unavailable(), BackOff(11, FILE, 101.0, permanent=False, at_latest=400.0), id="busy"),
        pytest.param(
            unavailable(LockHeldError("held")),
            BackOff(11, FILE, 101.0, permanent=False, at_latest=400.0),
            id="locked",
        ),
        pytest.param(
            unavailable(busy(transient=False)),
            BackOff(11, FILE, 101.0, permanent=True, at_latest=400.0),
            id="apparently unavailable for good",
        ),
    ],
)
def test_failed_database_backs_off(log: AlertLog, visited: DatabaseDone, back_off: BackOff | None) -> None:
    log.after(visited, 100.0)

    assert log.alerts.backing_off() == ({"/srv/app.db": back_off} if back_off else {})


def test_back_off_doubles_with_each_failure_in_a_row(log: AlertLog) -> None:
    until = []
    for _ in range(4):
        log.after(unavailable(), 100.0)
        until.append(log.alerts.backing_off()["/srv/app.db"].until)

    assert until == [101.0, 102.0, 104.0, 108.0]


def test_back_off_starts_over_after_a_success(log: AlertLog) -> None:
    for visited in (unavailable(), unavailable(), current(), unavailable()):
        log.after(visited, 100.0)

    assert log.alerts.backing_off()["/srv/app.db"].until == 101.0


def test_next_retry_is_the_earliest_of_the_transient_failures(log: AlertLog) -> None:
    log.after(unavailable(), 100.0)
    log.after(unavailable(of=OTHER), 50.0)
    log.after(failed(of=DatabasePath("broken.db", "/srv/broken.db")), 10.0)

    assert log.alerts.retry_at() == 51.0


@pytest.mark.parametrize("visited", [None, current(), refusal(), failed()])
def test_no_timed_retry_of_permanent_failures(log: AlertLog, visited: DatabaseDone | None) -> None:
    if visited is not None:
        log.after(visited)

    assert log.alerts.retry_at() is None
    assert log.alerts.take_due(100_000.0) == set()


@pytest.mark.parametrize(
    ("now", "due"),
    [(50.5, set()), (51.0, {"/srv/other.db"}), (101.0, {"/srv/other.db", "/srv/app.db"})],
)
def test_due_databases_are_those_past_their_back_off(log: AlertLog, now: float, due: set[str]) -> None:
    log.after(unavailable(), 100.0)
    log.after(unavailable(of=OTHER), 50.0)

    assert frozenset(due) == log.alerts.take_due(now)


def test_taken_retry_is_due_again_later(log: AlertLog) -> None:
    """That holds even if the pass never reached the database."""
    log.after(unavailable(), 100.0)

    assert log.alerts.take_due(101.0) == {"/srv/app.db"}
    assert log.alerts.take_due(101.0) == set()
    assert (log.alerts.retry_at() or 0) > 101.0


def test_reload_ends_every_back_off(log: AlertLog) -> None:
    log.alerts.found([APP, OTHER])
    log.after(failed())
    log.alerts.retry_all()

    assert log.alerts.backing_off() == {}


# Counts and summary


@pytest.mark.parametrize(
    ("visits", "counts"),
    [
        pytest.param([], (2, 0, 0, 0, 0), id="none visited yet"),
        pytest.param([current(), applied(OTHER)], (2, 2, 0, 0, 0), id="both well"),
        pytest.param([failed(), refusal(of=OTHER)], (2, 0, 2, 0, 6), id="two blocked"),
        pytest.param([unavailable(), refusal(of=OTHER)], (2, 0, 1, 1, 3), id="one of each"),
        pytest.param([refusal(), current()], (2, 1, 0, 0, 0), id="fixed"),
    ],
)
def test_counts(log: AlertLog, visits: list[DatabaseDone], counts: tuple[int, ...]) -> None:
    log.alerts.found([APP, OTHER])
    for visited in visits:
        pending = 3 if visited.outcome.result in {OutcomeKind.FAILED, OutcomeKind.REFUSED} else 0
        log.after(replace(visited, outcome=visited.outcome._replace(pending=pending)))

    names = ("databases", "current", "blocked", "unavailable", "pending")
    assert dict(zip(names, counts, strict=True)) == log.alerts.counts()


@pytest.mark.parametrize(
    ("visits", "summary"),
    [
        pytest.param([], "0 of 2 databases current", id="none visited yet"),
        pytest.param([current()], "1 of 2 databases current", id="one visited"),
        pytest.param([current(), applied(OTHER)], "2 of 2 databases current", id="both well"),
        pytest.param(
            [current(), refusal(of=OTHER)],
            "1 of 2 databases current; 1 blocked: checksum mismatch in 7_seven (other.db)",
            id="one refused",
        ),
        pytest.param(
            [failed(), refusal(of=OTHER)],
            "0 of 2 databases current; 2 blocked: 7_seven failed (app.db): no such table: x",
            id="two blocked",
        ),
        pytest.param(
            [failed(), unavailable(of=OTHER)],
            "0 of 2 databases current; 1 blocked: 7_seven failed (app.db): no such table: x; "
            "1 unavailable: other.db: database is locked",
            id="one of each",
        ),
        pytest.param([refusal(), current()], "1 of 2 databases current", id="fixed"),
    ],
)
def test_summary(log: AlertLog, visits: list[DatabaseDone], summary: str) -> None:
    log.alerts.found([APP, OTHER])
    for visited in visits:
        log.after(visited)

    assert summary == log.alerts.summary()


def test_summary_is_one_short_line(log: AlertLog) -> None:
    log.alerts.found([APP])
    log.after(unavailable(DatabaseError("word\n" * 1000)))

    summary = log.alerts.summary()

    assert summary == "0 of 1 databases current; 1 unavailable: app.db: " + "word " * 17 + "..."


def test_apparently_damaged_database_is_retried_at_the_longest_interval(log: AlertLog) -> None:
    """A disk that failed to read a page once looks like a file that is damaged."""
    log.after(unavailable(busy(transient=False)), 100.0)

    assert log.alerts.retry_at() == 400.0
    assert log.alerts.take_due(399.0) == set()
    assert log.alerts.take_due(400.0) == {"/srv/app.db"}
    assert log.alerts.retry_at() == 700.0
