"""Snapshots that a run takes before it changes a database."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_process import environment, require
from integration.children import run_script
from support import applied_versions, everything, execute, query

from migrated import (
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationRunner,
    SnapshotPolicy,
    SnapshotWhen,
    Supervision,
    TransactionMode,
)
from migrated.config.settings import NO_SNAPSHOTS
from migrated.core.migration import Step
from migrated.core.records import Snapshot
from migrated.engine.backend import Observer
from migrated.engine.sqlite.snapshots import snapshots

BEFORE_EACH = SnapshotPolicy(SnapshotWhen.BEFORE_EACH)
BEFORE_RUN = SnapshotPolicy()
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")
GROUND = "CREATE TABLE t (id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'one'), (2, 'two');"

# An application that tries to write without waiting.
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("INSERT INTO t (a) VALUES ('theirs')")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""


class Told(Observer):
    """Records the snapshot events."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.skipped: list[str] = []

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self.taken.append(identifier)

    def snapshot_skipped(self, reason: str) -> None:
        self.skipped.append(reason)


def runner_for(
    database: Path,
    *texts: str,
    policy: SnapshotPolicy = BEFORE_RUN,
    observer: Observer | None = None,
    supervision: Supervision | None = None,
    transaction: TransactionMode = TransactionMode.EACH,
) -> MigrationRunner:
    """Return a runner with migrations 1, 2, … of these texts, which can all be rolled back."""
    runner = MigrationRunner(
        database,
        snapshots=policy,
        observer=observer,
        supervision=supervision,
        transaction=transaction,
        busy_timeout=5,
    )
    runner.add_migrations(Migration(n, f"m{n}", text, "SELECT 1") for n, text in enumerate(texts, 1))
    return runner


def take(database: Path, *, keep: int = 5, step: Callable[[], None] = lambda: None, **changes: object) -> Snapshot:
    return snapshots.take(
        str(database),
        reason="before-run",
        version=None,
        keep=keep,
        step=step,
        protect=[str(each) for each in changes.values()],
    )


def names(database: Path) -> list[str]:
    folder = database.parent / ".migrated/snapshots" / database.name
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def size_of(database: Path) -> int:
    ((size,),) = query(database, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    assert isinstance(size, int)
    return size


@pytest.fixture(params=["delete", "wal"])
def ground(request: pytest.FixtureRequest, database: Path) -> Path:
    """A database with content and one migration applied, in either journal mode."""
    execute(database, f"PRAGMA journal_mode = {request.param}")
    runner_for(database, GROUND, policy=NO_SNAPSHOTS).run()
    return database


# When snapshots are taken


def test_snapshot_has_the_content_before_the_run(ground: Path) -> None:
    before = everything(ground)

    runner_for(ground, GROUND, "DELETE FROM t", "DROP TABLE t").run()

    (kept,) = snapshots.listed(str(ground))
    assert everything(kept.path) == before
    assert (kept.version, kept.reason, kept.database) == (1, "before-run", str(ground))
    assert kept.size == Path(kept.path).stat().st_size > 0
    assert applied_versions(ground) == [1, 2, 3]
    assert names(ground) == [Path(kept.path).name]


def test_before_each_takes_a_snapshot_before_every_migration(ground: Path) -> None:
    runner_for(ground, GROUND, "CREATE TABLE a (x)", "CREATE TABLE b (x)", policy=BEFORE_EACH).run()

    kept = snapshots.listed(str(ground))
    assert [(each.version, each.reason) for each in kept] == [(1, "before-each"), (2, "before-each")]
    assert [applied_versions(each.path) for each in kept] == [[1], [1, 2]]


def test_rollback_takes_a_snapshot_first(ground: Path) -> None:
    before = everything(ground)

    runner_for(ground, GROUND).roll_back()

    (kept,) = snapshots.listed(str(ground))
    assert everything(kept.path) == before


@pytest.mark.parametrize("policy", [BEFORE_RUN, BEFORE_EACH], ids=["before-run", "before-each"])
def test_run_in_one_transaction_takes_one_snapshot(ground: Path, policy: SnapshotPolicy) -> None:
    texts = (GROUND, "CREATE TABLE a (x)", "CREATE TABLE b (x)")

    runner_for(ground, *texts, policy=policy, transaction=TransactionMode.RUN).run()

    assert [each.version for each in snapshots.listed(str(ground))] == [1]


@pytest.mark.parametrize("policy", [NO_SNAPSHOTS, None], ids=["never", "the library's default"])
def test_no_snapshot_is_taken_by_default(ground: Path, policy: SnapshotPolicy | None) -> None:
    runner = MigrationRunner(ground) if policy is None else runner_for(ground, policy=policy)
    runner.add_migrations([Migration(1, "m1", GROUND), Migration(2, "m2", "CREATE TABLE a (x)")])

    runner.run()

    assert names(ground) == []


def test_new_database_gets_no_snapshot(database: Path) -> None:
    told = Told()

    runner_for(database, GROUND, "CREATE TABLE a (x)", policy=BEFORE_EACH, observer=told).run()

    assert (told.taken, told.skipped, names(database)) == ([], [], [])


def test_run_without_pending_migrations_takes_no_snapshot(ground: Path) -> None:
    runner_for(ground, GROUND).run()

    assert names(ground) == []


def test_failing_migration_leaves_the_snapshot(ground: Path) -> None:
    before = everything(ground)

    with pytest.raises(Exception, match="no such table"):
        runner_for(ground, GROUND, "INSERT INTO nowhere VALUES (1)").run()

    (kept,) = snapshots.listed(str(ground))
    assert everything(ground) == everything(kept.path) == before


def test_database_above_max_size_gets_no_snapshot_and_a_warning(ground: Path) -> None:
    told = Told()
    too_little = SnapshotPolicy(max_size=size_of(ground) - 1)

    runner_for(ground, GROUND, "CREATE TABLE a (x)", policy=too_little, observer=told).run()
    assert (len(told.skipped), told.taken, names(ground)) == (1, [], [])

    just_enough = SnapshotPolicy(max_size=size_of(ground))
    runner_for(ground, GROUND, "CREATE TABLE a (x)", "CREATE TABLE b (x)", policy=just_enough, observer=told).run()
    assert (len(told.skipped), len(told.taken)) == (1, 1)


# Consistency and failures


def test_nobody_can_write_between_the_snapshot_and_the_migration(ground: Path) -> None:
    tries: list[str] = []

    class Meddling(Observer):
        def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
            tries.append(run_script(WRITER, ground).stdout)

    runner_for(ground, GROUND, "CREATE TABLE a (x)", observer=Meddling()).run()

    assert tries == ["database is locked\n"]
    assert run_script(WRITER, ground).stdout == "written\n"


def test_damaged_database_is_refused_and_unchanged(ground: Path) -> None:
    execute(ground, "CREATE TABLE big (x); CREATE INDEX i ON big (x); PRAGMA wal_checkpoint(truncate)")
    execute(
        ground,
        "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 2000) "
        "INSERT INTO big SELECT hex(randomblob(100)) FROM c; PRAGMA wal_checkpoint(truncate)",
    )
    with ground.open("r+b") as file:
        file.seek(60 * 4096)
        file.write(b"\xff" * 4096)
    content = ground.read_bytes()

    with pytest.raises(DatabaseError) as refused:
        runner_for(ground, GROUND, "CREATE TABLE a (x)").run()

    assert (refused.value.code, refused.value.transient) == ("SNAPSHOT_DAMAGED", False)
    assert ground.read_bytes() == content
    assert names(ground) == []


def test_stop_during_the_copy_leaves_no_copy(ground: Path) -> None:
    supervision = Supervision()

    class Stopping(Observer):
        def beginning(self, step: Step, *, late: bool) -> None:
            supervision.stop("test", 0)

    before = everything(ground)
    runner = runner_for(ground, GROUND, "CREATE TABLE a (x)", observer=Stopping(), supervision=supervision)

    with pytest.raises(ExecutionFailedError) as stopped:
        runner.run()

    assert (stopped.value.code, stopped.value.transient) == ("INTERRUPTED", True)
    assert (names(ground), everything(ground)) == ([], before)


def test_unwritable_snapshot_folder_is_refused(ground: Path) -> None:
    folder = ground.parent / ".migrated/snapshots"
    folder.write_text("a file in its place")
    before = everything(ground)

    with pytest.raises(DatabaseError) as refused:
        runner_for(ground, GROUND, "CREATE TABLE a (x)").run()

    assert refused.value.transient
    assert str(folder) in refused.value.message
    assert everything(ground) == before


# Disk space: a small file system in a mount namespace that ends with the child.

IN_LITTLE_ROOM = """
import sys
from migrated import DatabaseError, Migration, MigrationRunner, SnapshotPolicy, SnapshotWhen
import apsw
path, when, text = sys.argv[1:]
connection = apsw.Connection(path)
connection.execute("CREATE TABLE big (id INTEGER PRIMARY KEY, x, y)")
connection.execute("INSERT INTO big VALUES (1, zeroblob(2500000), 1)")
connection.execute("CREATE TABLE small (id INTEGER PRIMARY KEY, x); INSERT INTO small VALUES (1, 2)")
connection.close()
runner = MigrationRunner(path, snapshots=SnapshotPolicy(SnapshotWhen(when)))
runner.add_migration(Migration(1, "m1", text))
try:
    print([entry.version for entry in runner.run()])
except DatabaseError as error:
    print(error.code, error.transient, "needs" in error.message)
connection = apsw.Connection(path)
print([name for (name,) in connection.execute("SELECT name FROM sqlite_schema ORDER BY 1")])
"""
REBUILD = (
    "CREATE TABLE n (id INTEGER PRIMARY KEY, x); INSERT INTO n SELECT id, x FROM {0}; "
    "DROP TABLE {0}; ALTER TABLE n RENAME TO {0}"
)


@pytest.mark.parametrize(
    ("when", "text", "expected"),
    [
        pytest.param(
            "before-run", "CREATE TABLE a (x)", "DISK_SPACE True True\n['big', 'small']\n", id="snapshot"
        ),
        pytest.param("never", REBUILD.format("big"), "DISK_SPACE True True\n['big', 'small']\n", id="rebuild"),
        pytest.param(
            "never",
            "ALTER TABLE big DROP COLUMN y",
            "DISK_SPACE True True\n['big', 'small']\n",
            id="dropped column",
        ),
        pytest.param(
            "never", "-- migrated: no-transaction\nVACUUM", "DISK_SPACE True True\n['big', 'small']\n", id="vacuum"
        ),
        pytest.param(
            "never",
            REBUILD.format("small"),
            "[1]\n['_migrations', '_migrations_history', 'big', 'small']\n",
            id="rebuild of a small table",
        ),
    ],
)
def test_migration_that_exceeds_the_disk_is_refused_before_it_runs(
    tmp_path: Path, when: str, text: str, expected: str
) -> None:
    require(OWN_MOUNTS, ("mount -t tmpfs -o size=1m tmpfs /mnt",))
    (tmp_path / "small").mkdir()
    shell = 'mount -t tmpfs -o size=5m tmpfs "$0" && exec "$@"'
    child = (sys.executable, "-c", IN_LITTLE_ROOM, str(tmp_path / "small/app.db"), when, text)

    done = subprocess.run(
        [*OWN_MOUNTS, shell, str(tmp_path / "small"), *child],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == (expected, "")
