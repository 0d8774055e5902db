"""Repeatable migrations: views and triggers, applied whenever their text changes."""

from pathlib import Path

import pytest
from support import everything, execute, put_file, query, schema, write_migration

from migrated import (
    ExecutionFailedError,
    InvalidFormatError,
    Migration,
    MigrationRunner,
    OnChanged,
    OnMissing,
    Policy,
    read_migrations,
)

FOLLOWING = Policy(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)
USERS = Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)", "DROP TABLE users")
AGES = Migration(2, "ages", "ALTER TABLE users ADD COLUMN age", "ALTER TABLE users DROP COLUMN age")


def view(name: str, query: str) -> Migration:
    return Migration.repeatable(name, f"DROP VIEW IF EXISTS {name};\nCREATE VIEW {name} AS {query}")


NAMES = view("names", "SELECT name FROM users")
OLD = view("old", "SELECT name, age FROM users WHERE age > 60")


def run(database: Path, *migrations: Migration, policy: Policy = Policy()) -> list[str]:  # noqa: B008 - frozen
    runner = MigrationRunner(database, policy=policy)
    runner.add_migrations(migrations)
    return [entry.label for entry in runner.run()]


def recorded(database: Path) -> list[tuple[object, ...]]:
    return query(database, "SELECT name, checksum, objects FROM _migrations_repeatable ORDER BY name")


def history(database: Path) -> list[tuple[object, ...]]:
    return query(database, "SELECT action, version, name FROM _migrations_history ORDER BY id")


class TestApplying:
    def test_repeatables_are_applied_last_by_name(self, database: Path) -> None:
        done = run(database, OLD, NAMES, AGES, USERS)

        assert done == ["1_users", "2_ages"]
        assert history(database) == [
            ("apply", 1, "users"),
            ("apply", 2, "ages"),
            ("repeat", 0, "R__names"),
            ("repeat", 0, "R__old"),
        ]
        assert recorded(database) == [
            ("names", NAMES.checksum, '[["view", "names"]]'),
            ("old", OLD.checksum, '[["view", "old"]]'),
        ]

    def test_only_new_or_changed_repeatables_are_applied(self, database: Path) -> None:
        run(database, USERS, NAMES)
        before = everything(database)
        run(database, USERS, NAMES)
        assert everything(database) == before

        other = view("names", "SELECT upper(name) AS name FROM users")
        run(database, USERS, other)
        assert history(database)[2:] == [("repeat", 0, "R__names")]
        assert recorded(database) == [("names", other.checksum, '[["view", "names"]]')]

    def test_changed_repeatable_is_pending_and_no_mismatch(self, database: Path) -> None:
        run(database, USERS, NAMES)
        runner = MigrationRunner(database)
        runner.add_migrations([USERS, view("names", "SELECT upper(name) AS name FROM users")])

        assert runner.verify() == []
        runner.require_valid()
        assert runner.count_pending() == 1

    def test_ledger_has_no_entry_for_a_repeatable(self, database: Path) -> None:
        run(database, USERS, NAMES)

        assert query(database, "SELECT version FROM _migrations") == [(1,)]
        assert MigrationRunner(database).current_version() == 1

    def test_failing_repeatable_leaves_earlier_ones_and_names_its_position(self, database: Path) -> None:
        broken = Migration.repeatable("zoo", "CREATE VIEW zoo AS\n  SELECT nope FROM;")

        with pytest.raises(ExecutionFailedError) as caught:
            run(database, USERS, NAMES, broken)

        assert (caught.value.version, caught.value.name, caught.value.label) == (None, "R__zoo", "R__zoo")
        assert caught.value.line == 2
        assert [row[0] for row in recorded(database)] == ["names"]

    def test_failing_edited_repeatable_leaves_the_old_one(self, database: Path) -> None:
        run(database, USERS, NAMES)
        before = everything(database)

        for policy in (Policy(), FOLLOWING):
            with pytest.raises(ExecutionFailedError):
                run(database, USERS, view("names", "SELECT 1 FROM FROM users"), policy=policy)

        assert everything(database) == before

    def test_draft_repeatable_is_not_applied(self, database: Path) -> None:
        run(database, USERS, Migration.repeatable("names", "-- to be written"))

        assert [name for _, name, _ in schema(database)] == ["users"]

    def test_run_up_to_a_target_leaves_repeatables_pending(self, database: Path) -> None:
        runner = MigrationRunner(database)
        runner.add_migrations([USERS, AGES, NAMES])
        runner.run_up_to(1)

        assert [name for _, name, _ in schema(database)] == ["users"]
        assert runner.count_pending() == 2

    def test_forbidden_statement_in_a_repeatable_is_refused(self, database: Path) -> None:
        run(database, USERS, NAMES)

        with pytest.raises(ExecutionFailedError, match="not allowed"):
            run(database, USERS, NAMES, Migration.repeatable("bad", "DELETE FROM _migrations_repeatable"))

    def test_two_repeatables_with_one_name_are_refused(self, database: Path) -> None:
        with pytest.raises(InvalidFormatError, match="R__names"):
            run(database, NAMES, NAMES)


class TestFollowing:
    def test_redo_drops_and_recreates_views(self, database: Path) -> None:
        run(database, USERS, AGES, NAMES, OLD, policy=FOLLOWING)
        execute(database, "INSERT INTO users VALUES (1, 'Ann', 77)")
        years = Migration(2, "ages", "ALTER TABLE users ADD COLUMN age DEFAULT 0", AGES.down_sql)
        run(database, USERS, years, NAMES, OLD, policy=FOLLOWING)

        assert query(database, "SELECT * FROM old") == [("Ann", 77)]
        assert history(database)[4:] == [
            ("rollback", 2, "ages"),
            ("redo", 2, "ages"),
            ("repeat", 0, "R__names"),
            ("repeat", 0, "R__old"),
        ]

    def test_failing_repeatable_rolls_back_the_redo(self, database: Path) -> None:
        run(database, USERS, AGES, OLD, policy=FOLLOWING)
        before = everything(database)

        with pytest.raises(ExecutionFailedError):
            run(
                database,
                USERS,
                Migration(2, "ages", "ALTER TABLE users ADD COLUMN years", AGES.down_sql),
                view("old", "SELECT 1 FROM FROM users"),
                policy=FOLLOWING,
            )

        assert everything(database) == before

    def test_objects_of_the_old_text_are_dropped(self, database: Path) -> None:
        run(database, USERS, NAMES, policy=FOLLOWING)
        renamed = Migration.repeatable("names", "CREATE VIEW all_names AS SELECT name FROM users")
        run(database, USERS, renamed, policy=FOLLOWING)

        assert [name for _, name, _ in schema(database)] == ["users", "all_names"]

    def test_objects_of_a_removed_repeatable_are_dropped(self, database: Path) -> None:
        run(database, USERS, NAMES, policy=FOLLOWING)
        run(database, USERS, policy=FOLLOWING)

        assert [name for _, name, _ in schema(database)] == ["users"]
        assert recorded(database) == []

    def test_objects_stay_under_the_production_policy(self, database: Path) -> None:
        run(database, USERS, NAMES, view("one", "SELECT 1"))
        run(database, USERS, Migration.repeatable("names", "CREATE VIEW all_names AS SELECT name FROM users"))

        assert {name for _, name, _ in schema(database)} == {"users", "names", "all_names", "one"}
        assert [row[0] for row in recorded(database)] == ["names", "one"]

    def test_triggers_are_dropped_and_recreated(self, database: Path) -> None:
        noted = Migration.repeatable(
            "noted",
            "DROP TRIGGER IF EXISTS noted;\n"
            "CREATE TRIGGER noted AFTER INSERT ON users BEGIN UPDATE users SET name = 'x' WHERE id = new.id; END",
        )
        run(database, USERS, noted, policy=FOLLOWING)
        wider = Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name, more)", USERS.down_sql)
        run(database, wider, noted, policy=FOLLOWING)
        execute(database, "INSERT INTO users (id) VALUES (1)")

        assert query(database, "SELECT name FROM users") == [("x",)]

    def test_earlier_state_includes_its_repeatables(self, database: Path) -> None:
        run(database, Migration(1, "users", USERS.up_sql), NAMES, policy=FOLLOWING)
        other = Migration(1, "users", "CREATE TABLE users (name, more)")
        run(database, other, NAMES, policy=FOLLOWING)

        assert [name for _, name, _ in schema(database)] == ["users", "names"]

    def test_redo_on_request_recreates_repeatables(self, database: Path) -> None:
        run(database, USERS, AGES, OLD)
        runner = MigrationRunner(database)
        runner.add_migrations([USERS, AGES, OLD, NAMES])
        runner.redo()

        assert [name for _, name, _ in schema(database)] == ["users", "old"]


class TestFiles:
    def test_repeatable_files_are_listed_last(self, migrations: Path) -> None:
        write_migration(migrations, 7)
        put_file(migrations, "R__b.sql", "CREATE VIEW b AS SELECT 1;\n")
        put_file(migrations, "R__a.sql", "-- Migration: a\n\nCREATE VIEW a AS SELECT 1;")
        found = read_migrations(migrations)

        assert [each.label for each in found] == ["7_change", "R__a", "R__b"]
        assert found[2].up_sql == "CREATE VIEW b AS SELECT 1;"
        assert found[1].file == str(migrations / "R__a.sql")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("-- UP\nCREATE VIEW a AS SELECT 1", "cannot have sections"),
            ("CREATE VIEW a AS SELECT 1;\n-- DOWN\nDROP VIEW a", "cannot have sections"),
            ("-- migrated: no-transaction\nVACUUM", "runs in a transaction"),
            ("-- migrated: nonsense\nSELECT 1", "unknown directive"),
            ("-- Migration: other\nSELECT 1", "the file name says a"),
            ("-- Version: 7\nSELECT 1", "the file name says none"),
        ],
    )
    def test_sections_and_wrong_headers_in_a_repeatable_file_are_invalid(
        self, migrations: Path, text: str, message: str
    ) -> None:
        put_file(migrations, "R__a.sql", text)

        with pytest.raises(InvalidFormatError, match=message) as caught:
            read_migrations(migrations)

        assert caught.value.file == str(migrations / "R__a.sql")
        assert caught.value.line is not None

    @pytest.mark.parametrize("name", ["R_a.sql", "r__a.sql", "R__.sql", "R__a b.sql"])
    def test_unrecognised_file_names_are_reported_and_ignored(self, migrations: Path, name: str) -> None:
        from migrated.sources.directory import read_directory

        put_file(migrations, name, "SELECT 1")

        assert [remark.file for remark in read_directory(migrations).ignored] == [str(migrations / name)]


def test_version_and_down_text_are_refused() -> None:
    for version, down in ((1, None), (0, "SELECT 1")):
        with pytest.raises(InvalidFormatError):
            Migration(version, "a", "SELECT 1", down, is_repeatable=True)
