"""The file locks beside the databases, used by real processes."""

import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.children import Children, line_from, run_script, tell
from support import PROGRAM, applied_versions, everything

from migrated import DatabaseError, LockHeldError, Migration, MigrationRunner
from migrated.engine.backend import Observer
from migrated.system.file_locks import APPLYING, DAEMON, ProcessLock, file_lock, lock_path

HOLDER = """
import sys
from migrated.system import file_locks
with file_locks.file_lock(sys.argv[1], sys.argv[2], 0):
    print("held", flush=True)
    sys.stdin.readline()
print("freed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def hold(children: Children) -> Callable[..., int]:
    """Start a process that holds a lock, and return its pid."""

    def start(database: Path, which: str = APPLYING) -> int:
        child = children.start(HOLDER, database, which)
        assert line_from(child) == "held"
        return child.pid

    return start


def test_holder_is_named(database: Path, hold: Callable[..., int]) -> None:
    pid = hold(database)
    path = database.parent / ".migrated" / "lock"

    with pytest.raises(LockHeldError) as refused, file_lock(str(database), APPLYING, 0):
        pass

    holder = refused.value.holder
    assert holder is not None
    assert re.fullmatch(
        rf"pid {pid} on {re.escape(socket.gethostname())} \(-c {re.escape(str(database))} lock\), "
        r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00",
        holder,
    )
    assert str(refused.value) == (
        f"{path} is held by another process: {holder}\n"
        "hint: wait until it has finished, or stop it; the lock is released when it ends"
    )
    assert refused.value.transient


def test_note_is_one_line_of_json(database: Path) -> None:
    with file_lock(str(database), DAEMON, 0) as lock:
        text = (database.parent / ".migrated" / "daemon.lock").read_text()

    assert re.fullmatch(r'\{"pid": \d+, "host": "[^"]+", "command": ".*", "since": "[^"]+"\}\n', text)
    assert lock.holder().startswith(f"pid {os.getpid()} on ")


def test_shorter_note_leaves_nothing_of_a_longer_one(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/migrated", "up", "x" * 500])
    with file_lock(str(database), APPLYING, 0) as lock:
        assert f"(migrated up {'x' * 500})" in lock.holder()
    monkeypatch.setattr(sys, "argv", ["/usr/lib/migrated/__main__.py", "up"])

    with file_lock(str(database), APPLYING, 0) as lock:
        assert "(migrated up)" in lock.holder()


def test_runner_beside_a_holder_is_refused_and_changes_nothing(database: Path, hold: Callable[..., int]) -> None:
    seen: list[str] = []

    class Watching(Observer):
        def lock_waiting(self, holder: str) -> None:
            seen.append(holder)

    pid = hold(database)
    runner = MigrationRunner(database, lock_timeout=0.1, observer=Watching())
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))

    with pytest.raises(LockHeldError) as refused:
        runner.run()

    assert refused.value.holder is not None
    assert refused.value.holder.startswith(f"pid {pid} on ")
    assert seen == [refused.value.holder]
    assert everything(database) == []


def test_nothing_to_do_needs_no_lock(database: Path, hold: Callable[..., int]) -> None:
    runner = MigrationRunner(database, lock_timeout=0)
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))
    runner.run()
    hold(database)

    assert runner.run() == []
    assert runner.run_to(1) == []
    assert [entry.version for entry in runner.get_applied()] == [1]


def test_the_two_locks_do_not_exclude_each_other(database: Path, hold: Callable[..., int]) -> None:
    hold(database, DAEMON)

    with file_lock(str(database), APPLYING, 0) as lock:
        assert lock.is_intact()


def test_databases_of_one_directory_share_the_lock_and_others_do_not(
    database: Path, hold: Callable[..., int]
) -> None:
    (database.parent / "elsewhere").mkdir()
    hold(database)

    with pytest.raises(LockHeldError), file_lock(str(database.parent / "other.db"), APPLYING, 0):
        pass
    with file_lock(str(database.parent / "elsewhere" / "app.db"), APPLYING, 0) as lock:
        assert lock.is_intact()


def test_wait_is_reported_once_and_ends_when_the_lock_is_free(database: Path, children: Children) -> None:
    child = children.start(HOLDER, database, APPLYING)
    assert line_from(child) == "held"
    holders: list[str] = []

    def waiting(holder: str) -> None:
        holders.append(holder)
        tell(child)

    with file_lock(str(database), APPLYING, 30, waiting=waiting) as lock:
        assert lock.is_intact()

    assert len(holders) == 1
    assert holders[0].startswith(f"pid {child.pid} on ")


def test_killed_holder_frees_the_lock_at_once(database: Path, children: Children) -> None:
    child = children.start(HOLDER, database, APPLYING)
    assert line_from(child) == "held"

    child.kill()
    assert child.wait(10) == -signal.SIGKILL

    with file_lock(str(database), APPLYING, 0) as lock:
        assert lock.holder().startswith(f"pid {os.getpid()} on ")


def test_lock_is_free_after_release_and_its_file_stays(database: Path) -> None:
    path = lock_path(str(database), APPLYING)
    with file_lock(str(database), APPLYING, 0) as lock:
        inode = path.stat().st_ino
    assert not lock.is_intact()

    with file_lock(str(database), APPLYING, 0) as again:
        assert again.is_intact()
        assert path.stat().st_ino == inode


def test_lock_is_released_after_a_failure(database: Path) -> None:
    runner = MigrationRunner(database, lock_timeout=0)
    runner.add_migration(Migration(1, "a", "nonsense"))
    for _ in range(2):
        with pytest.raises(Exception, match="syntax error"):
            runner.run()

    done = run_script(HOLDER, database, APPLYING)

    assert done.stdout == "held\nfreed\n"


def test_removed_lock_file_is_noticed(database: Path, hold: Callable[..., int]) -> None:
    path = lock_path(str(database), DAEMON)
    with file_lock(str(database), DAEMON, 0) as lock:
        assert lock.is_intact()
        path.unlink()

        assert not lock.is_intact()
        hold(database, DAEMON)

        assert path.exists()
        assert not lock.is_intact()


def test_lock_of_a_replaced_directory_is_noticed(database: Path) -> None:
    folder = database.parent / ".migrated"
    with file_lock(str(database), DAEMON, 0) as lock:
        folder.rename(database.parent / "moved")
        folder.mkdir()

        assert not lock.is_intact()


def test_second_lock_object_of_the_same_process_is_refused_too(database: Path) -> None:
    with file_lock(str(database), APPLYING, 0):
        second = ProcessLock(lock_path(str(database), APPLYING))
        for timeout in (0, 0.05):
            with pytest.raises(LockHeldError):
                second.acquire(timeout)
        second.release()

        third = ProcessLock(lock_path(str(database), APPLYING))
        with pytest.raises(LockHeldError):
            third.acquire()


def test_lock_folder_is_ignored_by_git(database: Path) -> None:
    runner = MigrationRunner(database)
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))

    runner.run()

    folder = database.parent / ".migrated"
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "lock"]
    assert (folder / ".gitignore").read_text() == "*\n"


def test_symlinked_database_shares_the_lock_of_its_target(database: Path, hold: Callable[..., int]) -> None:
    other = database.parent / "other"
    other.mkdir()
    (other / "link.db").symlink_to(database)
    hold(database)
    runner = MigrationRunner(other / "link.db", lock_timeout=0)
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))

    with pytest.raises(LockHeldError):
        runner.run()

    assert [path.name for path in other.iterdir()] == ["link.db"]
    assert applied_versions(database) == []


def test_lock_in_a_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as refused, file_lock(str(tmp_path / "gone" / "app.db"), APPLYING, 0):
        pass

    assert str(refused.value) == (
        f"the directory {tmp_path / 'gone'} does not exist\nhint: create it, or check the path of the database"
    )
    assert refused.value.transient
    assert list(tmp_path.iterdir()) == []


def test_lock_in_a_read_only_directory_is_a_clear_error(database: Path) -> None:
    MigrationRunner(database).init()
    script = (
        "import sys\n"
        "from migrated import DatabaseError\n"
        "from migrated.system.file_locks import APPLYING, file_lock\n"
        "try:\n    file_lock(sys.argv[1], APPLYING, 0).__enter__()\n"
        "except DatabaseError as error:\n    print(error.message, error.exit_code)\n"
    )
    database.parent.chmod(0o555)

    done = run_script(script, database, powerless=True)
    database.parent.chmod(0o755)

    folder = database.parent / ".migrated"
    assert (done.stdout, done.stderr) == (
        f"cannot take the lock {folder}/lock: [Errno 13] Permission denied: '{folder}' 6\n",
        "",
    )
    assert applied_versions(database) == []


def test_symbolic_link_in_place_of_the_lock_is_not_followed(database: Path) -> None:
    precious = database.parent / "precious"
    precious.write_text("keep me")
    path = lock_path(str(database), APPLYING)
    path.parent.mkdir()
    path.symlink_to(precious)

    with pytest.raises(DatabaseError, match="cannot take the lock"), file_lock(str(database), APPLYING, 0):
        pass

    assert precious.read_text() == "keep me"


def test_cancellation_ends_the_wait(database: Path, hold: Callable[..., int]) -> None:
    hold(database)
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(LockHeldError), file_lock(str(database), APPLYING, 600, cancelled=cancelled):
        pass

    assert len(asked) == 3


def test_program_exits_5_naming_the_holder(database: Path, migrations: Path, hold: Callable[..., int]) -> None:
    (migrations / "1_a.sql").write_text("CREATE TABLE a (x);")
    pid = hold(database)
    script = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"

    done = run_script(
        script,
        *PROGRAM,
        "up",
        "-d",
        database,
        "-m",
        migrations,
        "--lock-timeout",
        "50ms",
        "--log-format",
        "console",
    )

    assert done.returncode == 5
    assert f"waiting for the lock of {database}, held by pid {pid} on " in done.stderr
    assert everything(database) == []
