"""Stop requests and timeouts: a step finishes in time or leaves nothing."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from daemon_process import DEADLINE
from support import applied_versions, everything, execute, put_file, query, schema

from migrated import (
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationError,
    MigrationRunner,
    read_migrations,
)
from migrated.config.settings import TransactionMode
from migrated.core.errors import INTERRUPTED
from migrated.core.migration import MigrationDirection, Step
from migrated.engine.backend import Observer, Progress, StepResult
from migrated.engine.sqlite import progress
from migrated.engine.sqlite.statements import TIMED_OUT
from migrated.system.cancellation import CancelToken

ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1e15) SELECT count(*) FROM c;"


def counting(rows: int) -> str:
    """A statement whose work grows with `rows`: 17 steps of SQLite's virtual machine for each."""
    return ENDLESS.replace("1e15", str(rows))


class Told(Observer, CancelToken):
    """Observer and token: calls an action when a step begins or is done, or at a heartbeat."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.finished: list[int] = []
        self.told: list[Progress] = []
        self.at_begin: dict[int, Callable[[], object]] = {}
        self.at_end: dict[int, Callable[[], object]] = {}
        self.at_beat: dict[int, Callable[[], object]] = {}

    def beginning(self, step: Step, *, late: bool) -> None:
        self.begun.append(step.migration.version)
        # Heartbeats are counted from here.
        self.heartbeats = 0
        self.at_begin.get(step.migration.version, lambda: None)()

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        self.finished.append(done.entry.version)
        self.at_end.get(done.entry.version, lambda: None)()

    def progress(self, progress: Progress) -> None:
        self.told.append(progress)

    def beat(self) -> None:
        super().beat()
        self.at_beat.get(self.heartbeats, lambda: None)()

    def ask(self) -> None:
        """As after the first signal, with time left."""
        self.stop("SIGTERM", math.inf)

    def end(self) -> None:
        """As after the first signal, with the time over."""
        self.stop("SIGTERM", -math.inf)


@pytest.fixture
def told() -> Told:
    return Told()


def runner_for(
    database: Path,
    told: Told,
    *texts: str,
    busy_timeout: float = 30,
    statement_timeout: float = 0,
    transaction: TransactionMode = TransactionMode.EACH,
) -> MigrationRunner:
    """Return a runner with migrations 1, 2, … of these texts."""
    runner = MigrationRunner(
        database,
        observer=told,
        supervision=told,
        busy_timeout=busy_timeout,
        statement_timeout=statement_timeout,
        transaction=transaction,
    )
    runner.add_migrations(Migration(number, f"m{number}", text) for number, text in enumerate(texts, 1))
    return runner


def failure_of(work: Callable[[], object]) -> MigrationError:
    with pytest.raises(MigrationError) as failed:
        work()
    return failed.value


THERE = "CREATE TABLE there (x); INSERT INTO there VALUES (1)"
TEXTS = (
    "CREATE TABLE a (x)",
    f"CREATE TABLE b (x); {counting(20_000)} INSERT INTO b VALUES (1)",
    "CREATE TABLE c (x)",
)


# Stop requests with time to finish


@pytest.mark.parametrize("is_there", [True, False], ids=["each", "several together"])
def test_stop_request_finishes_the_running_step_and_starts_no_other(
    database: Path, told: Told, *, is_there: bool
) -> None:
    if is_there:
        execute(database, THERE)
    told.at_begin[2] = told.ask

    assert [entry.version for entry in runner_for(database, told, *TEXTS).run()] == [1, 2]
    assert told.begun == [1, 2]
    assert applied_versions(database) == [1, 2]
    assert query(database, "SELECT x FROM b") == [(1,)]


def test_stop_request_before_a_run_starts_no_step(database: Path, told: Told) -> None:
    told.ask()

    assert runner_for(database, told, *TEXTS).run() == []
    assert told.begun == []
    assert everything(database) == []


def test_stop_request_finishes_a_run_in_one_transaction(database: Path, told: Told) -> None:
    execute(database, THERE)
    told.at_begin[2] = told.ask

    runner_for(database, told, *TEXTS, transaction=TransactionMode.RUN).run()
    assert applied_versions(database) == [1, 2, 3]


def test_stop_request_finishes_the_running_rollback(database: Path, told: Told) -> None:
    runner = runner_for(database, told)
    runner.add_migrations(
        Migration(n, "m", f"CREATE TABLE t{n} (x)").with_down(f"DROP TABLE t{n}") for n in (1, 2, 3)
    )
    runner.run()
    told.at_begin[2] = told.ask

    assert [entry.version for entry in runner.roll_back_to(0)] == [3, 2]
    assert applied_versions(database) == [1]
    assert [row[1] for row in schema(database)] == ["t1"]


# Interruptions


@pytest.mark.parametrize("is_there", [True, False], ids=["each", "several together"])
def test_step_beyond_the_stop_deadline_is_rolled_back(database: Path, told: Told, *, is_there: bool) -> None:
    if is_there:
        execute(database, THERE)
    # In the third statement: the first two are too short for so many heartbeats.
    told.at_beat[10] = told.end
    texts = (
        "CREATE TABLE a (x)",
        f"CREATE TABLE b (x);\nINSERT INTO b VALUES (1);\n{ENDLESS}",
        "CREATE TABLE c (x)",
    )

    failure = failure_of(runner_for(database, told, *texts).run)
    assert isinstance(failure, ExecutionFailedError)
    assert (failure.code, failure.transient, failure.version) == (INTERRUPTED, True, 2)
    assert failure.message == "the migration was interrupted: SIGTERM"
    assert (failure.statement, failure.line) == (ENDLESS, 3)
    assert [entry.version for entry in failure.completed] == [1]
    assert applied_versions(database) == [1]
    assert [row[1] for row in schema(database)] == ["a"] + ["there"] * is_there


def test_interruption_rolls_back_a_run_in_one_transaction(database: Path, told: Told) -> None:
    execute(database, THERE)
    before = everything(database)
    told.at_begin[2] = told.end

    runner = runner_for(database, told, "CREATE TABLE a (x)", ENDLESS, transaction=TransactionMode.RUN)
    failure = failure_of(runner.run)
    assert failure.code == INTERRUPTED
    assert everything(database) == before


def test_interruption_stops_a_running_statement(database: Path, told: Told) -> None:
    """As after the second signal; the first left time to finish."""
    execute(database, THERE)
    told.at_begin[1] = told.ask
    told.at_beat[50] = told.interrupt

    failure = failure_of(runner_for(database, told, f"CREATE TABLE a (x); {ENDLESS}").run)
    assert failure.code == INTERRUPTED
    assert applied_versions(database) == []
    assert told.heartbeats == 50


def test_interrupted_rollback_leaves_the_migration_applied(database: Path, told: Told) -> None:
    runner = runner_for(database, told)
    runner.add_migration(Migration(1, "m", "CREATE TABLE a (x)").with_down(f"DROP TABLE a; {ENDLESS}"))
    runner.run()
    before = everything(database)
    told.at_begin[1] = told.end

    failure = failure_of(runner.roll_back)
    assert (type(failure).__name__, failure.code) == ("RollbackFailedError", INTERRUPTED)
    assert everything(database) == before


def test_interruption_stops_between_short_statements(database: Path, told: Told) -> None:
    """SQLite calls its progress handler within a statement only, and not within a short one."""
    execute(database, THERE)
    before = everything(database)
    told.at_beat[20] = told.end
    inserts = "INSERT INTO there VALUES (2);\n" * 500

    failure = failure_of(runner_for(database, told, inserts).run)
    assert failure.code == INTERRUPTED
    assert everything(database) == before


def test_interrupted_migration_can_be_run_again(database: Path, told: Told) -> None:
    told.at_begin[1] = told.end
    text = f"CREATE TABLE a (x); {counting(100_000)}"
    failure_of(runner_for(database, told, text).run)

    assert [entry.version for entry in runner_for(database, Told(), text).run()] == [1]


# During the foreign-key check

TERMS = "+".join(["a"] * 500)
COSTLY = (
    "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (0);"
    "CREATE TABLE c (a);"
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
    "INSERT INTO c SELECT 0 FROM n;"
    # A generated column, computed on every read: a million steps.
    f"ALTER TABLE c ADD COLUMN sum AS ({TERMS}) REFERENCES p;"
)


@pytest.mark.parametrize(
    ("there", "text"),
    [
        pytest.param(COSTLY, "INSERT INTO p VALUES (1)", id="before the statement"),
        pytest.param(THERE, COSTLY, id="at the end"),
    ],
)
def test_interruption_while_foreign_keys_are_checked(database: Path, told: Told, there: str, text: str) -> None:
    execute(database, there)
    before = everything(database)
    # The statements themselves are too short for so many heartbeats.
    told.at_beat[30] = told.end

    failure = failure_of(runner_for(database, told, text).run)
    assert (failure.code, failure.version, told.heartbeats) == (INTERRUPTED, 1, 30)
    assert everything(database) == before


# statement_timeout


class Clock:
    """One second from each look at it to the next: time then depends on what SQLite does, not on the machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the progress handler, which looks at it once in 10,000 steps of SQLite's virtual machine."""
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


# Of the clock above; what `counting` does for it.
ROWS_A_SECOND = 10_000 / 17


def seconds(number: float) -> str:
    return counting(int(ROWS_A_SECOND * number))


def test_statement_beyond_the_limit_is_interrupted_and_named(database: Path, told: Told, clock: Clock) -> None:
    execute(database, THERE)
    before = everything(database)
    text = f"CREATE TABLE a (x);\n-- long\n{seconds(60)}\nINSERT INTO a VALUES (1)"

    failure = failure_of(runner_for(database, told, text, statement_timeout=30).run)
    assert isinstance(failure, ExecutionFailedError)
    assert (failure.code, failure.transient, failure.version) == (TIMED_OUT, False, 1)
    assert failure.message == "the statement took longer than statement_timeout, 30 s"
    assert (failure.statement, failure.line, failure.column) == (seconds(60), 3, 1)
    assert everything(database) == before


def test_statement_timeout_applies_to_each_statement(database: Path, told: Told, clock: Clock) -> None:
    """Four statements that are within the limit each, but not together."""
    runner_for(database, told, seconds(20) * 4, statement_timeout=30).run()

    assert applied_versions(database) == [1]
    assert clock.now > 60


def test_the_same_statement_passes_under_a_higher_limit(database: Path, told: Told, clock: Clock) -> None:
    runner_for(database, told, seconds(60), statement_timeout=90).run()

    assert applied_versions(database) == [1]


def test_without_a_limit_nothing_is_interrupted(database: Path, told: Told, clock: Clock) -> None:
    runner_for(database, told, seconds(60)).run()

    assert applied_versions(database) == [1]


def test_statement_timeout_applies_to_a_rollback(database: Path, told: Told, clock: Clock) -> None:
    runner = runner_for(database, told, statement_timeout=30)
    runner.add_migration(Migration(1, "m", "CREATE TABLE a (x)").with_down(f"DROP TABLE a; {seconds(60)}"))
    runner.run()
    before = everything(database)

    failure = failure_of(runner.roll_back)
    assert (type(failure).__name__, failure.code) == ("RollbackFailedError", TIMED_OUT)
    assert everything(database) == before


def test_statement_timeout_applies_without_a_transaction(database: Path, told: Told, clock: Clock) -> None:
    execute(database, THERE)
    statements = (seconds(20), seconds(20), "CREATE TABLE a (x);", seconds(60), "CREATE TABLE b (x);")
    text = "\n".join(["-- migrated: no-transaction", *statements])

    failure = failure_of(runner_for(database, told, text, statement_timeout=30).run)
    assert (failure.code, failure.statement) == (TIMED_OUT, seconds(60))
    assert failure.message.endswith("; stopped after statement 3 of 5")
    assert [row[1] for row in schema(database)] == ["a", "there"]


def test_foreign_key_check_does_not_count_towards_the_timeout(database: Path, told: Told, clock: Clock) -> None:
    """Otherwise a short statement would be blamed, and the limit would depend on table sizes."""
    runner_for(database, told, COSTLY, statement_timeout=30).run()
    taken = clock.now
    runner = runner_for(database, Told(), COSTLY, "INSERT INTO p VALUES (1)", statement_timeout=30)

    assert [entry.version for entry in runner.run()] == [2]
    assert (taken > 30, clock.now - taken > 60) == (True, True)


# Other connections


@pytest.fixture
def other(database: Path) -> Iterator[apsw.Connection]:
    """Another connection to an existing database."""
    execute(database, THERE)
    connection = apsw.Connection(os.fspath(database))
    yield connection
    connection.close()


def test_stop_request_ends_the_wait_for_a_writer_at_once(
    database: Path, told: Told, other: apsw.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    told.at_beat[3] = told.ask

    failure = failure_of(runner_for(database, told, "CREATE TABLE a (x)", busy_timeout=600).run)
    assert isinstance(failure, DatabaseError)
    # One more heartbeat would mean one more wait.
    assert (failure.code, failure.transient, told.heartbeats) == ("SQLITE_BUSY", True, 3)
    other.execute("ROLLBACK")
    assert [row[1] for row in schema(database)] == ["there"]


def test_stop_request_ends_the_wait_between_transactions_of_a_new_database(database: Path, told: Told) -> None:
    """On a new database several migrations share a transaction; one with temporary objects ends it."""
    others: list[apsw.Connection] = []

    def begin() -> None:
        others.append(apsw.Connection(os.fspath(database)))
        others[0].execute("BEGIN IMMEDIATE")
        told.heartbeats = 0

    told.at_end[1] = begin
    told.at_beat[3] = told.ask
    texts = ("CREATE TABLE a (x); CREATE TEMP TABLE t (x)", "CREATE TABLE b (x)", "CREATE TABLE c (x)")

    failure = failure_of(runner_for(database, told, *texts, busy_timeout=0.3).run)
    others[0].close()
    assert (failure.code, told.heartbeats) == ("SQLITE_BUSY", 3)
    assert applied_versions(database) == [1]


def read_of(connection: apsw.Connection) -> None:
    connection.execute("BEGIN; SELECT * FROM there").fetchall()


def test_commit_waits_for_a_reader_until_the_stop_deadline(
    database: Path, told: Told, other: apsw.Connection
) -> None:
    """In DELETE mode a reader blocks COMMIT; the finished work is worth the wait."""
    read_of(other)
    ends: list[float] = []

    def ask() -> None:
        ends.append(time.monotonic() + 0.2)
        told.stop("SIGTERM", ends[0])

    # The first heartbeat is that of the statement.
    told.at_beat[2] = ask

    failure = failure_of(runner_for(database, told, "CREATE TABLE a (x)", busy_timeout=600).run)
    ended = time.monotonic()
    other.execute("ROLLBACK")
    assert (failure.code, failure.transient) == ("SQLITE_BUSY", True)
    assert ended >= ends[0]
    assert everything(database) == [("table", "there", "CREATE TABLE there (x)"), ("there", 1)]


def test_commit_before_the_stop_deadline_succeeds(database: Path, told: Told, other: apsw.Connection) -> None:
    read_of(other)
    told.at_beat[2] = told.ask
    told.at_beat[5] = lambda: other.execute("ROLLBACK")

    texts = ("CREATE TABLE a (x)", "CREATE TABLE b (x)")
    assert [entry.version for entry in runner_for(database, told, *texts).run()] == [1]
    assert applied_versions(database) == [1]


# Without a transaction

PIECES = f"""\
-- migrated: no-transaction
CREATE TABLE a (x);
INSERT INTO a VALUES (1);
{ENDLESS}
CREATE TABLE b (x);
"""


def test_migration_without_a_transaction_stops_after_its_last_whole_statement(database: Path, told: Told) -> None:
    execute(database, THERE)
    told.at_beat[20] = told.end

    failure = failure_of(runner_for(database, told, PIECES, "CREATE TABLE c (x)").run)
    assert (failure.code, failure.version, failure.statement, failure.line) == (INTERRUPTED, 1, ENDLESS, 4)
    assert failure.message == "the migration was interrupted: SIGTERM; stopped after statement 2 of 4"
    assert failure.hint is not None
    assert failure.hint.endswith("run `migrated repair 1`")
    assert query(database, "SELECT x FROM a") == [(1,)]
    assert applied_versions(database) == []
    assert query(
        database, "SELECT action, version, statement, statements FROM _migrations_history ORDER BY id"
    ) == [
        ("apply-statement", 1, 1, 4),
        ("apply-statement", 1, 2, 4),
    ]
    refused = failure_of(runner_for(database, Told(), PIECES, "CREATE TABLE c (x)").run)
    assert refused.code == "UNFINISHED"


def test_interruption_in_the_first_statement_without_a_transaction_leaves_nothing(
    database: Path, told: Told
) -> None:
    execute(database, THERE)
    told.at_beat[20] = told.end
    text = f"-- migrated: no-transaction\n{ENDLESS}\nCREATE TABLE b (x);"

    failure = failure_of(runner_for(database, told, text).run)
    assert failure.message == "the migration was interrupted: SIGTERM"
    assert [row[1] for row in schema(database)] == ["there"]
    assert runner_for(database, Told(), "-- migrated: no-transaction\nCREATE TABLE b (x);").run()


def test_migration_without_a_transaction_finishes_before_the_deadline(database: Path, told: Told) -> None:
    execute(database, THERE)
    told.at_begin[1] = told.ask
    text = f"-- migrated: no-transaction\nCREATE TABLE a (x);\n{counting(20_000)}\nVACUUM;\n"

    assert [entry.version for entry in runner_for(database, told, text, "CREATE TABLE c (x)").run()] == [1]
    assert told.begun == [1]


def test_deadline_between_two_statements_starts_no_other_statement(database: Path, told: Told) -> None:
    """Each of them is too short for SQLite's progress handler."""
    execute(database, THERE)
    told.at_beat[3] = told.end
    text = "-- migrated: no-transaction\n" + "".join(f"CREATE TABLE t{number} (x);\n" for number in range(10))

    failure = failure_of(runner_for(database, told, text).run)
    assert failure.code == INTERRUPTED
    assert failure.message.endswith("; stopped after statement 2 of 10")


def test_interrupted_vacuum_changes_nothing(database: Path, told: Told) -> None:
    execute(
        database,
        f"{THERE}; CREATE TABLE big AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < 100000) SELECT i FROM n",
    )
    told.at_beat[10] = told.end

    failure = failure_of(runner_for(database, told, "-- migrated: no-transaction\nVACUUM;").run)
    assert (failure.code, failure.statement) == (INTERRUPTED, "VACUUM;")
    assert query(database, "PRAGMA quick_check") == [("ok",)]
    assert applied_versions(database) == []


# Progress

LONG = counting(30_000)
SCRIPT = f"""\
-- a remark; with a semicolon
CREATE TABLE t (x);  -- 1
/* another; */
INSERT INTO t VALUES (1), (2), ('a;b');  -- 2

CREATE TRIGGER g AFTER INSERT ON t BEGIN
  INSERT INTO other VALUES (new.x);
  SELECT 'not the end; END;';
END;
CREATE TABLE other (x);
-- the long one
  /* here */ {LONG}
INSERT INTO t VALUES (4);
{LONG} -- last
;;
"""
DOWN = f"DELETE FROM t WHERE x = 4;\n\n-- and back\n{LONG}\nDROP TABLE other;\nDROP TABLE t;"


@pytest.fixture
def migration(migrations: Path) -> Migration:
    """One whose sections do not begin on the first line of its file."""
    put_file(migrations, "7_long.sql", f"-- Migration: long\n\n-- UP\n{SCRIPT}\n-- DOWN\n{DOWN}\n")
    (read,) = read_migrations(migrations)
    return read


def line_of(migration: Migration, text: str, *, last: bool = False) -> int:
    assert migration.origin is not None
    lines = Path(migration.origin.file).read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if text in line]
    return found[-1 if last else 0]


def places_of(*statements: tuple[int, int]) -> set[tuple[int, int, int, int]]:
    """Of statements with their lines and the rows before them: what progress in them has to say."""
    return {(number, len(statements), *statement) for number, statement in enumerate(statements, 1)}


def places_told(told: Told) -> set[tuple[int, int, int, int]]:
    return {(one.statement, one.statements, one.line, one.rows_changed) for one in told.told}


def test_progress_names_the_running_statement(
    database: Path, told: Told, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    runner = runner_for(database, told)
    runner.add_migration(migration)
    runner.run()

    # Three rows are there after the second; then come one more row and the one that the trigger writes.
    expected = places_of(
        (line_of(migration, "CREATE TABLE t "), 0),
        (line_of(migration, "INSERT INTO t VALUES (1)"), 0),
        (line_of(migration, "CREATE TRIGGER"), 3),
        (line_of(migration, "CREATE TABLE other"), 3),
        (line_of(migration, "/* here */"), 3),
        (line_of(migration, "INSERT INTO t VALUES (4)"), 3),
        (line_of(migration, "-- last"), 5),
    )
    assert places_told(told) <= expected
    assert places_told(told) >= {place for place in expected if place[0] in {5, 7}}
    assert {(one.step.migration.version, one.step.direction) for one in told.told} == {(7, MigrationDirection.UP)}
    times = [one.elapsed_ms for one in told.told]
    assert times == sorted(times)
    assert all(isinstance(one, int) for one in times)

    told.told.clear()
    runner.roll_back()
    line = line_of(migration, "DELETE FROM t WHERE x = 4")
    expected = places_of((line, 0), (line + 3, 1), (line + 4, 1), (line + 5, 1))
    assert places_told(told) <= expected
    assert (2, 4, line + 3, 1) in places_told(told)
    assert {one.step.direction for one in told.told} == {MigrationDirection.DOWN}


def test_progress_is_reported_without_a_transaction(
    database: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in our own tables do not count as rows of the migration."""
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    text = f"-- migrated: no-transaction\nCREATE TABLE t (x);\nINSERT INTO t VALUES (1), (2);\n{LONG}\nSELECT 1;"
    runner_for(database, told, text).run()

    assert places_told(told) <= places_of((2, 0), (3, 0), (4, 2), (5, 2))
    assert (3, 4, 4, 2) in places_told(told)


def test_progress_of_the_final_check_names_the_last_statement(
    database: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the first statement, even if a comment comes last."""
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    runner_for(database, told, f"{COSTLY}\n-- that is all\n;").run()

    assert (told.told[-1].statement, told.told[-1].statements) == (5, 5)


def test_progress_is_reported_every_few_seconds_at_most(database: Path, told: Told, clock: Clock) -> None:
    runner_for(database, told, seconds(60)).run()

    assert 15 <= len(told.told) <= 25
    assert progress.PROGRESS_SECONDS == 3


def test_progress_of_many_short_statements_is_reported(database: Path, told: Told, clock: Clock) -> None:
    """A dump of inserts takes long although no single statement does."""
    runner_for(database, told, "CREATE TABLE t (x);\n" + "INSERT INTO t VALUES (1);\n" * 100).run()

    assert told.told
    assert told.told[-1].statements == 101
    assert 1 < told.told[-1].statement <= 101


def test_short_step_reports_no_progress(database: Path, told: Told) -> None:
    runner_for(database, told, *TEXTS).run()

    assert told.told == []


# Threads


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_interruption_from_another_thread(database: Path, told: Told, journal: str) -> None:
    execute(database, f"PRAGMA journal_mode = {journal}; {THERE}")
    begun = threading.Event()
    told.at_beat[20] = begun.set
    failures: list[MigrationError] = []
    runner = runner_for(database, told, f"INSERT INTO there VALUES (2); {ENDLESS}")
    thread = threading.Thread(target=lambda: failures.append(failure_of(runner.run)))
    thread.start()
    assert begun.wait(DEADLINE)
    told.end()
    thread.join(DEADLINE)

    assert [failure.code for failure in failures] == [INTERRUPTED]
    assert query(database, "SELECT x FROM there") == [(1,)]


def test_statement_timeout_applies_to_a_callers_connection_and_keeps_its_handler(database: Path) -> None:
    execute(database, "CREATE TABLE g (x)")
    connection = apsw.Connection(str(database))
    asked: list[bool] = []

    def theirs() -> bool:
        asked.append(True)
        return False

    connection.set_progress_handler(theirs, 1000)
    runner = MigrationRunner(connection, statement_timeout=0.1)
    runner.add_migrations([Migration(1, "m1", "CREATE TABLE t (x)"), Migration(2, "m2", ENDLESS)])

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()
    asked.clear()
    connection.execute(counting(10_000)).fetchall()

    assert failed.value.code == TIMED_OUT
    assert asked
    connection.close()


# Very long scripts


@pytest.mark.parametrize("top", ["", "-- migrated: no-transaction\n"])
def test_splitting_statements_sends_heartbeats_and_can_be_interrupted(
    database: Path, told: Told, monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    """Statements are counted for the first report, which takes seconds for a long script."""
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    told.at_beat[6] = told.end

    failure = failure_of(runner_for(database, told, top + "SELECT 1;" * 20_000).run)
    assert (failure.code, told.told) == (INTERRUPTED, [])
    assert applied_versions(database) == []


def test_splitting_statements_does_not_count_towards_the_timeout(
    database: Path, told: Told, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 2.0)
    text = seconds(8) + "SELECT 1;" * 20_000

    runner_for(database, told, text, statement_timeout=15).run()
    assert (told.told[0].statement, told.told[0].statements) == (1, 20_001)
