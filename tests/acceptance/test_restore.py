"""`migrated snapshots` and `migrated restore`, as users run them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, log_lines, migrated
from support import applied_versions, everything, query, write_migration


@pytest.fixture
def spoilt(tmp_path: Path, migrations: Path) -> Path:
    """A project whose second migration was a mistake; a snapshot was taken before it."""
    write_migration(migrations, 1, up="CREATE TABLE t (x);\nINSERT INTO t VALUES (1), (2);")
    assert migrated(tmp_path, "up").returncode == 0
    write_migration(migrations, 2, "mistake", up="DELETE FROM t;\nCREATE TABLE wrong (x);")
    assert migrated(tmp_path, "up").returncode == 0
    return tmp_path


def listed(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    done = migrated(directory, "snapshots", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["problems"] == []
    found: list[dict[str, Any]] = document["snapshots"]
    return found


def test_snapshots_are_listed_for_programs(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)

    (file,) = (spoilt / ".migrated/snapshots/app.db").iterdir()
    assert snapshot.keys() == {"id", "database", "taken_at", "version", "size", "reason"}
    assert (snapshot["database"], snapshot["version"], snapshot["reason"]) == ("app.db", 1, "before-run")
    assert snapshot["size"] == file.stat().st_size
    assert file.name == f"{snapshot['id']}.1.before-run.snapshot"


def test_snapshots_are_listed_for_people(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)

    done = migrated(spoilt, "snapshots")

    when = snapshot["taken_at"][:19].replace("T", " ")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "# app.db: 1 snapshot",
        "id\ttaken at (UTC)\tversion\tbytes\treason",
        f"{snapshot['id']}\t{when}\t1\t{snapshot['size']}\tbefore-run",
    ]


def test_empty_list_of_snapshots(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)

    assert listed(tmp_path) == []
    assert not (tmp_path / ".migrated").exists()


def test_no_snapshots_are_taken_if_disabled(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\nsnapshots = { when = "never" }\n')
    for version in (1, 2):
        write_migration(migrations, version)
        assert migrated(tmp_path, "up").returncode == 0

    assert listed(tmp_path) == []


def test_restore_replaces_the_content_and_takes_a_snapshot_first(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)

    done = migrated(spoilt, "restore", snapshot["id"], "--reason", "2 was a mistake")

    assert (done.returncode, done.stdout) == (0, "")
    lines = log_lines(done.stderr)
    assert [line["event"] for line in lines] == ["snapshot.taken", "snapshot.restored"]
    assert (lines[1]["snapshot"], lines[1]["reason"]) == (snapshot["id"], "2 was a mistake")
    assert query(spoilt / "app.db", "SELECT count(*) FROM t") == [(2,)]
    assert applied_versions(spoilt / "app.db") == [1]
    assert [each["reason"] for each in listed(spoilt)] == ["before-run", "before-restore"]


def test_dry_run_prints_what_would_be_lost_and_changes_nothing(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)
    before = everything(spoilt / "app.db")

    done = migrated(spoilt, "restore", snapshot["id"], "--dry-run")

    when = snapshot["taken_at"][:19].replace("T", " ")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"app.db: everything written since {when} UTC would be lost (a snapshot of it is taken first)",
        "  no longer applied: 2_mistake",
        "  no longer exists: table wrong",
        "  rows of t: 0 now, 2 in the snapshot",
    ]
    assert everything(spoilt / "app.db") == before
    assert len(listed(spoilt)) == 1


def test_unknown_snapshot_is_refused(spoilt: Path) -> None:
    before = everything(spoilt / "app.db")

    done = migrated(spoilt, "restore", "app.db.20200101T000000000000Z")

    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "migrated: error: no database has a snapshot app.db.20200101T000000000000Z\n"
        "hint: `migrated snapshots` lists them; see `migrated help snapshots`\n"
    )
    assert everything(spoilt / "app.db") == before


def test_restore_is_refused_beside_a_daemon(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)
    before = everything(spoilt / "app.db")

    with DaemonProcess(spoilt) as daemon:
        daemon.wait_until_ready()
        done = migrated(spoilt, "restore", snapshot["id"])
        looked = migrated(spoilt, "restore", snapshot["id"], "--dry-run")

    (line,) = log_lines(done.stderr)
    assert done.returncode == 5
    assert (line["event"], line["holder"].split()[:2]) == ("lock.held", ["pid", str(daemon.pid)])
    assert line["reason"].startswith("a daemon is running on app.db and would apply the migrations again: pid ")
    assert everything(spoilt / "app.db") == before
    assert len(listed(spoilt)) == 1
    assert looked.returncode == 0


def test_restore_is_refused_beside_a_daemon_that_waits_for_the_database(spoilt: Path) -> None:
    (snapshot,) = listed(spoilt)
    (spoilt / "migrated.toml").write_text("[[target]]\ncreate = false\n")

    with DaemonProcess(spoilt) as daemon:
        daemon.wait_until_ready()
        (spoilt / "app.db").unlink()
        done = migrated(spoilt, "restore", snapshot["id"])

    assert done.returncode == 5
    assert not (spoilt / "app.db").exists()


def test_daemon_takes_a_snapshot_before_it_applies(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1, up="CREATE TABLE t (x);")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        write_migration(migrations, 2, up="DROP TABLE t;")
        taken = daemon.wait_for("snapshot.taken")
        daemon.wait_for("migration.applied", version=2)

    (snapshot,) = listed(tmp_path)
    assert (taken["snapshot"], taken["size"]) == (snapshot["id"], snapshot["size"])


def test_each_database_has_its_own_snapshots(tmp_path: Path, migrations: Path) -> None:
    names = ("a.db", "b.db")
    arguments = [part for name in names for part in ("-d", name)]
    for version in (1, 2):
        write_migration(migrations, version)
        assert migrated(tmp_path, "up", *arguments).returncode == 0

    found = listed(tmp_path, *arguments)
    done = migrated(tmp_path, "restore", found[1]["id"], *arguments)

    assert [each["database"] for each in found] == list(names)
    assert done.returncode == 0
    assert [applied_versions(tmp_path / name) for name in names] == [[1, 2], [1]]


def test_unreadable_database_is_reported(spoilt: Path) -> None:
    folder = spoilt / ".migrated/snapshots/app.db"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("")

    done = migrated(spoilt, "snapshots", "--json")

    assert done.returncode == 6
    assert json.loads(done.stdout)["snapshots"] == []
    assert os.fspath(folder) in done.stderr
