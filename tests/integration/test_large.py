"""Large inputs: the work grows in proportion to the input. It is counted, never timed."""

import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from support import execute, query

from migrated import ExecutionFailedError, Migration, MigrationError, MigrationRunner
from migrated.engine.sqlite.connection import BusyHandler
from migrated.engine.sqlite.schema import read_schema
from migrated.system.cancellation import CancelToken

_OPCODES = 100


@pytest.fixture
def work_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Counts Python calls, and SQLite progress callbacks (every hundred opcodes), in a block."""
    count = 0

    def is_stopped() -> bool:
        nonlocal count
        count += 1
        return False

    def watch(connection: apsw.Connection) -> None:
        connection.set_progress_handler(is_stopped, _OPCODES, id=work_of)

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    def measured(action: Callable[[], object]) -> int:
        nonlocal count
        count = 0
        sys.setprofile(called)
        try:
            action()
        finally:
            sys.setprofile(None)
        return count

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, watch])
    return measured


def objects(number: int) -> str:
    return "".join(
        f"CREATE TABLE t{each} (x, y REFERENCES t0); CREATE INDEX i{each} ON t{each} (x);"
        f"CREATE TRIGGER g{each} AFTER INSERT ON t{each} BEGIN SELECT 1; END;"
        for each in range(number)
    )


def migrations(number: int, text: str, down: str) -> list[Migration]:
    first = Migration(1, "first", "CREATE TABLE t (x)", "DROP TABLE t")
    versions = range(2, number + 1)
    return [first, *(Migration(each, "more", text.format(each), down.format(each)) for each in versions)]


def runner_for(database: Path, migrations: list[Migration]) -> MigrationRunner:
    runner = MigrationRunner(database)
    runner.add_migrations(migrations)
    return runner


def failure_of(runner: MigrationRunner) -> MigrationError:
    with pytest.raises(MigrationError) as raised:
        runner.run()
    return raised.value


def test_schema_of_many_tables(tmp_path: Path, work_of: Callable[[Callable[[], object]], int]) -> None:
    def work(number: int) -> int:
        database = tmp_path / f"{number}.db"
        execute(database, objects(number))
        return work_of(lambda: read_schema(str(database), BusyHandler(1, CancelToken())))

    assert work(400) < 5 * work(100)


def test_one_more_trigger_where_there_are_many(
    tmp_path: Path, work_of: Callable[[Callable[[], object]], int]
) -> None:
    """SQLite finds the triggers that name our tables; in Python that took milliseconds per migration."""

    def work(number: int) -> int:
        database = tmp_path / f"{number}.db"
        # Which tables point at which is read once in a run, row by row.
        execute(database, objects(number).replace(" REFERENCES t0", ""))
        trigger = "CREATE TRIGGER g AFTER INSERT ON t0 BEGIN SELECT 1; END"
        return work_of(runner_for(database, [Migration(1, "one", trigger)]).run)

    # The first imports what the others need.
    _, few, many = work(1), work(100), work(400)
    # SQLite looks through its schema several times; in Python it took more than twenty calls for each trigger.
    assert many - few < 10 * (400 - 100)


@pytest.mark.parametrize(
    ("text", "down"),
    [
        ("INSERT INTO t VALUES ({0})", "DELETE FROM t WHERE x = {0}"),
        ("-- migrated: foreign-keys=on\nINSERT INTO t VALUES ({0})", "DELETE FROM t WHERE x = {0}"),
        ("-- migrated: no-transaction\nINSERT INTO t VALUES ({0})", "DELETE FROM t WHERE x = {0}"),
    ],
)
def test_many_migrations(
    tmp_path: Path, work_of: Callable[[Callable[[], object]], int], text: str, down: str
) -> None:
    def work(number: int) -> list[int]:
        runner = runner_for(tmp_path / f"{number}.db", migrations(number, text, down))
        steps = runner.run, runner.statuses, lambda: runner.plan(0), lambda: runner.roll_back(number)
        return [work_of(step) for step in steps]

    for few, many in zip(work(50), work(200), strict=True):
        assert many < 5 * few


def limited(tmp_path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(tmp_path / "app.db"))
    # The least that SQLite does with, for what it does with a billion.
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, 100_000)
    return connection


@pytest.mark.parametrize("top", ["", "-- migrated: no-transaction\n"])
def test_text_too_long_for_the_history_is_refused_before_it_runs(tmp_path: Path, top: str) -> None:
    connection = limited(tmp_path)
    runner = MigrationRunner(connection)
    text = f"{top}CREATE TABLE a (x);{'INSERT INTO a VALUES (1);' * 2_500}"
    runner.add_migration(Migration(1, "long", text, "-- back\nDROP TABLE a;" + " " * 40_000 + "SELECT 1"))

    failure = failure_of(runner)
    assert isinstance(failure, ExecutionFailedError)
    size = len(text) + 40_000 + len("-- back\nDROP TABLE a;SELECT 1")
    assert failure.message == (f"its SQL has {size:,} bytes, and one row of the history holds at most 100,000")
    assert (failure.code, failure.hint) == ("SQLITE_TOOBIG", "split it into several migrations")
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'a'").get == 0


def test_large_text_that_fits_the_history_is_run(tmp_path: Path) -> None:
    """The text fits by its actual size, though not if every character had four bytes."""
    connection = limited(tmp_path)
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "long", f"CREATE TABLE a (x); {'-- é' * 15_000}\n"))

    assert [entry.version for entry in runner.run()] == [1]
    connection.close()
    assert query(tmp_path / "app.db", "SELECT length(up_sql) FROM _migrations_history") == [(60_021,)]


def test_statement_longer_than_sqlite_takes(tmp_path: Path) -> None:
    connection = limited(tmp_path)
    connection.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, 30_000)
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "long", f"CREATE TABLE a (x);\nINSERT INTO a VALUES ('{'x' * 31_000}');"))

    failure = failure_of(runner)
    assert (failure.code, failure.line) == ("SQLITE_TOOBIG", 2)
    assert failure.hint == "SQLite limits a statement, a value and a row to 1 GB: split it"
