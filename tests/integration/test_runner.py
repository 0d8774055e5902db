"""The library with a path, in memory, and with a connection of the caller."""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest
from support import checksum, everything, query, write_migration

from migrated import (
    AppliedMigration,
    ChecksumMismatch,
    ChecksumMismatchError,
    DatabaseError,
    ExecutionFailedError,
    InvalidFormatError,
    LateMigrationError,
    Migration,
    MigrationDirection,
    MigrationError,
    MigrationNotFoundError,
    MigrationRunner,
    OnLate,
    OnMissing,
    Policy,
    RollbackFailedError,
)
from migrated.core.migration import Step
from migrated.engine.backend import Observer
from migrated.system.cancellation import CancelToken

Rows = list[tuple[object, ...]]


class Bench:
    """A database of one kind, its runners, and access without the library."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.connection = apsw.Connection(str(path)) if kind == "connection" else None

    def runner(self, *migrations: Migration, policy: Policy | None = None) -> MigrationRunner:
        """Return a runner with these migrations."""
        before = set(apsw.connections())
        made = MigrationRunner(self._location(), policy=policy or Policy())
        if self.kind == "memory" and self.connection is None:
            # The next runner of the test has to use the same database.
            (self.connection,) = set(apsw.connections()) - before
        made.add_migrations(migrations)
        return made

    def _location(self) -> str | Path | apsw.Connection:
        return self.connection or (self.path if self.kind == "path" else ":memory:")

    def rows(self, sql: str) -> Rows:
        """Rows, read without the library."""
        return self.connection.execute(sql).fetchall() if self.connection else query(self.path, sql)

    def run(self, sql: str) -> None:
        """Run a script without the library."""
        connection = self.connection or apsw.Connection(str(self.path))
        connection.execute(sql).fetchall()

    def everything(self) -> Rows:
        """Schema, rows and the files in the directory."""
        files: Rows = [(str(path),) for path in sorted(self.path.parent.rglob("*"))]
        if self.connection is None:
            return files + everything(self.path)
        found = self.rows("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
        tables = [row[1] for row in found if row[0] == "table"]
        return files + found + [(table, *row) for table in tables for row in self.rows(f'SELECT * FROM "{table}"')]

    def versions(self) -> list[object]:
        """The versions in the ledger."""
        return [row[0] for row in self.rows("SELECT version FROM _migrations ORDER BY 1")]

    def tables(self) -> list[object]:
        """The application's tables."""
        listed = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
        return [name for (name,) in listed if not str(name).startswith("_migrations")]

    def ledger(self) -> list[AppliedMigration]:
        """The rows of the ledger table."""
        rows = self.rows(
            "SELECT version, name, checksum, applied_at, execution_time_ms FROM _migrations ORDER BY 1"
        )
        return [
            AppliedMigration(
                int(str(version)),
                str(name),
                str(digest),
                datetime.strptime(str(at), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC),
                int(str(milliseconds)),
            )
            for version, name, digest, at, milliseconds in rows
        ]


@pytest.fixture(params=["path", "memory", "connection"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "data").mkdir()
    bench = Bench(request.param, tmp_path / "data" / "app.db")
    yield bench
    if bench.connection is not None:
        bench.connection.close()


def table(version: int, *, down: bool = True) -> Migration:
    """Migration number `version`: creates the table t<version>, and drops it."""
    made = Migration(version, f"make_{version}", f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY)")
    return made.with_down(f"DROP TABLE t{version}") if down else made


def test_migrations_are_applied_ascending_whatever_order_they_were_added_in(bench: Bench) -> None:
    runner = bench.runner(table(30), table(4))
    runner.add_migration(table(200))
    runner.add_migrations([table(1)])

    entries = runner.run()

    assert [entry.version for entry in entries] == [1, 4, 30, 200]
    assert [row[0] for row in bench.rows("SELECT version FROM _migrations_history ORDER BY id")] == [1, 4, 30, 200]
    assert bench.tables() == ["t1", "t200", "t30", "t4"]


def test_duplicate_version_is_refused_and_the_first_stays(bench: Bench) -> None:
    runner = bench.runner(table(7))

    with pytest.raises(InvalidFormatError) as refused:
        runner.add_migration(Migration(7, "other", "SELECT 1"))

    assert str(refused.value) == (
        "version 7 is used twice: by 7_make_7 and by 7_other\nhint: give one of them another version"
    )
    assert refused.value.version == 7
    assert [migration.name for migration in runner.pending()] == ["make_7"]


def test_wrong_checksum_is_refused(bench: Bench) -> None:
    runner = bench.runner()

    with pytest.raises(ChecksumMismatchError) as refused:
        runner.add_migration(Migration(1, "a", "SELECT 1", checksum="abc"))

    assert str(refused.value) == f"1_a was given checksum abc, but its text has {checksum('SELECT 1')}"
    assert (refused.value.expected, refused.value.found) == ("abc", checksum("SELECT 1"))
    assert runner.pending() == []


def test_init_creates_the_ledger_columns_and_is_idempotent(bench: Bench) -> None:
    runner = bench.runner()
    runner.init()
    before = bench.everything()

    runner.init()

    assert bench.everything() == before
    assert bench.rows("SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('_migrations')") == [
        ("version", "INTEGER", 0, None, 1),
        ("name", "TEXT", 1, None, 0),
        ("checksum", "TEXT", 1, None, 0),
        ("applied_at", "TEXT", 1, "datetime('now')", 0),
        ("execution_time_ms", "INTEGER", 1, "0", 0),
    ]
    assert bench.rows("SELECT count(*) FROM _migrations_history") == [(0,)]


def _look(runner: MigrationRunner) -> None:
    runner.get_applied()
    runner.current_version()
    runner.pending()
    runner.statuses()
    runner.plan()
    runner.plan(0)
    runner.plan(2)
    runner.verify()
    runner.require_valid()


def test_reading_a_missing_database_creates_nothing(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2))
    before = bench.everything()

    _look(runner)

    assert runner.get_applied() == []
    assert runner.current_version() is None
    assert [migration.version for migration in runner.pending()] == [1, 2]
    assert bench.everything() == before
    assert bench.path.exists() == (bench.kind == "connection")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_reading_a_database_changes_nothing_and_leaves_no_file(bench: Bench, journal: str) -> None:
    if bench.kind == "path":
        bench.run(f"PRAGMA journal_mode={journal}")
    bench.runner(table(1), table(2)).run()
    before = bench.everything()

    _look(bench.runner(table(1), table(2), table(3)))

    assert bench.everything() == before


def test_run_returns_the_entries_of_the_ledger(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2))
    earliest = datetime.now(UTC).replace(microsecond=0)

    entries = runner.run()

    assert entries == bench.ledger() == runner.get_applied()
    assert [(entry.version, entry.name, entry.checksum) for entry in entries] == [
        (version, f"make_{version}", checksum(f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY)"))
        for version in (1, 2)
    ]
    assert all(earliest <= entry.applied_at <= datetime.now(UTC) for entry in entries)
    assert runner.current_version() == 2


def test_second_run_does_nothing(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2))
    runner.run()
    before = bench.everything()

    assert runner.run() == []
    assert bench.runner(table(1), table(2)).run() == []
    assert bench.everything() == before


def test_plan_equals_what_run_does(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2), table(3))
    up = runner.plan()

    assert (up.direction, [step.version for step in up.migrations]) == (MigrationDirection.UP, [1, 2, 3])
    assert [step.version for step in runner.plan(2).migrations] == [1, 2]
    runner.run()
    down = runner.plan(1)

    assert (down.direction, [step.version for step in down.migrations]) == (MigrationDirection.DOWN, [3, 2])
    assert runner.plan().is_empty()
    assert runner.plan(3).is_empty()
    assert not runner.plan(3)
    assert len(runner.plan(0)) == 3


def test_run_to_goes_up_and_down(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2), table(3))

    assert [entry.version for entry in runner.run_to(2)] == [1, 2]
    assert bench.tables() == ["t1", "t2"]
    assert [entry.version for entry in runner.run_to(3)] == [3]
    struck_out = [entry for entry in reversed(bench.ledger()) if entry.version > 1]

    assert runner.run_to(1) == struck_out
    assert (bench.versions(), bench.tables()) == ([1], ["t1"])


def test_run_to_zero_empties_the_database(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2))
    runner.run()

    assert [entry.version for entry in runner.run_to(0)] == [2, 1]
    assert (bench.versions(), bench.tables()) == ([], [])
    assert [row[:2] for row in bench.rows("SELECT action, version FROM _migrations_history ORDER BY id")] == [
        ("apply", 1),
        ("apply", 2),
        ("rollback", 2),
        ("rollback", 1),
    ]
    assert runner.current_version() is None
    assert runner.run_to(0) == []


@pytest.mark.parametrize("method", ["plan", "run_to", "run_up_to", "roll_back_to"])
def test_unknown_target_is_refused(bench: Bench, method: str) -> None:
    runner = bench.runner(table(1), table(3))
    runner.run()
    before = bench.everything()

    with pytest.raises(MigrationNotFoundError) as refused:
        getattr(runner, method)(2)

    assert str(refused.value) == (
        "version 2 is unknown: it is neither among the migrations nor in the migrations table\n"
        "hint: `migrated status` lists the versions; 0 means an empty database"
    )
    assert bench.everything() == before


def test_target_below_a_gap_fills_the_gap_and_rolls_nothing_back(bench: Bench) -> None:
    bench.runner(table(1), table(3)).run()
    runner = bench.runner(table(1), table(2), table(3), table(4))

    assert [entry.version for entry in runner.run_to(2)] == [2]
    assert bench.versions() == [1, 2, 3]
    assert bench.tables() == ["t1", "t2", "t3"]


def test_target_above_a_gap_fills_the_gap_first(bench: Bench) -> None:
    bench.runner(table(1), table(3)).run()
    runner = bench.runner(table(1), table(2), table(3), table(4), table(5))

    assert [entry.version for entry in runner.run_to(4)] == [2, 4]
    assert bench.versions() == [1, 2, 3, 4]


def test_run_up_to_never_rolls_back(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2), table(3))

    assert [entry.version for entry in runner.run_up_to(2)] == [1, 2]
    before = bench.everything()

    assert runner.run_up_to(1) == []
    assert runner.run_up_to(0) == []
    assert bench.everything() == before


@pytest.mark.parametrize(("steps", "left"), [(1, [1, 2]), (2, [1]), (3, []), (9, [])])
def test_roll_back_takes_the_newest(bench: Bench, steps: int, left: list[int]) -> None:
    runner = bench.runner(table(1), table(2), table(3))
    runner.run()

    struck_out = runner.roll_back(steps)

    assert [entry.version for entry in struck_out] == [v for v in (3, 2, 1) if v not in left]
    assert (bench.versions(), bench.tables()) == (left, [f"t{version}" for version in left])


def test_roll_back_to_never_applies(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2), table(3), table(4))
    runner.run_to(3)

    assert [entry.version for entry in runner.roll_back_to(1)] == [3, 2]
    before = bench.everything()

    assert runner.roll_back_to(4) == []
    assert bench.everything() == before


def test_rollback_of_an_empty_database_does_nothing(bench: Bench) -> None:
    runner = bench.runner(table(1))
    before = bench.everything()

    assert runner.roll_back() == []
    assert runner.roll_back_to(0) == []
    assert bench.everything() == before


def test_missing_migration_is_rolled_back_with_the_stored_text(bench: Bench) -> None:
    bench.runner(table(1), table(2)).run()

    struck_out = bench.runner(table(1)).roll_back()

    assert [entry.version for entry in struck_out] == [2]
    assert (bench.versions(), bench.tables()) == ([1], ["t1"])
    assert bench.rows("SELECT action, name, checksum, down_sql FROM _migrations_history WHERE version = 2") == [
        ("apply", "make_2", table(2).checksum, "DROP TABLE t2"),
        ("rollback", "make_2", table(2).checksum, "DROP TABLE t2"),
    ]


def test_stored_text_is_that_of_the_last_application(bench: Bench) -> None:
    first = Migration(1, "one", "CREATE TABLE a (x)", "DROP TABLE a")
    runner = bench.runner(first)
    runner.run()
    runner.roll_back()
    bench.runner(Migration(1, "one", "CREATE TABLE b (x)", "DROP TABLE b")).run()

    bench.runner().roll_back()

    assert (bench.versions(), bench.tables()) == ([], [])


def test_down_text_added_after_applying_is_used(bench: Bench) -> None:
    bench.runner(table(1, down=False)).run()

    assert [entry.version for entry in bench.runner(table(1)).roll_back()] == [1]
    assert bench.tables() == []


@pytest.mark.parametrize(
    "go_down",
    [
        pytest.param(lambda runner: runner.run_to(0), id="run_to"),
        pytest.param(lambda runner: runner.roll_back_to(0), id="roll_back_to"),
        pytest.param(lambda runner: runner.roll_back(4), id="roll_back"),
        pytest.param(lambda runner: runner.plan(0), id="plan"),
    ],
)
def test_rollback_over_an_irreversible_migration_is_refused_as_a_whole(
    bench: Bench, go_down: Callable[[MigrationRunner], object]
) -> None:
    steps = [table(1, down=False), table(2), table(3).with_down("-- nothing here"), table(4)]
    runner = bench.runner(*steps)
    runner.run()
    before = bench.everything()

    with pytest.raises(RollbackFailedError) as refused:
        go_down(runner)

    assert str(refused.value) == (
        "cannot roll back 3_make_3, 1_make_1: no down text\n"
        "hint: add a DOWN section (`-- migrated: nothing-to-undo` in it if there is nothing to undo); "
        "nothing was rolled back"
    )
    assert refused.value.completed == ()
    assert bench.everything() == before


def test_empty_down_section_makes_a_migration_reversible(bench: Bench) -> None:
    data = Migration(2, "data", "INSERT INTO t1 VALUES (5)", "-- migrated: nothing-to-undo")
    runner = bench.runner(table(1), data)
    runner.run()

    assert [entry.version for entry in runner.roll_back()] == [2]
    assert bench.rows("SELECT id FROM t1") == [(5,)]


def test_failing_rollback_leaves_the_migration_applied(bench: Bench) -> None:
    broken = table(2).with_down("DROP TABLE t2;\nDROP TABLE t2")
    runner = bench.runner(table(1), broken, table(3))
    runner.run()

    with pytest.raises(RollbackFailedError) as failed:
        runner.run_to(0)

    assert str(failed.value) == "2:1: no such table: t2\n2 | DROP TABLE t2\n  | ^"
    assert [entry.version for entry in failed.value.completed] == [3]
    assert (bench.versions(), bench.tables()) == ([1, 2], ["t1", "t2"])


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda runner: runner.run(), id="run"),
        pytest.param(lambda runner: runner.run_to(3), id="run_to"),
        pytest.param(lambda runner: runner.run_up_to(3), id="run_up_to"),
        pytest.param(lambda runner: runner.run_to(0), id="run_to down"),
        pytest.param(lambda runner: runner.roll_back(), id="roll_back"),
        pytest.param(lambda runner: runner.roll_back_to(0), id="roll_back_to"),
        pytest.param(lambda runner: runner.require_valid(), id="require_valid"),
    ],
)
def test_edited_migration_is_refused_before_anything_runs(
    bench: Bench, act: Callable[[MigrationRunner], object]
) -> None:
    bench.runner(table(1), table(2)).run()
    edited = [
        Migration(version, f"make_{version}", f"CREATE TABLE t{version} (x)", f"DROP TABLE t{version}")
        for version in (1, 2)
    ]
    before = bench.everything()

    with pytest.raises(ChecksumMismatchError) as refused:
        act(bench.runner(*edited, table(3)))

    assert refused.value.version == 1
    assert [offender.version for offender in refused.value.offenders] == [1, 2]
    assert (refused.value.expected, refused.value.found) == (table(1).checksum, edited[0].checksum)
    assert refused.value.message == "; ".join(
        f"{new.label} was changed after it was applied: expected checksum {table(new.version).checksum}, "
        f"found {new.checksum}"
        for new in edited
    )
    assert refused.value.completed == ()
    assert {version: was.up_sql for version, was in refused.value.recorded.items()} == {
        version: table(version).up_sql for version in (1, 2)
    }
    assert bench.everything() == before


def test_verify_returns_every_mismatch_and_changes_nothing(bench: Bench) -> None:
    bench.runner(table(1), table(2), table(3), table(5)).run()
    edited = [Migration(version, f"make_{version}", "SELECT 1") for version in (3, 1)]
    before = bench.everything()

    # 4 is late and 5 missing: `run` refuses both, but their texts do not differ.
    runner = bench.runner(*edited, table(2), table(4), policy=Policy(on_late=OnLate.REFUSE))

    mismatches = runner.verify()
    assert mismatches == [
        ChecksumMismatch(version, f"make_{version}", table(version).checksum, checksum("SELECT 1"))
        for version in (1, 3)
    ]
    assert [str(mismatch) for mismatch in mismatches] == [
        f"{version}_make_{version} was changed after it was applied: expected checksum {table(version).checksum}, "
        f"found {checksum('SELECT 1')}"
        for version in (1, 3)
    ]
    with pytest.raises(ChecksumMismatchError) as refused:
        runner.require_valid()
    assert [offender.version for offender in refused.value.offenders] == [1, 3, 4, 5]
    assert bench.everything() == before


@pytest.mark.parametrize("known", [(1, 2), (2,), (1, 2, 3), ()])
def test_verify_is_empty_where_no_text_differs(bench: Bench, known: tuple[int, ...]) -> None:
    bench.runner(table(1), table(2)).run()

    assert bench.runner(*map(table, known)).verify() == []


def test_verify_raises_where_the_database_cannot_be_read(tmp_path: Path) -> None:
    garbage = tmp_path / "app.db"
    garbage.write_bytes(b"no database at all" * 100)
    runner = MigrationRunner(garbage)
    runner.add_migration(table(1))

    with pytest.raises(DatabaseError, match="not a database"):
        runner.verify()


def test_mismatch_cannot_be_changed() -> None:
    mismatch = ChecksumMismatch(1, "make_1", "a", "b")

    with pytest.raises(AttributeError):
        mismatch.found = "c"  # type: ignore[misc]


def test_unreadable_history_does_not_hide_the_refusal(bench: Bench) -> None:
    bench.runner(table(1)).run()
    bench.run("UPDATE _migrations_history SET directives = 'of-a-later-version'")
    before = bench.everything()

    with pytest.raises(ChecksumMismatchError) as refused:
        bench.runner(Migration(1, "make_1", "SELECT 1")).run()

    assert refused.value.recorded == {}
    assert bench.everything() == before


def test_restored_text_ends_the_refusal(bench: Bench) -> None:
    bench.runner(table(1)).run()
    with pytest.raises(ChecksumMismatchError):
        bench.runner(Migration(1, "make_1", "SELECT 1"), table(2)).run()

    assert [entry.version for entry in bench.runner(table(1), table(2)).run()] == [2]


def test_changed_name_or_down_text_is_no_change(bench: Bench) -> None:
    bench.runner(table(1)).run()
    renamed = Migration(1, "renamed", table(1).up_sql, "DROP TABLE t1; -- better")

    bench.runner(renamed).require_valid()

    assert bench.runner(renamed).run() == []


def test_missing_migration_is_refused_by_default(bench: Bench) -> None:
    bench.runner(table(1), table(2), table(3)).run()
    before = bench.everything()

    with pytest.raises(MigrationNotFoundError) as refused:
        bench.runner(table(2), table(4)).run()

    assert str(refused.value) == (
        "applied, but no longer among the migrations: 1_make_1, 3_make_3\n"
        "hint: restore the file, roll it back with `migrated down` (its down text was recorded), "
        'or set on_missing = "ignore"; see `migrated help repair`'
    )
    assert [offender.version for offender in refused.value.offenders] == [1, 3]
    assert bench.everything() == before


def test_missing_migration_can_be_ignored(bench: Bench) -> None:
    bench.runner(table(1), table(2)).run()
    runner = bench.runner(table(2), table(3), policy=Policy(on_missing=OnMissing.IGNORE))

    assert [entry.version for entry in runner.run()] == [3]
    assert bench.versions() == [1, 2, 3]


def test_missing_migrations_can_be_rolled_back_newest_first(bench: Bench) -> None:
    bench.runner(table(1), table(2), table(3)).run()
    runner = bench.runner(table(2), policy=Policy(on_missing=OnMissing.ROLLBACK))

    runner.run()

    assert (bench.versions(), bench.tables()) == ([2], ["t2"])
    assert bench.rows("SELECT version FROM _migrations_history WHERE action = 'rollback' ORDER BY id") == [
        (3,),
        (1,),
    ]


def test_run_returns_only_what_was_applied_when_missing_ones_are_rolled_back(bench: Bench) -> None:
    bench.runner(table(1), table(2)).run()
    runner = bench.runner(table(1), table(3), policy=Policy(on_missing=OnMissing.ROLLBACK))

    entries = runner.run()

    assert bench.versions() == [1, 3]
    assert [entry.version for entry in entries] == [3]


def test_missing_migration_without_down_text_stops_the_rollback_policy(bench: Bench) -> None:
    bench.runner(table(1, down=False), table(2)).run()
    before = bench.everything()

    with pytest.raises(RollbackFailedError, match=r"^cannot roll back 1_make_1: no down text"):
        bench.runner(table(3), policy=Policy(on_missing=OnMissing.ROLLBACK)).run()

    assert bench.everything() == before


def test_late_migration_is_applied_by_default(bench: Bench) -> None:
    bench.runner(table(2)).run()

    assert [entry.version for entry in bench.runner(table(1), table(2), table(3)).run()] == [1, 3]
    assert bench.versions() == [1, 2, 3]


def test_late_migration_can_be_refused(bench: Bench) -> None:
    bench.runner(table(3)).run()
    runner = bench.runner(table(1), table(2), table(3), table(4), policy=Policy(on_late=OnLate.REFUSE))
    before = bench.everything()

    for act in (runner.run, runner.require_valid, lambda: runner.run_to(4), lambda: runner.run_up_to(2)):
        with pytest.raises(LateMigrationError) as refused:
            act()

        assert str(refused.value) == (
            "pending below the highest applied version: 1_make_1, 2_make_2\n"
            'hint: give them a higher version, or set on_late = "apply"; see `migrated help repair`'
        )
    assert bench.everything() == before


def test_refusal_names_every_offender_of_every_kind(bench: Bench) -> None:
    bench.runner(table(1), table(2), table(4)).run()
    changed = Migration(4, "make_4", "SELECT 1")
    runner = bench.runner(table(1), table(3), changed, policy=Policy(on_late=OnLate.REFUSE))
    before = bench.everything()

    with pytest.raises(ChecksumMismatchError) as refused:
        runner.run()

    assert [(offender.version, offender.state) for offender in refused.value.offenders] == [
        (2, "missing"),
        (3, "late"),
        (4, "changed"),
    ]
    assert bench.everything() == before


@pytest.mark.parametrize("text", ["", "-- only a comment", ";;", "/* nothing */ ;"])
def test_draft_is_not_applied_and_blocks_nothing(bench: Bench, text: str) -> None:
    runner = bench.runner(table(1), Migration(2, "draft", text), table(3))

    assert [migration.version for migration in runner.pending()] == [1, 3]
    assert [entry.version for entry in runner.run()] == [1, 3]
    runner.require_valid()

    assert runner.run() == []


def test_draft_below_the_highest_is_not_late(bench: Bench) -> None:
    bench.runner(table(3)).run()
    runner = bench.runner(Migration(2, "draft", ""), table(3), policy=Policy(on_late=OnLate.REFUSE))

    runner.require_valid()

    assert runner.run() == []


def test_emptied_migration_is_changed_and_not_a_draft(bench: Bench) -> None:
    bench.runner(table(1)).run()
    before = bench.everything()

    with pytest.raises(ChecksumMismatchError):
        bench.runner(Migration(1, "make_1", "")).run()

    assert bench.everything() == before


def test_migration_with_an_empty_statement_is_applied(bench: Bench) -> None:
    text = "-- migrated: nothing-to-do"
    runner = bench.runner(Migration(1, "empty", text))

    assert [(entry.version, entry.checksum) for entry in runner.run()] == [(1, checksum(text))]
    assert bench.tables() == []


def test_failure_lists_the_completed_migrations(bench: Bench) -> None:
    runner = bench.runner(table(1), table(2), Migration(3, "bad", "CREATE TABLE t1 (x)"), table(4))

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert failed.value.completed == tuple(bench.ledger())
    assert [entry.version for entry in failed.value.completed] == [1, 2]
    assert (failed.value.version, failed.value.name) == (3, "bad")
    assert isinstance(failed.value, MigrationError)


PARENT = Migration(
    1,
    "parent",
    """
    CREATE TABLE parent (id INTEGER PRIMARY KEY, name);
    CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent (id) ON DELETE CASCADE);
    INSERT INTO parent VALUES (1, 'a'), (2, 'b');
    INSERT INTO child VALUES (10, 1), (20, 2);
    """,
)


def test_foreign_keys_on_enables_cascades(bench: Bench) -> None:
    delete = Migration(2, "delete", "-- migrated: foreign-keys=on\nDELETE FROM parent WHERE id = 1")

    bench.runner(PARENT, delete).run()

    assert bench.rows("SELECT id FROM child") == [(20,)]


def test_foreign_keys_on_applies_to_the_down_section(bench: Bench) -> None:
    delete = Migration(2, "delete", "SELECT 1", "-- migrated: foreign-keys=on\nDELETE FROM parent WHERE id = 1")
    runner = bench.runner(PARENT, delete)
    runner.run()

    runner.roll_back()

    assert bench.rows("SELECT id FROM child") == [(20,)]


def test_foreign_keys_on_fails_at_the_statement(bench: Bench) -> None:
    orphan = Migration(2, "orphan", "-- migrated: foreign-keys=on\nINSERT INTO child VALUES (30, 3)")
    runner = bench.runner(PARENT, orphan)

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert str(failed.value) == "2:1: FOREIGN KEY constraint failed\n2 | INSERT INTO child VALUES (30, 3)\n  | ^"
    assert failed.value.code == "SQLITE_CONSTRAINT_FOREIGNKEY"
    assert bench.rows("SELECT id FROM child") == [(10,), (20,)]


def test_rebuilding_a_parent_keeps_the_rows_of_its_children(bench: Bench) -> None:
    """The twelve steps of the SQLite manual; with foreign keys enforced DROP TABLE would delete every child."""
    rebuild = Migration(
        2,
        "rebuild",
        """
        CREATE TABLE new_parent (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
        INSERT INTO new_parent SELECT id, name FROM parent;
        DROP TABLE parent;
        ALTER TABLE new_parent RENAME TO parent;
        """,
    )
    if bench.connection is not None:
        bench.connection.pragma("foreign_keys", 1)

    bench.runner(PARENT, rebuild).run()

    assert bench.rows("SELECT id, parent FROM child") == [(10, 1), (20, 2)]
    assert bench.rows("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("setting", [0, 1])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("CREATE TABLE x (y)", id="applied"),
        pytest.param("-- migrated: foreign-keys=on\nCREATE TABLE x (y)", id="applied, enforced"),
        pytest.param("-- migrated: foreign-keys=on\nCREATE TABLE x (y); nonsense", id="failed"),
        pytest.param("CREATE TABLE x (y); nonsense", id="failed, not enforced"),
    ],
)
def test_foreign_keys_setting_of_the_callers_connection_is_restored(
    database: Path, setting: int, text: str
) -> None:
    connection = apsw.Connection(str(database))
    connection.pragma("foreign_keys", setting)
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "one", text))

    if "nonsense" in text:
        with pytest.raises(ExecutionFailedError):
            runner.run()
    else:
        runner.run()

    assert connection.pragma("foreign_keys") == setting
    assert not connection.in_transaction
    connection.close()


def test_callers_connection_in_a_transaction_is_refused_and_stays_in_it(database: Path) -> None:
    connection = apsw.Connection(str(database))
    connection.execute("BEGIN; CREATE TABLE theirs (x)")
    runner = MigrationRunner(connection)
    runner.add_migration(table(1))

    for act in (runner.run, runner.init):
        with pytest.raises(DatabaseError) as refused:
            act()

        assert str(refused.value) == "the connection has a transaction open\nhint: commit or roll back first"
    assert connection.in_transaction
    connection.execute("COMMIT")

    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    connection.close()


def test_callers_connection_stays_open_and_usable(database: Path) -> None:
    connection = apsw.Connection(str(database))
    runner = MigrationRunner(connection)
    runner.add_migration(table(1))

    runner.run()

    connection.execute("BEGIN; INSERT INTO t1 VALUES (1); SAVEPOINT s; RELEASE s; COMMIT")
    assert connection.execute("SELECT * FROM t1").fetchall() == [(1,)]
    connection.close()


def test_add_directory_adds_every_migration(bench: Bench, migrations: Path) -> None:
    write_migration(migrations, 2, "second", down="DROP TABLE t2;")
    write_migration(migrations, 1, "first")
    runner = bench.runner()
    runner.add_directory(migrations)

    assert [(entry.version, entry.name) for entry in runner.run()] == [(1, "first"), (2, "second")]
    assert bench.tables() == ["t1", "t2"]


def test_cancelled_run_stops_before_its_next_step(bench: Bench) -> None:
    class Stopping(Observer):
        def beginning(self, step: Step, *, late: bool) -> None:
            supervision.stop("test", math.inf)

    supervision = CancelToken()
    runner = MigrationRunner(bench.connection or bench.path, observer=Stopping(), supervision=supervision)
    runner.add_migrations([table(1), table(2)])

    assert [entry.version for entry in runner.run()] == [1]
    assert runner.current_version() == 1
