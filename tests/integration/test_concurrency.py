"""Concurrent and killed runners: each migration is applied exactly once and atomically."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import apsw
import pytest
from daemon_process import DEADLINE, poll
from integration.children import Children, line_from, tell
from support import PROGRAM, ROOT, applied_versions, everything, execute, query, schema, write_migration

from migrated import LockHeldError, Migration, MigrationDirection, MigrationError, MigrationRunner
from migrated.core.migration import Step
from migrated.engine.backend import Observer
from migrated.engine.sqlite.database import SqliteDatabase
from migrated.system import file_locks


def applications(database: Path) -> list[tuple[object, ...]]:
    """How often each version was applied."""
    return query(database, "SELECT version, count(*) FROM _migrations_history GROUP BY version ORDER BY version")


def fill(migrations: Path, count: int) -> None:
    write_migration(migrations, 1, up="CREATE TABLE total (n); INSERT INTO total VALUES (1);")
    for version in range(2, count + 1):
        write_migration(migrations, version, up=f"CREATE TABLE t{version} (x);\nUPDATE total SET n = n + 1;")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_eight_processes_apply_each_migration_once(database: Path, migrations: Path, journal: str) -> None:
    fill(migrations, 40)
    if journal == "wal":
        execute(database, "PRAGMA journal_mode = wal")
    command = [*PROGRAM, "up", "-d", str(database), "-m", str(migrations), "--lock-timeout", "30s"]

    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8 if journal == "delete" else 4)
    ]
    ended = [(*process.communicate(timeout=50), process.returncode) for process in started]

    assert [code for _, _, code in ended] == [0] * len(started), ended
    assert applications(database) == [(version, 1) for version in range(1, 41)]
    assert query(database, "SELECT n FROM total") == [(40,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


UNLOCKED = """
import sys
from contextlib import nullcontext
from migrated import MigrationRunner
from migrated.system import file_locks
file_locks.file_lock = lambda *_arguments, **_keywords: nullcontext()
runner = MigrationRunner(sys.argv[1])
runner.add_directory(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(len(runner.run()), flush=True)
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_runs_are_correct_without_the_lock_file(
    database: Path, migrations: Path, children: Children, journal: str
) -> None:
    fill(migrations, 40)
    if journal == "wal":
        execute(database, "PRAGMA journal_mode = wal")
    started = [children.start(UNLOCKED, database, migrations) for _ in range(4)]
    assert [line_from(child) for child in started] == ["ready"] * 4

    for child in started:
        tell(child)
    counts = [int(line_from(child)) for child in started]

    assert [child.wait(DEADLINE) for child in started] == [0] * 4
    assert sum(counts) == 40
    assert applications(database) == [(version, 1) for version in range(1, 41)]
    assert query(database, "SELECT n FROM total") == [(40,)]
    assert not (database.parent / ".migrated").exists()


class _Intruder(Observer):
    """Applies migrations without the lock, after the runner has planned and before its step."""

    def __init__(self, database: Path, before: int, theirs: list[Migration]) -> None:
        self._database = database
        self._before = before
        self._theirs = theirs
        self.begun: list[int] = []

    def beginning(self, step: Step, *, late: bool) -> None:
        self.begun.append(step.migration.version)
        if step.migration.version != self._before:
            return
        with SqliteDatabase(self._database).session(Observer()) as session:
            session.look()
            for theirs in self._theirs:
                session.execute(Step(theirs, step.direction))
        self._theirs = []


@pytest.fixture
def looked_at(database: Path) -> Iterator[SqliteDatabase]:
    """A database with one migration, kept open by `open_and_look`."""
    with SqliteDatabase(database).session(Observer()) as session:
        session.look()
        session.execute(Step(_tables(1)[0], MigrationDirection.UP))
    looked_at = SqliteDatabase(database)
    assert [entry.version for entry in looked_at.open_and_look().applied] == [1]
    yield looked_at
    looked_at.close()


def _versions(looked_at: SqliteDatabase, *, goes_on: list[Migration] | None = None) -> list[int]:
    """The ledger that the session reads, after applying some more."""
    with looked_at.session(Observer()) as session:
        found = session.look()
        for migration in goes_on or []:
            session.execute(Step(migration, MigrationDirection.UP))
        return [entry.version for entry in found.applied]


def test_ledger_is_read_again_after_a_concurrent_write(database: Path, looked_at: SqliteDatabase) -> None:
    assert _versions(SqliteDatabase(database), goes_on=_tables(2)) == [1]

    assert _versions(looked_at, goes_on=_tables(3)) == [1, 2]
    assert applications(database) == [(1, 1), (2, 1), (3, 1)]


def test_ledger_is_read_again_after_a_concurrent_step(looked_at: SqliteDatabase) -> None:
    with looked_at.session(Observer()) as session:
        session.look()
        session.execute(Step(_tables(2)[0], MigrationDirection.UP))

        assert [entry.version for entry in session.look().applied] == [1, 2]


def test_replaced_database_file_is_the_one_that_is_migrated(database: Path, looked_at: SqliteDatabase) -> None:
    other = database.with_name("other.db")
    assert _versions(SqliteDatabase(other), goes_on=_tables(5)) == []
    other.rename(database)

    assert _versions(looked_at, goes_on=_tables(6)) == [5]
    assert applications(database) == [(5, 1), (6, 1)]


def test_connection_is_closed_while_waiting_for_the_lock(database: Path) -> None:
    """An open connection would block a change of the journal mode by the lock's holder."""
    execute(database, "CREATE TABLE a (x); PRAGMA journal_mode = wal")

    class Waiting(Observer):
        def lock_waiting(self, holder: str) -> None:
            holders.append(holder)
            modes.extend(query(database, "PRAGMA journal_mode = delete"))

    holders: list[str] = []
    modes: list[tuple[object, ...]] = []
    runner = MigrationRunner(database, lock_timeout=0.001, observer=Waiting())
    runner.add_migrations(_tables(1))
    with file_locks.file_lock(str(database), file_locks.APPLYING, 0), pytest.raises(LockHeldError):
        runner.run()

    assert len(holders) == 1
    assert modes == [("delete",)]


@pytest.mark.parametrize(
    "migrations",
    [
        pytest.param(["CREATE TABLE a (x)"], id="nothing to do"),
        pytest.param(["CREATE TABLE a (x)", "CREATE TABLE b (x)"], id="something to do"),
        pytest.param(["CREATE TABLE other (x)"], id="something to refuse"),
        pytest.param(["CREATE TABLE a (x)", "nonsense"], id="something that fails"),
    ],
)
def test_run_leaves_no_open_connection(database: Path, migrations: list[str]) -> None:
    for texts in (["CREATE TABLE a (x)"], migrations):
        runner = MigrationRunner(database)
        runner.add_migrations(Migration(number, "m", text) for number, text in enumerate(texts, 1))
        with suppress(MigrationError):
            runner.run()

    descriptors = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    assert database not in [descriptor.resolve() for descriptor in descriptors]


def _tables(*versions: int) -> list[Migration]:
    return [
        Migration(version, f"m{version}", f"CREATE TABLE t{version} (x)", f"DROP TABLE t{version}")
        for version in versions
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        pytest.param([2], [1, 3, 4], id="the next one"),
        pytest.param([2, 3], [1, 4], id="the next two"),
        pytest.param([4], [1, 2, 3], id="a later one"),
        pytest.param([2, 3, 4], [1], id="all that was left"),
    ],
)
def test_runner_plans_again_when_the_ledger_changed(database: Path, theirs: list[int], ours: list[int]) -> None:
    MigrationRunner(database).init()
    other_sqlite_user = _Intruder(database, 2, _tables(*theirs))
    runner = MigrationRunner(database, observer=other_sqlite_user)
    runner.add_migrations(_tables(1, 2, 3, 4))

    entries = runner.run()

    assert [entry.version for entry in entries] == ours
    assert applications(database) == [(version, 1) for version in (1, 2, 3, 4)]
    assert [row[1] for row in schema(database)] == ["t1", "t2", "t3", "t4"]


def test_repeatable_migration_that_another_runner_applies_meanwhile_is_not_repeated(database: Path) -> None:
    MigrationRunner(database).init()
    view = Migration.repeatable("view", "DROP VIEW IF EXISTS v; CREATE VIEW v AS SELECT 1;")
    runner = MigrationRunner(database, observer=_Intruder(database, 2, [view]))
    runner.add_migrations([*_tables(1, 2), view])

    runner.run()

    assert applied_versions(database) == [1, 2]
    assert query(database, "SELECT count(*) FROM _migrations_history WHERE action = 'repeat'") == [(1,)]


def test_rollback_plans_again_when_the_ledger_changed(database: Path) -> None:
    MigrationRunner(database).init()
    first = MigrationRunner(database)
    first.add_migrations(_tables(1, 2, 3))
    first.run()
    other_sqlite_user = _Intruder(database, 2, _tables(2))
    runner = MigrationRunner(database, observer=other_sqlite_user)
    runner.add_migrations(_tables(1, 2, 3))

    entries = runner.roll_back_to(0)

    assert [entry.version for entry in entries] == [3, 1]
    assert applied_versions(database) == []
    assert query(database, "SELECT version FROM _migrations_history WHERE action = 'rollback' ORDER BY id") == [
        (3,),
        (2,),
        (1,),
    ]


class _Application(Observer):
    """Runs a script on the database once, when migration 2 is about to begin."""

    def __init__(self, database: Path, script: str) -> None:
        self._database = database
        self._script = script
        self.begun: list[int] = []

    def beginning(self, step: Step, *, late: bool) -> None:
        self.begun.append(step.migration.version)
        if step.migration.version == 2:
            execute(self._database, self._script)
            self._script = ""


def test_commit_of_the_application_does_not_invalidate_the_plan(database: Path) -> None:
    MigrationRunner(database).init()
    application = _Application(database, "INSERT INTO t1 VALUES (7)")
    runner = MigrationRunner(database, observer=application)
    runner.add_migrations(_tables(1, 2, 3))

    assert [entry.version for entry in runner.run()] == [1, 2, 3]
    assert application.begun == [1, 2, 3]


def test_history_table_dropped_between_two_migrations_is_created_again(database: Path) -> None:
    MigrationRunner(database).init()
    runner = MigrationRunner(database, observer=_Application(database, "DROP TABLE _migrations_history"))
    runner.add_migrations(_tables(1, 2, 3))

    assert [entry.version for entry in runner.run()] == [1, 2, 3]
    assert applications(database) == [(2, 1), (3, 1)]


def test_database_emptied_between_two_migrations_is_migrated_from_the_start(database: Path) -> None:
    MigrationRunner(database).init()
    emptying = "DROP TABLE _migrations; DROP TABLE _migrations_history; DROP TABLE t1"
    runner = MigrationRunner(database, observer=_Application(database, emptying))
    runner.add_migrations(_tables(1, 2, 3))

    runner.run()

    assert applied_versions(database) == [1, 2, 3]
    assert applications(database) == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.parametrize(
    ("applied", "goal", "overtaken_by"),
    [pytest.param(0, 2, 3, id="up, then it would be down"), pytest.param(3, 1, 0, id="down, then it would be up")],
)
def test_migration_finished_by_another_runner_is_not_rolled_back(
    database: Path, monkeypatch: pytest.MonkeyPatch, applied: int, goal: int, overtaken_by: int
) -> None:
    """`run_to` looks, and finds work; before it has the lock somebody goes further than it would."""

    def overtaken(*_: object, **__: object) -> nullcontext[None]:
        monkeypatch.undo()
        _known(database).run_to(overtaken_by)
        return nullcontext()

    _known(database).run_to(applied)
    monkeypatch.setattr(file_locks, "file_lock", overtaken)

    assert _known(database).run_to(goal) == []
    assert applied_versions(database) == list(range(1, overtaken_by + 1))


def _known(database: Path) -> MigrationRunner:
    runner = MigrationRunner(database)
    runner.add_migrations(_tables(1, 2, 3))
    return runner


# Killed processes

CRASHING = """
import os
import signal
import sys
import apsw
from migrated import MigrationRunner

def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def prepare(connection):
    connection.create_scalar_function("die", die)
    connection.create_scalar_function("die_at_commit", lambda: connection.set_commit_hook(die))

apsw.connection_hooks.append(prepare)
runner = MigrationRunner(sys.argv[1])
runner.add_directory(sys.argv[2])
runner.run()
"""


def rows_into_big(first: int, last: int) -> str:
    return (
        f"WITH RECURSIVE c (n) AS (VALUES ({first}) UNION ALL SELECT n + 1 FROM c WHERE n < {last})\n"
        "INSERT INTO big SELECT n, zeroblob(2000) FROM c;"
    )


DOOMED = [
    rows_into_big(1000, 4000),
    "CREATE TABLE doomed (x);",
    "DELETE FROM big WHERE id < 500;",
    "UPDATE big SET id = -id;",
]
DEADLY = [
    *(pytest.param([*DOOMED[:n], "SELECT die();", *DOOMED[n:]], id=f"before statement {n}") for n in range(4)),
    pytest.param([*DOOMED, "SELECT die();"], id="after the last"),
    pytest.param([*DOOMED, "SELECT die_at_commit();"], id="at commit"),
]


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("deadly", DEADLY)
def test_killed_runner_leaves_whole_migrations_and_the_next_run_finishes(
    database: Path, migrations: Path, children: Children, journal: str, deadly: list[str]
) -> None:
    execute(database, f"PRAGMA journal_mode = {journal}")
    big = "CREATE TABLE big (id INTEGER PRIMARY KEY, x);"
    write_migration(migrations, 1, up=f"{big}\n{rows_into_big(1, 999)}")
    _run(database, migrations)
    before = everything(database)
    write_migration(migrations, 2, up="\n".join(deadly))

    child = children.start(CRASHING, database, migrations)
    child.wait(DEADLINE)

    assert child.returncode == -signal.SIGKILL, child.communicate()
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert everything(database) == before
    write_migration(migrations, 2, up="\n".join(DOOMED))
    _run(database, migrations)
    assert applications(database) == [(1, 1), (2, 1)]
    assert query(database, "SELECT count(*), min(id), max(id) FROM big") == [(3501, -4000, -500)]


def _run(database: Path, migrations: Path) -> None:
    runner = MigrationRunner(database)
    runner.add_directory(migrations)
    runner.run()


def test_program_killed_in_the_middle_of_a_long_migration_leaves_nothing_of_it(
    database: Path, migrations: Path
) -> None:
    """The migration writes endlessly, so that it is running, and on the disk, at the signal."""
    write_migration(migrations, 1, up="CREATE TABLE big (x);")
    _run(database, migrations)
    before = everything(database)
    endless = (
        "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) INSERT INTO big SELECT zeroblob(9999)"
    )
    write_migration(migrations, 2, up=f"{endless} FROM c;")
    command = [*PROGRAM, "up", "-d", str(database), "-m", str(migrations)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    try:
        poll(lambda: os.stat(database).st_size >= 8_000_000 or child.poll() is not None, "much on the disk")
    finally:
        child.kill()

    assert child.wait() == -signal.SIGKILL
    assert (database.parent / "app.db-journal").exists()
    assert everything(database) == before
    write_migration(migrations, 2, up="INSERT INTO big VALUES (1);")
    _run(database, migrations)
    assert query(database, "SELECT * FROM big") == [(1,)]


def test_killed_runner_frees_the_database_for_the_next_one_at_once(
    database: Path, migrations: Path, children: Children
) -> None:
    write_migration(migrations, 1, up="SELECT die();\nCREATE TABLE a (x);")
    child = children.start(CRASHING, database, migrations)
    child.wait(DEADLINE)
    assert child.returncode == -signal.SIGKILL, child.communicate()
    runner = MigrationRunner(database, lock_timeout=0, busy_timeout=0)
    runner.add_migration(Migration(1, "change", "CREATE TABLE a (x)"))

    assert [entry.version for entry in runner.run()] == [1]


def test_connections_are_closed_when_a_run_ends(database: Path) -> None:
    before = set(apsw.connections())
    runner = MigrationRunner(database)
    runner.add_migrations(_tables(1, 2))

    runner.run()
    runner.roll_back()
    runner.plan()

    assert set(apsw.connections()) <= before
