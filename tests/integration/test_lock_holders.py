"""Lock holders: real processes with real locks, found without opening the file."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from daemon_process import poll
from integration.children import Children, line_from, run_script, tell
from support import everything, execute

from migrated import DatabaseError, Migration, MigrationRunner
from migrated.engine.sqlite import lock_holders
from migrated.engine.sqlite.lock_holders import holder_of, other_sqlite_user

# The application: it uses the standard library's SQLite, and releases nothing until it gets a command.
APPLICATION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
if sys.argv[2] == "write":
    connection.execute("BEGIN IMMEDIATE")
elif sys.argv[2] == "exclusive":
    connection.execute("BEGIN EXCLUSIVE")
else:
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM t").fetchall()
print("held", flush=True)
sys.stdin.readline()
"""
WAITS_FOR_THE_LOCK = """
import fcntl, struct, sys
with open(sys.argv[1], "r+b") as file:
    print("waiting", flush=True)
    fcntl.fcntl(file, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0x40000001, 1, 0))
"""
TRY_TO_WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("BEGIN IMMEDIATE")
except sqlite3.OperationalError as error:
    print(error)
else:
    print("written")
"""


@pytest.fixture(params=["delete", "wal"])
def journal(request: pytest.FixtureRequest, database: Path) -> str:
    """A database with a table, in either journal mode."""
    mode = str(request.param)
    execute(database, f"PRAGMA journal_mode = {mode}; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    return mode


@pytest.fixture
def application(database: Path, children: Children) -> Callable[[str], subprocess.Popen[str]]:
    """Start a process that reads or writes, and return it with its transaction open."""

    def start(what: str) -> subprocess.Popen[str]:
        child = children.start(APPLICATION, database, what)
        assert line_from(child) == "held"
        return child

    return start


@pytest.fixture
def our_writer(database: Path) -> Iterator[apsw.Connection]:
    """A transaction of this process."""
    connection = apsw.Connection(str(database))
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


Start = Callable[[str], subprocess.Popen[str]]


def named(process: subprocess.Popen[str]) -> str:
    command = Path(f"/proc/{process.pid}/comm").read_text().strip()
    return f"pid {process.pid} ({command})"


@pytest.mark.parametrize("how", ["write", "exclusive"])
def test_writer_is_named(database: Path, journal: str, application: Start, how: str) -> None:
    assert holder_of(str(database)) is None

    child = application(how)

    assert holder_of(str(database)) == named(child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert holder_of(str(database)) is None


@pytest.mark.parametrize("journal", ["delete"], indirect=True)
def test_readers_of_a_rollback_journal_are_named(database: Path, journal: str, application: Start) -> None:
    children = [application("read") for _ in range(2)]

    by_pid = sorted(children, key=lambda child: child.pid)

    assert holder_of(str(database)) == ", ".join(map(named, by_pid))


@pytest.mark.parametrize("journal", ["delete"], indirect=True)
def test_no_more_than_five_are_named(database: Path, journal: str, application: Start) -> None:
    started = [application("read").pid for _ in range(6)]

    text = holder_of(str(database))

    assert text is not None
    assert [int(part.split()[1]) for part in text.split(", ")] == sorted(started)[:5]


@pytest.mark.parametrize("journal", ["wal"], indirect=True)
def test_reader_of_a_wal_is_not_named(database: Path, journal: str, application: Start) -> None:
    application("read")

    assert holder_of(str(database)) is None


def test_writer_is_named_and_the_readers_beside_it_are_not(
    database: Path, journal: str, application: Start
) -> None:
    application("read")
    writer = application("write")

    assert holder_of(str(database)) == named(writer)


def test_link_to_the_database_leads_to_its_holder(
    database: Path, tmp_path: Path, journal: str, application: Start
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link.db").symlink_to(database)

    application("read")
    assert (holder_of(str(elsewhere / "link.db")) is None) == (journal == "wal")
    child = application("write")

    assert holder_of(str(elsewhere / "link.db")) == named(child)


def test_our_own_process_is_not_named(database: Path, journal: str, our_writer: apsw.Connection) -> None:
    assert holder_of(str(database)) is None


def test_search_for_holders_keeps_our_own_locks(database: Path, journal: str, our_writer: apsw.Connection) -> None:
    holder_of(str(database))
    assert other_sqlite_user(str(database)) is None

    assert run_script(TRY_TO_WRITE, database).stdout == "database is locked\n"


@pytest.mark.parametrize("journal", ["delete"], indirect=True)
def test_process_that_waits_for_a_lock_is_not_named(
    database: Path, journal: str, application: Start, children: Children
) -> None:
    writer = application("write")
    waiting = children.start(WAITS_FOR_THE_LOCK, database)
    assert line_from(waiting) == "waiting"
    poll(
        lambda: f"-> POSIX  ADVISORY  WRITE {waiting.pid} " in Path("/proc/locks").read_text(),
        "the line of one that waits",
    )

    assert holder_of(str(database)) == named(writer)


def test_locks_on_another_file_system_with_the_same_inode_are_not_ours(database: Path) -> None:
    database.touch()
    status = os.stat(database)
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    if major == 0:
        pytest.skip("this file system has no device of its own")
    ours = f"1: POSIX  ADVISORY  WRITE 1 {major:02x}:{minor:02x}:{status.st_ino} 1073741825 1073741825"
    theirs = f"2: POSIX  ADVISORY  WRITE 1 {major:02x}:{minor + 1:02x}:{status.st_ino} 1073741825 1073741825"
    unnamed = f"3: POSIX  ADVISORY  WRITE 1 00:{minor:02x}:{status.st_ino} 1073741825 1073741825"

    found = lock_holders._locks_on(str(database), [theirs, ours, unnamed])

    assert found == [lock_holders._Lock(1, writes=True, first=1073741825, last=1073741825)]


def test_missing_database_has_no_holder(database: Path) -> None:
    assert holder_of(str(database)) is None
    assert holder_of(":memory:") is None


# Errors of the runner


def runner_for(database: Path) -> MigrationRunner:
    runner = MigrationRunner(database, busy_timeout=0.05)
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))
    return runner


def test_busy_database_error_names_the_holder(database: Path, journal: str, application: Start) -> None:
    before = everything(database)
    child = application("write")

    with pytest.raises(DatabaseError) as refused:
        runner_for(database).run()

    assert refused.value.code == "SQLITE_BUSY"
    assert refused.value.holder == named(child)
    assert refused.value.message == "database is locked"
    assert refused.value.hint == f"another connection is using the database: {named(child)}"
    tell(child)
    child.wait()
    assert everything(database) == before


@pytest.mark.parametrize("journal", ["delete"], indirect=True)
def test_reader_that_keeps_a_commit_waiting_is_named(database: Path, journal: str, application: Start) -> None:
    before = everything(database)
    child = application("read")

    with pytest.raises(DatabaseError) as refused:
        runner_for(database).run()

    assert (refused.value.code, refused.value.holder) == ("SQLITE_BUSY", named(child))
    assert everything(database) == before


def test_failure_without_a_holder_names_nobody(database: Path) -> None:
    database.write_bytes(b"not a database at all\n" * 100)

    with pytest.raises(DatabaseError) as refused:
        runner_for(database).run()

    assert (refused.value.code, refused.value.holder) == ("SQLITE_NOTADB", None)
