"""Migrations without a transaction: each statement is committed and recorded, and can be resumed."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import apsw
import pytest
from filelock import FileLock
from integration.children import Children, line_from, tell
from support import applied_versions, checksum, everything, execute, query, schema, write_migration

from migrated import (
    ChecksumMismatchError,
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationError,
    MigrationNotFoundError,
    MigrationRunner,
    RollbackFailedError,
)
from migrated.core.errors import UnfinishedError
from migrated.core.migration import MigrationDirection
from migrated.core.records import Repair
from migrated.core.status import MigrationState
from migrated.engine.backend import Observer
from migrated.system.cancellation import CancelToken

DIRECTIVE = "-- migrated: no-transaction\n"
NOTHING = "SELECT 1"
# The second statement fails until a table `more` exists.
STOPS = ("CREATE TABLE a (x)", "INSERT INTO a SELECT x FROM more", "CREATE TABLE b (x)")
FORGOTTEN_COLUMNS = ("statement", "statements", "reason", "violations")


class Beats(CancelToken):
    """Calls the action given for n at the n-th heartbeat (a statement begins, or a wait for a lock)."""

    def __init__(self, actions: Mapping[int, Callable[[], object]]) -> None:
        super().__init__()
        self._actions = actions

    def beat(self) -> None:
        super().beat()
        self._actions.get(self.heartbeats, lambda: None)()


def pieces(*statements: str, version: int = 1, down: tuple[str, ...] | None = None) -> Migration:
    """Return a migration whose sections are not run in a transaction."""
    up, back = (DIRECTIVE + "".join(f"{one};\n" for one in part) for part in (statements, down or ()))
    return Migration(version, f"m{version}", up, None if down is None else back)


def runner_for(
    database: Path | apsw.Connection,
    *migrations: Migration,
    busy_timeout: float = 5,
    statement_timeout: float = 0,
    supervision: CancelToken | None = None,
) -> MigrationRunner:
    runner = MigrationRunner(
        database, busy_timeout=busy_timeout, statement_timeout=statement_timeout, supervision=supervision
    )
    runner.add_migrations(migrations)
    return runner


def history(database: Path) -> list[tuple[object, ...]]:
    """The history in order, with statement and number of statements."""
    return query(database, "SELECT action, version, statement, statements FROM _migrations_history ORDER BY id")


def tables(database: Path) -> list[object]:
    return [row[1] for row in schema(database) if row[0] == "table"]


def stopped(database: Path, *migrations: Migration) -> ExecutionFailedError:
    """Run, and return the expected failure."""
    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *migrations).run()
    return failed.value


# Statement by statement


def test_each_statement_is_committed_before_the_next_begins(database: Path) -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append((tables(database), history(database)[-1:], applied_versions(database)))

    migration = pieces("CREATE TABLE a (x)", "CREATE TABLE b (x)", "CREATE TABLE c (x)")
    (entry,) = runner_for(database, migration, supervision=Beats({1: look, 2: look, 3: look})).run()

    assert seen == [
        ([], [], []),
        (["a"], [("apply-statement", 1, 1, 3)], []),
        (["a", "b"], [("apply-statement", 1, 2, 3)], []),
    ]
    assert history(database) == [
        ("apply-statement", 1, 1, 3),
        ("apply-statement", 1, 2, 3),
        ("apply", 1, 3, 3),
    ]
    assert query(database, "SELECT version, name, checksum FROM _migrations") == [
        (1, "m1", checksum(migration.up_sql))
    ]
    assert (entry.version, tables(database)) == (1, ["a", "b", "c"])


def test_history_entry_of_each_statement_is_complete(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", "INSERT INTO a VALUES (1), (2)", NOTHING, down=("DROP TABLE a",))
    runner_for(database, migration).run()

    rows = query(
        database,
        "SELECT name, checksum, directives, up_sql, down_sql, rows_changed, reason, pid FROM _migrations_history",
    )
    who = (None, os.getpid())
    texts = (migration.up_sql, migration.down_sql)
    assert rows == [
        ("m1", migration.checksum, "", *texts, 0, *who),
        ("m1", migration.checksum, "", None, None, 2, *who),
        ("m1", migration.checksum, "", *texts, 2, *who),
    ]


def test_rollback_is_recorded_statement_by_statement(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", down=("DROP TABLE a", "VACUUM", "PRAGMA user_version = 9"))
    runner = runner_for(database, migration)
    runner.run()

    assert [entry.version for entry in runner.roll_back()] == [1]

    assert history(database)[1:] == [
        ("rollback-statement", 1, 1, 3),
        ("rollback-statement", 1, 2, 3),
        ("rollback", 1, 3, 3),
    ]
    assert (tables(database), applied_versions(database)) == ([], [])
    assert query(database, "PRAGMA user_version") == [(9,)]


def test_directive_in_the_header_counts_for_both_sections(database: Path, migrations: Path) -> None:
    (migrations / "1_both.sql").write_text(
        f"{DIRECTIVE}-- UP\nCREATE TABLE a (x);\nVACUUM;\n-- DOWN\nVACUUM;\nDROP TABLE a;\n"
    )
    runner = runner_for(database)
    runner.add_directory(migrations)

    runner.run()
    runner.roll_back()

    assert [row[0] for row in history(database)] == ["apply-statement", "apply", "rollback-statement", "rollback"]
    assert schema(database) == []


def test_one_section_alone_may_have_no_transaction(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", "VACUUM").with_down("DROP TABLE a; INSERT INTO nowhere VALUES (1)")
    runner = runner_for(database, migration)
    runner.run()
    before = everything(database)

    with pytest.raises(RollbackFailedError):
        runner.roll_back()

    assert everything(database) == before


def test_in_memory_database_runs_without_a_transaction() -> None:
    connection = apsw.Connection(":memory:")
    runner_for(connection, pieces("CREATE TABLE a (x)", "VACUUM")).run()

    assert connection.execute("SELECT action, statement FROM _migrations_history").fetchall() == [
        ("apply-statement", 1),
        ("apply", 2),
    ]
    connection.close()


# Statements that cannot run in a transaction

FULL = """
CREATE TABLE t (x);
INSERT INTO t WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300)
SELECT randomblob(3000) FROM c;
"""
FULL_OF_HOLES = f"{FULL} DELETE FROM t;"
EFFECTS = [
    pytest.param(FULL_OF_HOLES, ("VACUUM",), "PRAGMA freelist_count", 0, id="VACUUM"),
    pytest.param(FULL_OF_HOLES, ("vacuum main",), "PRAGMA freelist_count", 0, id="vacuum with the schema's name"),
    pytest.param("", ("PRAGMA journal_mode = WAL",), "PRAGMA journal_mode", "wal", id="to WAL"),
    pytest.param("", ("PRAGMA main.journal_mode('wal')",), "PRAGMA journal_mode", "wal", id="to WAL, called"),
    pytest.param(
        "PRAGMA journal_mode = wal",
        ("PRAGMA journal_mode = delete",),
        "PRAGMA journal_mode",
        "delete",
        id="from WAL",
    ),
    pytest.param("", ("PRAGMA page_size = 8192", "VACUUM"), "PRAGMA page_size", 8192, id="page size"),
    pytest.param(
        "PRAGMA journal_mode = wal; CREATE TABLE t (x)",
        (
            "PRAGMA journal_mode = delete",
            "PRAGMA page_size = 1024",
            "VACUUM",
            "PRAGMA journal_mode = wal",
        ),
        "PRAGMA page_size",
        1024,
        id="page size of a database in WAL mode",
    ),
    pytest.param("", ("PRAGMA auto_vacuum = 2", "VACUUM"), "PRAGMA auto_vacuum", 2, id="auto vacuum"),
    pytest.param(
        f"PRAGMA auto_vacuum = 2; VACUUM; {FULL_OF_HOLES}",
        ("PRAGMA incremental_vacuum",),
        "PRAGMA freelist_count",
        0,
        id="incremental vacuum",
    ),
    pytest.param("", ("PRAGMA application_id = 77",), "PRAGMA application_id", 77, id="application_id"),
    pytest.param(
        FULL_OF_HOLES, ("/* ; */ -- VACUUM INTO\n vAcUuM",), "PRAGMA freelist_count", 0, id="behind comments"
    ),
]


@pytest.mark.parametrize(("ground", "statements", "question", "answer"), EFFECTS)
def test_statements_take_effect_and_are_recorded(
    database: Path, ground: str, statements: tuple[str, ...], question: str, answer: object
) -> None:
    execute(database, ground or "CREATE TABLE t (x)")
    assert query(database, question) != [(answer,)]

    runner_for(database, pieces(*statements)).run()

    assert query(database, question) == [(answer,)]
    assert [row[2] for row in history(database)] == list(range(1, len(statements) + 1))
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def test_checkpoint_empties_the_log(database: Path) -> None:
    execute(database, "PRAGMA journal_mode = wal")
    log = Path(f"{database}-wal")
    other = apsw.Connection(str(database))
    other.execute(FULL).fetchall()
    assert log.stat().st_size > 900_000

    runner_for(database, pieces("PRAGMA wal_checkpoint(TRUNCATE)")).run()

    # What is there is the record of that.
    assert log.stat().st_size < 100_000
    other.close()


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode = WAL", "VACUUM"])
def test_run_waits_for_a_writer_that_ends_in_time(database: Path, statement: str) -> None:
    execute(database, FULL_OF_HOLES)
    writer = apsw.Connection(str(database))
    beats = Beats(
        {
            1: lambda: writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (77)").fetchall(),
            5: lambda: writer.execute("COMMIT").fetchall(),
        }
    )

    runner_for(database, pieces(statement), supervision=beats).run()
    writer.close()

    assert beats.heartbeats >= 5
    mode, free = query(database, "SELECT * FROM pragma_journal_mode, pragma_freelist_count")[0]
    assert mode == "wal" if "WAL" in statement else free == 0
    assert query(database, "SELECT x FROM t") == [(77,)]


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode = WAL", "VACUUM", "PRAGMA user_version = 3"])
def test_writer_beyond_the_timeout_is_a_transient_failure_with_the_position(
    database: Path, statement: str
) -> None:
    execute(database, "CREATE TABLE t (x)")
    writer = apsw.Connection(str(database))
    beats = Beats({2: lambda: writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (7)").fetchall()})
    migration = pieces("CREATE TABLE a (x)", statement, NOTHING)

    with pytest.raises(DatabaseError) as failed:
        runner_for(database, migration, busy_timeout=0.05, supervision=beats).run()
    writer.close()

    assert (failed.value.code, failed.value.transient, failed.value.version) == ("SQLITE_BUSY", True, 1)
    assert failed.value.message == "database is locked; stopped after statement 1 of 3"
    assert [row[2] for row in history(database)] == [1]
    assert query(database, "SELECT * FROM pragma_journal_mode, pragma_user_version") == [("delete", 0)]
    runner_for(database, migration).repair(1, Repair.RESUME)
    assert applied_versions(database) == [1]


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode = WAL", "VACUUM", "PRAGMA user_version = 3"])
def test_writer_beyond_the_timeout_before_the_first_statement_changes_nothing(
    database: Path, statement: str
) -> None:
    execute(database, "CREATE TABLE t (x)")
    runner_for(database).init()
    before = everything(database)
    writer = apsw.Connection(str(database))
    beats = Beats({1: lambda: writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (7)").fetchall()})
    runner = runner_for(database, pieces(statement), busy_timeout=0.05, supervision=beats)

    with pytest.raises(DatabaseError) as failed:
        runner.run()
    writer.close()

    assert (failed.value.code, failed.value.transient, failed.value.version) == ("SQLITE_BUSY", True, 1)
    assert "stopped after" not in failed.value.message
    assert everything(database) == before
    assert query(database, "SELECT * FROM pragma_journal_mode, pragma_user_version") == [("delete", 0)]
    assert [entry.version for entry in runner.run()] == [1]


def test_journal_mode_that_does_not_change_is_an_error() -> None:
    connection = apsw.Connection(":memory:")
    runner = runner_for(connection, pieces("CREATE TABLE a (x)", "PRAGMA journal_mode = WAL", NOTHING))

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert (
        failed.value.message
        == "the journal mode did not change: it is still 'memory'; stopped after statement 1 of 3"
    )
    assert (failed.value.line, failed.value.statement) == (3, "PRAGMA journal_mode = WAL;")
    unfinished = runner.unfinished()
    assert unfinished is not None
    assert unfinished.statement == 1
    connection.close()


def test_journal_mode_that_does_not_exist_is_an_error(database: Path) -> None:
    failure = stopped(database, pieces("PRAGMA journal_mode = fast"))

    assert failure.message == "the journal mode did not change: it is still 'delete'"
    assert applied_versions(database) == []


@pytest.mark.parametrize("question", ["PRAGMA journal_mode", "PRAGMA page_size", "PRAGMA table_info(t)"])
def test_reading_the_journal_mode_is_no_error(database: Path, question: str) -> None:
    runner_for(database, pieces(question)).run()

    assert applied_versions(database) == [1]


def test_checkpoint_that_a_reader_prevents_beyond_the_timeout_is_not_recorded_as_done(database: Path) -> None:
    execute(database, "PRAGMA journal_mode = wal; CREATE TABLE t (x)")
    reader = apsw.Connection(str(database))
    reader.execute("BEGIN; SELECT * FROM t").fetchall()

    with pytest.raises(MigrationError) as failed:
        runner_for(
            database, pieces("INSERT INTO t VALUES (1)", "PRAGMA wal_checkpoint(TRUNCATE)"), busy_timeout=0.05
        ).run()
    reader.close()

    assert "stopped after statement 1 of 2" in failed.value.message
    assert applied_versions(database) == []


# Failing statements


def test_failing_first_statement_leaves_the_migration_pending(database: Path) -> None:
    runner_for(database).init()
    before = everything(database)

    failure = stopped(database, pieces("CREATE TABLE a (x PRIMARY KEY, x)", "CREATE TABLE b (x)"))

    assert failure.message == "duplicate column name: x"
    assert "repair" not in str(failure)
    assert everything(database) == before
    runner = runner_for(database, pieces("CREATE TABLE a (x)"))
    assert (runner.unfinished(), [status.state for status in runner.statuses()]) == (
        None,
        [MigrationState.PENDING],
    )
    assert [entry.version for entry in runner.run()] == [1]


def test_failing_first_statement_on_a_new_database_leaves_an_empty_ledger(database: Path) -> None:
    stopped(database, pieces("nonsense"))

    assert (schema(database), applied_versions(database), history(database)) == ([], [], [])
    assert runner_for(database).unfinished() is None


@pytest.mark.parametrize("done", [1, 2, 3])
def test_failure_leaves_exactly_the_statements_before_it(database: Path, migrations: Path, done: int) -> None:
    good = [f"CREATE TABLE t{number} (x);" for number in range(1, 5)]
    bad = f"INSERT INTO t1 VALUES (1), (2),\n    (raised({done}));"
    lines = [*good[:done], bad, *good[done:]]
    path = write_migration(migrations, 1, up=DIRECTIVE + "\n".join(lines))
    runner = runner_for(database)
    runner.add_directory(migrations)

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    failure = failed.value
    assert failure.message == f"no such function: raised; stopped after statement {done} of 5"
    assert failure.hint == "run `migrated repair 1`"
    assert (failure.version, failure.name, failure.file) == (1, "change", str(path))
    assert (failure.line, failure.column, failure.statement) == (done + 4, 6, bad)
    assert failure.completed == ()
    assert tables(database) == [f"t{number}" for number in range(1, done + 1)]
    assert query(database, "SELECT * FROM t1") == []
    assert history(database) == [("apply-statement", 1, number, 5) for number in range(1, done + 1)]
    assert applied_versions(database) == []


def test_failed_statement_is_undone_alone(database: Path) -> None:
    failure = stopped(
        database,
        pieces("CREATE TABLE a (x UNIQUE)", "INSERT INTO a VALUES (1)", "INSERT OR FAIL INTO a VALUES (2), (1)"),
    )

    assert failure.message == "UNIQUE constraint failed: a.x; stopped after statement 2 of 3"
    assert failure.code == "SQLITE_CONSTRAINT_UNIQUE"
    assert query(database, "SELECT x FROM a") == [(1,)]


def test_statement_that_ends_its_transaction_takes_nothing_else_with_it(database: Path) -> None:
    failure = stopped(
        database,
        pieces(
            "CREATE TABLE a (x UNIQUE)", "INSERT INTO a VALUES (1)", "INSERT OR ROLLBACK INTO a VALUES (2), (1)"
        ),
    )

    assert "stopped after statement 2 of 3" in failure.message
    assert query(database, "SELECT x FROM a") == [(1,)]
    assert [row[2] for row in history(database)] == [1, 2]


def test_commit_of_the_last_statement_that_fails_leaves_it_undone_and_unrecorded(database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    reader = apsw.Connection(str(database))
    beats = Beats({2: lambda: reader.execute("BEGIN; SELECT * FROM t").fetchall()})

    with pytest.raises(DatabaseError) as failed:
        runner_for(
            database,
            pieces("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"),
            busy_timeout=0.05,
            supervision=beats,
        ).run()
    reader.close()

    assert (failed.value.code, failed.value.version) == ("SQLITE_BUSY", 1)
    assert "stopped after statement 1 of 2" in failed.value.message
    assert query(database, "SELECT x FROM t") == [(1,)]
    assert (history(database), applied_versions(database)) == ([("apply-statement", 1, 1, 2)], [])


def test_statement_beyond_the_timeout_stops_the_migration(database: Path) -> None:
    endless = "INSERT INTO a WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c"

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, pieces("CREATE TABLE a (x)", endless), statement_timeout=0.05).run()

    assert failed.value.message.endswith("statement_timeout, 0.05 s; stopped after statement 1 of 2")
    assert (failed.value.code, failed.value.line) == ("STATEMENT_TIMEOUT", 3)
    assert query(database, "SELECT * FROM a") == []
    assert history(database) == [("apply-statement", 1, 1, 2)]


def test_failure_lists_completed_migrations_and_leaves_the_rest_pending(database: Path) -> None:
    failure = stopped(
        database, Migration(1, "m1", "CREATE TABLE one (x)"), pieces(*STOPS, version=2), pieces(NOTHING, version=3)
    )

    assert ([entry.version for entry in failure.completed], failure.version) == ([1], 2)
    assert applied_versions(database) == [1]


def test_rollback_stops_at_the_failing_statement(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", down=("DROP TABLE a", "nonsense", "VACUUM"))
    runner = runner_for(database, migration)
    runner.run()

    with pytest.raises(RollbackFailedError) as failed:
        runner.roll_back()

    assert failed.value.message == 'near "nonsense": syntax error; stopped after statement 1 of 3'
    assert (tables(database), applied_versions(database)) == ([], [1])
    unfinished = runner.unfinished()
    assert unfinished is not None
    assert (unfinished.direction, unfinished.next_statement) == (MigrationDirection.DOWN, "nonsense;")
    assert str(unfinished) == "the rollback of 1_m1 stopped after statement 1 of 3"


# Unfinished migrations

ACTIONS: dict[str, Callable[[MigrationRunner], object]] = {
    "run": lambda runner: runner.run(),
    "run_up_to": lambda runner: runner.run_up_to(3),
    "run_to up": lambda runner: runner.run_to(3),
    "run_to down": lambda runner: runner.run_to(0),
    "run_to the stopped one": lambda runner: runner.run_to(2),
    "roll_back": lambda runner: runner.roll_back(),
    "roll_back_to": lambda runner: runner.roll_back_to(0),
    "require_valid": lambda runner: runner.require_valid(),
}


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("action", ACTIONS)
def test_everything_is_refused_until_the_migration_is_repaired(database: Path, action: str, way: str) -> None:
    first = Migration(1, "m1", "CREATE TABLE one (x)", "DROP TABLE one")
    third = Migration(3, "m3", "CREATE TABLE three (x)", "DROP TABLE three")
    if way == "up":
        second = pieces(*STOPS, version=2, down=(NOTHING,))
        stopped(database, first, second)
        what = "2_m2 stopped after statement 1 of 3"
    else:
        second = pieces("CREATE TABLE a (x)", version=2, down=("DROP TABLE a", "nonsense"))
        runner_for(database, first, second).run()
        with pytest.raises(RollbackFailedError):
            runner_for(database, first, second).roll_back()
        what = "the rollback of 2_m2 stopped after statement 1 of 2"
    before = everything(database)
    runner = runner_for(database, first, second, third)

    with pytest.raises(UnfinishedError) as refused:
        ACTIONS[action](runner)

    assert refused.value.message == f"{what}: the executed statements stay in effect"
    assert (refused.value.version, refused.value.exit_code, refused.value.code) == (2, 4, "UNFINISHED")
    assert [(status.version, status.state) for status in refused.value.offenders] == [(2, MigrationState.STOPPED)]
    assert "migrated repair 2" in str(refused.value.hint)
    assert everything(database) == before
    assert [status.state for status in runner.statuses()] == [
        MigrationState.APPLIED,
        MigrationState.STOPPED,
        MigrationState.PENDING,
    ]


def test_unfinished_migration_is_reported_in_full(database: Path) -> None:
    migration = pieces(*STOPS)
    stopped(database, migration)

    unfinished = runner_for(database).unfinished()

    assert unfinished is not None
    assert unfinished.recorded == migration
    assert (unfinished.version, unfinished.statement, unfinished.statements) == (1, 1, 3)
    assert unfinished.next_statement == f"{STOPS[1]};"
    assert (unfinished.host, unfinished.pid) == (os.uname().nodename, os.getpid())
    assert [status.name for status in runner_for(database).statuses()] == ["m1"]


# Killed processes

GATED = """
import sys
from migrated import MigrationRunner
from migrated.core.records import Repair
from migrated.system.cancellation import CancelToken

class Gate(CancelToken):
    def beat(self):
        super().beat()
        print(self.heartbeats, flush=True)
        sys.stdin.readline()

runner = MigrationRunner(sys.argv[1], supervision=Gate())
runner.add_directory(sys.argv[2])
runner.run() if sys.argv[3] == "run" else runner.repair(1, Repair.RESUME)
print("finished", flush=True)
"""
# Each statement leaves a visible effect.
WORK = {
    "CREATE TABLE a (x)": ("SELECT count(*) FROM sqlite_schema WHERE name = 'a'", 1),
    "PRAGMA user_version = 5": ("PRAGMA user_version", 5),
    "INSERT INTO a VALUES (1)": ("SELECT min(x) FROM a", 1),
    "PRAGMA journal_mode = WAL": ("PRAGMA journal_mode", "wal"),
    "PRAGMA application_id = 7": ("PRAGMA application_id", 7),
    "INSERT INTO a SELECT x + 1 FROM a": ("SELECT max(x) FROM a", 2),
}


def _killed_once(children: Children, database: Path, migrations: Path, what: str, done: int) -> None:
    """Run a child and kill it once so many statements are recorded and the next has not run."""
    child = children.start(GATED, database, migrations, what)
    assert line_from(child) == "1"
    while len(history(database)) < done:
        tell(child)
        assert line_from(child) != "finished"
    child.send_signal(signal.SIGKILL)
    child.wait()


def _require_done(database: Path, done: int) -> None:
    assert _finished(database) == done
    assert history(database) == [("apply-statement", 1, number, len(WORK)) for number in range(1, done + 1)]
    assert applied_versions(database) == []
    unfinished = runner_for(database).unfinished()
    assert (unfinished.statement if unfinished else 0) == done
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("done", range(len(WORK)))
def test_kill_between_statements_leaves_exactly_the_recorded_ones(
    database: Path, migrations: Path, children: Children, done: int
) -> None:
    write_migration(migrations, 1, up=DIRECTIVE + ";\n".join(WORK))

    _killed_once(children, database, migrations, "run", done)

    _require_done(database, done)


def test_each_resume_after_a_kill_gets_one_statement_further(
    database: Path, migrations: Path, children: Children
) -> None:
    write_migration(migrations, 1, up=DIRECTIVE + ";\n".join(WORK))

    for done in range(1, len(WORK)):
        _killed_once(children, database, migrations, "run" if done == 1 else "resume", done)
        _require_done(database, done)

    runner = runner_for(database)
    runner.add_directory(migrations)
    runner.repair(1, Repair.RESUME)
    assert (_finished(database), applied_versions(database)) == (len(WORK), [1])
    assert query(database, "SELECT x FROM a ORDER BY x") == [(1,), (2,)]


def _finished(database: Path) -> int:
    """Count the visible effects of WORK; none may be visible without its predecessors."""
    shown = []
    for question, answer in WORK.values():
        if " FROM a" in question and "a" not in tables(database):
            shown.append(False)
        else:
            shown.append(query(database, question) == [(answer,)])
    assert shown == sorted(shown, reverse=True)
    return sum(shown)


def test_kill_before_the_entry_of_a_pragma_leaves_it_not_done(
    database: Path, migrations: Path, children: Children
) -> None:
    write_migration(
        migrations,
        1,
        up=f"{DIRECTIVE}CREATE TABLE a (x);\nPRAGMA page_size = 8192;\nVACUUM;\nPRAGMA user_version = 1;",
    )
    child = children.start(GATED, database, migrations, "run")
    assert line_from(child) == "1"
    tell(child)
    assert line_from(child) == "2"
    # The child has run the pragma, and waits for our lock to record it.
    with apsw.Connection(str(database)) as writer:
        writer.execute("INSERT INTO a VALUES (1)")
        tell(child)
        assert line_from(child) == "3"
        child.send_signal(signal.SIGKILL)
        child.wait()
    writer.close()

    assert history(database) == [("apply-statement", 1, 1, 4)]
    runner = runner_for(database)
    runner.add_directory(migrations)
    runner.repair(1, Repair.RESUME)
    assert query(database, "PRAGMA page_size") == [(8192,)]


# Resuming an unfinished migration


def test_resume_continues_with_the_next_statement(database: Path) -> None:
    migration = pieces(*STOPS)
    stopped(database, migration)
    execute(database, "CREATE TABLE more (x); INSERT INTO more VALUES (7)")
    runner = runner_for(database, migration)

    runner.repair(1, Repair.RESUME, reason="the table was missing")

    assert query(database, "SELECT x FROM a") == [(7,)]
    assert tables(database) == ["a", "b", "more"]
    assert history(database) == [
        ("apply-statement", 1, 1, 3),
        ("apply-statement", 1, 2, 3),
        ("apply", 1, 3, 3),
    ]
    assert query(database, "SELECT reason FROM _migrations_history") == [
        (None,),
        ("the table was missing",),
        ("the table was missing",),
    ]
    assert query(database, "SELECT version, checksum FROM _migrations") == [(1, migration.checksum)]
    assert (runner.unfinished(), runner.run()) == (None, [])


def test_resume_stops_at_the_next_failing_statement(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", "CREATE TABLE b (x)", "INSERT INTO more VALUES (1)", NOTHING)
    stopped(database, migration)
    execute(database, "DROP TABLE b; DELETE FROM _migrations_history WHERE statement = 2")
    runner = runner_for(database, migration)

    with pytest.raises(ExecutionFailedError) as failed:
        runner.repair(1, Repair.RESUME)

    assert failed.value.message == "no such table: more; stopped after statement 2 of 4"
    assert (failed.value.line, failed.value.version) == (4, 1)
    assert [row[2] for row in history(database)] == [1, 2]
    before = everything(database)
    with pytest.raises(ExecutionFailedError):
        runner.repair(1, Repair.RESUME)
    assert everything(database) == before
    execute(database, "CREATE TABLE more (x)")
    runner.repair(1, Repair.RESUME)
    assert (applied_versions(database), runner.unfinished()) == ([1], None)


def test_later_statements_may_be_edited(database: Path) -> None:
    stopped(database, pieces(*STOPS))
    edited = pieces(STOPS[0], "-- mended\nINSERT INTO a VALUES (5)", "VACUUM", "CREATE TABLE c (x)", NOTHING)

    runner_for(database, edited).repair(1, Repair.RESUME)

    assert (tables(database), query(database, "SELECT x FROM a")) == (["a", "c"], [(5,)])
    assert [row[2:] for row in history(database)] == [(1, 3), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert query(database, "SELECT checksum FROM _migrations") == [(edited.checksum,)]
    assert runner_for(database, edited).run() == []
    stored = query(database, "SELECT up_sql FROM _migrations_history WHERE action = 'apply'")
    assert stored == [(edited.up_sql,)]


def test_resumed_text_is_stored_when_the_migration_stops_again(database: Path) -> None:
    stopped(database, pieces(*STOPS))
    edited = pieces(STOPS[0], "CREATE TABLE c (x)", "INSERT INTO nowhere VALUES (1)", NOTHING)
    with pytest.raises(ExecutionFailedError):
        runner_for(database, edited).repair(1, Repair.RESUME)

    unfinished = runner_for(database).unfinished()

    assert unfinished is not None
    assert unfinished.recorded == edited
    assert (unfinished.statement, unfinished.statements) == (2, 4)
    assert unfinished.next_statement == "INSERT INTO nowhere VALUES (1);"


@pytest.mark.parametrize("comment", ["", "-- another comment between\n", "\n\n/* ; */ "])
def test_layout_between_finished_statements_may_be_edited(database: Path, comment: str) -> None:
    stopped(database, pieces("CREATE TABLE a (x)", "CREATE TABLE b (x)", "nonsense"))
    edited = pieces("CREATE TABLE a (x)", f"{comment}CREATE TABLE b (x)", f"{comment}CREATE TABLE c (x)")

    runner_for(database, edited).repair(1, Repair.RESUME)

    assert tables(database) == ["a", "b", "c"]


EDITS = [
    pytest.param(
        pieces("CREATE TABLE a (x, y)", *STOPS[1:]),
        "statement 1 has been executed and was changed since",
        id="other",
    ),
    pytest.param(pieces(*STOPS[1:]), "statement 1 has been executed and was changed since", id="removed"),
    pytest.param(
        pieces("CREATE TABLE z (x)", *STOPS),
        "statement 1 has been executed and was changed since",
        id="one before it",
    ),
    pytest.param(pieces(STOPS[0]), "no statement is left to run", id="none left"),
    pytest.param(pieces(), "statement 1 has been executed and was changed since", id="emptied"),
]


@pytest.mark.parametrize(("edited", "reason"), EDITS)
def test_resume_is_refused_when_finished_statements_were_edited(
    database: Path, edited: Migration, reason: str
) -> None:
    stopped(database, pieces(*STOPS))
    before = everything(database)

    with pytest.raises(ChecksumMismatchError) as refused:
        runner_for(database, edited).repair(1, Repair.RESUME)

    assert refused.value.message == f"1_m1 cannot be resumed: {reason}"
    assert refused.value.exit_code == 4
    assert (refused.value.expected, refused.value.found) == (pieces(*STOPS).checksum, edited.checksum)
    assert everything(database) == before


def test_resume_uses_the_stored_text_of_a_missing_migration(database: Path) -> None:
    migration = pieces(*STOPS, down=("DROP TABLE a",))
    stopped(database, migration)
    execute(database, "CREATE TABLE more (x)")

    runner_for(database).repair(1, Repair.RESUME)

    assert tables(database) == ["a", "b", "more"]
    assert query(database, "SELECT version, name, checksum FROM _migrations") == [(1, "m1", migration.checksum)]
    assert runner_for(database, migration).run() == []


def test_resume_runs_finished_pragmas_again(database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    stopped(database, pieces("PRAGMA page_size = 8192", "nonsense", "VACUUM"))
    assert query(database, "PRAGMA page_size") == [(4096,)]

    runner_for(database, pieces("PRAGMA page_size = 8192", "VACUUM")).repair(1, Repair.RESUME)

    assert query(database, "PRAGMA page_size") == [(8192,)]


def test_resume_enforces_foreign_keys_again(database: Path) -> None:
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY);"
        "CREATE TABLE c (p REFERENCES p ON DELETE CASCADE); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)",
    )
    stopped(database, pieces("PRAGMA foreign_keys = ON", "nonsense", NOTHING))

    runner_for(database, pieces("PRAGMA foreign_keys = ON", "DELETE FROM p")).repair(1, Repair.RESUME)

    assert query(database, "SELECT * FROM c") == []


def test_directive_for_foreign_keys_counts_when_resuming(database: Path) -> None:
    execute(database, f"{FAMILY.replace('REFERENCES p', 'REFERENCES p ON DELETE CASCADE')}")
    top = f"{DIRECTIVE}-- migrated: foreign-keys=on\n"
    stopped(database, Migration(1, "m1", f"{top}CREATE TABLE a (x); nonsense"))

    runner_for(database, Migration(1, "m1", f"{top}CREATE TABLE a (x); DELETE FROM p")).repair(1, Repair.RESUME)

    assert query(database, "SELECT * FROM c") == []


def test_resume_runs_no_other_finished_statement_again(database: Path) -> None:
    statements = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)", "VACUUM", "INSERT INTO more VALUES (1)")
    stopped(database, pieces(*statements))
    execute(database, "CREATE TABLE more (x)")

    runner_for(database, pieces(*statements)).repair(1, Repair.RESUME)

    assert query(database, "SELECT x FROM a") == [(1,)]


def test_resume_refuses_forbidden_statements_before_running(database: Path) -> None:
    stopped(database, pieces(*STOPS))
    before = everything(database)

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, pieces(STOPS[0], "CREATE TABLE b (x)", "COMMIT")).repair(1, Repair.RESUME)

    assert failed.value.message.startswith("COMMIT is not allowed in a migration")
    assert everything(database) == before


def test_rollback_is_resumed(database: Path) -> None:
    way_down = ("DROP TABLE a", "DROP TABLE more", "VACUUM")
    migration = pieces("CREATE TABLE a (x)", down=way_down)
    runner = runner_for(database, migration)
    runner.run()
    with pytest.raises(RollbackFailedError):
        runner.roll_back()
    execute(database, "CREATE TABLE more (x)")

    runner.repair(1, Repair.RESUME, reason="made it")

    assert (tables(database), applied_versions(database), runner.unfinished()) == ([], [], None)
    assert history(database)[1:] == [
        ("rollback-statement", 1, 1, 3),
        ("rollback-statement", 1, 2, 3),
        ("rollback", 1, 3, 3),
    ]
    assert [entry.version for entry in runner.run()] == [1]


def test_rollback_with_the_stored_text_is_resumed_with_it(database: Path) -> None:
    migration = pieces("CREATE TABLE a (x)", down=("DROP TABLE a", "DROP TABLE more"))
    runner_for(database, migration).run()
    # The file no longer has a DOWN section: the rollback uses the stored one.
    runner = runner_for(database, pieces("CREATE TABLE a (x)"))
    with pytest.raises(RollbackFailedError):
        runner.roll_back()
    execute(database, "CREATE TABLE more (x)")

    runner.repair(1, Repair.RESUME)

    assert (tables(database), applied_versions(database)) == ([], [])


# Repair: mark as applied, forget


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("how", [Repair.MARK_APPLIED, Repair.FORGET])
def test_repair_marks_or_forgets_the_unfinished_migration(database: Path, how: Repair, way: str) -> None:
    migration = pieces("CREATE TABLE a (x)", *STOPS[1:], down=("DROP TABLE IF EXISTS b", "nonsense"))
    if way == "up":
        stopped(database, migration)
        statements = (1, 3)
    else:
        execute(database, "CREATE TABLE more (x)")
        runner_for(database, migration).run()
        with pytest.raises(RollbackFailedError):
            runner_for(database, migration).roll_back()
        statements = (1, 2)
    there, runner = schema(database), runner_for(database, migration)

    runner.repair(1, how, reason="by hand, é")

    assert schema(database) == there
    assert applied_versions(database) == ([1] if how is Repair.MARK_APPLIED else [])
    assert history(database)[-1] == (how.value, 1, *statements)
    last = "SELECT reason, up_sql, down_sql, checksum FROM _migrations_history ORDER BY id DESC LIMIT 1"
    assert query(database, last) == [("by hand, é", migration.up_sql, migration.down_sql, migration.checksum)]
    expected = MigrationState.APPLIED if how is Repair.MARK_APPLIED else MigrationState.PENDING
    assert (runner.unfinished(), [status.state for status in runner.statuses()]) == (None, [expected])


def test_migration_marked_as_applied_can_be_rolled_back(database: Path) -> None:
    stopped(database, pieces(*STOPS, down=("DROP TABLE a",)))
    runner_for(database, pieces(*STOPS, down=("DROP TABLE a",))).repair(1, Repair.MARK_APPLIED)

    assert [entry.version for entry in runner_for(database).run_to(0)] == [1]

    assert (tables(database), applied_versions(database)) == ([], [])


def test_marking_as_applied_stores_the_edited_text(database: Path) -> None:
    stopped(database, pieces(*STOPS))
    edited = pieces("CREATE TABLE a (x, y)")

    runner_for(database, edited).repair(1, Repair.MARK_APPLIED)

    assert query(database, "SELECT checksum FROM _migrations") == [(edited.checksum,)]
    assert runner_for(database, edited).run() == []


def test_forgotten_migration_runs_from_its_first_statement(database: Path) -> None:
    stopped(database, pieces(*STOPS))
    runner_for(database, pieces(*STOPS)).repair(1, Repair.FORGET)
    execute(database, "DROP TABLE a; CREATE TABLE more (x)")

    runner_for(database, pieces(*STOPS)).run()

    assert [row[0] for row in history(database)] == [
        "apply-statement",
        "forget",
        "apply-statement",
        "apply-statement",
        "apply",
    ]
    assert tables(database) == ["a", "b", "more"]


@pytest.mark.parametrize("how", Repair)
@pytest.mark.parametrize("version", [1, 9])
def test_repair_is_refused_without_an_unfinished_migration(database: Path, how: Repair, version: int) -> None:
    runner_for(database, pieces(NOTHING)).run()
    before = everything(database)

    with pytest.raises(MigrationNotFoundError) as refused:
        runner_for(database, pieces(NOTHING)).repair(version, how)

    assert refused.value.message == f"migration {version} is not stopped, nor is any other"
    assert everything(database) == before


@pytest.mark.parametrize("how", Repair)
def test_repair_of_another_version_is_refused(database: Path, how: Repair) -> None:
    stopped(database, pieces(*STOPS))
    before = everything(database)

    with pytest.raises(MigrationNotFoundError) as refused:
        runner_for(database, pieces(*STOPS), pieces(NOTHING, version=2)).repair(2, how)

    assert refused.value.message == "migration 2 is not stopped: 1_m1 stopped after statement 1 of 3"
    assert everything(database) == before


# Forbidden statements without a transaction

AT_SIGHT = [
    ("BEGIN", "BEGIN"),
    ("begin immediate", "BEGIN"),
    ("COMMIT", "COMMIT"),
    ("END", "END"),
    ("ROLLBACK", "ROLLBACK"),
    ("SAVEPOINT s", "SAVEPOINT"),
    ("RELEASE s", "RELEASE"),
    ("ROLLBACK TO s", "ROLLBACK"),
    ("ATTACH 'other.db' AS other", "ATTACH"),
    ("DETACH other", "DETACH"),
    ("VACUUM INTO 'copy.db'", "VACUUM INTO"),
    ("vacuum main/* */into 'copy.db'", "VACUUM INTO"),
]


@pytest.mark.parametrize(("statement", "name"), AT_SIGHT, ids=[row[0] for row in AT_SIGHT])
def test_forbidden_statement_is_refused_before_the_first_statement_runs(
    database: Path, statement: str, name: str
) -> None:
    runner_for(database).init()
    before = everything(database)

    failure = stopped(database, pieces("CREATE TABLE a (x)", "VACUUM", f"/* */ {statement}", NOTHING))

    assert failure.message == f"{name} is not allowed in a migration"
    assert (failure.version, failure.line, failure.column, failure.statement) == (1, 4, 7, f"{statement};")
    assert everything(database) == before
    assert sorted(path.name for path in database.parent.iterdir() if path.is_file()) == ["app.db"]


IN_PASSING = [
    ("DELETE FROM _migrations_history", "a write to _migrations_history is not allowed in a migration"),
    (
        "INSERT INTO _migrations VALUES (9, 'x', 'y', 'z', 0)",
        "a write to _migrations is not allowed in a migration",
    ),
    ("DROP TABLE _migrations", "dropping _migrations is not allowed in a migration"),
    ("PRAGMA writable_schema = 1", "PRAGMA writable_schema is not allowed in a migration"),
    ("PRAGMA query_only = 1", "PRAGMA query_only is not allowed in a migration"),
    ("EXPLAIN PRAGMA journal_mode = wal", "PRAGMA journal_mode has no effect inside a transaction"),
    ("SELECT ?", "the statement has a parameter"),
]


@pytest.mark.parametrize(("statement", "message"), IN_PASSING, ids=[row[0] for row in IN_PASSING])
def test_forbidden_statement_stops_the_migration(database: Path, statement: str, message: str) -> None:
    failure = stopped(database, pieces("CREATE TABLE a (x)", statement, NOTHING))

    assert failure.message == f"{message}; stopped after statement 1 of 3"
    assert (failure.line, failure.statement) == (3, f"{statement};")
    assert (tables(database), applied_versions(database)) == (["a"], [])
    assert history(database) == [("apply-statement", 1, 1, 3)]


FAMILY = """
CREATE TABLE p (id INTEGER PRIMARY KEY);
CREATE TABLE c (p REFERENCES p);
INSERT INTO p VALUES (1);
INSERT INTO c VALUES (1);
"""


def test_new_violations_fail_the_last_statement(database: Path) -> None:
    execute(database, FAMILY)

    failure = stopped(database, pieces("DELETE FROM p", "CREATE TABLE last (x)"))

    assert failure.code == "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert failure.message.endswith("; stopped after statement 1 of 2")
    assert "last" not in tables(database)
    assert (history(database), applied_versions(database)) == ([("apply-statement", 1, 1, 2)], [])


def test_failure_by_violations_does_not_say_that_everything_was_undone(database: Path) -> None:
    execute(database, FAMILY)

    failure = stopped(database, pieces("DELETE FROM p", "CREATE TABLE last (x)"))

    assert query(database, "SELECT * FROM p") == []
    assert "everything was undone" not in str(failure)


def test_violation_fixed_by_a_later_statement_is_accepted(database: Path) -> None:
    execute(database, FAMILY)

    runner_for(database, pieces("DELETE FROM p", "VACUUM", "DELETE FROM c", NOTHING)).run()

    assert applied_versions(database) == [1]


def test_resume_does_not_accept_the_violations_that_stopped_it(database: Path) -> None:
    execute(database, FAMILY)
    migration = pieces("DELETE FROM p", "CREATE TABLE last (x)")
    stopped(database, migration)

    with pytest.raises(ExecutionFailedError):
        runner_for(database, migration).repair(1, Repair.RESUME)

    assert applied_versions(database) == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE a RENAME TO _migrations_a",
        "CREATE TRIGGER g AFTER INSERT ON a BEGIN DELETE FROM _migrations; END",
    ],
    ids=["name", "trigger"],
)
def test_statement_that_touches_the_ledger_is_rolled_back(database: Path, statement: str) -> None:
    migration = pieces("CREATE TABLE a (x)", statement, "CREATE TABLE never (x)")

    failure = stopped(database, migration)

    assert failure.message.endswith("; stopped after statement 1 of 3")
    assert query(database, "SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_migrations%' ESCAPE '\\'") == [
        ("a",)
    ]


def test_verify_compares_checksums_though_one_is_stopped(database: Path) -> None:
    down = ("DROP TABLE a", "nonsense")
    original = pieces("CREATE TABLE a (x)", version=2, down=down)
    runner_for(database, Migration(1, "m1", "SELECT 1"), original).run()
    with pytest.raises(RollbackFailedError):
        runner_for(database, Migration(1, "m1", "SELECT 1"), original).roll_back()
    edited = pieces("CREATE TABLE a (y)", version=2, down=down)

    assert runner_for(database, Migration(1, "m1", "SELECT 1"), original).verify() == []
    (mismatch,) = runner_for(database, Migration(1, "m1", "SELECT 1"), edited).verify()
    assert mismatch == (2, "m2", original.checksum, edited.checksum)


# Changes of the ledger


def test_history_of_an_earlier_build_is_completed(database: Path) -> None:
    runner_for(database, Migration(1, "m1", "CREATE TABLE one (x)")).run()
    for column in FORGOTTEN_COLUMNS:
        execute(database, f"ALTER TABLE _migrations_history DROP COLUMN {column}")
    runner = runner_for(database, Migration(1, "m1", "CREATE TABLE one (x)"), pieces(*STOPS, version=2))
    before = everything(database)

    assert (runner.unfinished(), runner.current_version()) == (None, 1)
    runner.require_valid()
    assert everything(database) == before
    with pytest.raises(ExecutionFailedError):
        runner.run()

    assert history(database) == [("apply", 1, None, None), ("apply-statement", 2, 1, 3)]
    runner.repair(2, Repair.FORGET, reason="of an earlier build")
    assert query(database, "SELECT reason FROM _migrations_history ORDER BY id DESC LIMIT 1") == [
        ("of an earlier build",)
    ]


def test_history_of_an_earlier_build_is_completed_by_any_run(database: Path) -> None:
    runner_for(database, Migration(1, "m1", "CREATE TABLE one (x)", "DROP TABLE one")).run()
    for column in FORGOTTEN_COLUMNS:
        execute(database, f"ALTER TABLE _migrations_history DROP COLUMN {column}")

    runner_for(database, Migration(1, "m1", "CREATE TABLE one (x)", "DROP TABLE one")).roll_back()

    assert history(database) == [("apply", 1, None, None), ("rollback", 1, None, None)]


def test_ledger_change_between_statements_is_noticed(database: Path) -> None:
    meddling = "INSERT INTO _migrations_history SELECT NULL, happened_at, 'forget', version, name, checksum,"
    meddling += " directives, up_sql, down_sql, 0, 0, statement, statements, reason, violations, host, pid,"
    meddling += " program_version FROM _migrations_history ORDER BY id DESC LIMIT 1"
    # Between two transactions: a pragma has none.
    beats = Beats({3: lambda: execute(database, meddling)})

    with pytest.raises(DatabaseError) as failed:
        runner_for(
            database,
            pieces("CREATE TABLE a (x)", "CREATE TABLE b (x)", "PRAGMA cache_size = 9", "CREATE TABLE c (x)"),
            supervision=beats,
        ).run()

    assert failed.value.message == (
        "another process changed the migrations table during the migration; stopped after statement 2 of 4"
    )
    assert tables(database) == ["a", "b"]
    assert [row[0] for row in history(database)] == ["apply-statement", "apply-statement", "forget"]


def test_writes_of_the_application_between_statements_are_accepted(database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    beats = Beats({1: lambda: execute(database, "INSERT INTO t VALUES (1)")})

    runner_for(database, pieces("PRAGMA cache_size = 9", "INSERT INTO t VALUES (2)"), supervision=beats).run()

    assert query(database, "SELECT x FROM t") == [(1,), (2,)]


def test_migration_applied_by_another_process_is_noticed_before_the_first_statement(database: Path) -> None:
    migration = pieces("PRAGMA cache_size = 9", "CREATE TABLE a (x)")
    runner_for(database).init()

    def apply() -> None:
        with apsw.Connection(str(database)) as other:
            other.execute(
                "CREATE TABLE a (x); INSERT INTO _migrations VALUES (1, 'm1', ?, '2024-01-01', 0)",
                (migration.checksum,),
            ).fetchall()
        other.close()

    assert runner_for(database, migration, supervision=Beats({1: apply})).run() == []

    assert (applied_versions(database), history(database)) == ([1], [])


def test_migration_applied_by_another_process_during_the_wait_is_noticed(database: Path) -> None:
    migration = pieces("PRAGMA user_version = 9", "CREATE TABLE a (x)")
    runner_for(database).init()
    other = apsw.Connection(str(database))
    entry = "INSERT INTO _migrations VALUES (1, 'm1', ?, '2024-01-01', 0)"
    other.execute(f"BEGIN IMMEDIATE; {entry}", (migration.checksum,)).fetchall()
    beats = Beats({1: lambda: other.execute("COMMIT").fetchall()})

    assert runner_for(database, migration, supervision=beats).run() == []
    other.close()

    assert query(database, "PRAGMA user_version") == [(0,)]
    assert history(database) == []


def test_unfinished_migration_of_another_process_is_refused_after_the_wait(database: Path) -> None:
    first = Migration(1, "m1", "CREATE TABLE one (x)", "DROP TABLE one")
    runner_for(database, first).run()
    lock = FileLock(database.parent / ".migrated" / "lock")
    lock.acquire()

    class Waiting(Observer):
        def lock_waiting(self, holder: str) -> None:
            lock.release()
            stopped(database, first, pieces(*STOPS, version=2))

    runner = MigrationRunner(database, observer=Waiting())
    runner.add_migrations([first, pieces(*STOPS, version=2), pieces(NOTHING, version=3)])

    with pytest.raises(UnfinishedError):
        runner.roll_back()

    assert tables(database) == ["a", "one"]
    assert applied_versions(database) == [1]
    assert history(database)[1:] == [("apply-statement", 2, 1, 3)]


@pytest.mark.parametrize("how", Repair)
def test_ledger_change_while_repair_waits_is_noticed(database: Path, how: Repair) -> None:
    stopped(database, pieces(*STOPS))
    other = apsw.Connection(str(database))
    other.execute("BEGIN IMMEDIATE; UPDATE _migrations_history SET action = 'forget'").fetchall()
    runner = runner_for(
        database, pieces(*STOPS), supervision=Beats({1: lambda: other.execute("COMMIT").fetchall()})
    )

    with pytest.raises(MigrationError):
        runner.repair(1, how)
    other.close()

    assert [row[0] for row in history(database)] == ["forget"]
    assert (tables(database), applied_versions(database)) == (["a"], [])


# State of the connection


def test_temporary_tables_and_pragmas_do_not_affect_the_next_migration(database: Path) -> None:
    runner_for(
        database,
        pieces("PRAGMA case_sensitive_like = ON", "CREATE TEMP TABLE passing (x)", "PRAGMA foreign_keys = ON"),
        Migration(
            2,
            "m2",
            "CREATE TABLE seen AS SELECT 'A' LIKE 'a' AS x, (SELECT count(*) FROM sqlite_temp_schema) AS y,"
            " (SELECT foreign_keys FROM pragma_foreign_keys) AS z",
        ),
        pieces("CREATE TABLE seen_too AS SELECT * FROM seen", version=3),
    ).run()

    assert query(database, "SELECT * FROM seen UNION ALL SELECT * FROM seen_too") == [(1, 0, 0)] * 2


def test_temporary_tables_and_pragmas_are_there_within_the_migration(database: Path) -> None:
    runner_for(
        database,
        pieces(
            "CREATE TEMP TABLE passing AS SELECT 5 AS x",
            "PRAGMA case_sensitive_like = ON",
            "CREATE TABLE seen AS SELECT x, 'A' LIKE 'a' AS y FROM passing",
        ),
    ).run()

    assert query(database, "SELECT * FROM seen") == [(5, 0)]


def test_foreign_keys_setting_of_the_callers_connection_is_restored(database: Path) -> None:
    connection = apsw.Connection(str(database))
    runner = runner_for(connection, pieces("PRAGMA foreign_keys = ON", "CREATE TABLE a (x)", "nonsense"))

    with pytest.raises(ExecutionFailedError):
        runner.run()

    assert connection.pragma("foreign_keys") == 0
    assert not connection.in_transaction
    assert connection.authorizer is None
    connection.close()


def test_busy_timeout_pragma_does_not_replace_the_configured_timeout(database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    runner_for(database).init()
    writer = apsw.Connection(str(database))
    statements = ("PRAGMA busy_timeout = 0", "PRAGMA cache_size = 9", "INSERT INTO t VALUES (2)")
    beats = Beats(
        {
            2: lambda: writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").fetchall(),
            4: lambda: writer.execute("COMMIT").fetchall(),
        }
    )

    runner_for(database, pieces(*statements), supervision=beats).run()
    writer.close()

    assert query(database, "SELECT x FROM t") == [(1,), (2,)]
