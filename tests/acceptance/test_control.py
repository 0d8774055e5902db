"""Commands that talk to a running daemon, and hostile clients of its socket."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DEADLINE, DaemonProcess, migrated, poll, require, running, writer_holding
from support import PROGRAM, applied_versions, everything, execute, write_migration

from migrated.cli import main
from migrated.daemon.control import client, protocol
from migrated.daemon.scheduler import LONGEST_RETRY
from migrated.system.file_locks import DAEMON, lock_path, read_note

# About a second of work inside one statement.
LONG = """
CREATE TABLE counted AS
WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000000) SELECT count(*) AS n FROM c;
"""
ANOTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_ASK = """
import socket, sys
channel = socket.socket(socket.AF_UNIX)
try:
    channel.connect(sys.argv[1])
    try:
        channel.sendall(b'{"version": 1, "request": "pause"}\\n')
    except BrokenPipeError:
        pass
    print(channel.makefile().readline())
except OSError as error:
    print(type(error).__name__)
"""


def configure(directory: Path, *targets: str, top: str = "") -> None:
    text = "".join(f"[[target]]\n{target}\n" for target in targets or ("",))
    (directory / "migrated.toml").write_text(f"{top}\n{text}")


def socket_of(database: Path) -> Path:
    """Return the socket path in the note of the database's daemon lock."""
    return Path(read_note(lock_path(str(database), DAEMON))["socket"])


def ask(database: Path, request: str, /, **keys: object) -> dict[str, Any]:
    """Send a request to the database's daemon."""
    return client.ask(str(socket_of(database)), DEADLINE, request=request, **keys)


def reported_state(database: Path) -> dict[str, Any]:
    """Return the state that the daemon reports for the database."""
    (found,) = [each for each in ask(database, "status")["databases"] if each["path"] == str(database)]
    return dict(found)


@contextmanager
def connected(database: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as channel:
        # A socket with a timeout is non-blocking: connect() would fail at once while the backlog is full.
        path = socket_of(database)
        # The whole path may exceed the length limit of a socket address.
        directory = os.open(path.parent, os.O_PATH)
        try:
            channel.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        channel.settimeout(DEADLINE)
        yield channel


def answer_to(database: Path, data: bytes) -> dict[str, Any]:
    """Return the answer to these bytes, of which the daemon may read only a part."""
    with connected(database) as channel:
        with suppress(BrokenPipeError, ConnectionResetError):
            channel.sendall(data)
        with channel.makefile("rb") as file:
            return dict(json.loads(file.readline()))


@pytest.fixture
def there(database: Path) -> Path:
    """Return a database with a table in it."""
    execute(database, "CREATE TABLE there (x)")
    return database


class TestSocket:
    def test_socket_is_private_and_removed_at_the_end(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            path = socket_of(database)
            assert path.parent == tmp_path / ".migrated/control"
            assert path.is_socket()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert ask(database, "status")["daemon"]["pid"] == daemon.pid
            assert daemon.stop() == 0

        assert list(path.parent.iterdir()) == []

    def test_socket_is_in_the_runtime_directory_and_stale_ones_are_removed(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        given, other = tmp_path / "run", tmp_path / "session"
        for directory in (given, other):
            # Set explicitly: with umask 002 the group could write there, and the daemon would skip the directory.
            directory.mkdir(mode=0o755)
        variables = {"RUNTIME_DIRECTORY": f"{given}:{other}", "XDG_RUNTIME_DIR": str(other)}
        with DaemonProcess(tmp_path, variables=variables) as daemon:
            daemon.wait_until_ready()
            daemon.kill()
        (left,) = given.iterdir()
        with DaemonProcess(tmp_path, variables=variables) as daemon:
            daemon.wait_until_ready()

            assert [path.name for path in given.iterdir()] == [f"control-{daemon.pid}.sock"] != [left.name]
            assert ask(database, "status")["daemon"]["pid"] == daemon.pid
            assert list(other.iterdir()) == []

    def test_socket_path_may_exceed_the_kernel_limit(self, tmp_path: Path) -> None:
        place = tmp_path / ("long" * 20) / ("longer" * 20)
        (place / "migrations").mkdir(parents=True)
        with DaemonProcess(place) as daemon:
            daemon.wait_until_ready()
            shown = migrated(place, "status")

            assert shown.stdout.startswith(f"# daemon 0.1.0, pid {daemon.pid}: up ")
            assert daemon.stop() == 0

    def test_removed_socket_is_created_again(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            shutil.rmtree(tmp_path / ".migrated")
            daemon.look()

            assert ask(database, "status")["daemon"]["pid"] == daemon.pid

    def test_everything_else_works_without_a_socket(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        folder = tmp_path / ".migrated/control"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        with DaemonProcess(tmp_path) as daemon:
            assert "other users can write to it" in daemon.wait_for("control.unavailable")["reason"]
            daemon.wait_until_ready().look()
            assert daemon.stop() == 0

        assert applied_versions(database) == [1]
        assert len(daemon.logged("control.unavailable")) == 1
        assert list(folder.iterdir()) == []

    def test_another_user_is_declined(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        """The mode of the socket keeps other users out and, if somebody changed the mode, the daemon does."""
        require(ANOTHER_USER)
        given = Path(tempfile.mkdtemp(prefix="control-"))
        given.chmod(0o755)
        asking = [*ANOTHER_USER, sys.executable, "-c", _ASK]
        try:
            require(ANOTHER_USER, (sys.executable, "-c", ""))
            with DaemonProcess(tmp_path, variables={"RUNTIME_DIRECTORY": str(given)}) as daemon:
                daemon.wait_until_ready()
                path = socket_of(database)
                assert path.parent == given
                first = subprocess.run([*asking, str(path)], capture_output=True, text=True, check=True)
                path.chmod(0o666)
                second = subprocess.run([*asking, str(path)], capture_output=True, text=True, check=True)

                assert first.stdout.strip() == "PermissionError"
                assert json.loads(second.stdout)["error"]["code"] == "NOT_ALLOWED"
                assert not ask(database, "status")["daemon"]["is_paused"]
        finally:
            shutil.rmtree(given)


class TestHostileClients:
    def test_hostile_clients_do_not_stop_the_work(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        garbage = [b"\n", b"\xff\xfe\0\n", b"[]\n", b"[" * 60_000 + b"\n", b'{"version": 2}\n', b"null\n"]
        with DaemonProcess(tmp_path) as daemon, ExitStack() as stack:
            daemon.wait_until_ready()
            for line in garbage:
                assert answer_to(database, line)["error"]["code"] == "REQUEST"
            for request in ({"request": "drop"}, {"request": "retry"}, {"request": "wait", "timeout": -1}):
                assert answer_to(database, protocol.line_of(request))["error"]["code"] == "REQUEST"
            # A client that keeps sending may or may not receive the answer.
            with suppress(OSError, ValueError):
                found = answer_to(database, b"x" * 10_000_000)
                assert "longer than 65536 bytes" in found["error"]["message"]
            never_reads = stack.enter_context(connected(database))
            never_reads.sendall(protocol.line_of({"request": "wait", "timeout": 0}))
            for _ in range(100):
                stack.enter_context(connected(database))
            assert answer_to(database, protocol.line_of({"request": "status"}))["error"]["code"] == "BUSY"
            write_migration(migrations, 1)
            daemon.wait_for("migration.applied", version=1)
            stack.close()
            poll(lambda: ask(database, "status")["ok"], "a place free again")

            assert daemon.stop() == 0
        assert daemon.logged("daemon.paused") == []

    def test_number_of_waiting_clients_is_limited(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        write_migration(migrations, 1)
        with writer_holding(there), DaemonProcess(tmp_path) as daemon, ExitStack() as stack:
            daemon.wait_for("migration.applying")
            for _ in range(12):
                stack.enter_context(connected(there)).sendall(protocol.line_of({"request": "wait"}))
            poll(lambda: ask(there, "wait", timeout=0)["ok"] is False, "eight of them waiting")
            assert ask(there, "wait", timeout=0)["error"]["code"] == "BUSY"
            assert ask(there, "status")["ok"]
            stack.close()
            poll(lambda: ask(there, "wait", timeout=0)["ok"], "a place free again")


class TestStatus:
    def test_status_has_live_details_and_works_without_a_daemon(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, 'busy_timeout = "100ms"')
        write_migration(migrations, 1, "users")
        with DaemonProcess(tmp_path) as daemon, writer_holding(there):
            daemon.wait_until_ready()
            document = json.loads(migrated(tmp_path, "status", "--json").stdout)
            text = migrated(tmp_path, "status").stdout
            # Before the daemon can apply it.
            daemon.stop()
        (view,), (database,) = document["daemons"], document["databases"]
        live = database["daemon"]

        assert (view["pid"], view["program_version"], view["is_paused"]) == (daemon.pid, "0.1.0", False)
        assert view["config"] == str(tmp_path / "migrated.toml")
        assert [(each["directory"], each["backend"], each["lost"]) for each in view["directories"]] == [
            (str(migrations), "events", None)
        ]
        assert (live["pid"], live["state"], live["error"]["code"]) == (daemon.pid, "unavailable", "SQLITE_BUSY")
        assert 0 <= live["retry_in"] <= LONGEST_RETRY
        first, second = text.splitlines()[:2]
        assert first.startswith(f"# daemon 0.1.0, pid {daemon.pid}: up ")
        assert "0 of 1 databases current; 1 unavailable: app.db: " in first
        assert first.endswith(f"; {migrations} watched by events")
        assert second.startswith("# app.db: pending, 0 applied, 1 pending; daemon: unavailable since 20")
        without = json.loads(migrated(tmp_path, "status", "--json").stdout)
        assert without["daemons"] == []
        assert without["databases"] == [{**database, "daemon": None}]

    def test_status_does_not_wait_for_a_hung_daemon(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            daemon.send(signal.SIGSTOP)
            shown = migrated(tmp_path, "status")
            still = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0]
            daemon.send(signal.SIGCONT)

        assert (shown.returncode, shown.stdout.splitlines()[0]) == (0, "# app.db: current, 1 applied, 0 pending")
        assert "no live status from one daemon" in shown.stderr
        assert still == "T"

    def test_status_shows_the_running_migration(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        write_migration(migrations, 1, "users")
        with writer_holding(there), DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying")
            seen = ask(there, "status")

        running_now = seen["daemon"]["running"]
        assert (running_now["database"], running_now["version"]) == ("app.db", 1)
        assert running_now["text"] == "applying 1_users to app.db"
        assert seen["databases"][0]["state"] == "unknown"
        assert not seen["daemon"]["is_ready"]

    def test_status_shows_missing_and_invalid_directories(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            (migrations / "1_other.sql").write_text("SELECT 1;")
            daemon.wait_for("file.invalid")
            daemon.look()
            assert reported_state(database)["state"] == "blocked"
            assert "used by more than one file" in reported_state(database)["error"]["message"]
            shutil.rmtree(migrations)
            daemon.wait_for("watch.lost")
            (directory,) = ask(database, "status")["daemon"]["directories"]

        assert (directory["backend"], directory["lost"]) == (None, "No such file or directory")
        assert directory["seconds"] >= 0


class TestReload:
    def test_reload_has_succeeded_or_failed_when_the_command_returns(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, 'databases = ["app.db"]')
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            configure(tmp_path, 'databases = ["app.db", "b.db"]')
            assert migrated(tmp_path, "reload", "--wait").returncode == 0
            assert ask(there, "wait", databases=[str(tmp_path / "b.db")], timeout=DEADLINE)["current"]
            configure(tmp_path, 'databases = ["app.db"]\nspeed = 1')
            refused = migrated(tmp_path, "reload", "--wait")
            answer = ask(there, "reload", wait=True)
            daemon.wait_for("daemon.reload_failed")

            assert (refused.returncode, "speed" in refused.stderr) == (78, True)
            assert (answer["error"]["code"], "speed" in answer["error"]["message"]) == ("CONFIG", True)
            assert [each["database"] for each in ask(there, "status")["databases"]] == ["app.db", "b.db"]
            configure(tmp_path, 'databases = ["app.db"]')
            assert ask(there, "reload") == {"version": 1, "ok": True}
            daemon.wait_for("daemon.reloaded")

    def test_reload_fails_for_databases_of_another_daemon(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        (tmp_path / "other").mkdir()
        with DaemonProcess(tmp_path, "-d", "other/b.db") as other:
            other.wait_until_ready()
            configure(tmp_path, 'databases = ["app.db"]')
            with DaemonProcess(tmp_path) as daemon:
                daemon.wait_until_ready()
                configure(tmp_path, 'databases = ["app.db", "other/b.db"]')
                answer = ask(there, "reload", wait=True)

        assert answer["error"]["code"] == "LOCK_HELD"
        assert str(other.pid) in answer["error"]["message"]

    def test_daemon_is_found_by_its_configuration_file(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        given = tmp_path / "run"
        given.mkdir(mode=0o700)
        (tmp_path / "new").mkdir()
        variables = {"RUNTIME_DIRECTORY": str(given)}
        configure(tmp_path, 'databases = ["app.db"]')
        with DaemonProcess(tmp_path, variables=variables) as daemon:
            daemon.wait_until_ready()
            configure(tmp_path, 'databases = ["new/b.db"]')

            assert migrated(tmp_path, "reload", "--wait", **variables).returncode == 0
            assert ask(tmp_path / "new/b.db", "status")["daemon"]["pid"] == daemon.pid


class TestRetry:
    def test_retry_runs_at_once_and_returns_the_outcome(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, 'busy_timeout = "10ms"')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            with writer_holding(there):
                daemon.wait_until_ready()
                failing = migrated(tmp_path, "retry", "app.db")
                # Each failure doubles the back-off: by now it is between one and two minutes.
                answers = [ask(there, "retry", database="app.db") for _ in range(7)]
                before = everything(there)
            assert {answer["database"]["state"] for answer in answers} == {"unavailable"}
            assert reported_state(there)["retry_in"] > 30
            assert (failing.returncode, "app.db: unavailable: " in failing.stderr) == (6, True)
            assert everything(there) == before
            done = migrated(tmp_path, "retry", str(there))

            assert (done.returncode, applied_versions(there)) == (0, [1])

    def test_retry_of_an_unknown_database_is_declined(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            refused = migrated(tmp_path, "retry", "nix.db")

        assert refused.returncode == 6
        assert f"does not manage {tmp_path / 'nix.db'}" in refused.stderr


class TestPause:
    def test_paused_daemon_applies_nothing_until_resumed(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        configure(tmp_path, top='resync_interval = "50ms"')
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            assert migrated(tmp_path, "pause").returncode == 0
            assert ask(there, "pause")["ok"]
            daemon.wait_for("daemon.paused")
            while not daemon.wait_for_notice("STATUS")["STATUS"].startswith("paused; "):
                pass
            write_migration(migrations, 1)
            daemon.send(signal.SIGUSR1)
            waited = ask(there, "wait", timeout=0.5)
            assert (waited["current"], waited["missing"][0]) == (False, "the daemon is paused")
            assert ask(there, "retry", database="app.db")["error"]["code"] == "PAUSED"
            assert applied_versions(there) == []
            assert migrated(tmp_path, "resume").returncode == 0
            daemon.wait_for_all({"event": "daemon.resumed"}, {"event": "migration.applied", "version": 1})

            assert ask(there, "resume")["ok"]
            assert daemon.stop() == 0
        assert [len(daemon.logged(f"daemon.{event}")) for event in ("paused", "resumed")] == [1, 1]

    def test_pause_finishes_the_running_migration_and_begins_no_other(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1, up=LONG)
        write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            assert ask(there, "pause")["ok"]
            assert applied_versions(there) == [1]
            assert (reported_state(there)["state"], reported_state(there)["pending"]) == ("pending", 1)
            # The daemon is ready only when every database was visited.
            daemon.pass_over_notices()
            assert [notice for notice in daemon.notices if "READY" in notice] == []
            ask(there, "resume")
            daemon.wait_until_ready()

            assert applied_versions(there) == [1, 2]
            assert reported_state(there)["state"] == "current"

    def test_pause_cancels_waiting_for_a_lock_without_an_error(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            with writer_holding(there):
                daemon.wait_for("migration.applying", version=1)
                assert ask(there, "pause")["ok"]
                assert reported_state(there)["state"] == "unknown"
            ask(there, "resume")
            daemon.wait_for("migration.applied")
            daemon.stop()

        assert daemon.logged("database.unavailable") == []


class TestWait:
    def test_wait_returns_when_all_databases_are_current(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1)
        command = (*PROGRAM, "wait", "--timeout", "30s")
        with writer_holding(there) as release, DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying")
            with running(*command, cwd=tmp_path) as waiting:
                poll(lambda: connections(socket_of(there)) > 1, "it asks the daemon")
                assert waiting.poll() is None
                release()

                assert waiting.wait(DEADLINE) == 0
        assert applied_versions(there) == [1]

    def test_wait_lists_what_is_missing_at_its_timeout(
        self, tmp_path: Path, migrations: Path, there: Path
    ) -> None:
        write_migration(migrations, 1, up="INSERT INTO nowhere VALUES (1);")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            waited = migrated(tmp_path, "wait", "--timeout", "200ms")
            answer = ask(there, "wait", timeout=0.1)

        assert (waited.returncode, waited.stderr) == (3, "migrated: error: app.db: 1 pending\n")
        assert answer["missing"] == ["app.db: blocked: no such table: nowhere"]

    def test_wait_survives_the_end_of_the_daemon(self, tmp_path: Path, migrations: Path, there: Path) -> None:
        write_migration(migrations, 1)
        with writer_holding(there), DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying")
            with running(*PROGRAM, "wait", "--timeout", "30s", cwd=tmp_path) as waiting:
                poll(lambda: connections(socket_of(there)) > 1, "it asks the daemon")
                daemon.kill()
                assert waiting.poll() is None
                write_migration(migrations, 1, up="-- nothing any more")

                assert waiting.wait(DEADLINE) == 0


def connections(path: Path) -> int:
    """Count the kernel's sockets with this name: the listening one, and one for each connection."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    # The socket is bound under a temporary name, and the kernel keeps showing that one.
    return sum(line.endswith(f"/.{path.name}") for line in lines)


@pytest.mark.parametrize("command", [["reload"], ["retry", "app.db"], ["pause"], ["resume"]], ids=str)
@pytest.mark.parametrize("has_note", [False, True])
def test_command_without_a_daemon_fails_with_a_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    has_note: bool,  # noqa: FBT001 - a parameter
) -> None:
    if has_note:
        lock = lock_path(str(tmp_path / "app.db"), DAEMON)
        lock.parent.mkdir()
        lock.write_text(json.dumps({"socket": str(tmp_path / "gone.sock")}))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)

    assert main(command) == 3
    assert "no daemon that manages" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
