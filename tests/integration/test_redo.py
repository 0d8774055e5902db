"""Redo: the database follows migrations that are edited, removed, renamed or restored."""

from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
from support import applied_versions, everything, execute, query, schema

from migrated import (
    ChecksumMismatchError,
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationNotFoundError,
    MigrationRunner,
    OnChanged,
    OnMissing,
    Policy,
    RollbackFailedError,
    SnapshotPolicy,
    SnapshotWhen,
    Supervision,
)
from migrated.engine.backend import EarlierState, Observer, RowRestoreReport
from migrated.engine.sqlite.snapshots import rebuild, restore

FOLLOWING = Policy(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)
BEFORE_EACH = SnapshotPolicy(SnapshotWhen.BEFORE_EACH)
USERS = Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)", "DROP TABLE users")
POSTS = Migration(
    2, "posts", "CREATE TABLE posts (id INTEGER PRIMARY KEY, user REFERENCES users)", "DROP TABLE posts"
)
NICK = Migration(3, "nick", "ALTER TABLE users ADD COLUMN nick", "ALTER TABLE users DROP COLUMN nick")
ALL = (USERS, POSTS, NICK)
TYPED = "INSERT INTO users VALUES (1, 'Ann', 'a'), (7, 'Bob', 'b'); INSERT INTO posts VALUES (5, 7)"


class Witness(Observer):
    """Records the events of a run."""

    def __init__(self) -> None:
        self.kept: list[RowRestoreReport] = []
        self.went: list[EarlierState] = []
        self.updates: list[str] = []
        self.snapshots: list[str] = []

    def rows_restored(self, kept: RowRestoreReport) -> None:
        self.kept.append(kept)

    def restored_snapshot(self, former: EarlierState) -> None:
        self.went.append(former)

    def updated(self, migration: Migration) -> None:
        self.updates.append(migration.label)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self.snapshots.append(identifier)


def edited(migration: Migration, up: str, down: str | None = None) -> Migration:
    return Migration(migration.version, migration.name, up, migration.down_sql if down is None else down)


def without_down(migration: Migration) -> Migration:
    return Migration(migration.version, migration.name, migration.up_sql)


def runner_of(
    database: Path,
    *migrations: Migration,
    policy: Policy = FOLLOWING,
    snapshots: SnapshotPolicy = BEFORE_EACH,
    observer: Observer | None = None,
    supervision: Supervision | None = None,
) -> MigrationRunner:
    runner = MigrationRunner(
        database, policy=policy, snapshots=snapshots, observer=observer, supervision=supervision
    )
    runner.add_migrations(migrations)
    return runner


def run(database: Path, *migrations: Migration, policy: Policy = FOLLOWING) -> Witness:
    witness = Witness()
    runner_of(database, *migrations, policy=policy, observer=witness).run()
    return witness


def history(database: Path) -> list[tuple[object, ...]]:
    return query(database, "SELECT action, version FROM _migrations_history ORDER BY id")


def as_fresh(database: Path, *migrations: Migration) -> bool:
    """True if schema and ledger equal those of a new database with these migrations."""
    fresh = database.with_name(f"fresh-{len(list(database.parent.iterdir()))}.db")
    run(fresh, *migrations)
    same_ledger = "SELECT version, name, checksum FROM _migrations ORDER BY version"
    return schema(database) == schema(fresh) and query(database, same_ledger) == query(fresh, same_ledger)


@pytest.fixture(params=["delete", "wal"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A database with all three migrations applied, and rows that a user inserted."""
    database = tmp_path / "app.db"
    execute(database, f"PRAGMA journal_mode = {request.param}")
    run(database, *ALL)
    execute(database, TYPED)
    return database


class TestEdited:
    def test_edited_migration_and_those_above_are_redone_with_the_current_text(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail TEXT DEFAULT 'none')")
        run(home, new, POSTS, NICK)

        assert as_fresh(home, new, POSTS, NICK)
        assert history(home)[3:] == [
            *(("rollback", version) for version in (3, 2, 1)),
            *(("redo", version) for version in (1, 2, 3)),
        ]

    def test_rollback_uses_the_stored_down_text(self, home: Path) -> None:
        run(home, USERS, POSTS, edited(NICK, "ALTER TABLE users ADD COLUMN nickname", "SELECT * FROM nowhere"))

        assert [row[1] for row in query(home, "PRAGMA table_info(users)")] == ["id", "name", "nickname"]

    def test_migrations_below_are_untouched(self, home: Path) -> None:
        run(home, USERS, POSTS, edited(NICK, "ALTER TABLE users ADD COLUMN nickname"))

        assert history(home)[3:] == [("rollback", 3), ("redo", 3)]
        assert query(home, "SELECT * FROM posts") == [(5, 7)]

    def test_failure_leaves_the_database_as_before(self, home: Path) -> None:
        before = everything(home)
        broken = edited(POSTS, "CREATE TABLE posts (id INTEGER PRIMARY KEY);\nSELECT * FROM nowhere")

        with pytest.raises(ExecutionFailedError) as caught:
            run(home, USERS, broken, NICK)

        assert (caught.value.version, caught.value.line, caught.value.column) == (2, 2, 1)
        assert caught.value.completed == ()
        assert everything(home) == before
        assert [each.reason for each in MigrationRunner(home).snapshots() if each.reason == "before-redo"] == []

    def test_failing_pending_migration_rolls_back_the_redo(self, home: Path) -> None:
        before = everything(home)

        with pytest.raises(ExecutionFailedError):
            run(home, USERS, POSTS, edited(NICK, "SELECT 1"), Migration(4, "broken", "SELECT * FROM nowhere"))

        assert everything(home) == before

    def test_failing_rollback_leaves_the_database_as_before(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        wrong = edited(USERS, USERS.up_sql, "DROP TABLE nowhere")
        run(database, wrong)
        before = everything(database)

        with pytest.raises(RollbackFailedError, match="no such table: nowhere"):
            run(database, edited(wrong, "CREATE TABLE users (id)"))

        assert everything(database) == before

    def test_nothing_is_done_for_a_comment_in_the_header(self, home: Path) -> None:
        assert run(home, *ALL).kept == []
        assert len(history(home)) == 3

    def test_migration_that_became_a_draft_is_rolled_back(self, home: Path) -> None:
        run(home, USERS, POSTS, edited(NICK, "-- not yet"))

        assert applied_versions(home) == [1, 2]
        assert as_fresh(home, USERS, POSTS)

    def test_redo_of_several_migrations_is_one_transaction(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        other = edited(NICK, "ALTER TABLE users ADD COLUMN nickname")
        counter = "PRAGMA data_version"
        watcher = apsw.Connection(str(home))
        before = watcher.execute(counter).get
        run(home, new, POSTS, other)
        (after, again) = (watcher.execute(counter).get, watcher.execute(counter).get)
        watcher.close()

        assert as_fresh(home, new, POSTS, other)
        assert before != after == again

    def test_late_migration_is_applied_in_the_same_run(self, home: Path) -> None:
        tags = Migration(4, "tags", "CREATE TABLE tags (id)", "DROP TABLE tags")
        run(home, USERS, POSTS, edited(NICK, "ALTER TABLE users ADD COLUMN nickname"), tags)

        assert applied_versions(home) == [1, 2, 3, 4]

    def test_redo_applies_a_late_migration_in_version_order(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        late = Migration(2, "age", "ALTER TABLE users ADD COLUMN age", "ALTER TABLE users DROP COLUMN age")
        run(database, USERS, NICK)
        execute(database, "INSERT INTO users (name, nick) VALUES ('Ann', 'a')")
        run(database, USERS, late, NICK)
        assert [row[1] for row in query(database, "PRAGMA table_info(users)")] == ["id", "name", "nick", "age"]

        runner_of(database, USERS, late, NICK).redo_above(1)
        assert as_fresh(database, USERS, late, NICK)
        assert query(database, "SELECT name, age, nick FROM users") == [("Ann", None, "a")]

    def test_foreign_keys_are_off_during_a_redo(self, home: Path) -> None:
        run(home, edited(USERS, f"{USERS.up_sql} STRICT"), POSTS, edited(NICK, f"{NICK.up_sql} TEXT"))

        assert query(home, "SELECT * FROM posts") == [(5, 7)]
        assert query(home, "PRAGMA foreign_key_check") == []


class TestTyped:
    """Rows that a user inserted."""

    def test_rows_of_recreated_tables_are_restored(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail TEXT DEFAULT 'none')")
        witness = run(home, new, POSTS, NICK)

        assert query(home, "SELECT id, name, mail, nick FROM users") == [
            (1, "Ann", "none", "a"),
            (7, "Bob", "none", "b"),
        ]
        assert query(home, "SELECT * FROM posts") == [(5, 7)]
        assert [(dict(kept.restored), dict(kept.not_restored)) for kept in witness.kept] == [
            ({"posts": 1, "users": 2}, {})
        ]

    def test_rows_without_a_table_are_reported_with_the_snapshot(self, home: Path) -> None:
        (kept,) = run(home, USERS).kept
        (snapshot,) = [each for each in MigrationRunner(home).snapshots() if each.id == kept.snapshot]

        assert kept.not_restored == {
            "posts": "1 row; the table does not exist any more",
            "users": "2 rows; values of dropped columns were not restored: nick",
        }
        assert query(snapshot.path, "SELECT * FROM posts") == [(5, 7)]
        assert query(home, "SELECT * FROM users") == [(1, "Ann"), (7, "Bob")]

    def test_rows_that_do_not_fit_are_reported(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT CHECK (name != 'Ann'))")
        (kept,) = run(home, new, NICK).kept

        assert kept.restored == {"users": 1}
        assert kept.not_restored["users"] == "1 of 2 rows; they do not fit the new table definition"
        assert query(home, "SELECT id, nick FROM users") == [(7, "b")]

    def test_rows_written_by_a_changed_migration_are_not_restored(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        seeds = Migration(
            1,
            "modes",
            "CREATE TABLE modes (name);\nINSERT INTO modes VALUES ('old'), ('older')",
            "DROP TABLE modes",
        )
        run(database, seeds)
        (kept,) = run(database, edited(seeds, "CREATE TABLE modes (name);\nINSERT INTO modes VALUES ('new')")).kept

        assert query(database, "SELECT * FROM modes") == [("new",)]
        assert kept.not_restored == {"modes": "2 rows, 1 now; a changed migration writes to the table"}

    def test_rows_written_by_an_unchanged_migration_are_not_duplicated(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        seeds = Migration(
            2, "modes", "CREATE TABLE modes (name);\nINSERT INTO modes VALUES ('a'), ('b')", "DROP TABLE modes"
        )
        run(database, USERS, seeds)
        execute(database, "DELETE FROM modes WHERE name = 'a'; INSERT INTO modes VALUES ('mine')")
        run(database, edited(USERS, "CREATE TABLE users (id)"), seeds)

        assert query(database, "SELECT * FROM modes") == [("b",), ("mine",)]

    def test_unaffected_tables_are_left_alone(self, home: Path) -> None:
        indexed = Migration(4, "indexed", "CREATE INDEX by_name ON users (name)", "DROP INDEX by_name")
        run(home, *ALL, indexed)
        (kept,) = run(home, *ALL, edited(indexed, "CREATE INDEX by_name ON users (name, id)")).kept

        assert (kept.restored, kept.not_restored) == ({}, {})

    def test_column_values_are_restored_beside_a_new_column(self, home: Path) -> None:
        wider = edited(NICK, "ALTER TABLE users ADD COLUMN nick;\nALTER TABLE users ADD COLUMN age DEFAULT 0")
        (kept,) = run(home, USERS, POSTS, wider).kept

        assert query(home, "SELECT id, nick, age FROM users") == [(1, "a", 0), (7, "b", 0)]
        assert (kept.restored, kept.not_restored) == ({"users": 2}, {})

    def test_column_that_a_new_migration_renames_keeps_its_values(self, home: Path) -> None:
        renamed = Migration(4, "renamed", "ALTER TABLE users RENAME COLUMN name TO full_name")
        (kept,) = run(home, USERS, POSTS, renamed).kept

        assert query(home, "SELECT id, full_name FROM users") == [(1, "Ann"), (7, "Bob")]
        assert kept.not_restored == {"users": "2 rows; values of dropped columns were not restored: name, nick"}

    def test_column_renamed_by_an_edited_migration_is_reported(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, full_name TEXT)")
        (kept,) = run(home, new, POSTS, NICK).kept

        assert query(home, "SELECT id, full_name, nick FROM users") == [(1, None, "a"), (7, None, "b")]
        assert kept.restored == {"posts": 1, "users": 2}
        assert kept.not_restored == {"users": "2 rows; values of dropped columns were not restored: name"}

    def test_rows_are_restored_into_an_earlier_state_with_fewer_columns(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        run(database, USERS, without_down(NICK))
        execute(database, "INSERT INTO users VALUES (1, 'Ann', 'a')")
        (kept,) = run(database, USERS).kept

        assert query(database, "SELECT * FROM users") == [(1, "Ann")]
        assert kept.not_restored == {"users": "1 row; values of dropped columns were not restored: nick"}

    def test_rows_of_an_earlier_state_stay_if_a_column_was_renamed(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        run(database, USERS, Migration(2, "r", "ALTER TABLE users RENAME COLUMN name TO full_name"))
        execute(database, "INSERT INTO users VALUES (2, 'Bob')")
        new = Migration(2, "r", "ALTER TABLE users RENAME COLUMN name TO whole_name")
        (kept,) = run(database, USERS, new).kept

        assert query(database, "SELECT * FROM users") == [(1, "Ann")]
        assert kept.not_restored == {"users": "2 rows, 1 now; the table was redefined"}

    def test_changed_data_migration_wins_over_the_old_rows(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        prices = Migration(1, "prices", "CREATE TABLE prices (id INTEGER PRIMARY KEY, price)", "DROP TABLE prices")
        cents = Migration(
            2, "cents", "UPDATE prices SET price = price * 100", "UPDATE prices SET price = price / 100"
        )
        run(database, prices)
        execute(database, "INSERT INTO prices VALUES (1, 5)")
        run(database, prices, cents)
        run(database, prices, edited(cents, "UPDATE prices SET price = price * 1000", "SELECT 1"))

        assert query(database, "SELECT price FROM prices") == [(5000,)]

    def test_triggers_do_not_fire_for_restored_rows(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        log = Migration(
            2,
            "log",
            "CREATE TABLE log (id);\n"
            "CREATE TRIGGER noted AFTER INSERT ON users BEGIN INSERT INTO log VALUES (new.id); END",
            "DROP TRIGGER noted;\nDROP TABLE log",
        )
        run(database, USERS, log)
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        run(database, edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name, age)"), log)

        assert query(database, "SELECT * FROM log") == [(1,)]

    def test_autoincrement_values_are_not_reused(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        things = Migration(1, "a", "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x)", "DROP TABLE a")
        run(database, things)
        execute(database, "INSERT INTO a (x) VALUES ('one'), ('two'); DELETE FROM a WHERE x = 'two'")
        run(database, edited(things, "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x, y)"))
        execute(database, "INSERT INTO a (x) VALUES ('three')")

        assert query(database, "SELECT id, x FROM a") == [(1, "one"), (3, "three")]

    def test_rows_without_a_parent_are_not_restored(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        kinds = Migration(
            1, "kinds", "CREATE TABLE kinds (id PRIMARY KEY);\nINSERT INTO kinds VALUES (1)", "DROP TABLE kinds"
        )
        things = Migration(2, "things", "CREATE TABLE things (kind REFERENCES kinds)", "DROP TABLE things")
        run(database, kinds, things)
        execute(database, "INSERT INTO kinds VALUES (2); INSERT INTO things VALUES (2)")
        (kept,) = run(
            database, edited(kinds, "CREATE TABLE kinds (id PRIMARY KEY);\nINSERT INTO kinds VALUES (9)"), things
        ).kept

        assert query(database, "PRAGMA foreign_key_check") == []
        assert query(database, "SELECT * FROM things") == []
        assert kept.not_restored["things"] == "1 row; some would reference missing rows"

    @pytest.mark.parametrize(
        "table",
        [
            "t (a, b, PRIMARY KEY (a)) WITHOUT ROWID",
            "t (a TEXT, b ANY) STRICT",
            't (a, b, "rowid")',
            "t (a, b, c GENERATED ALWAYS AS (a || b) STORED)",
            't ("a b""c" COLLATE NOCASE, [ö])',
        ],
    )
    def test_rows_are_restored_in_every_kind_of_table(self, tmp_path: Path, table: str) -> None:
        database = tmp_path / "app.db"
        made = Migration(2, "t", f"CREATE TABLE {table}", "DROP TABLE t")
        run(database, USERS, made)
        columns = len(query(database, "SELECT 1 FROM pragma_table_xinfo('t') WHERE hidden = 0"))
        values = ", ".join(["'x'", "cast(x'ff00fe' AS TEXT)", "7"][:columns])
        names = ", ".join(
            f'"{str(row[0]).replace(chr(34), chr(34) * 2)}"'
            for row in query(database, "SELECT name FROM pragma_table_xinfo('t') WHERE hidden = 0")
        )
        execute(database, f"INSERT INTO t ({names}) VALUES ({values})")
        digest = f"SELECT {', '.join(f'hex({name})' for name in names.split(', '))} FROM t"
        before = query(database, digest)
        (kept,) = run(database, edited(USERS, "CREATE TABLE users (other)"), made).kept

        assert kept.restored == {"t": 1}
        assert query(database, digest) == before

    def test_full_text_index_finds_restored_rows(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        found = Migration(2, "words", "CREATE VIRTUAL TABLE words USING fts5(text)", "DROP TABLE words")
        run(database, USERS, found)
        execute(database, "INSERT INTO words VALUES ('a needle in the hay')")
        run(database, edited(USERS, "CREATE TABLE users (other)"), found)

        assert query(database, "SELECT text FROM words WHERE words MATCH 'needle'") == [("a needle in the hay",)]


class TestWithoutDownText:
    def test_migration_without_down_text_restores_an_earlier_state_and_other_rows(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        run(database, USERS, without_down(POSTS))
        execute(database, "INSERT INTO users VALUES (2, 'Bob'); UPDATE users SET name = 'Anna' WHERE id = 1")
        new = Migration(2, "posts", "CREATE TABLE posts (id INTEGER PRIMARY KEY, text)")
        witness = run(database, USERS, new)

        assert as_fresh(database, USERS, new)
        assert query(database, "SELECT * FROM users") == [(1, "Anna"), (2, "Bob")]
        (former,) = witness.went
        assert former.snapshot is not None
        assert [entry.version for entry in former.applied] == [1]

    def test_snapshot_of_the_current_content_is_taken_first(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS, without_down(POSTS))
        execute(database, "INSERT INTO users VALUES (1, 'Ann'); INSERT INTO posts VALUES (5, 1)")
        witness = run(database, USERS, Migration(2, "notes", "CREATE TABLE notes (id)"))
        (snapshot,) = [each for each in MigrationRunner(database).snapshots() if each.id in witness.snapshots]

        assert snapshot.reason == "before-redo"
        assert query(snapshot.path, "SELECT * FROM posts") == [(5, 1)]
        assert witness.kept[0].not_restored == {"posts": "1 row; the table does not exist any more"}

    def test_redo_of_the_first_migration_starts_from_an_empty_database(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, without_down(USERS), POSTS)
        execute(database, "INSERT INTO users VALUES (1, 'Ann'); INSERT INTO posts VALUES (5, 1)")
        new = Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age)")
        witness = run(database, new, POSTS)

        assert [former.snapshot for former in witness.went] == [None]
        assert as_fresh(database, new, POSTS)
        assert query(database, "SELECT * FROM users") == [(1, "Ann", None)]
        assert query(database, "SELECT * FROM posts") == [(5, 1)]

    def test_rows_are_restored_into_recreated_tables_that_fit(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, without_down(USERS))
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        new = Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, full_name TEXT)")
        (kept,) = run(database, new).kept

        assert query(database, "SELECT * FROM users") == [(1, None)]
        assert kept.not_restored == {"users": "1 row; values of dropped columns were not restored: name"}

    def test_failure_leaves_the_database_as_before(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, without_down(USERS))
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        before, files = everything(database), sorted((tmp_path / ".migrated").rglob("*"))

        with pytest.raises(ExecutionFailedError, match="nowhere"):
            run(database, Migration(1, "users", "CREATE TABLE users (id);\nSELECT * FROM nowhere"))

        assert everything(database) == before
        assert list((tmp_path / ".migrated/snapshots/app.db").iterdir()) == []
        assert [path for path in files if not path.exists()] == []

    def test_history_continues_after_restoring_an_earlier_state(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        run(database, USERS, without_down(POSTS))
        before = query(database, "SELECT * FROM _migrations_history ORDER BY id")
        run(database, USERS, Migration(2, "posts", "CREATE TABLE posts (id)"))

        assert query(database, "SELECT * FROM _migrations_history ORDER BY id")[: len(before)] == before
        assert history(database)[len(before) :] == [("restore", 1), ("apply", 2)]

    def test_missing_migration_without_down_text_restores_an_earlier_state(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        run(database, USERS, without_down(POSTS))
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        run(database, USERS)

        assert as_fresh(database, USERS)
        assert query(database, "SELECT * FROM users") == [(1, "Ann")]

    def test_redo_without_down_text_and_snapshot_is_refused_with_a_hint(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        execute(database, "CREATE TABLE there (id)")
        runner_of(database, without_down(USERS), snapshots=SnapshotPolicy(SnapshotWhen.NEVER)).run()
        before = everything(database)

        with pytest.raises(RollbackFailedError) as caught:
            run(database, Migration(1, "users", "CREATE TABLE users (other)"))

        assert "there is no earlier snapshot" in caught.value.message
        assert "put the file back as it was applied, with a DOWN section" in str(caught.value.hint)
        assert everything(database) == before

    def test_following_the_hint_resolves_the_refusal(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        execute(database, "CREATE TABLE there (id)")
        runner_of(database, without_down(USERS), snapshots=SnapshotPolicy(SnapshotWhen.NEVER)).run()
        assert run(database, USERS).updates == ["1_users"]
        run(database, Migration(1, "users", "CREATE TABLE users (other)"))

        assert [row[1] for row in query(database, "PRAGMA table_info(users)")] == ["other"]

    def test_snapshot_of_another_database_with_this_name_is_not_used(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS, POSTS)
        run(database, USERS, POSTS, NICK)
        database.unlink()
        execute(database, "CREATE TABLE there (id)")
        never = SnapshotPolicy(SnapshotWhen.NEVER)
        runner_of(database, USERS, snapshots=never).run()
        runner_of(database, USERS, without_down(POSTS), snapshots=never).run()
        before = everything(database)

        with pytest.raises(RollbackFailedError):
            run(database, USERS, Migration(2, "posts", "CREATE TABLE posts (other)"))

        assert everything(database) == before

    def test_later_history_entries_do_not_apply_to_an_earlier_state(self, home: Path) -> None:
        new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, age)")
        run(home, new, POSTS, NICK)
        assert run(home, new, POSTS, without_down(NICK)).updates == ["3_nick"]
        other = Migration(3, "nick", "ALTER TABLE users ADD COLUMN nickname")
        run(home, new, POSTS, other)

        assert as_fresh(home, new, POSTS, other)
        assert query(home, "SELECT id, name FROM users") == [(1, "Ann"), (7, "Bob")]

    def test_stored_text_is_that_of_the_applied_migration(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        other = edited(POSTS, "CREATE TABLE notes (id)", "DROP TABLE notes")
        stuck = Migration(3, "stuck", "CREATE TABLE stuck (id)")
        run(database, USERS, POSTS)
        for posts in (POSTS, other, POSTS):
            run(database, USERS, posts, stuck)
        assert run(database, USERS, POSTS, stuck.with_down("DROP TABLE stuck")).updates == ["3_stuck"]
        last = edited(POSTS, "CREATE TABLE last (id)", "")
        assert run(database, USERS, last, stuck).went == []

        assert as_fresh(database, USERS, last, stuck)

    def test_each_database_restores_its_own_earlier_state(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.db", tmp_path / "two.db"
        run(one, USERS)
        run(one, USERS, without_down(POSTS))
        run(two, USERS, POSTS)
        new = Migration(2, "posts", "CREATE TABLE posts (id)")

        assert (len(run(one, USERS, new).went), len(run(two, USERS, new).went)) == (1, 0)
        assert schema(one) == schema(two)

    def test_unsuitable_snapshot_is_skipped(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS)
        run(database, USERS, without_down(POSTS))
        run(database, USERS, without_down(POSTS), NICK)
        for snapshot in MigrationRunner(database).snapshots()[:-1]:
            Path(snapshot.path).write_bytes(b"no database")
        before = everything(database)
        run(database, USERS, Migration(2, "posts", "CREATE TABLE posts (id)"), NICK)

        assert everything(database) != before
        assert applied_versions(database) == [1, 2, 3]


class TestOnACopy:
    PIECES = Migration(
        2,
        "pieces",
        "-- migrated: no-transaction\nCREATE TABLE one (id);\nVACUUM;\nCREATE TABLE two (id)",
        "DROP TABLE two;\nDROP TABLE one",
    )
    ANEW = edited(PIECES, PIECES.up_sql.replace("two (id)", "two (id, name)"))

    def test_migration_without_a_transaction_is_redone_atomically(self, home: Path) -> None:
        database = home.with_name("pieces.db")
        run(database, USERS, self.PIECES)
        execute(database, "INSERT INTO users VALUES (1, 'Ann')")
        before = everything(database)
        broken = edited(self.PIECES, f"{self.PIECES.up_sql};\nSELECT * FROM nowhere")

        with pytest.raises(ExecutionFailedError):
            run(database, USERS, broken)
        assert everything(database) == before

        run(database, USERS, self.ANEW)
        assert as_fresh(database, USERS, self.ANEW)
        assert query(database, "SELECT * FROM users") == [(1, "Ann")]

    def test_directive_enforces_foreign_keys_on_the_copy(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        posts = edited(
            POSTS, "CREATE TABLE posts (id INTEGER PRIMARY KEY, user REFERENCES users ON DELETE CASCADE)"
        )
        purge = Migration(3, "purge", "-- migrated: foreign-keys=on\nDELETE FROM users WHERE id = 1", "SELECT 1")
        run(database, USERS, posts)
        execute(
            database, "INSERT INTO users VALUES (1, 'Ann'), (2, 'Bob'); INSERT INTO posts VALUES (1, 1), (2, 2)"
        )
        run(database, USERS, posts, purge)
        run(database, USERS, posts, edited(purge, "-- migrated: foreign-keys=on\nDELETE FROM users WHERE id = 2"))

        assert query(database, "SELECT * FROM posts") == []

    def test_concurrent_writer_is_not_overwritten(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The write lock is released for a moment before the copy replaces the content."""
        database = tmp_path / "app.db"
        execute(database, "PRAGMA journal_mode = wal")
        run(database, USERS, self.PIECES)
        put_back, calls = restore.put_back, count()

        def after_a_writer(*arguments: Any) -> None:
            if next(calls) == 0:
                execute(database, "INSERT INTO users VALUES (1, 'Ann')")
            put_back(*arguments)

        monkeypatch.setattr(rebuild, "put_back", after_a_writer)
        run(database, USERS, self.ANEW)

        assert next(calls) == 2
        assert query(database, "SELECT * FROM users") == [(1, "Ann")]
        assert as_fresh(database, USERS, self.ANEW)

    def test_stop_leaves_the_database_as_before(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        run(database, USERS, self.PIECES)
        before = everything(database)
        supervision = Supervision()

        class Stopping(Observer):
            def beginning(self, step: object, *, late: bool) -> None:
                supervision.stop("SIGTERM", 1e18)

        with pytest.raises(DatabaseError, match="SIGTERM"):
            runner_of(database, USERS, self.ANEW, observer=Stopping(), supervision=supervision).run()

        assert everything(database) == before
        assert applied_versions(database) == [1, 2]


class TestGone:
    def test_missing_migration_is_rolled_back_with_the_stored_text(self, home: Path) -> None:
        run(home, USERS, POSTS)

        assert as_fresh(home, USERS, POSTS)
        assert query(home, "SELECT id, name FROM users") == [(1, "Ann"), (7, "Bob")]

    def test_switching_branches_back_and_forth_is_followed(self, home: Path) -> None:
        likes = Migration(4, "likes", "CREATE TABLE likes (id)", "DROP TABLE likes")
        run(home, USERS, likes)
        assert as_fresh(home, USERS, likes)

        run(home, *ALL)
        assert as_fresh(home, *ALL)
        assert query(home, "SELECT id, name FROM users") == [(1, "Ann"), (7, "Bob")]

    def test_failing_migration_of_the_new_branch_changes_nothing(self, home: Path) -> None:
        before = everything(home)

        with pytest.raises(ExecutionFailedError):
            run(home, USERS, Migration(4, "likes", "SELECT * FROM nowhere"))

        assert everything(home) == before

    def test_ignored_missing_migration_stays_when_one_below_is_redone(self, home: Path) -> None:
        ignoring = Policy(OnChanged.REDO, OnMissing.IGNORE)
        execute(home, "DELETE FROM posts")
        run(home, edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY)"), NICK, policy=ignoring)

        assert applied_versions(home) == [1, 2, 3]
        assert history(home)[3:] == [("rollback", 3), ("rollback", 1), ("redo", 1), ("redo", 3)]

    def test_earlier_state_without_an_ignored_missing_migration_is_not_used(self, tmp_path: Path) -> None:
        database = tmp_path / "app.db"
        for number in (1, 2, 3):
            run(database, *[USERS, without_down(POSTS), NICK][:number])
        before = everything(database)

        with pytest.raises(RollbackFailedError, match="there is no earlier snapshot"):
            run(
                database,
                USERS,
                Migration(2, "posts", "CREATE TABLE posts (id)"),
                policy=Policy(OnChanged.REDO, OnMissing.IGNORE),
            )

        assert everything(database) == before


class TestUpdated:
    def test_new_name_is_stored_without_a_redo(self, home: Path) -> None:
        before = schema(home), query(home, "SELECT applied_at FROM _migrations")
        renamed = Migration(3, "nickname", NICK.up_sql, NICK.down_sql)

        assert run(home, USERS, POSTS, renamed).updates == ["3_nickname"]
        assert query(home, "SELECT name FROM _migrations WHERE version = 3") == [("nickname",)]
        assert (schema(home), query(home, "SELECT applied_at FROM _migrations")) == before
        assert history(home)[3:] == [("update", 3)]
        assert run(home, USERS, POSTS, renamed).updates == []

    def test_new_down_text_is_stored_and_used_for_a_missing_migration(self, home: Path) -> None:
        longer = edited(NICK, NICK.up_sql, "ALTER TABLE users DROP COLUMN nick;\nCREATE TABLE undone (id)")
        run(home, USERS, POSTS, longer)
        assert history(home)[3:] == [("update", 3)]

        run(home, USERS, POSTS)
        assert query(home, "SELECT name FROM sqlite_schema WHERE name = 'undone'") == [("undone",)]

    def test_name_and_down_text_are_not_stored_under_the_production_policy(self, home: Path) -> None:
        before = everything(home)
        renamed = Migration(3, "nickname", NICK.up_sql, "SELECT 1")
        run(home, USERS, POSTS, renamed, policy=Policy())

        assert everything(home) == before


class TestAsked:
    """Redo on request: `migrated redo`."""

    def test_redo_applies_the_newest_again_and_restores_rows(self, home: Path) -> None:
        done = runner_of(home, *ALL, policy=Policy()).redo()

        assert [entry.version for entry in done] == [3]
        assert history(home)[3:] == [("rollback", 3), ("redo", 3)]
        assert query(home, "SELECT id, nick FROM users") == [(1, "a"), (7, "b")]

    def test_redo_takes_a_number_or_a_version(self, home: Path) -> None:
        assert [entry.version for entry in runner_of(home, *ALL, policy=Policy()).redo(2)] == [2, 3]
        assert [entry.version for entry in runner_of(home, *ALL, policy=Policy()).redo_above(0)] == [1, 2, 3]
        assert query(home, "SELECT count(*) FROM users") == [(2,)]

    def test_redo_leaves_pending_migrations_pending(self, home: Path) -> None:
        more = Migration(4, "more", "CREATE TABLE more (id)")
        runner_of(home, *ALL, more, policy=Policy()).redo()

        assert applied_versions(home) == [1, 2, 3]

    def test_redo_applies_the_edited_text(self, home: Path) -> None:
        new = edited(NICK, "ALTER TABLE users ADD COLUMN nickname")
        runner_of(home, USERS, POSTS, new, policy=Policy()).redo()

        assert as_fresh(home, USERS, POSTS, new)

    def test_edited_migration_below_is_refused(self, home: Path) -> None:
        before = everything(home)

        with pytest.raises(ChecksumMismatchError):
            runner_of(home, edited(USERS, "SELECT 1"), POSTS, NICK, policy=Policy()).redo()

        assert everything(home) == before

    def test_missing_migration_is_refused(self, home: Path) -> None:
        before = everything(home)

        with pytest.raises(MigrationNotFoundError):
            runner_of(home, USERS, POSTS, policy=Policy()).redo()

        assert everything(home) == before

    def test_redo_without_down_text_is_refused(self, home: Path) -> None:
        run(home, *ALL, Migration(4, "more", "CREATE TABLE more (id)"))
        before = everything(home)

        with pytest.raises(RollbackFailedError):
            runner_of(home, *ALL, Migration(4, "more", "CREATE TABLE more (id)"), policy=Policy()).redo()

        assert everything(home) == before

    def test_unknown_version_is_refused(self, home: Path) -> None:
        with pytest.raises(MigrationNotFoundError):
            runner_of(home, *ALL).redo_above(9)


class TestProduction:
    """The default policy refuses all of this."""

    @pytest.mark.parametrize(
        ("migrations", "error"),
        [
            pytest.param((edited(USERS, "SELECT 1"), POSTS, NICK), ChecksumMismatchError, id="edited"),
            pytest.param((USERS, POSTS), MigrationNotFoundError, id="missing"),
            pytest.param((USERS, edited(NICK, "SELECT 1")), ChecksumMismatchError, id="another branch"),
        ],
    )
    def test_edited_migration_is_refused_in_production_without_changes(
        self, home: Path, migrations: tuple[Migration, ...], error: type[Exception]
    ) -> None:
        before = everything(home)

        with pytest.raises(error):
            run(home, *migrations, policy=Policy())

        assert everything(home) == before


def test_in_memory_database_is_redone() -> None:
    runner = MigrationRunner(":memory:", policy=FOLLOWING)
    runner.add_migrations(ALL)
    runner.run()
    runner._migrations[3] = edited(NICK, "ALTER TABLE users ADD COLUMN nickname")
    runner.run()

    assert [entry.checksum for entry in runner.get_applied()][2] == runner._migrations[3].checksum


def test_target_version_limits_new_migrations_but_not_the_redo(home: Path) -> None:
    new = edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, mail)")
    runner_of(home, new, POSTS, NICK, Migration(4, "more", "CREATE TABLE more (id)")).run_up_to(1)

    assert applied_versions(home) == [1, 2, 3]


@pytest.mark.parametrize("way", ["run", "run_up_to", "redo"])
def test_views_are_recreated_when_a_redo_starts_from_an_earlier_content(tmp_path: Path, way: str) -> None:
    """The snapshot was taken before the view was created."""
    database = tmp_path / "app.db"
    last = without_down(POSTS)
    text = "DROP VIEW IF EXISTS names; CREATE VIEW names AS SELECT name FROM users"
    view = Migration.repeatable("names", text)
    run(database, USERS)
    run(database, USERS, last)
    run(database, USERS, last, view)
    witness = Witness()
    last = last if way == "redo" else edited(last, "CREATE TABLE posts (id INTEGER PRIMARY KEY, text)")
    runner = runner_of(database, USERS, last, view, observer=witness)

    if way == "run":
        runner.run()
    elif way == "run_up_to":
        runner.run_up_to(2)
    else:
        runner.redo()

    assert len(witness.went) == 1
    assert query(database, "SELECT name FROM _migrations_repeatable") == [("names",)]
    assert as_fresh(database, USERS, last, view)


def test_earlier_content_with_another_text_of_a_missing_migration_is_not_used(tmp_path: Path) -> None:
    """Without its file, the text that is applied now could not be applied again."""
    database = tmp_path / "app.db"
    ignoring = Policy(on_changed=OnChanged.REDO, on_missing=OnMissing.IGNORE)
    last = without_down(POSTS)
    run(database, USERS, policy=ignoring)
    run(database, USERS, last, policy=ignoring)
    run(database, edited(USERS, "CREATE TABLE users (id INTEGER PRIMARY KEY, mail)"), last, policy=ignoring)
    before = everything(database)

    with pytest.raises(RollbackFailedError, match="there is no earlier snapshot"):
        run(database, edited(last, "CREATE TABLE posts (id INTEGER PRIMARY KEY, text)"), policy=ignoring)

    assert everything(database) == before
