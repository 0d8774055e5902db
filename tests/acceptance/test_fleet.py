"""Fleets: many databases, one per tenant, each handled independently."""

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue

import pytest
from daemon_process import (
    BOUND_BY_PERMISSIONS,
    DEADLINE,
    DaemonProcess,
    log_lines,
    migrated,
    poll,
    require,
    writer_holding,
)
from support import applied_versions, everything, execute, put_file, query, write_migration
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

CONFIGURATION = """
settle = "20ms"
resync_interval = "{resync}"
[[target]]
databases = ["tenants/*.db"]
{more}
"""
SHORT, LONG = "100ms", "1h"
QUICKLY = 'snapshots = { when = "never" }'


def fleet(home: Path, size: int, *, resync: str = LONG, more: str = "", migrations: int = 2) -> list[Path]:
    """Create a directory of empty tenants, their migrations and the configuration."""
    (home / "tenants").mkdir()
    (home / "migrations").mkdir()
    for version in range(1, migrations + 1):
        write_migration(home / "migrations", version)
    (home / "migrated.toml").write_text(CONFIGURATION.format(resync=resync, more=more))
    databases = [home / "tenants" / f"t{number:04}.db" for number in range(size)]
    for database in databases:
        database.touch()
    return databases


def fill(home: Path, databases: Iterable[Path]) -> None:
    """Migrate one database and copy it over the others, which is much faster than migrating each."""
    first, *others = databases
    done = migrated(home, "up", "-d", first)
    assert done.returncode == 0, done.stderr
    for other in others:
        shutil.copyfile(first, other)


def versions(databases: Iterable[Path]) -> Counter[tuple[object, ...]]:
    """Count databases by their applied versions."""
    return Counter(tuple(applied_versions(database)) for database in databases)


class TestHalt:
    def test_rollout_is_halted_and_resumed(self, tmp_path: Path) -> None:
        """A failing migration reaches one of 200 databases, one more after resume, none after the fix."""
        databases = fleet(tmp_path, 200)
        fill(tmp_path, databases)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(
                tmp_path / "migrations", 3, "bad", up="CREATE TABLE t3 (x); INSERT INTO nowhere VALUES (1);"
            )
            halted = daemon.wait_for("fleet.halted")
            daemon.wait_for("fleet.finished", blocked=200, current=0)

            assert (halted["databases"], halted["blocked"], halted["untouched"]) == (200, 1, 199)
            assert (halted["version"], halted["level"]) == (3, "error")
            assert versions(databases) == {(1, 2): 200}
            assert not query(databases[0], "SELECT 1 FROM sqlite_schema WHERE name = 't3'")
            daemon.look()
            failed = {str(line["database"]) for line in daemon.logged("migration.failed")}
            assert failed == {"tenants/t0000.db"}

            assert migrated(tmp_path, "resume").returncode == 0
            daemon.wait_for("fleet.resumed")
            again = daemon.wait_for("fleet.halted")
            assert (again["blocked"], again["untouched"]) == (1, 198)
            daemon.wait_for("fleet.finished")
            assert versions(databases) == {(1, 2): 200}

            write_migration(tmp_path / "migrations", 3, "bad", up="CREATE TABLE t3 (x);")
            daemon.wait_for("fleet.resumed")
            finished = daemon.wait_for("fleet.finished")
            assert (finished["current"], finished["blocked"], finished["applied"]) == (200, 0, 200)
            assert versions(databases) == {(1, 2, 3): 200}
            assert daemon.stop() == 0
        assert len(daemon.logged("migration.failed")) == 2
        assert len(daemon.logged("run.finished", outcome="applied")) == 200

    def test_failure_of_one_database_does_not_stop_a_resumed_rollout(self, tmp_path: Path) -> None:
        """After `migrated resume` the rollout skips it, and it does not halt the rollout of the next migration."""
        databases = fleet(tmp_path, 30)
        fill(tmp_path, databases)
        execute(databases[0], "CREATE TABLE t3 (theirs)")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(tmp_path / "migrations", 3)
            daemon.wait_for("fleet.halted", untouched=29)
            migrated(tmp_path, "resume")
            daemon.wait_for("fleet.finished", current=29, blocked=1)
            write_migration(tmp_path / "migrations", 4)
            daemon.wait_for("fleet.finished", current=29, blocked=1)

            assert versions(databases) == {(1, 2): 1, (1, 2, 3, 4): 29}
            daemon.stop()
        assert len(daemon.logged("fleet.halted")) == 1

    def test_new_database_is_not_touched_by_a_halted_rollout(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 20)
        fill(tmp_path, databases)
        write_migration(tmp_path / "migrations", 3, up="BROKEN;")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("daemon.ready", blocked=20)
            shutil.copyfile(databases[1], tmp_path / "tenants" / "new.db")
            daemon.look()
            (new,) = json.loads(migrated(tmp_path, "status", "--json", "-d", "tenants/new.db").stdout)["databases"]

            assert new["daemon"]["state"] == "blocked"
            assert new["daemon"]["error"]["message"].startswith("rollout halted: 3_change failed in 1 of 21")
            assert versions([tmp_path / "tenants" / "new.db"]) == {(1, 2): 1}

    def test_busy_database_is_not_touched_by_a_halted_rollout(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 20)
        fill(tmp_path, databases)
        execute(databases[1], "CREATE TABLE t3 (theirs)")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            with writer_holding(databases[0]):
                write_migration(tmp_path / "migrations", 3)
                daemon.wait_for("fleet.halted", untouched=18)
                daemon.wait_for("fleet.finished")
            daemon.pass_over_notices()
            # Retried by its own back-off.
            daemon.wait_for_notice("X_MIGRATED_PASS")

            assert versions(databases) == {(1, 2): 20}

    def test_retry_works_during_a_halted_rollout(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 20)
        fill(tmp_path, databases)
        execute(databases[0], "CREATE TABLE t3 (theirs)")
        write_migration(tmp_path / "migrations", 3)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("daemon.ready", blocked=20)

            assert migrated(tmp_path, "retry", "tenants/t0007.db").returncode == 0
            assert versions(databases) == {(1, 2): 19, (1, 2, 3): 1}

    def test_up_halts_after_a_failed_wave(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 50)
        fill(tmp_path, databases)
        execute(databases[0], "CREATE TABLE t3 (theirs)")
        write_migration(tmp_path / "migrations", 3)

        done = migrated(tmp_path, "up")

        lines = log_lines(done.stderr)
        assert done.returncode == 1
        assert versions(databases) == {(1, 2): 50}
        assert [(line["blocked"], line["untouched"]) for line in lines if line["event"] == "fleet.halted"] == [
            (1, 49)
        ]
        assert lines[-1]["event"] == "fleet.finished"
        assert (lines[-1]["current"], lines[-1]["blocked"], lines[-1]["untouched"]) == (0, 1, 49)

    @pytest.mark.parametrize(
        ("options", "more"),
        [
            pytest.param(["--no-waves"], "", id="option"),
            pytest.param([], "waves = []", id="configuration"),
        ],
    )
    def test_up_without_waves_tries_every_database(self, tmp_path: Path, options: list[str], more: str) -> None:
        databases = fleet(tmp_path, 50, more=more)
        fill(tmp_path, databases)
        for database in databases[:5]:
            execute(database, "CREATE TABLE t3 (theirs)")
        write_migration(tmp_path / "migrations", 3)

        done = migrated(tmp_path, "up", *options)

        finished = log_lines(done.stderr)[-1]
        assert done.returncode == 1
        assert versions(databases) == {(1, 2): 5, (1, 2, 3): 45}
        assert (finished["current"], finished["blocked"], finished.get("untouched")) == (45, 5, None)

    def test_failure_in_the_second_wave_leaves_the_first_wave_migrated(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 50, more="workers = 1\n")
        (tmp_path / "migrated.toml").write_text('workers = 1\n[[target]]\ndatabases = ["tenants/*.db"]\n')
        fill(tmp_path, databases)
        for database in databases[1:4]:
            execute(database, "CREATE TABLE t3 (theirs)")
        write_migration(tmp_path / "migrations", 3)

        done = migrated(tmp_path, "up")

        # The second failure of its ten is more than one in a hundred.
        assert done.returncode == 1
        assert versions(databases) == {(1, 2): 49, (1, 2, 3): 1}
        assert len([line for line in log_lines(done.stderr) if line["event"] == "migration.failed"]) == 2


class TestOneLine:
    """Failures with one cause are logged together."""

    def test_daemon_logs_a_shared_failure_in_few_lines(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 100)
        fill(tmp_path, databases)
        before = (tmp_path / "migrations" / "1_change.sql").read_text()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(tmp_path / "migrations", 1, up="CREATE TABLE another (id);")
            others = daemon.wait_for("database.blocked", databases=97)
            assert (others["level"], others["error"]["type"]) == ("error", "ChecksumMismatchError")
            daemon.wait_for("fleet.finished", blocked=100, current=0)
            put_file(tmp_path / "migrations", "1_change.sql", before)
            daemon.wait_for("database.unblocked", databases=97)
            daemon.wait_for("fleet.finished", blocked=0, current=100)
            daemon.stop()

        assert Counter(line["event"] for line in daemon.lines if line.get("run_id"))["checksum.mismatch"] == 3
        assert len(daemon.logged("database.blocked")) == 4
        assert len(daemon.logged("database.unblocked")) == 4
        assert len(daemon.lines) < 60

    def test_up_logs_a_shared_failure_in_few_lines(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 100)
        fill(tmp_path, databases)
        write_migration(tmp_path / "migrations", 1, up="CREATE TABLE another (id);")

        done = migrated(tmp_path, "up")

        events = Counter(line["event"] for line in log_lines(done.stderr))
        assert done.returncode == 4
        assert events == {
            "checksum.mismatch": 3,
            "database.blocked": 4,
            "run.finished": 3,
            "fleet.finished": 1,
        }

    def test_each_changed_database_has_one_log_line(self, tmp_path: Path) -> None:
        fleet(tmp_path, 40)

        done = migrated(tmp_path, "up")

        lines = log_lines(done.stderr)
        events = Counter(line["event"] for line in lines)
        assert done.returncode == 0
        assert events["run.finished"] == 40
        # Every step in the first database is logged, as for a single database.
        assert {line["database"] for line in lines if line["event"] == "migration.applied"} == {"tenants/t0000.db"}

    def test_debug_level_logs_every_step(self, tmp_path: Path) -> None:
        fleet(tmp_path, 15)

        done = migrated(tmp_path, "up", "--log-level", "debug")

        applied = [line for line in log_lines(done.stderr) if line["event"] == "migration.applied"]
        assert len(applied) == 30


class TestDiscovery:
    def test_new_files_are_migrated_and_deleted_ones_forgotten(self, tmp_path: Path) -> None:
        databases = fleet(tmp_path, 3, resync=SHORT)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("daemon.ready", databases=3, current=3)
            new = tmp_path / "tenants" / "new.db"
            execute(new, "CREATE TABLE theirs (x)")
            daemon.wait_for("database.discovered", database="tenants/new.db")
            daemon.wait_for("run.finished", database="tenants/new.db", outcome="applied")
            assert applied_versions(new) == [1, 2]
            databases[0].unlink()
            write_migration(tmp_path / "migrations", 3)
            finished = daemon.wait_for("fleet.finished", applied=3)

            assert (finished["databases"], finished["current"]) == (3, 3)
            assert not databases[0].exists()
            daemon.stop()
        assert [line for line in daemon.lines if line["level"] == "error"] == []

    def test_new_ones_have_the_latest_migrations_at_once(self, tmp_path: Path) -> None:
        """What they are copied from is no older than the pass."""
        databases = fleet(tmp_path, 4)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("daemon.ready", databases=4, current=4)
            new = [tmp_path / "tenants" / f"new{number}.db" for number in range(3)]
            for database in new:
                database.touch()
            write_migration(tmp_path / "migrations", 3)
            daemon.wait_for("fleet.finished", databases=7, current=7)
            daemon.kill()

        assert versions([*databases, *new]) == {(1, 2, 3): 7}

    def test_file_that_is_not_a_database_is_reported_once_and_unchanged(self, tmp_path: Path) -> None:
        fleet(tmp_path, 2)
        text = tmp_path / "tenants" / "notes.db"
        text.write_text("not a database at all, but a text that is long enough\n" * 100)
        for name in ("t0000.db-wal", "t0000.db-shm", "t0000.db-journal"):
            (tmp_path / "tenants" / name).touch()
        before = text.read_bytes()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("daemon.ready", databases=3, current=2, unavailable=1)
            for _ in range(3):
                daemon.look()
            daemon.stop()

        told = daemon.logged("database.unavailable")
        assert [(line["database"], line["error"]["code"]) for line in told] == [
            ("tenants/notes.db", "SQLITE_NOTADB")
        ]
        assert text.read_bytes() == before

    @pytest.mark.parametrize(("create", "applied"), [("true", [1, 2]), ("false", [])], ids=["create", "no create"])
    def test_empty_file_becomes_a_database_only_if_create_is_set(
        self, tmp_path: Path, create: str, applied: list[object]
    ) -> None:
        (database,) = fleet(tmp_path, 1, more=f"create = {create}")

        done = migrated(tmp_path, "up")

        assert done.returncode == (0 if applied else 6)
        assert applied_versions(database) == applied
        assert bool(database.stat().st_size) is bool(applied)


class _Opened(FileSystemEventHandler):
    """Records the names of opened files."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.heard: SimpleQueue[str] = SimpleQueue()

    def dispatch(self, event: FileSystemEvent) -> None:
        if not event.is_directory and event.event_type in {"opened", "created", "modified"}:
            name = Path(os.fsdecode(event.src_path)).name
            self.names.add(name)
            self.heard.put(name)


def test_unchanged_databases_are_not_opened(tmp_path: Path) -> None:
    databases = fleet(tmp_path, 12)
    fill(tmp_path, databases)
    execute(databases[3], "UPDATE _migrations SET checksum = 'x'")
    long_ago = time.time() - 60
    for path in [*databases, *(tmp_path / "migrations").iterdir()]:
        os.utime(path, (long_ago, long_ago))
    # The change time (ctime) of a file cannot be set: recently changed files are read again.
    poll(
        lambda: time.time() - max(path.stat().st_ctime for path in (tmp_path / "migrations").iterdir()) > 2, "rest"
    )
    opened = _Opened()
    observer = Observer()
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_for("daemon.ready", current=11, blocked=1)
        daemon.look()
        observer.schedule(opened, str(tmp_path / "tenants"), recursive=False)
        observer.schedule(opened, str(tmp_path / "migrations"), recursive=False)
        observer.start()
        try:
            for _ in range(3):
                daemon.look()
            execute(databases[5], "CREATE TABLE theirs (x)")
            daemon.look()
            (tmp_path / "tenants" / "last").touch()
            while opened.heard.get(timeout=DEADLINE) != "last":
                pass
        finally:
            observer.stop()
            observer.join()

    assert opened.names == {"t0005.db", "t0005.db-journal", "last"}


def test_busy_database_does_not_delay_the_others(tmp_path: Path) -> None:
    databases = fleet(tmp_path, 30)
    fill(tmp_path, databases)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        with writer_holding(databases[0]):
            write_migration(tmp_path / "migrations", 3)
            daemon.wait_for("fleet.finished", current=29, unavailable=1)
            assert versions(databases) == {(1, 2): 1, (1, 2, 3): 29}
        daemon.wait_for("database.recovered", database="tenants/t0000.db")
        assert versions(databases) == {(1, 2, 3): 30}


def test_up_visits_a_busy_database_again(tmp_path: Path) -> None:
    databases = fleet(tmp_path, 30, more='busy_timeout = "10m"')
    fill(tmp_path, databases)
    write_migration(tmp_path / "migrations", 3)
    with writer_holding(databases[4]) as release, DaemonProcess(tmp_path, command="up") as up:
        poll(lambda: versions(databases)[1, 2, 3] == 29, "all others have it")
        release()

        assert up.wait() == 0
    assert versions(databases) == {(1, 2, 3): 30}
    assert up.lines[-1]["current"] == 30


def test_every_database_gets_its_own_random_values(tmp_path: Path) -> None:
    databases = fleet(tmp_path, 12)
    write_migration(
        tmp_path / "migrations",
        3,
        up="CREATE TABLE tenant (id TEXT); INSERT INTO tenant VALUES (hex(randomblob(16)));",
    )

    assert migrated(tmp_path, "up").returncode == 0
    assert len({query(database, "SELECT id FROM tenant")[0] for database in databases}) == 12


class TestStoppedMigration:
    """One database has the ledger of the others; only its history shows a stopped migration."""

    STOPPED = 3

    @pytest.fixture
    def databases(self, tmp_path: Path) -> list[Path]:
        databases = fleet(tmp_path, 6, migrations=1)
        fill(tmp_path, databases)
        for database in databases:
            execute(database, "CREATE TABLE runs (x)")
        stopped = databases[self.STOPPED]
        execute(stopped, "CREATE TABLE t2 (theirs)")
        statements = "INSERT INTO runs VALUES ('first');\nCREATE TABLE t2 (x);"
        write_migration(tmp_path / "migrations", 2, up=f"-- migrated: no-transaction\n{statements}")
        assert migrated(tmp_path, "up", "-d", stopped).returncode == 1
        assert query(stopped, "SELECT * FROM runs") == [("first",)]
        return databases

    def test_up_refuses_a_stopped_migration_and_repeats_no_statement(
        self, tmp_path: Path, databases: list[Path]
    ) -> None:
        before = everything(databases[self.STOPPED])

        done = migrated(tmp_path, "up")

        refused = [line["database"] for line in log_lines(done.stderr) if line["event"] == "database.blocked"]
        assert (done.returncode, refused) == (4, ["tenants/t0003.db"])
        assert everything(databases[self.STOPPED]) == before
        assert versions(databases) == {(1,): 1, (1, 2): 5}

    @pytest.mark.usefixtures("databases")
    def test_status_shows_a_stopped_migration_as_blocked(self, tmp_path: Path) -> None:
        shown = json.loads(migrated(tmp_path, "status", "--json").stdout)["databases"]

        assert [each["state"] for each in shown] == ["pending"] * 3 + ["blocked"] + ["pending"] * 2


@pytest.mark.parametrize("size", [300, pytest.param(2000, marks=pytest.mark.long)])
class TestLargeFleet:
    """A fleet with every kind of special database."""

    def test_each_database_is_handled_independently(self, tmp_path: Path, size: int) -> None:
        require(BOUND_BY_PERMISSIONS)
        databases = fleet(tmp_path, size, more=QUICKLY)
        fill(tmp_path, databases)
        locked, corrupt, read_only, changed, vanishing = (databases[number] for number in (50, 51, 52, 53, -1))
        with corrupt.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 3000)
        read_only.chmod(0o444)
        execute(changed, "UPDATE _migrations SET checksum = 'x' WHERE version = 2")
        (tmp_path / "tenants" / "directory.db").mkdir()
        appearing = tmp_path / "tenants" / "appearing.db"
        with writer_holding(locked), DaemonProcess(tmp_path, wrapper=BOUND_BY_PERMISSIONS) as daemon:
            daemon.wait_until_ready()
            write_migration(tmp_path / "migrations", 3)
            daemon.wait_for("run.finished", outcome="applied")
            # During the pass.
            appearing.touch()
            vanishing.unlink()
            daemon.wait_for("fleet.finished")
            daemon.look()
            odd = {locked, corrupt, read_only, changed, vanishing}
            well = [database for database in [*databases, appearing] if database not in odd]

            assert versions(well) == {(1, 2, 3): len(well)}
            assert versions([locked, read_only, changed]) == {(1, 2): 3}
            assert not vanishing.exists()
            daemon.send(signal.SIGTERM)
            daemon.wait()
        unavailable = {line["database"]: line["error"]["code"] for line in daemon.logged("database.unavailable")}
        assert unavailable == {
            "tenants/t0050.db": "SQLITE_BUSY",
            "tenants/t0051.db": unavailable["tenants/t0051.db"],
            "tenants/t0052.db": "READ_ONLY",
        }
        assert unavailable["tenants/t0051.db"] in {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
        assert {line["database"] for line in daemon.logged("database.blocked")} == {"tenants/t0053.db"}
        assert {line["database"] for line in daemon.logged("checksum.mismatch")} == {"tenants/t0053.db"}
        assert daemon.logged("fleet.halted") == []
        last = daemon.logged("fleet.finished")[-1]
        assert (last["databases"], last["current"], last["blocked"], last["unavailable"]) == (
            size,
            size - 4,
            1,
            3,
        )

    def test_killed_daemon_is_restarted_and_finishes_the_fleet(self, tmp_path: Path, size: int) -> None:
        databases = fleet(tmp_path, size, more=QUICKLY)
        fill(tmp_path, databases[: size // 2])
        write_migration(tmp_path / "migrations", 3)
        with DaemonProcess(tmp_path) as daemon:
            for _ in range(size // 4):
                daemon.wait_for("run.finished", outcome="applied")
            daemon.kill()
        after = versions(databases)
        assert after.keys() <= {(), (1, 2), (1, 2, 3)}
        assert size // 4 <= after[1, 2, 3] < size

        with DaemonProcess(tmp_path) as daemon:
            ready = daemon.wait_for("daemon.ready")
            assert (ready["databases"], ready["current"]) == (size, size)
            assert daemon.stop() == 0
        assert versions(databases) == {(1, 2, 3): size}
        assert len(daemon.logged("run.finished", outcome="applied")) == size - after[1, 2, 3]
        assert [query(database, "PRAGMA quick_check") for database in databases[::20]] == [[("ok",)]] * (
            size // 20
        )
