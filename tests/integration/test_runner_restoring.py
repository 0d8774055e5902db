"""Restoring a snapshot with the runner."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from integration.children import run_script
from integration.test_runner_snapshots import GROUND, WRITER, names, runner_for, take
from support import applied_versions, everything, execute, query

from migrated import DatabaseError, Migration, MigrationRunner, SnapshotPolicy, Supervision
from migrated.core.records import Snapshot
from migrated.engine.sqlite.connection import BusyHandler
from migrated.engine.sqlite.snapshots import snapshots
from migrated.engine.sqlite.snapshots.restore import restore

WRONG = "DELETE FROM t; DROP TABLE keep; CREATE TABLE wrong (x)"

# An application that has the database open all the time: it says what it sees, once for each line that it gets.
APPLICATION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
for line in sys.stdin:
    try:
        print(connection.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
"""
READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("let go", flush=True)
"""


@pytest.fixture(params=["delete", "wal"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spoilt(database: Path, mode: str) -> Path:
    """A database damaged by migration 2, with a snapshot taken before it."""
    execute(database, f"PRAGMA journal_mode = {mode}")
    runner_for(database, f"{GROUND} CREATE TABLE keep (x); INSERT INTO keep VALUES (1)").run()
    runner_for(database, f"{GROUND} CREATE TABLE keep (x); INSERT INTO keep VALUES (1)", WRONG).run()
    return database


def first(database: Path) -> Snapshot:
    return snapshots.listed(str(database))[0]


def nothing(*_: object) -> None:
    pass


def restore_with(
    database: Path,
    snapshot: Snapshot,
    *,
    keep: Callable[[], None] = nothing,
    record: Callable[[apsw.Connection], None] = nothing,
    step: Callable[[], None] = nothing,
    timeout: float = 5.0,
) -> None:
    """Restore with the package's function and callbacks of the test."""
    busy_handler = BusyHandler(timeout, Supervision())
    restore(snapshot, str(database), keep=keep, record=record, busy_handler=busy_handler, step=step)


def contents(database: Path | str) -> list[tuple[object, ...]]:
    """Everything but the history, to which a restore adds an entry."""
    return [row for row in everything(database) if row[0] != "_migrations_history"]


# Restored content


def test_restore_writes_the_content_into_the_same_file(spoilt: Path, mode: str) -> None:
    snapshot, inode = first(spoilt), spoilt.stat().st_ino

    MigrationRunner(spoilt).restore(snapshot, reason="wrong")

    assert contents(spoilt) == contents(snapshot.path)
    assert applied_versions(spoilt) == [1]
    assert spoilt.stat().st_ino == inode
    assert query(spoilt, "PRAGMA journal_mode") == [(mode,)]
    assert query(spoilt, "PRAGMA integrity_check") == [("ok",)]


def test_runner_lists_the_snapshots(spoilt: Path) -> None:
    assert MigrationRunner(spoilt).snapshots() == snapshots.listed(str(spoilt)) != []
    assert MigrationRunner(":memory:").snapshots() == []


def test_restore_is_recorded_in_the_history(spoilt: Path) -> None:
    snapshot = first(spoilt)

    MigrationRunner(spoilt).restore(snapshot, reason="migration 2 was wrong")

    columns = "action, version, name, reason, pid"
    rows = query(spoilt, f"SELECT {columns} FROM _migrations_history ORDER BY id")
    assert [row[0] for row in rows] == ["apply", "restore"]
    assert rows[1] == ("restore", 1, snapshot.id, "migration 2 was wrong", os.getpid())


def test_replaced_content_becomes_a_snapshot_that_can_be_restored(spoilt: Path) -> None:
    before = everything(spoilt)
    MigrationRunner(spoilt).restore(first(spoilt))

    *_, kept = snapshots.listed(str(spoilt))
    assert (kept.reason, kept.version) == ("before-restore", 2)
    assert everything(kept.path) == before
    MigrationRunner(spoilt).restore(kept)
    assert [row for row in before if row[0] != "_migrations_history"] == contents(spoilt)


def test_migrations_missing_in_the_snapshot_are_pending_again(spoilt: Path) -> None:
    MigrationRunner(spoilt).restore(first(spoilt))
    runner = runner_for(
        spoilt, f"{GROUND} CREATE TABLE keep (x); INSERT INTO keep VALUES (1)", "CREATE TABLE b (x)"
    )

    assert [migration.version for migration in runner.pending()] == [2]
    assert [entry.version for entry in runner.run()] == [2]


def test_oldest_snapshot_remains_after_its_restore(spoilt: Path) -> None:
    oldest = first(spoilt)

    MigrationRunner(spoilt, snapshots=SnapshotPolicy(keep=1)).restore(oldest)

    assert [each.reason for each in snapshots.listed(str(spoilt))] == ["before-run", "before-restore"]
    assert first(spoilt) == oldest


def test_restore_ends_an_unfinished_migration(database: Path) -> None:
    runner = runner_for(database, GROUND)
    runner.run()
    runner.add_migration(
        Migration(2, "half", "-- migrated: no-transaction\nDELETE FROM t; INSERT INTO nowhere VALUES (1)")
    )
    with pytest.raises(Exception, match="stopped after statement 1 of 2"):
        runner.run()
    assert runner.unfinished() is not None

    runner.restore(first(database))

    assert runner.unfinished() is None
    assert query(database, "SELECT count(*) FROM t") == [(2,)]


def test_different_page_size_in_wal_mode_is_refused(database: Path) -> None:
    execute(database, GROUND)
    snapshot = take(database)
    execute(database, "PRAGMA page_size = 8192; VACUUM; DELETE FROM t; PRAGMA journal_mode = wal")
    before = everything(database)

    with pytest.raises(DatabaseError) as refused:
        MigrationRunner(database).restore(snapshot)

    assert refused.value.code == "PAGE_SIZE"
    assert "journal_mode = delete" in (refused.value.hint or "")
    assert everything(database) == before
    assert [name for name in names(database) if "restoring" in name] == []


# With an application


# Failures


def test_missing_file_is_created(spoilt: Path) -> None:
    spoilt.chmod(0o640)
    MigrationRunner(spoilt).restore(first(spoilt))
    expected, snapshot = contents(spoilt), snapshots.listed(str(spoilt))[1]
    MigrationRunner(spoilt).restore(snapshot)
    spoilt.unlink()

    MigrationRunner(spoilt).restore(first(spoilt))

    assert contents(spoilt) == expected
    assert stat.S_IMODE(spoilt.stat().st_mode) == stat.S_IMODE(os.stat(first(spoilt).path).st_mode)


@pytest.mark.parametrize("where", [0, 4096 * 2], ids=["the head", "a page"])
def test_damaged_file_has_to_be_moved_away_first(database: Path, where: int) -> None:
    execute(database, f"{GROUND} CREATE INDEX i ON t (a)")
    snapshot = take(database)
    with database.open("r+b") as file:
        file.seek(where)
        file.write(b"\xff" * 4096)
    damaged = database.read_bytes()

    with pytest.raises(DatabaseError) as refused:
        MigrationRunner(database).restore(snapshot)

    assert "and run restore again" in (refused.value.hint or "")
    assert database.read_bytes() == damaged
    assert names(database) == [Path(snapshot.path).name]

    database.rename(database.with_name("damaged"))
    MigrationRunner(database).restore(snapshot)
    assert query(database, "SELECT count(*) FROM t") == [(2,)]


def test_damaged_snapshot_is_refused_with_nothing_changed(spoilt: Path) -> None:
    snapshot, before = first(spoilt), everything(spoilt)
    os.chmod(snapshot.path, 0o600)
    with Path(snapshot.path).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)

    with pytest.raises(DatabaseError) as refused:
        MigrationRunner(spoilt).restore(snapshot)

    assert refused.value.hint == "nothing was changed; choose another snapshot"
    assert everything(spoilt) == before
    assert names(spoilt) == [Path(snapshot.path).name]


@pytest.mark.parametrize("callback", ["keep", "record", "step"])
def test_failing_restore_changes_nothing(spoilt: Path, callback: str) -> None:
    before, there = everything(spoilt), names(spoilt)

    def fail(*_: object) -> None:
        raise DatabaseError("no")

    keep, record, step = (fail if callback == name else nothing for name in ("keep", "record", "step"))
    with pytest.raises(DatabaseError, match="no"):
        restore_with(spoilt, first(spoilt), keep=keep, record=record, step=step)

    assert everything(spoilt) == before
    assert names(spoilt) == there
    assert run_script(WRITER, spoilt).stdout == "written\n"


def test_stop_before_the_file_is_written_changes_nothing(spoilt: Path) -> None:
    before, supervision = everything(spoilt), Supervision()
    supervision.stop("test", 0)

    with pytest.raises(DatabaseError) as stopped:
        MigrationRunner(spoilt, supervision=supervision).restore(first(spoilt))

    assert stopped.value.code == "INTERRUPTED"
    assert everything(spoilt) == before


# Losses
