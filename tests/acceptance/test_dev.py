"""`migrated dev`: a day of a developer; `migrated run` must do none of it."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, bring_up, migrated
from support import everything, execute, needs_git, put_file, query, schema, write_migration

USERS = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);"
POSTS = "CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT);"
TAGS = "CREATE TABLE tags (id INTEGER PRIMARY KEY, label TEXT);"
NOTES = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT);"


class Day:
    """A git project in which `migrated dev` runs."""

    def __init__(self, home: Path, daemon: DaemonProcess) -> None:
        self.home = home
        self.daemon = daemon
        self.migrations = home / "migrations"
        self.database = home / "app.db"
        self.fresh = 0

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=self.home, check=True, capture_output=True)

    def commit(self, message: str) -> None:
        self.git("add", "migrations")
        self.git("commit", "-qm", message)

    def save(self, version: int, name: str, up: str, table: str = "") -> Path:
        return write_migration(
            self.migrations, version, name, up=up, down=f"DROP TABLE {table};" if table else None
        )

    def followed(self) -> None:
        """Wait for the end of the pass after the last change, then compare with a new database."""
        self.daemon.look()
        self.fresh += 1
        name = f"fresh-{self.fresh}.db"
        bring_up(self.home, database=name)
        fresh = self.home / name
        ledger = "SELECT version, name, checksum FROM _migrations ORDER BY version"
        assert schema(self.database) == schema(fresh), self.daemon.text()
        assert query(self.database, ledger) == query(fresh, ledger)

    def rows(self, table: str) -> list[tuple[object, ...]]:
        return query(self.database, f"SELECT * FROM {table} ORDER BY 1")


@needs_git
def test_day_of_a_developer(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    with DaemonProcess(tmp_path, command="dev") as daemon:
        day = Day(tmp_path, daemon.wait_until_ready())
        create_and_edit(day)
        switch_branches(day)
        merge_and_tidy_up(day)
        assert daemon.stop() == 0

    # No row is lost: rows of a table that no longer exists are in a snapshot named in the log.
    left = [line for line in daemon.logged("rows.left_out") if "tags" in line["reason"]]
    snapshot = next(tmp_path.glob(f".migrated/snapshots/app.db/{left[0]['snapshot']}.*"))
    assert query(snapshot, "SELECT label FROM tags") == [("new",)]


def create_and_edit(day: Day) -> None:
    """Create tables, insert rows, then edit five times, twice with errors."""
    day.git("init", "-q", "-b", "main")
    day.save(1, "users", USERS, "users")
    day.followed()
    posts = day.save(2, "posts", POSTS, "posts")
    day.followed()
    execute(day.database, "INSERT INTO users VALUES (1, 'Ann'); INSERT INTO posts VALUES (1, 'First')")
    day.commit("users, posts")

    day.save(2, "posts", POSTS.replace("title TEXT", "title TEXT, body TEXT"), "posts")
    day.followed()
    before = everything(day.database)
    day.save(2, "posts", POSTS.replace("title TEXT", "title TEXT,"), "posts")
    failure = day.daemon.wait_for("migration.failed", version=2)
    assert (failure["file"], failure["line"]) == (str(posts), 2)
    assert everything(day.database) == before
    day.save(2, "posts", f"{POSTS}\nINSERT INTO nowhere VALUES (1);", "posts")
    day.daemon.wait_for("migration.failed", version=2, line=3)
    assert everything(day.database) == before
    day.save(2, "posts", POSTS.replace("title TEXT", "title TEXT, body TEXT, likes INTEGER"), "posts")
    day.followed()
    assert day.rows("posts") == [(1, "First", None, None)]
    day.save(2, "posts", POSTS, "posts")
    day.followed()
    assert (day.rows("users"), day.rows("posts")) == ([(1, "Ann")], [(1, "First")])


def switch_branches(day: Day) -> None:
    """Two branches with their own migrations; one migration is irreversible."""
    day.git("switch", "-qc", "tags")
    day.save(4, "tags", TAGS)
    day.followed()
    execute(day.database, "INSERT INTO tags VALUES (1, 'new'); INSERT INTO users VALUES (2, 'Bob')")
    day.commit("tags")
    day.git("switch", "-q", "main")
    day.followed()
    day.git("switch", "-qc", "notes")
    day.save(3, "notes", NOTES, "notes")
    day.followed()
    day.commit("notes")
    for branch in ("tags", "notes", "main", "tags"):
        day.git("switch", "-q", branch)
        day.followed()
        assert day.rows("users") == [(1, "Ann"), (2, "Bob")]
    assert day.rows("posts") == [(1, "First")]


def merge_and_tidy_up(day: Day) -> None:
    """After a merge one migration is late; then a rename, a deletion and a view."""
    execute(day.database, "INSERT INTO tags VALUES (7, 'mine')")
    day.git("merge", "-q", "--no-edit", "notes")
    day.followed()
    assert day.rows("tags") == [(7, "mine")]

    (day.migrations / "1_users.sql").rename(day.migrations / "1_people.sql")
    day.followed()
    assert query(day.database, "SELECT name FROM _migrations WHERE version = 1") == [("people",)]
    text = "DROP VIEW IF EXISTS titles; CREATE VIEW titles AS SELECT title FROM posts;"
    put_file(day.migrations, "R__titles.sql", text)
    day.followed()
    (day.migrations / "3_notes.sql").unlink()
    day.followed()
    assert day.rows("users") == [(1, "Ann"), (2, "Bob")]
    assert day.rows("titles") == [("First",)]
    assert day.rows("tags") == [(7, "mine")]


@needs_git
def test_checkout_of_many_files_is_one_pass(tmp_path: Path) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    with DaemonProcess(tmp_path, command="dev") as daemon:
        day = Day(tmp_path, daemon.wait_until_ready())
        day.git("init", "-q", "-b", "main")
        day.save(1, "users", USERS, "users")
        daemon.wait_for("run.finished")
        day.commit("users")
        day.git("switch", "-qc", "many")
        day.save(1, "users", USERS.replace("name", "label"), "users")
        daemon.wait_for("run.finished")
        for version in range(2, 202):
            day.save(version, "change", f"CREATE TABLE t{version} (id);", f"t{version}")
        daemon.wait_for("migration.applied", version=201)
        daemon.wait_for("run.finished")
        day.commit("many")
        day.git("switch", "-q", "main")
        back = daemon.wait_for("run.finished")
        day.git("switch", "-q", "many")
        there = daemon.wait_for("run.finished")
        day.followed()
        daemon.stop()

    assert back["applied"] == 1
    assert there["applied"] == 201
    assert len(daemon.logged("migration.rolled_back", run_id=back["run_id"])) == 201
    assert [line["run_id"] for line in daemon.logged("run.finished")][-2:] == [back["run_id"], there["run_id"]]


def test_files_that_appear_and_disappear_at_once_cause_no_change(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    with DaemonProcess(tmp_path, command="dev") as daemon:
        day = Day(tmp_path, daemon.wait_until_ready())
        kept = day.save(1, "users", USERS, "users")
        daemon.wait_for("run.finished")
        content = kept.read_bytes()
        kept.unlink()
        put_file(day.migrations, kept.name, content)
        put_file(day.migrations, "9_short.sql", "CREATE TABLE short (id);").unlink()
        daemon.look()
        daemon.stop()

    assert len(daemon.logged("run.finished")) == 1
    assert daemon.logged("migration.rolled_back") == []


@needs_git
def test_nothing_is_applied_during_a_git_checkout(tmp_path: Path) -> None:
    """A file that is missing during the checkout must not cost its table, however long it takes."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrated.toml").write_text('settle = "1ms"\nsettle_max = "60s"\nresync_interval = "100ms"\n')
    with DaemonProcess(tmp_path, command="dev") as daemon:
        day = Day(tmp_path, daemon.wait_until_ready())
        day.git("init", "-q")
        path = day.save(1, "users", USERS, "users")
        daemon.wait_for("run.finished")
        lock = tmp_path / ".git" / "index.lock"
        lock.touch()
        path.unlink()
        # Hundreds of times longer than a change takes to be noticed.
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert schema(day.database) != []
        day.save(1, "users", USERS, "users")
        lock.unlink()
        day.followed()
        daemon.stop()

    assert daemon.logged("migration.rolled_back") == []


@pytest.mark.parametrize("change", ["edit", "remove", "switch", "rename"])
def test_run_neither_redoes_nor_rolls_back(tmp_path: Path, change: str) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    path = write_migration(migrations, 1, "users", up=USERS, down="DROP TABLE users;")
    bring_up(tmp_path)
    before = everything(tmp_path / "app.db")
    if change == "edit":
        write_migration(migrations, 1, "users", up=POSTS, down="DROP TABLE posts;")
    elif change == "remove":
        path.unlink()
    elif change == "switch":
        path.unlink()
        write_migration(migrations, 2, "posts", up=POSTS, down="DROP TABLE posts;")
    else:
        path.rename(migrations / "1_people.sql")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        daemon.stop()

    assert everything(tmp_path / "app.db") == before
    assert len(daemon.logged("database.blocked")) == (change != "rename")


def test_redo_beside_the_daemon_waits_for_the_lock(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    write_migration(tmp_path / "migrations", 1, "users", up=USERS, down="DROP TABLE users;")
    with DaemonProcess(tmp_path, command="dev") as daemon:
        daemon.wait_until_ready()
        execute(tmp_path / "app.db", "INSERT INTO users VALUES (1, 'Ann')")
        done = migrated(tmp_path, "redo", "--log-format", "json")
        daemon.look()
        daemon.stop()

    assert done.returncode == 0, done.stderr
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert "rows.put_back" in events
    assert query(tmp_path / "app.db", "SELECT * FROM users") == [(1, "Ann")]


def test_status_uses_the_policy_of_the_dev_daemon(tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    with DaemonProcess(tmp_path, command="dev") as daemon:
        day = Day(tmp_path, daemon.wait_until_ready())
        day.save(1, "users", USERS, "users")
        daemon.wait_for("run.finished")
        day.save(1, "users", USERS.replace("name", "name,,"), "users")
        daemon.wait_for("database.blocked")
        (shown,) = json.loads(migrated(tmp_path, "status", "--json").stdout)["databases"]
        daemon.stop()
    (alone,) = json.loads(migrated(tmp_path, "status", "--json").stdout)["databases"]

    assert (shown["state"], shown["problem"], shown["daemon"]["state"]) == ("pending", None, "blocked")
    assert (alone["state"], alone["problem"]["type"]) == ("blocked", "ChecksumMismatchError")
