"""Restoring while applications have the database open: they see the old or the new content."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from daemon_process import require
from integration.children import Children, run_script
from integration.snapshot_support import (
    JOURNALS,
    KILLED_IN_STEP,
    Application,
    add,
    fill,
    names,
    rows_of_copy,
    spoil,
    taken,
)
from support import ROOT, everything, execute, query

from migrated.core.errors import DatabaseError
from migrated.core.records import Snapshot
from migrated.engine.sqlite.connection import BusyHandler
from migrated.engine.sqlite.schema import Loss, RowCount, lost_by_restoring
from migrated.engine.sqlite.snapshots.copying import nothing
from migrated.engine.sqlite.snapshots.restore import restore
from migrated.engine.sqlite.snapshots.snapshots import listed, take
from migrated.system.cancellation import CancelToken
from migrated.system.file_locks import APPLYING, file_lock

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
RECORD = "CREATE TABLE record (what); INSERT INTO record VALUES ('restored')"


@pytest.fixture(autouse=True)
def _locked(database: Path) -> Iterator[None]:
    with file_lock(str(database), APPLYING, 0):
        yield


def busy_handler(seconds: float = 5) -> BusyHandler:
    return BusyHandler(seconds, CancelToken())


def record(copy: apsw.Connection) -> None:
    assert copy.in_transaction
    copy.execute(RECORD).fetchall()


class Kept:
    """Takes a snapshot before the content is replaced, as the caller of `restore` does."""

    def __init__(self, database: Path, beside: Callable[[], object] = nothing) -> None:
        self._database = database
        self._beside = beside
        self.snapshots: list[Snapshot] = []

    def __call__(self) -> None:
        self.snapshots.append(take(str(self._database), reason="before-restore", version=2, keep=9))
        self._beside()


def put_back(snapshot: Snapshot, database: Path, keep: Callable[[], None] = nothing, **rest: object) -> None:
    arguments: dict[str, object] = {"keep": keep, "record": record, "busy_handler": busy_handler(), **rest}
    restore(snapshot, str(database), **arguments)  # type: ignore[arg-type] # passed on


def ground(database: Path, journal: str, megabytes: float = 0.3) -> Snapshot:
    """A database with four more rows and a new table since its snapshot."""
    fill(database, journal, megabytes)
    snapshot = taken(database)
    execute(database, f"{add(4)}; CREATE TABLE since (x)")
    return snapshot


def require_unchanged(database: Path, before: object, journal: str, files: list[str]) -> None:
    """Require that a refused restore changed nothing."""
    assert everything(database) == before
    assert query(database, "PRAGMA journal_mode") == [(journal,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert names(database) == files
    assert sorted(os.listdir(database.parent)) == [".migrated", "app.db"]


# Running applications


@pytest.mark.parametrize("journal", JOURNALS)
def test_application_sees_old_then_new_content_and_continues(
    database: Path, children: Children, journal: str
) -> None:
    snapshot = ground(database, journal)
    old = everything(database)
    application = Application(children, database)
    inode = database.stat().st_ino
    assert application.counts() == "7"
    seen = []

    def look() -> None:
        seen.append((application.counts(), application.writes()))

    kept = Kept(database, look)
    put_back(snapshot, database, kept)

    assert seen == [("7", False)]
    assert application.counts() == "3"
    assert application.runs("SELECT * FROM record") == "[('restored',)]"
    assert application.runs("SELECT * FROM since") == "OperationalError no such table: since"
    assert application.writes()
    assert application.counts() == "4"
    assert database.stat().st_ino == inode
    assert query(database, "PRAGMA journal_mode") == [(journal,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert [rows_of_copy(kept.snapshots[0].path, "SELECT count(*) FROM t")] == [[(7,)]]
    assert set(rows_of_copy(kept.snapshots[0].path, "SELECT x FROM t")) <= {
        row[2:] for row in old if row[0] == "t"
    }
    assert listed(str(database)) == [snapshot, *kept.snapshots]
    assert names(database) == [os.path.basename(one.path) for one in (snapshot, *kept.snapshots)]


@pytest.mark.parametrize("journal", JOURNALS)
def test_restored_content_is_the_snapshot_with_its_history_entry(database: Path, journal: str) -> None:
    fill(database, journal, 9)
    snapshot = taken(database)
    content = everything(database)
    execute(database, f"DELETE FROM t; {add(1)}; CREATE INDEX i ON t (x); VACUUM")

    put_back(snapshot, database)

    execute(database, "DROP TABLE record")
    assert everything(database) == content
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert rows_of_copy(snapshot.path, "SELECT name FROM sqlite_schema") == [("t",)]
    assert sorted(os.listdir(database.parent)) == [".migrated", "app.db"]


@pytest.mark.parametrize("journal", JOURNALS)
def test_nobody_writes_between_the_snapshot_and_the_end_of_the_restore(
    database: Path, children: Children, journal: str
) -> None:
    snapshot = ground(database, journal, 9)
    application = Application(children, database)
    wrote: list[bool] = []
    stage: list[str] = []

    def step() -> None:
        if stage:
            wrote.append(application.writes())

    def keep() -> None:
        stage.append("kept")
        step()

    put_back(snapshot, database, keep, step=step)

    assert len(wrote) >= 3
    assert not any(wrote)
    assert application.writes()


def test_reader_in_wal_mode_keeps_its_view_and_blocks_nobody(database: Path, children: Children) -> None:
    snapshot = ground(database, "wal")
    application = Application(children, database)
    application.runs("BEGIN")
    assert application.counts() == "7"

    put_back(snapshot, database, busy_handler=busy_handler(0))

    assert application.counts() == "7"
    application.runs("COMMIT")
    assert application.counts() == "3"


def test_restore_waits_for_a_reader_in_delete_mode(database: Path, children: Children) -> None:
    snapshot = ground(database, "delete")
    application = Application(children, database)
    application.runs("BEGIN")
    assert application.counts() == "7"
    waits = []

    class Waiting(CancelToken):
        def stop_requested(self) -> bool:
            waits.append(application.runs("COMMIT"))
            return False

    put_back(snapshot, database, Kept(database), busy_handler=BusyHandler(30, Waiting()))

    assert waits[0] == "[]"
    assert application.counts() == "3"


def test_reader_in_delete_mode_beyond_the_timeout_fails_the_restore(database: Path, children: Children) -> None:
    snapshot = ground(database, "delete")
    before = everything(database)
    application = Application(children, database)
    application.runs("BEGIN")
    assert application.counts() == "7"
    kept = Kept(database)

    with pytest.raises(DatabaseError) as refused:
        put_back(snapshot, database, kept, busy_handler=busy_handler(0.1))

    assert (refused.value.code, refused.value.transient) == ("SQLITE_BUSY", True)
    assert application.counts() == "7"
    application.runs("COMMIT")
    assert application.writes()
    application.runs("DELETE FROM t WHERE x = 'theirs'")
    files = [os.path.basename(one.path) for one in (snapshot, *kept.snapshots)]
    require_unchanged(database, before, "delete", files)


@pytest.mark.parametrize("journal", JOURNALS)
def test_writer_beyond_the_timeout_fails_the_restore_before_a_snapshot(
    database: Path, children: Children, journal: str
) -> None:
    snapshot = ground(database, journal)
    before = everything(database)
    application = Application(children, database)
    application.runs("BEGIN IMMEDIATE")
    kept = Kept(database)

    with pytest.raises(DatabaseError) as refused:
        put_back(snapshot, database, kept, busy_handler=busy_handler(0.1))

    assert (refused.value.code, refused.value.transient) == ("SQLITE_BUSY", True)
    assert kept.snapshots == []
    assert application.runs("COMMIT") == "[]"
    assert application.runs("PRAGMA wal_checkpoint(TRUNCATE)").startswith("[(0, ")
    assert everything(database) == before
    assert names(database) == [os.path.basename(snapshot.path)]


def test_wal_is_checkpointed_while_the_application_is_connected(database: Path, children: Children) -> None:
    snapshot = ground(database, "wal", 9)
    application = Application(children, database)
    assert application.counts() == "94"

    put_back(snapshot, database)

    assert rows_of_copy(str(database), "SELECT count(*) FROM t, record") == [(90,)]
    assert application.counts() == "90"


# Different page sizes


def test_other_page_size_is_restored_in_delete_mode(database: Path, children: Children) -> None:
    fill(database, page_size=1024, megabytes=1)
    snapshot = taken(database)
    execute(database, f"PRAGMA page_size = 8192; VACUUM; {add(5)}")
    application = Application(children, database)
    assert application.counts() == "15"

    put_back(snapshot, database, Kept(database))

    assert application.counts() == "10"
    assert application.writes()
    assert query(database, "PRAGMA page_size") == [(1024,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def test_other_page_size_is_refused_in_wal_mode(database: Path) -> None:
    fill(database, page_size=1024)
    snapshot = taken(database)
    execute(database, "PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = wal")
    before = everything(database)
    kept = Kept(database)

    with pytest.raises(DatabaseError) as refused:
        put_back(snapshot, database, kept)

    assert (refused.value.code, refused.value.transient) == ("PAGE_SIZE", False)
    assert str(refused.value) == (
        "the page size of the database is 8192 and that of the snapshot 1024, which cannot change in WAL mode\n"
        "hint: nothing was changed; stop the applications, set PRAGMA journal_mode = delete, and run restore again"
    )
    assert kept.snapshots == []
    require_unchanged(database, before, "wal", [os.path.basename(snapshot.path)])


# A file that is missing, empty or damaged


def never() -> None:
    pytest.fail("there was nothing to keep")


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("rest", ["nothing", "an empty file", "an old log and journal"])
def test_missing_database_is_created(database: Path, journal: str, rest: str) -> None:
    snapshot = ground(database, journal)
    database.chmod(0o640)
    again = taken(database)
    content = everything(database)
    if rest == "an old log and journal":
        holder = apsw.Connection(str(database))
        holder.execute("INSERT INTO t (x) VALUES ('in the log'); BEGIN IMMEDIATE; INSERT INTO t (x) VALUES (1)")
        for suffix in ("-wal", "-journal"):
            if os.path.exists(f"{database}{suffix}"):
                shutil.copy(f"{database}{suffix}", database.parent / f"old{suffix}")
        holder.close()
        for old in database.parent.glob("old-*"):
            old.rename(f"{database}{old.name.removeprefix('old')}")
    database.unlink()
    if rest == "an empty file":
        database.touch(0o640)

    put_back(again, database, never)

    execute(database, "DROP TABLE record")
    assert everything(database) == content
    assert query(database, "PRAGMA journal_mode") == [(journal,)]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert database.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(database.parent)) == [".migrated", "app.db"]
    assert listed(str(database)) == [snapshot, again]


def test_failed_restore_leaves_a_missing_database_missing(database: Path) -> None:
    snapshot = ground(database, "delete", 9)
    database.unlink()
    steps: list[str] = []

    def step() -> None:
        if not any(".part" in name for name in names(database)):
            steps.append("into the database")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        put_back(snapshot, database, never, step=step)

    assert steps == ["into the database"]
    assert os.listdir(database.parent) == [".migrated"]
    assert names(database) == [os.path.basename(snapshot.path)]


def test_file_that_is_not_a_database_has_to_be_moved_away(database: Path) -> None:
    snapshot = ground(database, "delete")
    text = b"no database at all " * 1000
    database.write_bytes(text)

    with pytest.raises(DatabaseError) as refused:
        put_back(snapshot, database, never)

    assert (refused.value.code, refused.value.transient) == ("SQLITE_NOTADB", False)
    assert refused.value.hint == (
        "move the file away, with its -wal and its -journal, and run restore again: it creates a new file"
    )
    assert database.read_bytes() == text
    assert names(database) == [os.path.basename(snapshot.path)]
    database.rename(database.parent / "damaged.db")
    put_back(snapshot, database, never)
    assert query(database, "SELECT count(*) FROM t") == [(3,)]


@pytest.mark.parametrize("journal", JOURNALS)
def test_damaged_database_without_a_snapshot_has_to_be_moved_away(database: Path, journal: str) -> None:
    snapshot = ground(database, journal)
    execute(database, "DROP TABLE since")
    spoil(database)
    before = database.read_bytes()

    with pytest.raises(DatabaseError) as refused:
        put_back(snapshot, database, Kept(database))

    assert (refused.value.code, refused.value.transient) == ("SNAPSHOT_DAMAGED", False)
    assert refused.value.hint is not None
    assert refused.value.hint.startswith("move the file away")
    assert database.read_bytes() == before
    assert names(database) == [os.path.basename(snapshot.path)]


@pytest.mark.parametrize("journal", JOURNALS)
def test_damaged_snapshot_is_not_restored(database: Path, journal: str) -> None:
    snapshot = ground(database, journal)
    before = everything(database)
    spoil(Path(snapshot.path))

    with pytest.raises(DatabaseError, match="is damaged: ") as refused:
        put_back(snapshot, database, never)

    assert (refused.value.code, refused.value.transient) == ("SNAPSHOT_DAMAGED", False)
    assert refused.value.hint == "nothing was changed; choose another snapshot"
    require_unchanged(database, before, journal, [os.path.basename(snapshot.path)])


def test_missing_snapshot_is_reported(database: Path) -> None:
    snapshot = ground(database, "delete")
    before = everything(database)
    os.unlink(snapshot.path)

    with pytest.raises(DatabaseError, match=rf"^the snapshot {re.escape(snapshot.id)} does not exist any more"):
        put_back(snapshot, database, never)

    require_unchanged(database, before, "delete", [])


# Failures during a restore


class LostError(Exception):
    """Raised by a callback of the test."""


def fail(*_: object) -> None:
    raise LostError


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("what", ["keep", "record"])
def test_failing_callback_leaves_everything_unchanged(database: Path, journal: str, what: str) -> None:
    snapshot = ground(database, journal)
    before = everything(database)

    with pytest.raises(LostError):
        put_back(snapshot, database, **{"keep": nothing, what: fail})

    require_unchanged(database, before, journal, [os.path.basename(snapshot.path)])


def test_history_entry_that_the_snapshot_rejects_is_a_database_error(database: Path) -> None:
    snapshot = ground(database, "wal")
    before = everything(database)

    with pytest.raises(DatabaseError, match="no such table: gone"):
        put_back(snapshot, database, never, record=lambda copy: copy.execute("INSERT INTO gone VALUES (1)"))

    require_unchanged(database, before, "wal", [os.path.basename(snapshot.path)])


@pytest.mark.parametrize("journal", JOURNALS)
def test_interruption_at_any_step_leaves_everything_unchanged(database: Path, journal: str) -> None:
    snapshot = ground(database, journal, 9)
    before = everything(database)
    steps, stop = 0, 0

    def counting() -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise LostError

    for number in range(1, 100):
        steps, stop = 0, number
        try:
            put_back(snapshot, database, step=counting)
        except LostError:
            require_unchanged(database, before, journal, [os.path.basename(snapshot.path)])
        else:
            break

    assert stop >= 6
    assert query(database, "SELECT count(*) FROM t") == [(90,)]


RESTORE = (
    KILLED_IN_STEP
    + """\
from migrated.core.errors import DatabaseError
from migrated.engine.sqlite.connection import BusyHandler
from migrated.engine.sqlite.snapshots.restore import restore
from migrated.engine.sqlite.snapshots.snapshots import listed
from migrated.system.cancellation import CancelToken
def record(copy):
    copy.execute("CREATE TABLE record (what)").fetchall()
try:
    restore(
        listed(sys.argv[1])[0], sys.argv[1], keep=lambda: None, record=record,
        busy_handler=BusyHandler(5, CancelToken()),
        step=step,
    )
except DatabaseError as error:
    print(error.code, error.transient, error.message)
"""
)


@pytest.mark.parametrize("journal", JOURNALS)
def test_kill_at_any_step_leaves_the_database_and_the_next_restore_cleans_up(database: Path, journal: str) -> None:
    snapshot = ground(database, journal, 9)
    before = everything(database)
    killed, journals = 0, 0

    while run_script(RESTORE, database, killed + 1).returncode == -signal.SIGKILL:
        killed += 1
        journals += any(
            os.path.getsize(f"{database}{end}")
            for end in ("-journal", "-wal")
            if os.path.exists(f"{database}{end}")
        )
        assert everything(database) == before
        assert query(database, "PRAGMA integrity_check") == [("ok",)]
        assert listed(str(database)) == [snapshot]
        later = taken(database)
        assert names(database) == [os.path.basename(one.path) for one in (snapshot, later)]
        os.unlink(later.path)

    assert killed >= 6
    assert journals
    assert query(database, "SELECT count(*) FROM t, record") == [(0,)]
    assert query(database, "SELECT count(*) FROM t") == [(90,)]


LIMITED = "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n" + RESTORE


@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("where", ["the private copy", "the live database"])
def test_failed_write_leaves_everything_unchanged(database: Path, journal: str, where: str) -> None:
    snapshot = ground(database, journal, 9)
    before = everything(database)
    # WAL and journal store a number with each page, so they are larger than the database.
    limit = snapshot.size + 4096 if where == "the live database" else snapshot.size // 2
    if journal == "delete":
        execute(database, "DROP TABLE since; DELETE FROM t WHERE id > 90; VACUUM")
        before = everything(database)

    done = run_script(LIMITED, database, 0, limit)

    names_copy = "cannot make the copy " in done.stdout
    assert re.match(r"SQLITE_(IOERR|FULL)\w* True ", done.stdout), done
    assert names_copy == (where == "the private copy")
    require_unchanged(database, before, journal, [os.path.basename(snapshot.path)])


SMALL_DISK = (
    'mount -t tmpfs -o size=6m tmpfs "$1"; cp -a "$2/app.db" "$2/.migrated" "$1"; cd "$3"; shift 3; exec "$@"'
)


def test_full_disk_is_detected_before_any_change(database: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    require((*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs"), (str(mount),))
    snapshot = ground(database, "delete", 1.5)
    look = f'\nprint(sorted(os.listdir("{mount}")), os.listdir("{mount}/.migrated/snapshots/app.db"))'
    command = (sys.executable, "-c", RESTORE + look, f"{mount}/app.db", "0")

    done = subprocess.run(
        [*OWN_MOUNTS, "sh", "-ec", SMALL_DISK, "sh", *map(str, (mount, tmp_path, ROOT)), *command],
        capture_output=True,
        text=True,
        check=True,
    )

    said, left = done.stdout.splitlines()
    folder = re.escape(f"{mount}/.migrated/snapshots/app.db")
    assert re.fullmatch(
        rf"DISK_SPACE True restoring a snapshot needs 6\.\d MB, but {folder} has only 2\.\d MB free", said
    )
    assert left == f"['.migrated', 'app.db'] {[os.path.basename(snapshot.path)]}"


# Losses


HISTORY = """
CREATE TABLE _migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (datetime('now')), execution_time_ms INTEGER NOT NULL DEFAULT 0);
INSERT INTO _migrations (version, name, checksum) VALUES (1, 'one', 'a'), (3, 'three', 'c');
CREATE VIEW stays AS SELECT 1;
CREATE TABLE same (x); INSERT INTO same VALUES (1);
CREATE TABLE turned (x); INSERT INTO turned VALUES (1);
CREATE VIRTUAL TABLE words USING fts5 (a);
"""
SINCE = """
INSERT INTO _migrations (version, name, checksum) VALUES (4, 'four', 'd'), (2, 'two', 'b');
CREATE VIEW v AS SELECT a FROM nowhere;
CREATE TABLE "odd name" (x); CREATE INDEX i ON same (x); UPDATE same SET x = 2;
INSERT INTO words VALUES ('a b'), ('c');
DROP TABLE turned; CREATE VIEW turned AS SELECT 1;
DELETE FROM t WHERE id = 1;
"""


@pytest.mark.parametrize("journal", JOURNALS)
def test_losses_are_listed_without_any_change(database: Path, journal: str) -> None:
    fill(database, journal, 1)
    execute(database, HISTORY)
    snapshot = taken(database)
    execute(database, SINCE)
    before = everything(database)

    loss = lost_by_restoring(snapshot, str(database), busy_handler())

    assert [(entry.version, entry.name) for entry in loss.migrations] == [(2, "two"), (4, "four")]
    assert loss.tables == ("odd name",)
    assert loss.views == ("turned", "v")
    assert loss.rows == (RowCount("t", 9, 10), RowCount("words", 2, 0))
    require_unchanged(database, before, journal, [os.path.basename(snapshot.path)])


def test_rows_of_a_table_of_any_name_are_counted(database: Path) -> None:
    execute(database, 'CREATE TABLE "a""b" (x); INSERT INTO "a""b" VALUES (1)')
    snapshot = taken(database)
    execute(database, 'DELETE FROM "a""b"')

    assert lost_by_restoring(snapshot, str(database), busy_handler()) == Loss(rows=(RowCount('a"b', 0, 1),))


def test_unchanged_or_missing_database_has_no_losses(database: Path) -> None:
    fill(database, "wal")
    execute(database, HISTORY)
    snapshot = taken(database)

    assert lost_by_restoring(snapshot, str(database), busy_handler()) == Loss()
    database.unlink()
    assert lost_by_restoring(snapshot, str(database), busy_handler()) == Loss()
    assert not database.exists()


def test_losses_of_a_missing_snapshot_are_an_error(database: Path) -> None:
    snapshot = ground(database, "delete")
    before = everything(database)
    os.unlink(snapshot.path)

    with pytest.raises(DatabaseError, match=rf"^the snapshot {re.escape(snapshot.id)} cannot be opened"):
        lost_by_restoring(snapshot, str(database), busy_handler())

    require_unchanged(database, before, "delete", [])
