"""`schema_file`: written by commands and by the daemon, and usable to create a database."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, log_lines, migrated
from support import applied_versions, execute, query, schema, write_migration

LOAD = """
import sqlite3, sys
with open("db/schema.sql", newline="") as file:
    sqlite3.connect("fresh.db").executescript(file.read())
"""


@pytest.fixture
def file(tmp_path: Path, migrations: Path) -> Path:
    """The schema file of a project with two databases and one migration."""
    (tmp_path / "migrated.toml").write_text(
        'resync_interval = "1h"\n[[target]]\ndatabases = ["app.db", "other.db"]\nschema_file = "db/schema.sql"\n'
    )
    (tmp_path / "db").mkdir()
    write_migration(migrations, 1, down="DROP TABLE t1;")
    return tmp_path / "db" / "schema.sql"


def tables(file: Path) -> list[str]:
    words = [line.split() for line in file.read_text().splitlines() if line.startswith("CREATE TABLE t")]
    return [word[2] for word in words]


def events(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line["event"] for line in log_lines(done.stderr)]


def test_commands_update_the_schema_file(tmp_path: Path, migrations: Path, file: Path) -> None:
    done = migrated(tmp_path, "up")

    assert (done.returncode, events(done).count("schema.dumped")) == (0, 1)
    assert tables(file) == ["t1"]
    before = file.stat()

    done = migrated(tmp_path, "up")

    assert (done.returncode, events(done)) == (0, [])
    assert file.stat() == before

    file.unlink()
    execute(tmp_path / "other.db", "CREATE TABLE tother (a)")
    write_migration(migrations, 2)
    write_migration(migrations, 3, up="SELECT nothing;")
    done = migrated(tmp_path, "up")

    # Migrations before the failure stay applied.
    assert done.returncode == 1
    assert tables(file) == ["t1", "t2"]

    (migrations / "3_change.sql").unlink()
    (migrations / "2_change.sql").unlink()
    write_migration(migrations, 2, down="DROP TABLE t2;")
    done = migrated(tmp_path, "down", "--to", "1")

    assert (done.returncode, events(done).count("schema.dumped")) == (0, 1)
    assert tables(file) == ["t1"]


def test_database_created_from_the_schema_file_is_current(tmp_path: Path, migrations: Path, file: Path) -> None:
    write_migration(migrations, 2, up="PRAGMA user_version = 5; CREATE VIEW v AS SELECT 1 -- it's")
    assert migrated(tmp_path, "up").returncode == 0
    subprocess.run([sys.executable, "-c", LOAD], cwd=tmp_path, check=True)

    status = migrated(tmp_path, "status", "-d", "fresh.db", "--exit-code")
    up = migrated(tmp_path, "up", "-d", "fresh.db")

    assert (status.returncode, re.findall("[0-9]+ pending", status.stdout)) == (0, ["0 pending"])
    # A second write would mean that the schema differs from the file.
    assert (up.returncode, up.stderr) == (0, "")
    assert schema(tmp_path / "fresh.db") == schema(tmp_path / "app.db")
    assert query(tmp_path / "fresh.db", "PRAGMA user_version") == [(5,)]
    assert query(tmp_path / "fresh.db", "SELECT * FROM _migrations_history") == []


def test_restore_updates_the_schema_file(tmp_path: Path, migrations: Path, file: Path) -> None:
    assert migrated(tmp_path, "up").returncode == 0
    write_migration(migrations, 2)
    assert migrated(tmp_path, "up").returncode == 0
    assert tables(file) == ["t1", "t2"]

    (snapshot,) = (tmp_path / ".migrated/snapshots/app.db").glob("app.db.*")
    done = migrated(tmp_path, "restore", snapshot.name.split(".1.before-run")[0])

    assert (done.returncode, applied_versions(tmp_path / "app.db")) == (0, [1])
    assert tables(file) == ["t1"]


def test_unwritable_schema_file_does_not_fail_the_run(tmp_path: Path, file: Path) -> None:
    file.parent.rmdir()
    done = migrated(tmp_path, "up")

    assert done.returncode == 0
    assert applied_versions(tmp_path / "app.db") == applied_versions(tmp_path / "other.db") == [1]
    (line,) = [line for line in log_lines(done.stderr) if line["event"] == "schema.dump_failed"]
    assert (line["level"], line["file"], line["reason"]) == ("error", str(file), "No such file or directory")
    assert not file.parent.exists()


def test_daemon_updates_the_schema_file(tmp_path: Path, migrations: Path, file: Path) -> None:
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        assert tables(file) == ["t1"]

        write_migration(migrations, 2)
        daemon.wait_for("run.finished", database="app.db")
        assert tables(file) == ["t1", "t2"]
        before = file.stat()

        # Neither changed rows nor the second database affect the schema file.
        execute(tmp_path / "app.db", "INSERT INTO t1 VALUES (1)")
        execute(tmp_path / "other.db", "CREATE TABLE tother (a)")
        daemon.look()
        assert file.stat() == before

        # A schema change by another process is noticed at the next pass.
        execute(tmp_path / "app.db", "CREATE TABLE tanother (a)")
        daemon.look()
        assert tables(file) == ["t1", "t2", "tanother"]

        file.unlink()
        daemon.send(signal.SIGHUP)
        daemon.wait_for("daemon.reloaded")
        daemon.wait_for("schema.dumped")
        assert tables(file) == ["t1", "t2", "tanother"]
        assert os.listdir(file.parent) == ["schema.sql"]
        assert daemon.stop() == 0

    assert len(daemon.logged("schema.dumped", database="app.db")) == 4
    assert daemon.logged("schema.dump_failed") == []


def test_daemon_logs_a_failed_dump_once_and_retries(tmp_path: Path, migrations: Path, file: Path) -> None:
    file.parent.rmdir()
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_for("schema.dump_failed")
        daemon.wait_for("daemon.ready")
        write_migration(migrations, 2)
        daemon.wait_for("run.finished", database="other.db")
        daemon.look()
        file.parent.mkdir()
        daemon.look()
        assert tables(file) == ["t1", "t2"]
        assert daemon.stop() == 0

    assert len(daemon.logged("schema.dump_failed")) == 1
    assert applied_versions(tmp_path / "app.db") == applied_versions(tmp_path / "other.db") == [1, 2]
