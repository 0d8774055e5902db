"""Stopping the program while a migration is running: real signals to real processes."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DEADLINE, DaemonProcess, environment, poll
from support import PROGRAM, applied_versions, everything, write_migration

from migrated import MigrationRunner

ENDLESS = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c) INSERT INTO t SELECT max(n) FROM c;"
COUNT = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {}) SELECT max(n) FROM c;"
BRIEF = COUNT.format(4_000_000)
# Longer than the second after which systemd is asked for more time.
LONGER = COUNT.format(15_000_000)
Line = dict[str, Any]


@pytest.fixture
def ground(tmp_path: Path, migrations: Path) -> Path:
    """A project with a table `t`."""
    write_migration(migrations, 1, up="CREATE TABLE t (x);", down=f"{BRIEF}\nDROP TABLE t;")
    runner = MigrationRunner(tmp_path / "app.db")
    runner.add_directory(migrations)
    runner.run()
    # A signal that comes while a snapshot is taken stops that, and the migration is not begun.
    configure(tmp_path)
    return tmp_path


def configure(directory: Path, *, top: str = "", target: str = "") -> None:
    (directory / "migrated.toml").write_text(f"{top}\n[[target]]\nsnapshots = {{ when = 'never' }}\n{target}\n")


class Command:
    """`migrated up` or `down`, its log read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[Line] = []
        self.others: list[str] = []

    def wait_for(self, event: str, **keys: object) -> Line:
        while (line := self._next()) is not None:
            if line.get("event") == event and all(line.get(key) == value for key, value in keys.items()):
                return line
        raise AssertionError(f"no {event} in {self.lines}, {self.others}")

    def end(self) -> int:
        while self._next() is not None:
            pass
        return self.process.wait(DEADLINE)

    def _next(self) -> Line | None:
        assert self.process.stderr is not None
        while text := self.process.stderr.readline():
            if text.startswith("{"):
                self.lines.append(json.loads(text))
                return self.lines[-1]
            self.others.append(text.rstrip("\n"))
        return None


@contextmanager
def command(directory: Path, *arguments: str) -> Iterator[Command]:
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Command(process)
        finally:
            process.kill()


class TestUpAndDown:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_running_migration_is_finished_and_the_next_not_begun(
        self, ground: Path, migrations: Path, number: signal.Signals
    ) -> None:
        write_migration(migrations, 2, "brief", up=BRIEF)
        write_migration(migrations, 3, "never")
        with command(ground, "up") as up:
            up.wait_for("migration.applying", version=2)
            up.process.send_signal(number)
            code = up.end()

        assert code == 128 + number
        assert applied_versions(ground / "app.db") == [1, 2]
        assert up.others == [
            f"migrated: warning: {number.name}: what is running may finish within 30 s; once more to interrupt it"
        ]

    def test_what_takes_longer_than_its_grace_is_interrupted_and_undone(
        self, ground: Path, migrations: Path
    ) -> None:
        configure(ground, top='stop_grace = "100ms"')
        write_migration(migrations, 2, "endless", up=f"INSERT INTO t VALUES (1);\n{ENDLESS}")
        before = everything(ground / "app.db")
        with command(ground, "up") as up:
            up.wait_for("migration.applying", version=2)
            up.process.send_signal(signal.SIGTERM)
            failed = up.wait_for("migration.failed")
            code = up.end()

        assert code == 128 + signal.SIGTERM
        assert (failed["reason"], failed["error"]["code"]) == ("it was interrupted: SIGTERM", "INTERRUPTED")
        assert (failed["line"], failed["statement"]) == (3, ENDLESS)
        assert everything(ground / "app.db") == before

    def test_a_second_signal_interrupts_at_once(self, ground: Path, migrations: Path) -> None:
        write_migration(migrations, 2, "endless", up=ENDLESS)
        before = everything(ground / "app.db")
        with command(ground, "up") as up:
            up.wait_for("migration.applying", version=2)
            # Two of one kind that come at the same moment are one to the kernel.
            up.process.send_signal(signal.SIGINT)
            up.process.send_signal(signal.SIGTERM)
            code = up.end()

        assert code in {128 + signal.SIGINT, 128 + signal.SIGTERM}
        assert everything(ground / "app.db") == before
        assert [line for line in up.others if "Traceback" in line or "Error" in line] == []

    def test_going_down_is_no_other(self, ground: Path) -> None:
        with command(ground, "down") as down:
            down.wait_for("migration.rolling_back", version=1)
            down.process.send_signal(signal.SIGTERM)
            code = down.end()

        assert code == 128 + signal.SIGTERM
        assert applied_versions(ground / "app.db") == []

    def test_statements_do_not_run_in_the_main_thread(self, ground: Path, migrations: Path) -> None:
        write_migration(migrations, 2, "endless", up=ENDLESS)
        with command(ground, "up") as up:
            up.wait_for("migration.applying", version=2)
            assert_that_another_thread_works(up.process.pid)


def ticks(pid: int, thread: int) -> int:
    """Hundredths of a second that a thread has computed."""
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def assert_that_another_thread_works(pid: int) -> None:
    at_first = ticks(pid, pid)

    def others() -> int:
        threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
        return sum(ticks(pid, thread) for thread in threads if thread != pid)

    poll(lambda: others() >= 30, "some work")

    assert ticks(pid, pid) - at_first < 6


class TestDaemon:
    def test_statements_do_not_run_in_the_main_thread(self, ground: Path, migrations: Path) -> None:
        with DaemonProcess(ground) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 2, "endless", up=ENDLESS)
            daemon.wait_for("migration.applying", version=2)
            assert_that_another_thread_works(daemon.pid)

    def test_what_takes_longer_than_its_grace_is_interrupted_and_undone(
        self, ground: Path, migrations: Path
    ) -> None:
        configure(ground, top='stop_grace = "100ms"')
        with DaemonProcess(ground) as daemon:
            daemon.wait_until_ready()
            before = everything(ground / "app.db")
            write_migration(migrations, 2, "endless", up=ENDLESS)
            daemon.wait_for("migration.applying", version=2)

            assert daemon.stop() == 0

        (failed,) = daemon.logged("migration.failed")
        assert failed["error"]["code"] == "INTERRUPTED"
        assert daemon.lines[-1]["event"] == "daemon.stopped"
        assert everything(ground / "app.db") == before

    def test_a_second_signal_interrupts_at_once(self, ground: Path, migrations: Path) -> None:
        with DaemonProcess(ground) as daemon:
            daemon.wait_until_ready()
            before = everything(ground / "app.db")
            write_migration(migrations, 2, "endless", up=ENDLESS)
            daemon.wait_for("migration.applying", version=2)
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")

            assert daemon.stop() == 0

        assert [line["error"]["code"] for line in daemon.logged("migration.failed")] == ["INTERRUPTED"]
        assert daemon.lines[-1]["event"] == "daemon.stopped"
        assert everything(ground / "app.db") == before

    def test_a_statement_beyond_its_limit_is_blocked_and_not_tried_for_ever(
        self, ground: Path, migrations: Path
    ) -> None:
        configure(ground, target='statement_timeout = "100ms"')
        with DaemonProcess(ground) as daemon:
            daemon.wait_until_ready()
            before = everything(ground / "app.db")
            path = write_migration(migrations, 2, "endless", up=ENDLESS)
            blocked = daemon.wait_for("database.blocked")
            daemon.look()
            assert everything(ground / "app.db") == before
            path.unlink()
            write_migration(migrations, 2, "endless", up="CREATE TABLE mended (x);")
            daemon.wait_for("database.unblocked")

        assert blocked["error"]["code"] == "STATEMENT_TIMEOUT"
        assert "statement_timeout, 0.1 s" in blocked["reason"]
        assert len(daemon.logged("migration.applying", version=2)) == 2
        assert applied_versions(ground / "app.db") == [1, 2]

    def test_systemd_is_asked_for_time_while_it_starts_and_stops_and_not_else(
        self, tmp_path: Path, migrations: Path
    ) -> None:
        configure(tmp_path)
        write_migration(migrations, 1, "brief", up=LONGER)
        with DaemonProcess(tmp_path) as daemon:
            assert int(daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) == 15_000_000
            daemon.wait_for_notice("READY")
            write_migration(migrations, 2, "brief", up=LONGER)
            daemon.wait_for("migration.applied", version=2)
            daemon.pass_over_notices()
            since_ready = daemon.notices[[("READY" in notice) for notice in daemon.notices].index(True) :]
            assert [notice for notice in since_ready if "EXTEND_TIMEOUT_USEC" in notice] == []

            write_migration(migrations, 3, "brief", up=LONGER)
            daemon.wait_for("migration.applying", version=3)
            daemon.send(signal.SIGTERM)
            daemon.wait_for_notice("STOPPING")
            daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")
            assert daemon.wait() == 0

        assert applied_versions(tmp_path / "app.db") == [1, 2, 3]
