"""Snapshots of real databases: complete, checked, named correctly, never partial."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
from daemon_process import DEADLINE, environment, require
from integration.children import Children, run_script
from integration.snapshot_support import (
    JOURNALS,
    KILLED_IN_STEP,
    Application,
    add,
    fill,
    folder_of,
    names,
    rows_of_copy,
    spoil,
    taken,
    write_lock,
)
from support import ROOT, everything, execute, query

from migrated.core.errors import DatabaseError
from migrated.core.records import Snapshot
from migrated.engine.sqlite.disk_space import readable_size, require_free
from migrated.engine.sqlite.snapshots import catalog
from migrated.engine.sqlite.snapshots.snapshots import find, listed, take
from migrated.system.file_locks import APPLYING, file_lock

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


@pytest.fixture(autouse=True)
def _locked(database: Path) -> Iterator[None]:
    with file_lock(str(database), APPLYING, 0):
        yield


# Content


@pytest.mark.parametrize("journal", JOURNALS)
def test_snapshot_is_the_whole_database_and_named_for_it(database: Path, journal: str) -> None:
    fill(database, journal, 9)
    before = datetime.now(UTC)

    snapshot = taken(database, "before-each", 7)

    assert before <= snapshot.taken_at <= datetime.now(UTC)
    assert snapshot.id == f"app.db.{snapshot.taken_at:%Y%m%dT%H%M%S%fZ}"
    assert names(database) == [f"{snapshot.id}.7.before-each.snapshot"]
    assert snapshot.path == str(database.parent / ".migrated/snapshots/app.db" / names(database)[0])
    assert (snapshot.database, snapshot.version, snapshot.reason) == (str(database), 7, "before-each")
    assert snapshot.size == os.stat(snapshot.path).st_size > 9_000_000
    assert rows_of_copy(snapshot.path, "SELECT * FROM t") == query(database, "SELECT * FROM t")
    assert rows_of_copy(snapshot.path, "PRAGMA integrity_check") == [("ok",)]
    assert listed(str(database)) == [snapshot]
    assert find(str(database), snapshot.id) == snapshot
    assert find(str(database), "app.db") is None


def test_snapshot_without_applied_migrations_has_no_version(database: Path) -> None:
    fill(database)

    assert taken(database, version=None).version is None
    assert listed(str(database))[0].version is None
    assert names(database)[0].endswith(".0.before-run.snapshot")


def test_missing_folder_means_no_snapshots(database: Path) -> None:
    assert listed(str(database)) == []
    assert names(database) == []


def test_snapshot_includes_the_wal(database: Path, children: Children) -> None:
    fill(database, "wal")
    application = Application(children, database)
    application.runs("PRAGMA wal_autocheckpoint = 0")
    application.runs(add(90))
    assert database.stat().st_size < 1_000_000
    assert os.stat(f"{database}-wal").st_size > 9_000_000

    snapshot = taken(database)

    assert rows_of_copy(snapshot.path, "SELECT * FROM t") == query(database, "SELECT * FROM t")
    assert len(names(database)) == 1


@pytest.mark.parametrize("journal", JOURNALS)
def test_snapshot_keeps_the_callers_lock_and_readers_running(
    database: Path, children: Children, journal: str
) -> None:
    fill(database, journal)
    application = Application(children, database)
    answers = []
    with write_lock(database):
        take(
            str(database),
            reason="before-run",
            version=1,
            keep=1,
            step=lambda: answers.append((application.counts(), application.writes())),
        )

        assert (application.counts(), application.writes()) == ("1", False)
    assert set(answers) == {("1", False)}
    assert application.writes()


# Mode and owner


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_snapshot_has_the_mode_of_the_database(database: Path, mode: int) -> None:
    fill(database, megabytes=9)
    database.chmod(mode)
    folder = folder_of(database)
    seen: set[int] = set()

    def look() -> None:
        seen.update(mode_of(path) for path in folder.iterdir())

    snapshot = taken(database, step=look)

    assert seen == {0o600}
    assert mode_of(snapshot.path) == mode
    assert mode_of(folder) == mode_of(folder.parent) == mode_of(database.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_snapshot_has_the_owner_of_the_database_and_its_folder_that_of_the_directory(database: Path) -> None:
    fill(database)
    os.chown(database, 12345, 12346)
    os.chown(database.parent, 12347, 12348)

    snapshot = taken(database)

    found = os.stat(snapshot.path)
    assert (found.st_uid, found.st_gid) == (12345, 12346)
    for folder in (folder_of(database), folder_of(database).parent):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (12347, 12348)


TAKE = """
import sys
from migrated.engine.sqlite.snapshots.snapshots import take
from migrated.core.errors import DatabaseError
try:
    print(take(sys.argv[1], reason="before-run", version=1, keep=1).path)
except DatabaseError as error:
    print(error.code, error.transient, error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the database a group that is not its own")
def test_group_that_cannot_be_set_gets_no_access(database: Path) -> None:
    giving_nothing_away = ("setpriv", "--bounding-set=-chown")
    require(giving_nothing_away)
    fill(database)
    database.chmod(0o664)
    os.chown(database, 0, 12346)

    done = subprocess.run(
        [*giving_nothing_away, sys.executable, "-c", TAKE, str(database)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert mode_of(done.stdout.strip()) == 0o604


# Names


def test_snapshots_of_similarly_named_databases_are_not_listed(database: Path) -> None:
    fill(database)
    ours = taken(database)
    for name in (f"{ours.id}", f"{ours.id}.1.before-run.snapshot", "app", "app.db.", "App.db", "xapp.db"):
        other = database.parent / name
        fill(other)
        theirs = taken(other, keep=1)

        assert listed(str(other)) == [theirs]
        assert theirs.id.startswith(f"{name}.")
        assert names(other) == [os.path.basename(theirs.path)]
        shutil.copy(theirs.path, folder_of(database))
    assert listed(str(database)) == [ours]
    assert len(names(database)) == 7
    taken(database, keep=1)
    assert len(names(database)) == 7


FOREIGN = [
    "app.db.20261019T120000000000Z.1.before-run.snapshot.gz",
    "app.db.20261019T120000000000Z.1.before-lunch.snapshot",
    "app.db.20261019T120000000000Z.01.before-run.snapshot",
    "app.db.20261319T120000000000Z.1.before-run.snapshot",
    "app.db.20261019T120000000000Z.before-run.snapshot",
    ".app.db.20261019T120000000000Z.part.mine",
    ".app.db.part",
    ".xapp.db.20261019T120000000000Z.part",
    "notes.txt",
]


def test_foreign_files_in_the_folder_are_left_alone(database: Path) -> None:
    fill(database)
    folder = folder_of(database)
    folder.mkdir(parents=True)
    for name in FOREIGN:
        (folder / name).write_text("mine")

    snapshot = taken(database, keep=1)

    assert listed(str(database)) == [snapshot]
    assert names(database) == sorted([*FOREIGN, os.path.basename(snapshot.path)])


def test_long_names_are_shortened_uniquely(database: Path) -> None:
    stem = "ä" * 70
    long = [database.parent / f"{stem}{'b' * 70}{letter}.db" for letter in "xyz"]
    for path in long:
        fill(path)
        taken(path, version=2**63 - 1, reason="before-restore")

    found = [listed(str(path)) for path in long]

    assert [len(snapshots) for snapshots in found] == [1, 1, 1]
    assert len({snapshots[0].id for snapshots in found}) == 3
    assert all(snapshots[0].id.startswith(stem[:60]) for snapshots in found)
    assert {len(os.fsencode(snapshots[0].id)) for snapshots in found} == {161 + 23}
    assert find(str(long[0]), found[0][0].id) == found[0][0]


def test_two_snapshots_in_one_microsecond_are_distinct(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database)
    moment = datetime(2026, 10, 19, 12, 0, 0, 999_999, UTC)

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override] # a datetime of the parent class
            return moment

    monkeypatch.setattr(catalog, "datetime", Stopped)

    first, second = taken(database), taken(database, "before-each", 2)

    assert (first.taken_at, second.taken_at) == (moment, moment + timedelta(microseconds=1))
    assert [one.id for one in listed(str(database))] == [first.id, second.id]


def test_symlinked_database_has_its_snapshots_beside_the_file(database: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "data.db"
    fill(real)
    database.symlink_to(real)
    with file_lock(str(real), APPLYING, 0):
        snapshot = taken(database)

    assert snapshot.path.startswith(f"{tmp_path}/real/.migrated/snapshots/data.db/data.db.")
    assert snapshot.database == str(database)
    assert [one.id for one in listed(str(real))] == [snapshot.id]


def test_unknown_reason_is_refused(database: Path) -> None:
    fill(database)

    with pytest.raises(ValueError, match="before-lunch"):
        taken(database, "before-lunch")

    assert names(database) == []


# Many databases in one directory


def test_concurrent_first_snapshots_of_several_databases_succeed(database: Path) -> None:
    databases = [database.with_name(f"tenant{number}.db") for number in range(8)]
    for each in databases:
        fill(each)
    together = threading.Barrier(len(databases), timeout=DEADLINE)

    def first(each: Path) -> Snapshot:
        together.wait()
        return taken(each, keep=1)

    with ThreadPoolExecutor(len(databases)) as pool:
        for _ in range(20):
            shutil.rmtree(folder_of(database).parent, ignore_errors=True)

            made = list(pool.map(first, databases))

            assert [listed(str(each)) for each in databases] == [[snapshot] for snapshot in made]
            assert [names(each) for each in databases] == [[os.path.basename(each.path)] for each in made]
            assert {mode_of(folder_of(each)) for each in databases} == {mode_of(database.parent)}
            assert all(rows_of_copy(each.path, "PRAGMA integrity_check") == [("ok",)] for each in made)


TAKE_AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from integration.snapshot_support import taken
with ThreadPoolExecutor(len(sys.argv) - 1) as pool:
    print(len(list(pool.map(taken, map(Path, sys.argv[1:])))))
"""


def test_folder_created_by_another_thread_is_used(database: Path) -> None:
    databases = [database.with_name(f"tenant{number}.db") for number in range(4)]
    for each in databases:
        fill(each)
    # All threads found no folder before the first one creates it.
    late = ("-f", "-e", "trace=mkdir", "-e", "inject=mkdir:delay_enter=500000")
    require(("strace", "-qq", "-o", "/dev/null"))

    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", *late, sys.executable, "-c", TAKE_AT_ONCE, *databases],
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == f"{len(databases)}\n", done.stderr
    assert [len(listed(str(each))) for each in databases] == [1] * len(databases)


def test_listing_does_not_read_snapshots_of_other_databases(database: Path) -> None:
    fill(database)
    taken(database)
    alone = calls_in_the_folder(database)
    for other in (database.with_name(f"tenant{number}.db") for number in range(3)):
        fill(other)
        for version in (1, 2, 3):
            taken(other, version=version)

    among_others = calls_in_the_folder(database)

    assert among_others == alone
    # The one of before, and what every directory has; then the end.
    listings = [call for call in alone if call[0] == "getdents64"]
    assert listings == [("getdents64", "/snapshots/app.db", count) for count in ("3", "0")]


FLAT = ["app.db.20261019T120000000000Z.1.before-run.snapshot", ".app.db.20261019T120000000000Z.part"]


def test_files_outside_the_databases_own_folder_are_left_alone(database: Path) -> None:
    fill(database)
    folder = folder_of(database).parent
    folder.mkdir()
    for name in FLAT:
        (folder / name).write_text("of an older version")

    snapshot = taken(database, keep=1)

    assert listed(str(database)) == [snapshot]
    assert sorted(os.listdir(folder)) == sorted([*FLAT, "app.db"])


# Retention


def test_newest_and_protected_snapshots_remain(database: Path) -> None:
    fill(database)
    made = [taken(database, version=version) for version in (1, 2, 3, 4)]

    newest = taken(database, version=5, keep=2, protect=[made[0].id])

    assert listed(str(database)) == [made[0], made[3], newest]


def test_snapshots_of_one_kind_do_not_displace_the_other(database: Path) -> None:
    fill(database)
    before_run = taken(database, version=1, keep=1)

    others = [take(str(database), reason="before-redo", version=1, keep=1) for _ in range(3)]

    assert listed(str(database)) == [before_run, others[-1]]


def test_new_snapshot_remains_when_the_clock_goes_back(database: Path) -> None:
    fill(database)
    folder = folder_of(database)
    folder.mkdir(parents=True)
    (folder / "app.db.29991019T120000000000Z.1.before-run.snapshot").write_text("of the future")

    snapshot = taken(database, keep=1)

    assert [one.id for one in listed(str(database))] == [snapshot.id, "app.db.29991019T120000000000Z"]


# Failures


@pytest.mark.parametrize("journal", JOURNALS)
def test_damaged_database_is_reported_and_leaves_no_snapshot(database: Path, journal: str) -> None:
    fill(database, journal, 1)
    earlier = taken(database)
    spoil(database)
    before = database.read_bytes()

    with pytest.raises(DatabaseError) as refused:
        taken(database, keep=1)

    assert (refused.value.code, refused.value.transient) == ("SNAPSHOT_DAMAGED", False)
    assert refused.value.message.startswith("cannot take a snapshot, because the database is damaged: ")
    assert "nothing was changed" in str(refused.value)
    assert names(database) == [os.path.basename(earlier.path)]
    assert database.read_bytes() == before


def test_file_that_is_not_a_database_is_refused(database: Path) -> None:
    database.write_bytes(b"no database at all " * 1000)

    with pytest.raises(DatabaseError) as refused:
        take(str(database), reason="before-run", version=1, keep=1)

    assert refused.value.code == "SQLITE_NOTADB"
    assert names(database) == []


def application_with_collation(database: Path) -> None:
    connection = apsw.Connection(str(database))
    # Backwards, so that whatever order another collation would expect is not there.
    connection.create_collation("theirs", lambda one, other: (one < other) - (one > other))
    connection.execute(
        "CREATE TABLE w (a TEXT COLLATE theirs PRIMARY KEY) WITHOUT ROWID;INSERT INTO w VALUES ('a'), ('b'), ('c')"
    ).fetchall()
    connection.close()


def null_in_not_null(database: Path) -> None:
    execute(
        database,
        "CREATE TABLE n (x, y); INSERT INTO n VALUES (1, NULL); PRAGMA writable_schema = on;"
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE n (x, y NOT NULL)' WHERE name = 'n'",
    )


@pytest.mark.parametrize("make", [application_with_collation, null_in_not_null])
def test_application_collations_and_constraint_violations_are_no_damage(
    database: Path, make: Callable[[Path], None]
) -> None:
    make(database)

    snapshot = taken(database)

    assert listed(str(database)) == [snapshot]


class InterruptedError(Exception):  # noqa: A001 - for this module alone
    """Raised by a step of the test."""


@pytest.mark.parametrize("when", [1, 2, 3])
def test_interrupted_snapshot_leaves_nothing(database: Path, when: int) -> None:
    fill(database, megabytes=9)
    steps = []

    def step() -> None:
        steps.append(names(database))
        if len(steps) == when:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        taken(database, step=step)

    assert names(database) == []
    assert re.fullmatch(r"\.app\.db\.\d{8}T\d{12}Z\.part", steps[0][0])


def test_long_check_can_be_interrupted_too(database: Path) -> None:
    execute(database, "CREATE TABLE t (x); CREATE INDEX i ON t (x);")
    execute(
        database,
        "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 100000)"
        "INSERT INTO t SELECT n FROM c",
    )
    copying = -(-database.stat().st_size // 4_000_000)
    steps = []

    def step() -> None:
        steps.append(1)
        if len(steps) > copying:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        taken(database, step=step)

    assert names(database) == []


KILLED = (
    KILLED_IN_STEP
    + """\
from migrated.engine.sqlite.snapshots.snapshots import take
take(sys.argv[1], reason="before-run", version=1, keep=1, step=step)
"""
)


@pytest.mark.parametrize("journal", JOURNALS)
def test_killed_snapshot_is_not_listed_and_is_removed_by_the_next(database: Path, journal: str) -> None:
    fill(database, journal, 9)
    before = everything(database)

    done = run_script(KILLED, database, 3)

    assert done.returncode == -signal.SIGKILL
    assert [name[-5:] for name in names(database)] == [".part"]
    assert listed(str(database)) == []
    for suffix in ("-wal", "-shm", "-journal"):
        (folder_of(database) / (names(database)[0] + suffix)).write_text("left")
    snapshot = taken(database)
    assert names(database) == [os.path.basename(snapshot.path)]
    assert everything(database) == before


LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))\n" + TAKE


def test_copy_that_cannot_be_written_leaves_nothing(database: Path) -> None:
    fill(database, megabytes=9)
    before = everything(database)

    done = run_script(LIMITED, database)

    folder = folder_of(database)
    assert re.fullmatch(
        rf"SQLITE_\w+ True cannot make the copy {re.escape(str(folder))}/\.app\.db\.\w+\.part: .*\n",
        done.stdout,
    )
    assert names(database) == []
    assert everything(database) == before


def calls_in_the_folder(database: Path) -> list[tuple[str, str, str]]:
    """Take a snapshot; each call on the folder of the snapshots or what is in it, and how many names it read."""
    _, calls = traced(database, calls="%file,%desc")
    plain = re.sub(r"\d{8}T\d{12}Z", "MOMENT", calls)
    return re.findall(r'^(\w+)\([^\n]*?[<"](/snapshots[^">]*)(?:[^\n]*/\* (\d+) entries)?', plain, re.MULTILINE)


def traced(database: Path, *options: str, calls: str = "fsync,rename") -> tuple[str, str]:
    """Take a snapshot; what it said, and the calls that put it on the disk, without the folder's name."""
    log = database.parent / "trace"
    command = (sys.executable, "-c", TAKE, str(database))
    require(("strace", "-qq", "-o", "/dev/null"))
    done = subprocess.run(
        ["strace", "-qq", "-y", "-o", log, "-e", f"trace={calls}", *options, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, log.read_text().replace(f"{database.parent}/.migrated", "")


def test_file_is_synced_before_its_rename_and_the_folder_before_the_end(database: Path) -> None:
    fill(database)

    said, calls = traced(database)

    (name,) = names(database)
    assert said.endswith(f"/{name}\n")
    folder = r"/snapshots/app\.db"
    part = rf"{folder}/\.app\.db\.\w+\.part"
    assert re.fullmatch(
        rf"fsync\(\d+<>\) += 0\nfsync\(\d+</snapshots>\) += 0\nfsync\(\d+<{part}>\) += 0\n"
        rf'rename\("{part}", "{folder}/{re.escape(name)}"\) += 0\nfsync\(\d+<{folder}>\) += 0\n',
        calls,
    ), calls


def test_failed_folder_sync_leaves_no_snapshot(database: Path) -> None:
    fill(database)
    folder = folder_of(database)
    folder.mkdir(parents=True)

    said, calls = traced(database, "-P", str(folder), "-e", "inject=fsync:error=EIO")

    assert "(INJECTED)" in calls
    assert re.match(r"DATABASE True .*Input/output error", said)
    assert names(database) == []


def test_unwritable_folder_is_named(database: Path) -> None:
    fill(database)
    folder = folder_of(database)
    folder.mkdir(parents=True)
    folder.chmod(0o555)

    done = run_script(TAKE, database, powerless=True)
    folder.chmod(0o755)

    assert re.match(rf"DATABASE True .*Permission denied: '{re.escape(str(folder))}/", done.stdout), done
    assert names(database) == []


def test_file_in_place_of_the_folder_is_an_error(database: Path) -> None:
    fill(database)
    folder = folder_of(database)
    for place in (folder.parent, folder):
        place.write_text("mine")
        for act in (lambda: taken(database), lambda: listed(str(database))):
            with pytest.raises(DatabaseError, match=re.escape(f"'{folder}'")) as refused:
                act()
            assert refused.value.transient
        place.unlink()
        folder.parent.mkdir(exist_ok=True)


# Disk space


def test_missing_disk_space_is_reported_in_readable_sizes(tmp_path: Path) -> None:
    require_free(str(tmp_path), 1, "a snapshot", "app.db")

    with pytest.raises(DatabaseError) as refused:
        require_free(str(tmp_path), 8 * 10**18, "a snapshot", "app.db")

    assert re.fullmatch(
        rf"a snapshot needs 8000000\.0 TB, but {re.escape(str(tmp_path))} has only \d+\.\d [kMGT]B free",
        refused.value.message,
    )
    assert (refused.value.code, refused.value.transient, refused.value.database) == ("DISK_SPACE", True, "app.db")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (4 * 10**9, "4.0 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable_size(size) == text


SMALL_DISK = (
    'mount -t tmpfs -o size=4m tmpfs "$1"; cp "$2" "$1/app.db"; mkdir "$1/.migrated"; cd "$3"; shift 3; "$@"'
)


def test_full_disk_is_detected_before_the_copy(database: Path, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    require((*OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs"), (str(mount),))
    fill(database, megabytes=2)
    look = f'\nimport os\nprint(os.listdir("{mount}/.migrated/snapshots/app.db"))'

    command = (sys.executable, "-c", TAKE + look, f"{mount}/app.db")
    done = subprocess.run(
        [*OWN_MOUNTS, "sh", "-ec", SMALL_DISK, "sh", *map(str, (mount, database, ROOT)), *command],
        capture_output=True,
        text=True,
        check=True,
    )

    folder = re.escape(f"{mount}/.migrated/snapshots/app.db")
    assert re.fullmatch(
        rf"DISK_SPACE True a snapshot needs 3\.\d MB, but {folder} has only 2\.\d MB free\n\[\]\n", done.stdout
    ), done


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_file_of_sqlite_beside_a_copy_is_removed_when_the_copy_has_gone(database: Path, suffix: str) -> None:
    """SQLite ignores it if its own removal fails, and the copy may have become a snapshot."""
    execute(database, "CREATE TABLE t (x)")

    with catalog.new_part(str(database)) as part:
        Path(part.path).touch()
        Path(f"{part.path}{suffix}").touch()
        Path(part.path).rename(part.named(1, "before-run"))

    assert catalog.leftovers(str(database)) == []
