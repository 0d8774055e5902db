"""Several migrations in one transaction: with transaction = "run", and on a new database."""

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import apsw
import pytest
from daemon_process import log_lines, migrated
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import applied_versions, everything, execute, query, schema, write_migration

from migrated import (
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationDirection,
    MigrationError,
    MigrationRunner,
    OnMissing,
    Policy,
    RefusedError,
    RollbackFailedError,
)
from migrated.config.settings import TransactionMode
from migrated.core.migration import Step
from migrated.engine.backend import Observer, StepResult
from migrated.system.cancellation import CancelToken

NO_TRANSACTION = "-- migrated: no-transaction\n"
FOREIGN_KEYS = "-- migrated: foreign-keys=on\n"
KEPT_NOTHING = "the whole run was rolled back: it is one transaction"
GROUND = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE); INSERT INTO t VALUES (1, 'one')"
# Failures after some work, by the state of the transaction they leave.
FAILURES = {
    "a statement": "CREATE TABLE x (a);\nINSERT INTO nowhere VALUES (1)",
    "what does not parse": "CREATE TABLE x (a);\nnonsense",
    "OR ROLLBACK": "CREATE TABLE x (a UNIQUE);\nINSERT OR ROLLBACK INTO x VALUES (1), (1)",
    "RAISE(ROLLBACK)": "CREATE TABLE x (a);\nCREATE TRIGGER g AFTER INSERT ON x BEGIN\n"
    "SELECT RAISE(ROLLBACK, 'no');\nEND;\nINSERT INTO x VALUES (1)",
    "OR FAIL": "CREATE TABLE x (a UNIQUE);\nINSERT OR FAIL INTO x VALUES (1), (1)",
    "a violation": "CREATE TABLE x (a REFERENCES t);\nINSERT INTO x VALUES (99)",
    "COMMIT": "CREATE TABLE x (a);\nCOMMIT",
    "a write to the record": "CREATE TABLE x (a);\nDELETE FROM _migrations",
}
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there has a name of its own


class Told(Observer):
    """Records the events of a run; calls the action given for a version when it begins."""

    def __init__(self, actions: Mapping[int, Callable[[], object]] | None = None) -> None:
        self.events: list[tuple[str, int]] = []
        self._actions = actions or {}

    @property
    def done_versions(self) -> list[int]:
        return [version for event, version in self.events if event == "done"]

    def beginning(self, step: Step, *, late: bool) -> None:
        self.events.append(("beginning", step.migration.version))
        self._actions.get(step.migration.version, lambda: None)()

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        self.events.append(("done", done.entry.version))


def numbered(*texts: str, first: int = 1) -> list[Migration]:
    return [Migration(number, f"m{number}", text) for number, text in enumerate(texts, first)]


def table(version: int) -> Migration:
    made = Migration(version, f"m{version}", f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY)")
    return made.with_down(f"DROP TABLE t{version}")


def runner_for(
    database: Path | apsw.Connection,
    *migrations: Migration,
    mode: TransactionMode = TransactionMode.RUN,
    policy: Policy | None = None,
    busy_timeout: float = 5,
    observer: Observer | None = None,
    supervision: CancelToken | None = None,
) -> MigrationRunner:
    runner = MigrationRunner(
        database,
        transaction=mode,
        policy=policy or Policy(),
        busy_timeout=busy_timeout,
        observer=observer,
        supervision=supervision,
    )
    runner.add_migrations(migrations)
    return runner


def versions(entries: Iterable[object]) -> list[object]:
    return [getattr(entry, "version", None) for entry in entries]


def commits(database: Path) -> int:
    """Count the transactions that changed a database in rollback-journal mode; no connection may be open."""
    # "File change counter", https://www.sqlite.org/fileformat2.html
    with database.open("rb") as file:
        return int.from_bytes(file.read(28)[24:])


def existing(database: Path) -> list[tuple[object, ...]]:
    """Create a database with content and return that content."""
    execute(database, GROUND)
    MigrationRunner(database).init()
    return everything(database)


# A run in one transaction


def test_run_mode_applies_all_in_one_transaction(database: Path) -> None:
    existing(database)
    before = commits(database)

    assert versions(runner_for(database, table(1), table(2), table(3)).run()) == [1, 2, 3]

    assert commits(database) == before + 1
    assert applied_versions(database) == [1, 2, 3]


def test_each_mode_commits_every_migration(database: Path) -> None:
    existing(database)
    before = commits(database)

    runner_for(database, table(1), table(2), table(3), mode=TransactionMode.EACH).run()

    assert commits(database) == before + 3


def test_changes_are_invisible_before_the_commit(database: Path) -> None:
    before = existing(database)
    with apsw.Connection(str(database)) as other:
        version = other.pragma("data_version")
    seen: list[object] = []

    def look() -> None:
        seen.append((everything(database) == before, other.pragma("data_version")))

    told = Told({1: look, 2: look, 3: look})

    runner_for(database, table(1), table(2), table(3), observer=told).run()

    assert seen == [(True, version)] * 3
    assert other.pragma("data_version") != version
    other.close()
    assert told.events == [*(("beginning", number) for number in (1, 2, 3)), *(("done", n) for n in (1, 2, 3))]


def test_ledger_has_an_entry_for_each_migration(database: Path) -> None:
    existing(database)
    runner_for(database, table(1), Migration(2, "m2", "INSERT INTO t VALUES (2, 'two'), (3, 'three')")).run()

    rows = query(database, "SELECT action, version, rows_changed, statement FROM _migrations_history")
    assert rows == [("apply", 1, 0, None), ("apply", 2, 2, None)]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("failure", FAILURES)
def test_failure_of_one_migration_rolls_back_all(database: Path, failure: str, number: int) -> None:
    before = existing(database)
    changes = commits(database)
    texts = ["CREATE TABLE a (x)", "INSERT INTO t VALUES (2, 'two')", "DROP TABLE t"]
    texts[number - 1] = FAILURES[failure]
    told = Told()

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *numbered(*texts), observer=told).run()

    assert (failed.value.version, failed.value.completed) == (number, ())
    assert str(failed.value.hint).endswith(KEPT_NOTHING)
    assert (everything(database), commits(database)) == (before, changes)
    assert told.events == [("beginning", n) for n in range(1, number + 1)]


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_on_a_new_database_leaves_nothing(database: Path, failure: str) -> None:
    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *numbered(GROUND, FAILURES[failure])).run()

    assert failed.value.completed == ()
    assert everything(database) == []
    assert versions(runner_for(database, *numbered(GROUND, "CREATE TABLE x (a)")).run()) == [1, 2]


def test_violation_that_a_later_migration_would_fix_is_refused(database: Path) -> None:
    before = existing(database)

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(
            database,
            *numbered("CREATE TABLE x (a REFERENCES t); INSERT INTO x VALUES (99)", "DELETE FROM x"),
        ).run()

    assert (failed.value.version, failed.value.code) == (1, "SQLITE_CONSTRAINT_FOREIGNKEY")
    assert everything(database) == before


def test_rebuilding_a_parent_keeps_the_rows_of_its_children(database: Path) -> None:
    existing(database)
    execute(database, "CREATE TABLE c (t REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1)")

    runner_for(
        database,
        table(1),
        *numbered("DROP TABLE t; CREATE TABLE t (id PRIMARY KEY); INSERT INTO t VALUES (1)", first=2),
    ).run()

    assert query(database, "SELECT * FROM c") == [(1,)]


def test_rollback_is_one_transaction(database: Path) -> None:
    migrations = [table(1), table(2), table(3)]
    runner_for(database, *migrations).run()
    before = commits(database)

    assert versions(runner_for(database, *migrations).run_to(0)) == [3, 2, 1]

    assert commits(database) == before + 1
    assert (schema(database), applied_versions(database)) == ([], [])


@pytest.mark.parametrize("method", ["run_to", "roll_back_to", "roll_back"])
def test_failing_rollback_leaves_everything_applied(database: Path, method: str) -> None:
    migrations = [table(1).with_down("DROP TABLE t1; nonsense"), table(2), table(3)]
    runner_for(database, *migrations).run()
    before = everything(database)
    told = Told()

    with pytest.raises(RollbackFailedError) as failed:
        getattr(runner_for(database, *migrations, observer=told), method)(3 if method == "roll_back" else 0)

    assert (failed.value.version, failed.value.completed) == (1, ())
    assert str(failed.value.hint).endswith(KEPT_NOTHING)
    assert everything(database) == before
    assert told.done_versions == []


ROLLING_BACK = Policy(on_missing=OnMissing.ROLLBACK)


def test_rollback_of_missing_migrations_shares_the_transaction(database: Path) -> None:
    runner_for(database, table(1), table(2)).run()
    before = commits(database)

    done = runner_for(database, table(3), table(4), policy=ROLLING_BACK).run()

    assert versions(done) == [3, 4]
    assert commits(database) == before + 1
    assert applied_versions(database) == [3, 4]


def test_failure_restores_the_missing_migrations(database: Path) -> None:
    runner_for(database, table(1), table(2)).run()
    before = everything(database)

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, table(1), *numbered("nonsense", first=3), policy=ROLLING_BACK).run()

    assert (failed.value.version, failed.value.completed) == (3, ())
    assert str(failed.value.hint).endswith(KEPT_NOTHING)
    assert everything(database) == before


def test_single_migration_needs_no_batch(database: Path) -> None:
    before = existing(database)

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *numbered("nonsense")).run()

    assert failed.value.completed == ()
    assert everything(database) == before


def test_callers_connection_uses_one_transaction(database: Path) -> None:
    existing(database)
    connection = apsw.Connection(str(database))
    connection.pragma("foreign_keys", 1)
    with pytest.raises(ExecutionFailedError):
        runner_for(connection, table(1), *numbered("nonsense", first=2)).run()

    assert (connection.in_transaction, connection.pragma("foreign_keys")) == (False, 1)
    runner_for(connection, table(1), table(2)).run()

    assert connection.execute("SELECT version FROM _migrations").fetchall() == [(1,), (2,)]
    connection.close()


# Migrations that cannot share a transaction


@pytest.mark.parametrize("directive", [NO_TRANSACTION, FOREIGN_KEYS], ids=["no-transaction", "foreign-keys"])
@pytest.mark.parametrize("is_new", [False, True], ids=["", "new database"])
def test_incompatible_migration_is_refused_before_anything_runs(
    database: Path, directive: str, *, is_new: bool
) -> None:
    before = [] if is_new else existing(database)
    odd = Migration(2, "odd", f"{directive}CREATE TABLE a (x)")
    told = Told()
    runner = runner_for(database, table(1), odd, table(3), observer=told)

    with pytest.raises(RefusedError) as refused:
        runner.run()

    name = directive.removeprefix("-- migrated: ").strip()
    assert refused.value.message == (
        f'with transaction = "run" 2_odd cannot share a transaction: it has the directive {name}'
    )
    assert (refused.value.version, refused.value.exit_code, refused.value.completed) == (2, 4, ())
    assert versions(refused.value.offenders) == [2]
    assert (everything(database), told.events) == (before, [])
    # As the hint suggests.
    for target in (1, 2, 3):
        assert versions(runner.run_up_to(target)) == [target]
    assert applied_versions(database) == [1, 2, 3]


def test_incompatible_rollback_is_refused(database: Path) -> None:
    odd = Migration(2, "odd", "CREATE TABLE a (x)").with_down(f"{NO_TRANSACTION}DROP TABLE a; VACUUM")
    runner = runner_for(database, table(1), odd, table(3))
    runner.run()
    before = everything(database)

    with pytest.raises(RefusedError) as refused:
        runner.run_to(0)

    assert "2_odd" in refused.value.message
    assert everything(database) == before
    assert [versions(runner.roll_back()) for _ in range(3)] == [[3], [2], [1]]


def test_migrations_that_all_enforce_foreign_keys_share_a_transaction(database: Path) -> None:
    existing(database)
    execute(database, "CREATE TABLE c (t REFERENCES t ON DELETE CASCADE); INSERT INTO c VALUES (1)")
    before = commits(database)

    runner_for(database, *numbered(f"{FOREIGN_KEYS}DELETE FROM t", f"{FOREIGN_KEYS}CREATE TABLE d (x)")).run()

    assert query(database, "SELECT * FROM c") == []
    assert commits(database) == before + 1


def test_every_incompatible_migration_is_named(database: Path) -> None:
    odd = [Migration(number, f"odd{number}", f"{NO_TRANSACTION}VACUUM") for number in (2, 4)]

    with pytest.raises(RefusedError) as refused:
        runner_for(database, table(1), *odd, table(3)).run()

    assert "2_odd2, 4_odd4" in refused.value.message
    assert versions(refused.value.offenders) == [2, 4]
    assert everything(database) == []


# Stop requests and other processes


@pytest.mark.parametrize("is_new", [False, True], ids=["", "new database"])
@pytest.mark.parametrize("mode", TransactionMode)
def test_stop_request_before_the_transaction_starts_nothing(
    database: Path, mode: TransactionMode, *, is_new: bool
) -> None:
    before = [] if is_new else existing(database)
    supervision, told = CancelToken(), Told()
    supervision.stop("told to", math.inf)

    done = runner_for(database, table(1), table(2), mode=mode, supervision=supervision, observer=told).run()

    assert (done, told.events, everything(database)) == ([], [], before)


def test_stop_request_during_the_transaction_finishes_it(database: Path) -> None:
    existing(database)
    supervision = CancelToken()
    told = Told({1: lambda: supervision.stop("told to", math.inf)})

    done = runner_for(database, table(1), table(2), supervision=supervision, observer=told).run()

    assert (versions(done), applied_versions(database)) == ([1, 2], [1, 2])


def test_stop_request_on_a_new_database_keeps_executed_migrations(database: Path) -> None:
    supervision = CancelToken()
    told = Told({2: lambda: supervision.stop("told to", math.inf)})
    runner = runner_for(
        database, table(1), table(2), table(3), mode=TransactionMode.EACH, supervision=supervision, observer=told
    )

    assert versions(runner.run()) == [1, 2]
    assert (applied_versions(database), told.done_versions) == ([1, 2], [1, 2])


@pytest.mark.parametrize("is_new", [False, True], ids=["", "new database"])
def test_failed_commit_reports_nothing_as_done(database: Path, *, is_new: bool) -> None:
    before = [] if is_new else existing(database)
    mode = TransactionMode.EACH if is_new else TransactionMode.RUN
    reader: list[apsw.Connection] = []

    def read() -> None:
        reader.append(apsw.Connection(str(database)))
        reader[0].execute("BEGIN; SELECT * FROM sqlite_schema").fetchall()

    told = Told({1: read})
    runner = runner_for(database, table(1), table(2), mode=mode, busy_timeout=0.05, observer=told)

    with pytest.raises(DatabaseError) as failed:
        runner.run()
    reader[0].close()

    assert (failed.value.code, failed.value.transient, failed.value.completed) == ("SQLITE_BUSY", True, ())
    assert told.events == [("beginning", 1), ("beginning", 2)]
    assert everything(database) == before
    assert versions(runner_for(database, table(1), table(2)).run()) == [1, 2]


def test_failed_partial_commit_reports_nothing_as_done(database: Path) -> None:
    reader: list[apsw.Connection] = []

    def read() -> None:
        reader.append(apsw.Connection(str(database)))
        reader[0].execute("BEGIN; SELECT * FROM sqlite_schema").fetchall()

    told = Told({2: read})

    with pytest.raises(MigrationError) as failed:
        runner_for(
            database,
            table(1),
            *numbered("nonsense", first=2),
            mode=TransactionMode.EACH,
            busy_timeout=0.05,
            observer=told,
        ).run()
    reader[0].close()

    assert failed.value.completed == ()
    assert (everything(database), told.done_versions) == ([], [])


def test_migration_applied_by_another_process_is_noticed(database: Path) -> None:
    existing(database)
    other = apsw.Connection(str(database))
    other.execute(
        "BEGIN IMMEDIATE; CREATE TABLE t1 (x); INSERT INTO _migrations VALUES (1, 'm1', ?, '2024-01-01', 0)",
        (table(1).checksum,),
    ).fetchall()

    class Waiting(CancelToken):
        def beat(self) -> None:
            if other.in_transaction:
                other.execute("COMMIT").fetchall()

    done = runner_for(database, table(1), table(2), table(3), supervision=Waiting()).run()
    other.close()

    assert (versions(done), applied_versions(database)) == ([2, 3], [1, 2, 3])


# New databases


def test_new_database_takes_one_transaction(database: Path) -> None:
    told = Told()

    done = runner_for(database, *map(table, range(1, 21)), mode=TransactionMode.EACH, observer=told).run()

    assert versions(done) == list(range(1, 21))
    assert commits(database) == 1
    assert told.events == [
        *(("beginning", number) for number in range(1, 21)),
        *(("done", number) for number in range(1, 21)),
    ]


def test_empty_file_is_a_new_database(database: Path) -> None:
    database.touch()

    runner_for(database, table(1), table(2), mode=TransactionMode.EACH).run()

    assert commits(database) == 1


def test_database_with_objects_is_not_new(database: Path) -> None:
    execute(database, "CREATE VIEW v AS SELECT 1")
    before = commits(database)

    runner_for(database, table(1), table(2), mode=TransactionMode.EACH).run()

    assert commits(database) == before + 2


def test_reported_migrations_are_committed(database: Path) -> None:
    seen: list[object] = []

    class Looking(Observer):
        def done(self, done: StepResult, direction: MigrationDirection) -> None:
            seen.append(applied_versions(database))

    runner_for(database, table(1), table(2), mode=TransactionMode.EACH, observer=Looking()).run()

    assert seen == [[1, 2], [1, 2]]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("failure", FAILURES)
def test_migrations_before_a_failing_one_are_committed(database: Path, failure: str, number: int) -> None:
    texts = [GROUND, "INSERT INTO t VALUES (2, 'two')", "INSERT INTO t VALUES (3, 'three')"]
    texts.insert(number, FAILURES[failure])
    told = Told()

    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *numbered(*texts), mode=TransactionMode.EACH, observer=told).run()

    good = list(range(1, number + 1))
    assert (failed.value.version, versions(failed.value.completed)) == (number + 1, good)
    assert KEPT_NOTHING not in str(failed.value)
    assert applied_versions(database) == good
    assert query(database, "SELECT version FROM _migrations_history") == [(version,) for version in good]
    assert query(database, "SELECT id FROM t") == [(version,) for version in good]
    assert [row[1] for row in schema(database) if row[0] == "table"] == ["t"]
    assert told.done_versions == good


def test_failure_is_reported_once_with_its_position(database: Path) -> None:
    with pytest.raises(ExecutionFailedError) as failed:
        runner_for(database, *numbered(GROUND, FAILURES["OR ROLLBACK"]), mode=TransactionMode.EACH).run()

    assert (failed.value.line, failed.value.column, failed.value.code) == (2, 1, "SQLITE_CONSTRAINT_UNIQUE")
    assert failed.value.message == "UNIQUE constraint failed: x.a"


LOOK = (
    "CREATE TABLE seen{} AS SELECT 'A' LIKE 'a' AS x, (SELECT count(*) FROM sqlite_temp_schema) AS y,"
    " (SELECT foreign_keys FROM pragma_foreign_keys) AS z"
)


@pytest.mark.parametrize("trace", ["PRAGMA case_sensitive_like = ON", "CREATE TEMP TABLE passing (x)"])
def test_temporary_objects_do_not_affect_the_next_migration(database: Path, trace: str) -> None:
    texts = [LOOK.format(1), f"{trace}; {LOOK.format(2)}", LOOK.format(3), LOOK.format(4)]

    runner_for(database, *numbered(*texts), mode=TransactionMode.EACH).run()

    assert query(database, "SELECT * FROM seen1, seen3, seen4") == [(1, 0, 0) * 3]
    assert query(database, "SELECT * FROM seen2") != [(1, 0, 0)]
    # One commit for the first two, one for the others.
    assert commits(database) == 2


def test_settings_of_a_failed_batch_do_not_affect_the_repetition(database: Path) -> None:
    texts = [LOOK.format(1), f"PRAGMA case_sensitive_like = ON; {FAILURES['OR ROLLBACK']}"]

    with pytest.raises(ExecutionFailedError):
        runner_for(database, *numbered(*texts), mode=TransactionMode.EACH).run()

    assert query(database, "SELECT * FROM seen1") == [(1, 0, 0)]


def test_migrations_with_directives_work_in_the_middle(database: Path) -> None:
    texts = [
        "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (2)",
        "CREATE TABLE c (p REFERENCES p ON DELETE CASCADE); INSERT INTO c VALUES (1), (2)",
        f"{NO_TRANSACTION}PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL",
        "INSERT INTO p VALUES (3)",
        f"{FOREIGN_KEYS}DELETE FROM p WHERE id = 1",
        "DROP TABLE p; CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (2)",
    ]
    told = Told()

    runner_for(database, *numbered(*texts), mode=TransactionMode.EACH, observer=told).run()

    assert query(database, "SELECT * FROM pragma_page_size, pragma_journal_mode") == [(8192, "wal")]
    assert query(database, "SELECT * FROM c") == [(2,)]
    assert told.done_versions == [1, 2, 3, 4, 5, 6]
    assert applied_versions(database) == [1, 2, 3, 4, 5, 6]


def test_directive_on_the_first_migration_works(database: Path) -> None:
    texts = [f"{NO_TRANSACTION}PRAGMA page_size = 512; VACUUM", GROUND, "INSERT INTO t VALUES (2, 'two')"]

    runner_for(database, *numbered(*texts), mode=TransactionMode.EACH).run()

    assert query(database, "SELECT count(*), page_size FROM t, pragma_page_size") == [(2, 512)]


# Random order

KINDS = {
    "good": "",
    "also good": "INSERT INTO seen{} VALUES (7, 7, 7);",
    "pragma": "PRAGMA case_sensitive_like = ON;",
    "temporary": "CREATE TEMP TABLE passing (x);",
    "no transaction": "VACUUM; INSERT INTO seen{} VALUES (8, 8, 8);",
    "foreign keys": "SELECT 1;",
}
BAD_KINDS = {
    "failing": "nonsense",
    "destroying": "CREATE UNIQUE INDEX u{0} ON seen{0} (x); INSERT OR ROLLBACK INTO seen{0} SELECT * FROM seen{0}",
    "destroying with a pragma": "PRAGMA case_sensitive_like = ON; CREATE UNIQUE INDEX u{0} ON seen{0} (x);"
    "INSERT OR ROLLBACK INTO seen{0} SELECT * FROM seen{0}",
    "violating": "CREATE TABLE p{0} (id INTEGER PRIMARY KEY); CREATE TABLE c{0} (x REFERENCES p{0});"
    "INSERT INTO c{0} VALUES (99)",
    "no transaction failing": "VACUUM; nonsense",
    "foreign keys failing": "SELECT 1; nonsense",
}


def drawn(version: int, kind: str) -> Migration:
    top = NO_TRANSACTION if kind.startswith("no trans") else FOREIGN_KEYS if kind.startswith("foreign") else ""
    text = (KINDS | BAD_KINDS)[kind].format(version)
    return Migration(version, f"m{version}", f"{top}{LOOK.format(version)}; {text}")


def outcome(database: Path, migrations: list[Migration]) -> list[object]:
    """The whole result of a run, without times."""
    told = Told()
    runner = runner_for(database, *migrations, mode=TransactionMode.EACH, observer=told)
    try:
        done, error = versions(runner.run()), ""
    except MigrationError as failed:
        done, error = versions(failed.completed), str(failed)
    tables = [row[1] for row in schema(database) if row[0] == "table"]
    return [
        done,
        error,
        told.done_versions,
        schema(database),
        [(name, query(database, f"SELECT * FROM {name}")) for name in tables],
        query(database, "SELECT version, name, checksum FROM _migrations"),
        query(database, "SELECT action, version, rows_changed, statement, statements FROM _migrations_history"),
        [status.state for status in runner.statuses()],
    ]


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(good=st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=6), bad=st.sampled_from([*BAD_KINDS, None]))
@example(good=["good", "also good"], bad="destroying with a pragma")
def test_grouped_run_equals_single_runs(good: list[str], bad: str | None) -> None:
    migrations = [drawn(version, kind) for version, kind in enumerate([*good, *([bad] if bad else []), "good"], 1)]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as home:
        one, other = Path(home, "new.db"), Path(home, "other.db")
        MigrationRunner(other).init()

        expected = outcome(other, migrations)
        if expected[5]:
            assert outcome(one, migrations) == expected
        else:
            # Without applied migrations there is not even a ledger.
            with pytest.raises(MigrationError) as failed:
                runner_for(one, *migrations, mode=TransactionMode.EACH).run()
            assert str(failed.value) == expected[1]


# Configuration


def test_transaction_mode_is_configured(tmp_path: Path, migrations: Path, database: Path) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["app.db"]\ntransaction = "run"\n')
    before = existing(database)
    changes = commits(database)
    write_migration(migrations, 1)
    write_migration(migrations, 2, up="CREATE TABLE x (a);\nnonsense;")

    failed = migrated(tmp_path, "up")

    assert failed.returncode == 1
    lines = log_lines(failed.stderr)
    assert [line["event"] for line in lines if line["event"].startswith("migration.")] == [
        "migration.applying",
        "migration.applying",
        "migration.failed",
    ]
    assert lines[-1]["event"] == "run.finished"
    assert (lines[-1]["applied"], lines[-1]["pending"], lines[-1]["outcome"]) == (0, 2, "failed")
    assert KEPT_NOTHING in lines[-2]["hint"]
    assert everything(database) == before

    write_migration(migrations, 2)
    assert migrated(tmp_path, "up").returncode == 0
    assert (applied_versions(database), commits(database)) == ([1, 2], changes + 1)


def test_log_reports_no_uncommitted_migration_as_applied(tmp_path: Path, migrations: Path, database: Path) -> None:
    (tmp_path / "migrated.toml").write_text(
        '[[target]]\ndatabases = ["app.db"]\ntransaction = "run"\nbusy_timeout = "100ms"\n'
    )
    before = existing(database)
    write_migration(migrations, 1)
    write_migration(migrations, 2)
    reader = apsw.Connection(str(database))
    reader.execute("BEGIN; SELECT * FROM t").fetchall()

    failed = migrated(tmp_path, "up")
    reader.close()

    assert failed.returncode == 6
    told = [line["event"] for line in log_lines(failed.stderr)]
    assert "migration.applied" not in told
    assert told[-2:] == ["database.unavailable", "run.finished"]
    assert everything(database) == before


def test_command_line_refuses_a_mixture_with_its_name(tmp_path: Path, migrations: Path, database: Path) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["app.db"]\ntransaction = "run"\n')
    before = existing(database)
    write_migration(migrations, 1)
    write_migration(migrations, 2, "odd", up=f"{NO_TRANSACTION}VACUUM;")

    refused = migrated(tmp_path, "up")

    assert refused.returncode == 4
    assert "2_odd cannot share a transaction: it has the directive no-transaction" in refused.stderr
    assert everything(database) == before
    assert [migrated(tmp_path, "up", "--to", version).returncode for version in "12"] == [0, 0]


def test_grouping_is_in_proportion_to_the_number_of_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if each ends its group: after a temporary table the connection cannot be reused."""
    asked = vars(Step)["needs_own_transaction"].fget
    counted: list[Step] = []

    def count(step: Step) -> bool:
        counted.append(step)
        return bool(asked(step))

    monkeypatch.setattr(Step, "needs_own_transaction", property(count))
    found = []
    for number in (10, 40):
        counted.clear()
        runner = MigrationRunner(":memory:")
        runner.add_migrations(
            Migration(version, "m", f"CREATE TEMP TABLE t{version} (a)") for version in range(1, number + 1)
        )
        runner.run()
        found.append(len(counted))

    assert 0 < found[1] <= 4 * found[0]
