"""Ending a migration that is running: because it was asked for, or because a statement takes too long."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from support import applied_versions, everything, execute, query

from migrated import DatabaseError, ExecutionFailedError, Migration, MigrationRunner, Repair, Supervision
from migrated.backend import Observer, Progress
from migrated.errors import INTERRUPTED, RollbackFailedError
from migrated.model import Step
from migrated.sqlite import oversight
from migrated.sqlite.failures import TIMED_OUT

ENDLESS = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) INSERT INTO t SELECT max(n) FROM c;"
BRIEF = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {}) SELECT max(n) FROM c;"
GROUND = "CREATE TABLE t (x); INSERT INTO t VALUES (1);"


class Ending(Supervision):
    """Asks for the end once the work has given so many signs of life."""

    def __init__(self, beats: int, *, grace: float = 0.0) -> None:
        super().__init__()
        self._left = beats
        self._grace = grace

    def beat(self) -> None:
        super().beat()
        if self.beats == self._left:
            self.stop("SIGTERM", time.monotonic() + self._grace)


class Collecting(Observer):
    def __init__(self) -> None:
        self.told: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.told.append(progress)


def runner_for(
    database: Path, *texts: str, statement_timeout: float = 0, **parts: Ending | Collecting
) -> MigrationRunner:
    supervision, observer = parts.get("supervision"), parts.get("observer")
    runner = MigrationRunner(
        database,
        busy_timeout=60,
        statement_timeout=statement_timeout,
        supervision=supervision if isinstance(supervision, Supervision) else None,
        observer=observer if isinstance(observer, Observer) else None,
    )
    runner.add_migrations(Migration(n, f"m{n}", text, ENDLESS) for n, text in enumerate(texts, 1))
    return runner


@pytest.fixture
def ground(database: Path) -> Path:
    runner_for(database, GROUND).run()
    return database


# Asked for


def test_interrupted_migration_is_undone_and_says_why(ground: Path) -> None:
    before = everything(ground)
    runner = runner_for(ground, GROUND, f"INSERT INTO t VALUES (2);\n{ENDLESS}", supervision=Ending(50))

    with pytest.raises(ExecutionFailedError) as interrupted:
        runner.run()

    assert interrupted.value.message == "it was interrupted: SIGTERM"
    assert (interrupted.value.code, interrupted.value.transient) == (INTERRUPTED, True)
    assert (interrupted.value.version, interrupted.value.line, interrupted.value.statement) == (2, 2, ENDLESS)
    assert everything(ground) == before


def test_interrupted_rollback_is_undone(ground: Path) -> None:
    before = everything(ground)

    with pytest.raises(RollbackFailedError) as interrupted:
        runner_for(ground, GROUND, supervision=Ending(50)).roll_back()

    assert interrupted.value.code == INTERRUPTED
    assert everything(ground) == before


def test_what_is_running_may_finish_within_its_grace_and_nothing_more_begins(ground: Path) -> None:
    texts = (GROUND, BRIEF.format(1_000_000), "CREATE TABLE never (x)")

    entries = runner_for(ground, *texts, supervision=Ending(20, grace=60)).run()

    assert [entry.version for entry in entries] == [2]
    assert applied_versions(ground) == [1, 2]


def test_check_of_the_foreign_keys_is_interrupted_too(database: Path) -> None:
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p);"
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300000)"
        "INSERT INTO c SELECT NULL FROM n;",
    )
    before = everything(database)
    # The statement itself is over at once; nearly all the work is the check of `c`, before it and after it.
    runner = runner_for(database, "INSERT INTO c VALUES (NULL)", supervision=Ending(60))

    with pytest.raises(ExecutionFailedError) as interrupted:
        runner.run()

    assert interrupted.value.code == INTERRUPTED
    assert everything(database) == before


def test_migration_without_a_transaction_stops_after_a_statement(ground: Path) -> None:
    text = f"-- migrated: no-transaction\nINSERT INTO t VALUES (2);\n{ENDLESS}"
    runner = runner_for(ground, GROUND, text, supervision=Ending(50))

    with pytest.raises(ExecutionFailedError) as interrupted:
        runner.run()

    assert interrupted.value.message == "it was interrupted: SIGTERM; stopped after statement 1 of 2"
    assert interrupted.value.code == INTERRUPTED
    assert query(ground, "SELECT x FROM t") == [(1,), (2,)]
    mended = runner_for(ground, GROUND, text.replace(ENDLESS, "INSERT INTO t VALUES (3);"))
    mended.repair(2, Repair.RESUME)
    assert query(ground, "SELECT x FROM t") == [(1,), (2,), (3,)]


def test_nothing_begins_once_the_end_was_asked_for(ground: Path) -> None:
    supervision = Ending(-1)
    supervision.stop("test", math.inf)

    assert runner_for(ground, GROUND, "CREATE TABLE a (x)", supervision=supervision).run() == []
    assert applied_versions(ground) == [1]


def _while_it_waits(
    database: Path, runner: MigrationRunner, waiting: threading.Event, then: Callable[[], None]
) -> DatabaseError:
    """What a run in another thread raises that waits for the database until `then`."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            runner.run()
        except DatabaseError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert waiting.wait(30)
    then()
    thread.join(30)
    (error,) = raised
    assert isinstance(error, DatabaseError)
    return error


class Waiting(Ending):
    """Notices that somebody waits: the busy handler gives signs of life, and nothing else does meanwhile."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.waits = threading.Event()
        self.is_on = False

    def beat(self) -> None:
        super().beat()
        if self.is_on and self.beats > 10:
            self.waits.set()


def test_waiting_to_begin_ends_at_once_when_asked_to(ground: Path) -> None:
    before = everything(ground)
    supervision = Waiting()
    runner = runner_for(ground, GROUND, "CREATE TABLE a (x)", supervision=supervision)
    writer = apsw.Connection(str(ground))
    writer.execute("BEGIN IMMEDIATE")
    supervision.is_on = True

    error = _while_it_waits(ground, runner, supervision.waits, lambda: supervision.stop("test", math.inf))

    writer.close()
    assert (error.code, error.transient) == ("SQLITE_BUSY", True)
    assert everything(ground) == before


def test_waiting_to_commit_lasts_until_the_grace_is_over(ground: Path) -> None:
    before = everything(ground)
    supervision = Waiting()
    runner = runner_for(ground, GROUND, "CREATE TABLE a (x)", supervision=supervision)
    reader = apsw.Connection(str(ground))
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    supervision.is_on = True
    began = time.monotonic()

    error = _while_it_waits(
        ground, runner, supervision.waits, lambda: supervision.stop("test", time.monotonic() + 0.3)
    )

    took = time.monotonic() - began
    reader.close()
    assert (error.code, error.transient) == ("SQLITE_BUSY", True)
    # Far from the 60 seconds that it would wait for the reader; not before its grace was over.
    assert 0.3 <= took < 30
    assert everything(ground) == before


# Limits


def test_statement_that_takes_too_long_fails_its_migration(ground: Path) -> None:
    before = everything(ground)

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(ground, GROUND, f"INSERT INTO t VALUES (2);\n  {ENDLESS}", statement_timeout=0.1).run()

    assert failed.value.message == "the statement took longer than statement_timeout, 0.1 s"
    assert (failed.value.code, failed.value.transient) == (TIMED_OUT, False)
    assert (failed.value.line, failed.value.column, failed.value.statement) == (2, 3, ENDLESS)
    assert everything(ground) == before


def test_limit_is_for_each_statement_and_not_for_the_migration(ground: Path) -> None:
    began = time.monotonic()
    execute(ground, BRIEF.format(200_000))
    limit = 10 * (time.monotonic() - began)

    entries = runner_for(ground, GROUND, BRIEF.format(200_000) * 25, statement_timeout=limit).run()

    assert [entry.version for entry in entries] == [2]


def test_limit_holds_for_a_caller_s_connection_and_its_own_handler_stays(ground: Path) -> None:
    connection = apsw.Connection(str(ground))
    asked: list[bool] = []

    def theirs() -> bool:
        asked.append(True)
        return False

    connection.set_progress_handler(theirs, 1000)
    runner = MigrationRunner(connection, statement_timeout=0.1)
    runner.add_migrations([Migration(1, "m1", GROUND), Migration(2, "m2", ENDLESS)])

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()
    asked.clear()
    connection.execute(BRIEF.format(10_000)).fetchall()

    assert failed.value.code == TIMED_OUT
    assert asked
    connection.close()


# Progress


def test_progress_is_told_with_statement_and_line(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oversight, "PROGRESS_SECONDS", 0.0)
    told = Collecting()
    brief = BRIEF.format(200_000)
    text = (
        "INSERT INTO t VALUES (2), (3);\n-- a comment; with a semicolon\n"
        f"CREATE TRIGGER g AFTER DELETE ON t BEGIN SELECT 1; SELECT 2; END;\n\n/* ; */ {brief}\nDELETE FROM t;"
    )

    runner_for(ground, GROUND, text, observer=told).run()

    places = {(each.statement, each.statements, each.line, each.rows_changed) for each in told.told}
    assert places == {(3, 4, 5, 2)}
    assert {each.step for each in told.told} == {
        Step(each.step.migration, each.step.direction) for each in told.told
    }
    assert [each.elapsed_ms for each in told.told] == sorted(each.elapsed_ms for each in told.told)


def test_progress_of_a_rollback_is_that_of_the_down_section(
    database: Path, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (migrations / "1_a.sql").write_text(
        f"-- UP\nCREATE TABLE a (x);\n\n-- DOWN\nDROP TABLE a;\n{BRIEF.format(200_000)}\n"
    )
    told = Collecting()
    runner = MigrationRunner(database, observer=told)
    runner.add_directory(migrations)
    runner.run()
    monkeypatch.setattr(oversight, "PROGRESS_SECONDS", 0.0)

    runner.roll_back()

    assert {(each.statement, each.statements, each.line) for each in told.told} == {(2, 2, 6)}
    assert {each.step.direction.value for each in told.told} == {"down"}


def test_progress_of_what_is_brief_is_not_told(ground: Path) -> None:
    told = Collecting()

    runner_for(ground, GROUND, BRIEF.format(200_000), observer=told).run()

    assert told.told == []
