"""What the daemon sends to systemd while it works: watchdog pings, status, requests for more time."""

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from daemon_process import DaemonProcess, holding, poll, ticks, writer_holding
from support import execute, put_file, write_migration

# Runs until it is interrupted: SQLite calls the progress handler during this statement.
ENDLESS = "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1e15) SELECT count(*) FROM c;"
# A single step of SQLite's virtual machine, during which no progress handler is called.
UNINTERRUPTIBLE = "SELECT instr(zeroblob(4000000), zeroblob(2000000) || x'01');"
WATCHED = {"WATCHDOG_USEC": "300000"}
_HOLD_LOCK = """
import sys
from migrated.system import file_locks
with file_locks.file_lock(sys.argv[1], file_locks.APPLYING, 0):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder_of_lock(database: Path) -> AbstractContextManager[Callable[[], None]]:
    """Hold the database's lock in another process. Yields a function that ends it."""
    return holding(_HOLD_LOCK, database)


def work_for(daemon: DaemonProcess, hundredths: int) -> None:
    """Return when the daemon has used this much more processor time."""
    before = ticks(daemon.pid)
    poll(lambda: ticks(daemon.pid) >= before + hundredths, "the statement at work")


def pings(daemon: DaemonProcess) -> int:
    daemon.pass_over_notices()
    return sum("WATCHDOG" in notice for notice in daemon.notices)


class TestWatchdog:
    def test_idle_daemon_sends_pings(self, tmp_path: Path, migrations: Path) -> None:
        with DaemonProcess(tmp_path, variables=WATCHED) as daemon:
            daemon.wait_until_ready()
            daemon.pass_over_notices()
            for _ in range(4):
                assert daemon.wait_for_notice("WATCHDOG")["WATCHDOG"] == "1"

    def test_daemon_sends_pings_during_a_long_migration(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1, up=ENDLESS)
        with DaemonProcess(tmp_path, variables=WATCHED) as daemon:
            daemon.wait_for("migration.applying")
            before = pings(daemon)
            work_for(daemon, 100)

            assert pings(daemon) - before >= 4

    def test_hung_worker_stops_the_pings(self, tmp_path: Path, migrations: Path) -> None:
        with DaemonProcess(tmp_path, variables=WATCHED) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1, up=UNINTERRUPTIBLE)
            daemon.wait_for("migration.applying")
            work_for(daemon, 80)
            before = pings(daemon)
            assert before > 0
            work_for(daemon, 60)

            assert pings(daemon) == before
            # The main loop itself still works.
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")

    def test_daemon_sends_pings_while_waiting_for_another_runner(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        with holder_of_lock(database) as release, DaemonProcess(tmp_path, variables=WATCHED) as daemon:
            daemon.wait_for("lock.waiting")
            daemon.pass_over_notices()
            for _ in range(5):
                daemon.wait_for_notice("WATCHDOG")
            # The daemon is still starting, so systemd waits for it.
            daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")
            while "waiting for the lock of app.db, held by pid" not in daemon.wait_for_notice("STATUS")["STATUS"]:
                pass
            release()
            daemon.wait_until_ready()

    def test_no_pings_without_a_watchdog(self, tmp_path: Path, migrations: Path) -> None:
        with DaemonProcess(tmp_path, variables={**WATCHED, "WATCHDOG_PID": "1"}) as daemon:
            daemon.wait_until_ready().look()

            assert pings(daemon) == 0


class TestStatusLine:
    def test_status_line_shows_a_problem_at_once(self, tmp_path: Path, migrations: Path) -> None:
        """The pass has not ended yet: it waits for the second database."""
        others = tmp_path / "others"
        others.mkdir()
        second = '[[target]]\ndatabases = ["b.db"]\nmigrations = "others"\n'
        (tmp_path / "migrated.toml").write_text(f'settle = "500ms"\n[[target]]\ndatabases = ["a.db"]\n{second}')
        write_migration(migrations, 1, "users")
        execute(tmp_path / "b.db", "CREATE TABLE theirs (id)")
        with DaemonProcess(tmp_path) as daemon, writer_holding(tmp_path / "b.db"):
            daemon.wait_until_ready()
            daemon.pass_over_notices()
            # Both changes before the next pass: it reads the directory of the first target first.
            write_migration(migrations, 1, "users", up="SELECT 1;")
            write_migration(others, 1)
            while "blocked" not in (notice := daemon.wait_for_notice("STATUS"))["STATUS"]:
                pass

        assert notice["STATUS"].endswith(
            "1 of 2 databases current; 1 blocked: checksum mismatch in 1_users (a.db)"
        )
        assert "X_MIGRATED_PASS" not in notice

    def test_status_line_shows_long_work(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        execute(database, "CREATE TABLE theirs (id)")
        write_migration(migrations, 1, "users")
        with writer_holding(database) as release, DaemonProcess(tmp_path) as daemon:
            while (status := daemon.wait_for_notice("STATUS")["STATUS"]) == "0 of 1 databases current":
                pass
            assert status == "applying 1_users to app.db; 0 of 1 databases current"
            release()
            assert daemon.wait_for_notice("READY")["STATUS"] == "1 of 1 databases current"


class TestStop:
    def test_stop_extends_the_timeout_for_a_running_hook(self, tmp_path: Path, migrations: Path) -> None:
        put_file(tmp_path / "migrations", "hook.sh", "#!/bin/sh\nexec sleep 60\n").chmod(0o755)
        (tmp_path / "migrated.toml").write_text('[hooks]\nafter_apply = ["migrations/hook.sh"]\n')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            assert daemon.wait_for_notice("STOPPING")["STATUS"] == "stopping: SIGTERM; 1 of 1 databases current"
            for _ in range(2):
                daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")
            daemon.send(signal.SIGTERM)

            assert daemon.wait() == 0
