"""Signals and time limits with real processes: `migrated up`, `down` and `run`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import apsw
import pytest
from daemon_process import (
    DEADLINE,
    DaemonProcess,
    Line,
    bring_up,
    environment,
    holding,
    is_caught,
    log_lines,
    migrated,
    poll,
    running,
    ticks,
    writer_holding,
)
from support import PROGRAM, ROOT, applied_versions, everything, execute, query, schema, write_migration

# Runs until it is interrupted: SQLite calls the progress handler during this statement.
ENDLESS = """\
CREATE TABLE begun (x);
INSERT INTO begun VALUES (1);
-- the long one
WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1e15) SELECT count(*) FROM c;
"""
# A single step of SQLite's virtual machine, during which no progress handler is called.
UNINTERRUPTIBLE = "CREATE TABLE begun (x); SELECT instr(zeroblob(4000000), zeroblob(2000000) || x'01');"
THERE = "CREATE TABLE there (x); INSERT INTO there VALUES (1)"
_READ = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN; SELECT * FROM there").fetchall()
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def reader_holding(database: Path) -> AbstractContextManager[Callable[[], None]]:
    """Start a process that reads, which blocks every COMMIT in DELETE mode. Yields a function that ends it."""
    return holding(_READ, database)


class Command:
    """A running `migrated up` or `down`: its log line by line, and its other output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read up to the next line that has these keys."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"no {text!r} in:\n{''.join(self.lines)}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Return the exit code. `lines` is then the whole log."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr
        return self.process.wait(DEADLINE)

    def logged(self, event: str) -> list[Line]:
        text = "".join(line for line in self.lines if line.startswith("{"))
        return [line for line in log_lines(text) if line["event"] == event]

    def remarks(self) -> list[str]:
        """Return the output that is not part of the log."""
        return [line for line in self.lines if not line.startswith("{")]


@contextmanager
def command(directory: Path, *arguments: str) -> Iterator[Command]:
    with running(*PROGRAM, *arguments, cwd=directory, stderr=subprocess.PIPE) as process:
        yield Command(process)


def configure(directory: Path, top: str, *targets: str) -> None:
    text = "".join(f"[[target]]\n{target}\n" for target in targets or ("",))
    (directory / "migrated.toml").write_text(f"{top}\n{text}")


@pytest.fixture
def there(database: Path) -> Path:
    """Return a database with a table in it."""
    execute(database, THERE)
    return database


class TestCommands:
    @BOTH
    def test_first_signal_lets_the_running_migration_finish(
        self, tmp_path: Path, migrations: Path, there: Path, number: signal.Signals
    ) -> None:
        write_migration(migrations, 1)
        write_migration(migrations, 2)
        with reader_holding(there) as release, command(tmp_path, "up") as up:
            up.wait_for("migration.applying")
            up.send(number)
            up.wait_for(f"{number.name}: the running step may finish within 30 s")
            release()

            assert up.end() == 128 + number
        assert applied_versions(there) == [1]
        assert [line["version"] for line in up.logged("migration.applied")] == [1]
        assert [line["version"] for line in up.logged("migration.applying")] == [1]
        assert len(up.remarks()) == 1

    def test_migration_longer_than_the_grace_period_is_undone(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, 'stop_grace = "200ms"')
        write_migration(migrations, 1)
        write_migration(migrations, 2, up=ENDLESS)
        write_migration(migrations, 3)
        with command(tmp_path, "up") as up:
            up.wait_for('"version":2')
            up.send(signal.SIGTERM)
            up.wait_for("may finish within 0.2 s")

            assert up.end() == 143
        assert applied_versions(there) == [1]
        assert [row[1] for row in schema(there)] == ["t1", "there"]
        (failed,) = up.logged("migration.failed")
        assert (failed["version"], failed["error"]["code"], failed["line"]) == (2, "INTERRUPTED", 5)
        assert failed["error"]["message"] == "the migration was interrupted: SIGTERM"
        assert failed["statement"].startswith("WITH RECURSIVE")
        (finished,) = up.logged("run.finished")
        assert (finished["outcome"], finished["applied"], finished["pending"]) == ("failed", 1, 2)
        assert up.logged("migration.applying")[-1]["version"] == 2

    @BOTH
    def test_second_signal_interrupts_at_once(
        self, tmp_path: Path, migrations: Path, there: Path, number: signal.Signals
    ) -> None:
        configure(tmp_path, 'stop_grace = "10m"')
        write_migration(migrations, 1, up=ENDLESS)
        before = everything(there)
        with command(tmp_path, "up") as up:
            up.wait_for("migration.applying")
            up.send(number)
            up.wait_for("send the signal again to interrupt it")
            up.send(number)

            assert up.end() == 128 + number
        assert everything(there) == before
        (failed,) = up.logged("migration.failed")
        assert failed["error"]["code"] == "INTERRUPTED"
        assert not any("Traceback" in line for line in up.lines)

    def test_rollback_stops_in_the_same_way(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        configure(tmp_path, 'stop_grace = "10m"')
        write_migration(migrations, 1, down=f"DROP TABLE t1; {ENDLESS}")
        write_migration(migrations, 2, down="DROP TABLE t2;")
        bring_up(tmp_path)
        with command(tmp_path, "down", "--to", "0") as down:
            down.wait_for('"version":1')
            down.send(signal.SIGINT)
            down.wait_for("send the signal again to interrupt it")
            down.send(signal.SIGINT)

            assert down.end() == 130
        assert applied_versions(there) == [1]
        assert [row[1] for row in schema(there)] == ["t1", "there"]
        assert down.logged("migration.failed")[0]["error"]["code"] == "INTERRUPTED"

    def test_no_other_database_is_begun_after_a_signal(self, tmp_path: Path, migrations: Path) -> None:
        for name in ("a.db", "b.db"):
            execute(tmp_path / name, THERE)
        write_migration(migrations, 1)
        with (
            reader_holding(tmp_path / "a.db") as release,
            command(tmp_path, "up", "-d", "a.db", "-d", "b.db") as up,
        ):
            up.wait_for("migration.applying")
            up.send(signal.SIGTERM)
            up.wait_for("may finish")
            release()

            assert up.end() == 143
        assert [applied_versions(tmp_path / name) for name in ("a.db", "b.db")] == [[1], []]

    def test_waiting_for_a_busy_database_ends_at_once(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        configure(tmp_path, 'stop_grace = "10m"', 'busy_timeout = "10m"')
        write_migration(migrations, 1)
        with writer_holding(there), command(tmp_path, "up") as up:
            up.wait_for("migration.applying")
            up.send(signal.SIGINT)

            assert up.end() == 130
        assert applied_versions(there) == []
        assert not any("Traceback" in line for line in up.lines)

    def test_waiting_to_read_ends_at_once(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        """A COMMIT in DELETE mode that waits for a reader keeps new readers out."""
        configure(tmp_path, "", 'busy_timeout = "10m"')
        write_migration(migrations, 1)
        with reader_holding(there), command(tmp_path, "up") as first:
            first.wait_for("migration.applying")
            poll(lambda: is_busy(there), "a commit that keeps readers out")
            with command(tmp_path, "up") as second:
                poll(lambda: is_caught(second.process.pid, signal.SIGTERM), "the second at work")
                second.send(signal.SIGTERM)

                assert second.end() == 143
            assert not any("Traceback" in line for line in second.lines)
            assert second.logged("migration.applying") == []

    def test_waiting_for_another_runner_ends_at_once(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        write_migration(migrations, 1)
        with writer_holding(there), command(tmp_path, "up") as first:
            first.wait_for("migration.applying")
            with command(tmp_path, "up", "--lock-timeout", "10m") as second:
                second.wait_for("lock.waiting")
                second.send(signal.SIGINT)

                assert second.end() == 130
            assert not any("Traceback" in line for line in second.lines)

    def test_statement_timeout_undoes_the_migration(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        configure(tmp_path, "", 'statement_timeout = "200ms"')
        write_migration(migrations, 1, up=ENDLESS)
        before = everything(there)

        done = migrated(tmp_path, "up")
        assert done.returncode == 1
        assert everything(there) == before
        (failed,) = [line for line in log_lines(done.stderr) if line["event"] == "migration.failed"]
        assert (failed["error"]["code"], failed["line"]) == ("STATEMENT_TIMEOUT", 5)
        assert failed["reason"] == "the statement took longer than statement_timeout, 0.2 s"
        assert "statement_timeout" in failed["hint"]
        assert failed["statement"].startswith("WITH RECURSIVE")


class TestDaemon:
    def test_start_and_end_with_long_work(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        """Systemd is asked for time while work advances, progress is logged, and two signals end in order."""
        configure(tmp_path, 'stop_grace = "10m"')
        file = write_migration(migrations, 1, up=ENDLESS)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            assert int(daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")["EXTEND_TIMEOUT_USEC"]) >= 2_000_000
            daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")
            progress = daemon.wait_for("migration.progress")
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            daemon.pass_over_notices()
            daemon.wait_for_notice("EXTEND_TIMEOUT_USEC")
            assert applied_versions(there) == []
            daemon.send(signal.SIGTERM)

            assert daemon.wait() == 0
        assert (progress["version"], progress["name"], progress["direction"]) == (1, "change", "up")
        assert (progress["statement_number"], progress["statement_count"], progress["line"]) == (3, 3, 5)
        assert (progress["rows_changed"], progress["level"], progress["database"]) == (1, "info", "app.db")
        assert progress["execution_time_ms"] >= 3000
        assert Path(progress["file"]).name == file.name
        assert [notice for notice in daemon.notices if "READY" in notice] == []
        (failed,) = daemon.logged("migration.failed")
        assert (failed["error"]["code"], failed["version"]) == ("INTERRUPTED", 1)
        assert daemon.lines[-1]["event"] == "daemon.stopped"
        assert [row[1] for row in schema(there)] == ["there"]

    def test_migration_longer_than_the_grace_period_is_undone(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, 'stop_grace = "200ms"')
        write_migration(migrations, 1)
        write_migration(migrations, 2, up=ENDLESS)
        write_migration(migrations, 3)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=2)

            assert daemon.stop() == 0
        told = [line["event"] for line in daemon.lines]
        assert told[-1] == "daemon.stopped"
        assert told.index("daemon.stopping") < told.index("migration.failed")
        (failed,) = daemon.logged("migration.failed")
        assert (failed["error"]["code"], failed["line"]) == ("INTERRUPTED", 5)
        assert daemon.logged("migration.applying", version=3) == []
        assert applied_versions(there) == [1]
        assert [row[1] for row in schema(there)] == ["t1", "there"]

    def test_next_start_applies_the_interrupted_migration(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1, up=ENDLESS)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            daemon.send(signal.SIGINT)
            daemon.wait_for("daemon.stopping", reason="SIGINT")
            assert daemon.stop(signal.SIGINT) == 0
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
        assert applied_versions(there) == [1]

    def test_stop_waits_for_a_commit_that_a_reader_blocks(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1)
        write_migration(migrations, 2)
        with reader_holding(there) as release, DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            release()

            assert daemon.wait() == 0
        assert [line["version"] for line in daemon.logged("migration.applied")] == [1]
        assert applied_versions(there) == [1]

    def test_third_signal_kills(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        """Some statements cannot be interrupted, not even by SQLite."""
        write_migration(migrations, 1, up=UNINTERRUPTIBLE)
        before = everything(there)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            before_it = ticks(daemon.pid)
            poll(lambda: ticks(daemon.pid) >= before_it + 30, "the statement at work")
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            assert is_caught(daemon.pid, signal.SIGTERM)
            daemon.send(signal.SIGTERM)
            poll(lambda: not is_caught(daemon.pid, signal.SIGTERM), "the second signal obeyed")
            assert daemon.process.poll() is None
            daemon.send(signal.SIGTERM)

            assert daemon.wait() == -signal.SIGTERM
        assert daemon.logged("daemon.stopped") == []
        assert everything(there) == before

    def test_statement_timeout_blocks_the_database_and_is_not_retried(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        """Each target has its own limit."""
        configure(
            tmp_path,
            'resync_interval = "100ms"',
            'databases = ["app.db"]\nstatement_timeout = "100ms"',
            'databases = ["other.db"]\nmigrations = "others"',
        )
        (tmp_path / "others").mkdir()
        write_migration(migrations, 1, up=ENDLESS)
        slow = ENDLESS.replace("1e15", "5e6")
        write_migration(tmp_path / "others", 1, up=slow)
        before = everything(there)
        with DaemonProcess(tmp_path) as daemon:
            blocked = daemon.wait_for("database.blocked", database="app.db")
            daemon.wait_for("migration.applied", database="other.db")
            daemon.wait_until_ready()
            daemon.pass_over_notices()
            # By then a first retry would be due: it comes after at most a second.
            for _ in range(12):
                daemon.wait_for_notice("X_MIGRATED_PASS")

            assert daemon.stop() == 0
        assert "the statement took longer than statement_timeout, 0.1 s" in blocked["reason"]
        (failed,) = daemon.logged("migration.failed")
        assert (failed["error"]["code"], failed["line"]) == ("STATEMENT_TIMEOUT", 5)
        assert failed["statement"].startswith("WITH RECURSIVE")
        assert len(daemon.logged("migration.applying", database="app.db")) == 1
        assert everything(there) == before
        (applied,) = daemon.logged("migration.applied", database="other.db")
        assert applied["execution_time_ms"] > 100

    def test_no_extra_time_is_requested_while_running(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1, up=ENDLESS)
            daemon.wait_for("migration.applying")
            # Longer than the one-second interval of the requests for more time.
            before_it = ticks(daemon.pid)
            poll(lambda: ticks(daemon.pid) >= before_it + 150, "a second and a half of work")
            daemon.pass_over_notices()
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            assert daemon.stop() == 0
        asked = [notice for notice in daemon.notices if "EXTEND_TIMEOUT_USEC" in notice]
        assert asked == []


def is_busy(database: Path) -> bool:
    """Return True if no connection can begin to read."""
    connection = apsw.Connection(os.fspath(database))
    try:
        connection.execute("SELECT * FROM there").fetchall()
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    return False


WATCH_THREADS = """
import apsw, os, threading

def statement(_):
    with open(os.environ["THREADS_SEEN"], "a") as file:
        main = threading.current_thread() is threading.main_thread()
        file.write("main\\n" if main else "other\\n")

apsw.connection_hooks.append(lambda connection: connection.trace_v2(apsw.SQLITE_TRACE_STMT, statement))
"""


class TestThreads:
    """No statement runs in the thread that handles signals."""

    @pytest.fixture
    def variables(self, tmp_path: Path) -> dict[str, str]:
        """Return an environment in which a process records the thread of each statement."""
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(WATCH_THREADS)
        return {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}", "THREADS_SEEN": str(tmp_path / "seen")}

    def seen(self, tmp_path: Path) -> set[str]:
        return set((tmp_path / "seen").read_text().split())

    @pytest.mark.parametrize("arguments", [("up",), ("up", "--to", "1"), ("down",), ("down", "--to", "0")])
    def test_commands_use_this_many_threads(
        self, tmp_path: Path, migrations: Path, there: Path, variables: dict[str, str], arguments: tuple[str, ...]
    ) -> None:
        write_migration(migrations, 1, down="DROP TABLE t1;")
        if "down" in arguments:
            bring_up(tmp_path)

        assert migrated(tmp_path, *arguments, **variables).returncode == 0
        assert self.seen(tmp_path) == {"other"}

    def test_daemon_uses_this_many_threads(
        self, tmp_path: Path, migrations: Path, there: Path, variables: dict[str, str]
    ) -> None:
        with DaemonProcess(tmp_path, variables=variables) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1)
            daemon.wait_for("migration.applied", version=1)
            daemon.look()
            assert daemon.stop() == 0
        assert self.seen(tmp_path) == {"other"}

    def test_the_means_of_seeing_it_work(self, tmp_path: Path, database: Path, variables: dict[str, str]) -> None:
        """Proves that the two tests above can fail."""
        script = f"import apsw; apsw.Connection({str(database)!r}).execute('CREATE TABLE t (x)')"
        subprocess.run([sys.executable, "-c", script], env=environment(**variables), check=True)

        assert self.seen(tmp_path) == {"main"}
        assert query(database, "SELECT * FROM t") == []
