"""`migrated run` as a real process: what it applies, refuses, logs and survives."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from daemon_process import (
    DEADLINE,
    DaemonProcess,
    bring_up,
    environment,
    migrated,
    poll,
    running,
    ticks,
    writer_holding,
)
from filelock import FileLock
from support import (
    PROGRAM,
    applied_versions,
    checksum,
    everything,
    execute,
    put_file,
    query,
    schema,
    write_migration,
)

LEVELS = {"debug", "info", "warning", "error", "critical"}
# About a second of work inside one statement.
LONG = """
CREATE TABLE counted AS
WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000000) SELECT count(*) AS n FROM c;
"""
TWO_STATEMENTS = "CREATE TABLE first (id INTEGER);\nCREATE TABLE second (id INTEGER);\n"
SLOW_WRITER = """
import sys
with open(sys.argv[1], "w") as file:
    for line in sys.stdin:
        file.write(line)
        file.flush()
        print("written", flush=True)
"""


def configure(directory: Path, *targets: str, top: str = "") -> None:
    """Write a configuration file. Each target is a text of lines, combined with `migrations`."""
    text = "".join(f"[[target]]\n{target}\n" for target in targets)
    (directory / "migrated.toml").write_text(f"{top}\n{text}")


def rewrite(path: Path, text: str) -> None:
    put_file(path.parent, path.name, text)


def times_applied(database: Path, version: int) -> int:
    """Return how often a migration was ever applied, according to the history."""
    return len(query(database, "SELECT 1 FROM _migrations_history WHERE version = ?", version))


def tables(database: Path) -> list[object]:
    return [row[1] for row in schema(database) if row[0] == "table"]


class TestStart:
    def test_all_migrations_are_applied_before_ready(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1, up="CREATE TABLE one (id);")
        write_migration(migrations, 2, "second")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()

            assert query(database, "SELECT version, name, checksum FROM _migrations") == [
                (1, "change", checksum("CREATE TABLE one (id);")),
                (2, "second", checksum("CREATE TABLE t2 (id INTEGER PRIMARY KEY);")),
            ]
            assert daemon.stop() == 0
        event_names = [line["event"] for line in daemon.lines]
        in_order = [
            "daemon.starting",
            "config.loaded",
            "watch.started",
            "migration.applying",
            "migration.applied",
            "daemon.ready",
            "daemon.stopping",
            "daemon.stopped",
        ]
        assert [event_names.index(event) for event in in_order] == sorted(
            event_names.index(event) for event in in_order
        )
        assert event_names[0] == "daemon.starting"
        assert event_names[-1] == "daemon.stopped"
        assert [line["version"] for line in daemon.logged("migration.applied")] == [1, 2]
        assert len(daemon.logged("database.created", database="app.db")) == 1
        (finished,) = daemon.logged("run.finished")
        assert (finished["applied"], finished["pending"], finished["outcome"]) == (2, 0, "applied")
        assert isinstance(finished["execution_time_ms"], int)

    def test_every_line_has_the_fixed_keys(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1)
        write_migration(migrations, 2, up="INSERT INTO nowhere VALUES (1);")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready().stop()

        for line in daemon.lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
            assert line["level"] in LEVELS
            assert re.fullmatch(r"[a-z]+\.[a-z_]+", line["event"])
            assert line["message"]
            assert (line["service"], line["pid"]) == ("migrated", daemon.pid)
            assert None not in line.values()
        (run_id,) = {line["run_id"] for line in daemon.lines if line["event"].startswith(("migration.", "run."))}
        assert isinstance(run_id, str)

    def test_current_database_is_not_written(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        write_migration(migrations, 1)
        bring_up(tmp_path)
        before = database.read_bytes()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready().stop()

        assert database.read_bytes() == before
        assert daemon.logged("migration.applying") == []
        assert daemon.logged("run.finished") == []


def copied(source: Path, place: Path) -> None:
    shutil.copy(source, place)


def renamed(source: Path, place: Path) -> None:
    source.rename(place)


def hard_linked(source: Path, place: Path) -> None:
    place.hardlink_to(source)


def symlinked(source: Path, place: Path) -> None:
    place.symlink_to(source)


class TestNewFile:
    @pytest.mark.parametrize("arrive", [copied, renamed, hard_linked, symlinked], ids=lambda way: way.__name__)
    def test_new_file_is_applied_once_and_completely(
        self, tmp_path: Path, migrations: Path, database: Path, arrive: Callable[[Path, Path], None]
    ) -> None:
        source = tmp_path / "source.txt"
        source.write_text(TWO_STATEMENTS)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            arrive(source, migrations / "1_two.sql")
            daemon.wait_for("migration.applied", version=1, name="two", database="app.db")
            daemon.look()

            assert tables(database) == ["first", "second"]
            assert times_applied(database, 1) == 1

    def test_file_is_not_applied_while_its_writer_pauses(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        pipe = subprocess.PIPE
        place = migrations / "1_slow.sql"
        with (
            DaemonProcess(tmp_path) as daemon,
            running(sys.executable, "-c", SLOW_WRITER, place, cwd=tmp_path, stdin=pipe, stdout=pipe) as writer,
        ):
            daemon.wait_until_ready()
            assert writer.stdin is not None
            assert writer.stdout is not None
            for line in TWO_STATEMENTS.splitlines(keepends=True):
                writer.stdin.write(line)
                writer.stdin.flush()
                assert writer.stdout.readline() == "written\n"
                daemon.look()
                assert applied_versions(database) == []
            writer.communicate(timeout=DEADLINE)
            daemon.wait_for("migration.applied", version=1)
            daemon.look()

            assert tables(database) == ["first", "second"]
            assert query(database, "SELECT checksum FROM _migrations") == [(checksum(TWO_STATEMENTS.strip()),)]
            assert times_applied(database, 1) == 1

    def test_draft_and_misnamed_file_are_logged_once(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1, "idea", up="-- later")
            assert daemon.wait_for("file.draft")["file"].endswith("/1_idea.sql")
            put_file(migrations, "notes.sql", "SELECT 1;")
            ignored = daemon.wait_for("file.ignored")
            assert ignored["file"].endswith("/notes.sql")
            assert "<version>_<name>.sql" in ignored["reason"]
            put_file(migrations, ".hidden.sql", "SELECT 1;")
            put_file(migrations, "1_idea.sql.swp", "SELECT 1;")
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)
            daemon.look()
            assert applied_versions(database) == [2]
            write_migration(migrations, 1, "idea")
            daemon.wait_for("migration.applied", version=1)
            daemon.stop()

        assert len(daemon.logged("file.draft")) == 1
        assert len(daemon.logged("file.ignored")) == 1


class TestEditedFile:
    def test_edited_file_is_refused_until_the_edit_is_undone(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        edited = write_migration(migrations, 1)
        write_migration(migrations, 2)
        original = edited.read_text()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            before = everything(database)
            rewrite(edited, "-- UP\nCREATE TABLE other (id);\n")
            # The next regular pass is 30 s away: only the file event can have caused this one in time.
            mismatch = daemon.wait_for("checksum.mismatch", version=1, name="change", database="app.db")
            assert mismatch["expected"] == checksum("CREATE TABLE t1 (id INTEGER PRIMARY KEY);")
            assert mismatch["found"] == checksum("CREATE TABLE other (id);")
            assert mismatch["file"].endswith("/1_change.sql")
            blocked = daemon.wait_for("database.blocked", database="app.db")
            assert "1_change" in blocked["reason"]
            assert blocked["hint"]
            assert daemon.wait_for("run.finished")["outcome"] == "refused"
            write_migration(migrations, 3)
            daemon.look()

            assert everything(database) == before
            status = migrated(tmp_path, "status", "--exit-code")
            assert re.search(r"^1\tchange\t.*\tchanged$", status.stdout, re.MULTILINE)
            assert re.search(r"^2\tchange\t.*\tapplied$", status.stdout, re.MULTILINE)
            assert status.returncode == 4

            rewrite(edited, original)
            daemon.wait_for_all(
                {"event": "migration.applied", "version": 3}, {"event": "database.unblocked", "database": "app.db"}
            )
            daemon.stop()
        assert applied_versions(database) == [1, 2, 3]
        assert len(daemon.logged("checksum.mismatch")) == 1

    def test_refusal_is_logged_again_after_a_restart(self, tmp_path: Path, migrations: Path) -> None:
        edited = write_migration(migrations, 1)
        bring_up(tmp_path)
        edited.write_text("CREATE TABLE other (id);")
        write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("checksum.mismatch", version=1)
            daemon.wait_for("database.blocked")
            daemon.wait_for("daemon.ready")

            assert applied_versions(tmp_path / "app.db") == [1]

    def test_edited_down_section_is_no_change(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        write_migration(migrations, 1, down="DROP TABLE t1;")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1, down="DROP TABLE IF EXISTS t1;")
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)


class TestBadFile:
    def test_failing_migration_is_undone_and_not_retried_until_fixed(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 1, up="CREATE TABLE a (id);\n\nSELECT nowhere FROM a;")
            failed = daemon.wait_for("migration.failed", version=1, database="app.db")
            assert failed["file"].endswith("/1_change.sql")
            assert (failed["line"], failed["column"]) == (4, 8)
            assert failed["statement"] == "SELECT nowhere FROM a;"
            assert "nowhere" in failed["reason"]
            assert failed["error"].keys() == {"type", "message", "code"}
            blocked = daemon.wait_for("database.blocked", database="app.db")
            assert "nowhere" in blocked["reason"]
            assert daemon.wait_for("run.finished")["outcome"] == "failed"
            # Longer than the first retry delays, so that a wrong retry would have happened.
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                daemon.look()
            assert schema(database) == []
            assert applied_versions(database) == []
            write_migration(migrations, 1, up="CREATE TABLE a (id);")
            daemon.wait_for_all({"event": "migration.applied", "version": 1}, {"event": "database.unblocked"})
            daemon.stop()

        assert len(daemon.logged("migration.applying")) == 2
        assert len(daemon.logged("migration.failed")) == 1

    def test_migrations_before_the_failure_stay_and_later_ones_wait(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        write_migration(migrations, 2, up="NOT SQL;")
        write_migration(migrations, 3)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.failed", version=2)
            daemon.wait_until_ready()

            assert applied_versions(database) == [1]
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=3)
        assert applied_versions(database) == [1, 2, 3]

    def test_invalid_file_blocks_its_whole_directory(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            put_file(migrations, "2_b.sql", "-- Version: 3\n-- UP\nCREATE TABLE b (id);\n")
            invalid = daemon.wait_for("file.invalid", version=2)
            assert invalid["file"].endswith("/2_b.sql")
            assert invalid["line"] == 1
            assert "3" in invalid["reason"]
            assert invalid["hint"]
            write_migration(migrations, 1)
            daemon.look()
            assert not database.exists()
            put_file(migrations, "2_b.sql", "-- Version: 2\n-- UP\nCREATE TABLE b (id);\n")
            daemon.wait_for("migration.applied", version=1)
            daemon.wait_for("migration.applied", version=2)
            daemon.stop()

        assert len(daemon.logged("file.invalid")) == 1

    def test_two_files_of_one_version_block_their_directory(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, "7", "a")
        write_migration(migrations, "007", "b")
        with DaemonProcess(tmp_path) as daemon:
            reason = daemon.wait_for("file.invalid", version=7)["reason"]
            assert "7_a.sql" in reason
            assert "007_b.sql" in reason
            daemon.wait_until_ready()
            assert not database.exists()
            (migrations / "007_b.sql").unlink()
            daemon.wait_for("migration.applied", version=7, name="a")


class TestSeveralDatabases:
    @pytest.mark.parametrize("problem", ["a failing migration", "a file that is no database"])
    def test_broken_database_does_not_stop_the_others(
        self, tmp_path: Path, migrations: Path, problem: str
    ) -> None:
        configure(tmp_path, 'databases = ["a.db", "b.db", "c.db"]')
        write_migration(migrations, 1)
        broken = tmp_path / "b.db"
        if problem == "a failing migration":
            execute(broken, "CREATE TABLE t1 (other)")
        else:
            broken.write_bytes(b"no database at all" * 100)
        content = broken.read_bytes()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            event = "migration.failed" if problem == "a failing migration" else "database.unavailable"
            assert {line["database"] for line in daemon.logged(event)} == {"b.db"}
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2, database="a.db")
            daemon.wait_for("migration.applied", version=2, database="c.db")
            daemon.look()

        assert applied_versions(tmp_path / "a.db") == applied_versions(tmp_path / "c.db") == [1, 2]
        assert broken.read_bytes() == content

    def test_glob_finds_databases_created_later(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'databases = ["tenants/*.db"]', top='resync_interval = "500ms"')
        write_migration(migrations, 1)
        (tmp_path / "tenants").mkdir()
        execute(tmp_path / "new", "CREATE TABLE theirs (id)")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            (tmp_path / "new").rename(tmp_path / "tenants/new.db")
            daemon.wait_for("database.discovered", database="tenants/new.db")
            daemon.wait_for("migration.applied", version=1, database="tenants/new.db")
            daemon.stop()

        assert len(daemon.logged("database.discovered")) == 1
        assert tables(tmp_path / "tenants/new.db") == ["t1", "theirs"]

    def test_new_link_to_a_database_of_another_daemon_is_left_alone(
        self, tmp_path: Path, migrations: Path
    ) -> None:
        """The directory that it lies in is ours, the one that it leads to is not."""
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        for folder in (ours, theirs):
            folder.mkdir()
            execute(folder / "a.db", "CREATE TABLE t (x)")
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path, "-d", "ours/*.db") as daemon, daemon_lock_held(theirs):
            daemon.wait_until_ready()
            (ours / "link.db").symlink_to(theirs / "a.db")
            write_migration(migrations, 2)
            daemon.wait_for_all(
                {"event": "migration.applied", "database": "ours/a.db", "version": 2},
                {"event": "lock.held", "database": "ours/link.db"},
            )

            assert applied_versions(theirs / "a.db") == []


class TestDatabase:
    def test_database_locked_by_another_writer_is_retried(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'busy_timeout = "200ms"')
        execute(database, "CREATE TABLE theirs (id)")
        write_migration(migrations, 1)
        with writer_holding(database) as release, DaemonProcess(tmp_path) as daemon:
            unavailable = daemon.wait_for("database.unavailable", database="app.db")
            assert unavailable["reason"]
            assert unavailable["error"]["code"].startswith("SQLITE_BUSY")
            assert daemon.wait_for("run.finished")["outcome"] == "unavailable"
            release()
            daemon.wait_for_all(
                {"event": "migration.applied", "version": 1}, {"event": "database.recovered", "database": "app.db"}
            )
            daemon.stop()

        assert daemon.logged("database.blocked") == []
        assert len(daemon.logged("database.unavailable")) == 1

    def test_daemon_waits_for_another_runner(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        folder = tmp_path / ".migrated"
        folder.mkdir()
        write_migration(migrations, 1)
        with ExitStack() as other:
            lock = other.enter_context((folder / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            with DaemonProcess(tmp_path) as daemon:
                assert daemon.wait_for("lock.waiting", database="app.db")["holder"]
                assert not database.exists()
                other.close()
                daemon.wait_for("migration.applied", version=1)

    def test_database_is_created_when_its_directory_appears(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'databases = ["later/app.db"]')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("database.unavailable", database="later/app.db")
            daemon.wait_until_ready()
            assert not (tmp_path / "later").exists()
            (tmp_path / "later").mkdir()
            daemon.wait_for_all(
                {"event": "migration.applied", "version": 1, "database": "later/app.db"},
                {"event": "database.recovered", "database": "later/app.db"},
            )

    def test_database_that_cannot_be_created_is_retried(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, "create = false")
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("database.unavailable", database="app.db")
            daemon.wait_until_ready().look()
            assert not database.exists()
            execute(database, "CREATE TABLE theirs (id)")
            daemon.wait_for("migration.applied", version=1)

    def test_replaced_database_is_migrated_by_its_own_ledger(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        bring_up(tmp_path)
        backup = tmp_path / "backup"
        shutil.copy(database, backup)
        execute(backup, "CREATE TABLE restored (id)")
        write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applied", version=2)
            daemon.wait_until_ready()
            backup.rename(database)
            daemon.send(signal.SIGUSR1)
            daemon.wait_for("migration.applied", version=2)
            daemon.look()

        assert applied_versions(database) == [1, 2]
        assert tables(database) == ["restored", "t1", "t2"]

    def test_no_database_is_open_while_the_daemon_is_idle(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1, up="CREATE TABLE a (id);")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready().look()
            opened = []
            for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
                # A descriptor may be open for a moment only, for example the socket to systemd.
                with suppress(FileNotFoundError):
                    opened.append(str(descriptor.readlink()))

            assert str(tmp_path / ".migrated/daemon.lock") in opened
            assert [path for path in opened if path.startswith(str(database))] == []


class TestPolicies:
    def test_missing_file_is_refused_until_it_is_back(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        gone = write_migration(migrations, 2, down="DROP TABLE t2;")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            gone.rename(tmp_path / "away")
            assert daemon.wait_for("migration.missing", version=2, database="app.db")["name"] == "change"
            assert "2_change" in daemon.wait_for("database.blocked", database="app.db")["reason"]
            write_migration(migrations, 3)
            daemon.look()
            assert applied_versions(database) == [1, 2]
            (tmp_path / "away").rename(gone)
            daemon.wait_for_all({"event": "migration.applied", "version": 3}, {"event": "database.unblocked"})

    def test_missing_file_is_ignored_if_configured(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        configure(tmp_path, 'on_missing = "ignore"')
        write_migration(migrations, 1).rename(tmp_path / "away")
        gone = write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            gone.unlink()
            write_migration(migrations, 3)
            daemon.wait_for("migration.applied", version=3)
            daemon.stop()

        assert applied_versions(database) == [2, 3]
        assert daemon.logged("database.blocked") == []

    def test_missing_files_are_rolled_back_newest_first_if_configured(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'on_missing = "rollback"')
        write_migration(migrations, 1)
        gone = [write_migration(migrations, version, down=f"DROP TABLE t{version};") for version in (2, 3)]
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            aside = tmp_path / "aside"
            shutil.copytree(migrations, aside)
            for path in gone:
                (aside / path.name).unlink()
            # A single rename, so that both files are missing at once.
            migrations.rename(tmp_path / "was")
            aside.rename(migrations)
            daemon.wait_for("migration.rolled_back", version=3, database="app.db")
            daemon.wait_for("migration.rolled_back", version=2, database="app.db")

        assert applied_versions(database) == [1]
        assert tables(database) == ["t1"]

    def test_missing_file_without_stored_down_sql_is_not_rolled_back(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'on_missing = "rollback"')
        gone = write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            before = everything(database)
            gone.unlink()
            assert "1_change" in daemon.wait_for("database.blocked", database="app.db")["reason"]
            daemon.look()

            assert everything(database) == before

    def test_late_migration_is_applied_by_default_by_the_daemon(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 5)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(migrations, 3)
            daemon.wait_for("migration.late", version=3, database="app.db")
            daemon.wait_for("migration.applied", version=3)

        assert applied_versions(database) == [3, 5]

    def test_late_migration_is_refused_if_configured(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'on_late = "refuse"')
        write_migration(migrations, 5)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            late = write_migration(migrations, 3)
            daemon.wait_for("migration.late", version=3, database="app.db")
            assert "3_change" in daemon.wait_for("database.blocked")["reason"]
            write_migration(migrations, 6)
            daemon.look()
            assert applied_versions(database) == [5]
            late.unlink()
            daemon.wait_for_all({"event": "migration.applied", "version": 6}, {"event": "database.unblocked"})


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_stops_the_daemon_in_order(
        self, tmp_path: Path, migrations: Path, number: signal.Signals
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()

            assert daemon.stop(number) == 0
        assert [line["event"] for line in daemon.lines[-2:]] == ["daemon.stopping", "daemon.stopped"]

    def test_stop_finishes_the_running_migration_and_begins_no_other(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1, up=LONG)
        write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)

            assert daemon.stop() == 0
        event_names = [line["event"] for line in daemon.lines]
        assert event_names.index("daemon.stopping") < event_names.index("migration.applied")
        assert query(database, "SELECT n FROM counted") == [(4_000_000,)]
        assert applied_versions(database) == [1]
        assert daemon.logged("migration.applying", version=2) == []

    def test_waiting_for_a_locked_database_does_not_delay_the_stop(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'busy_timeout = "10m"')
        execute(database, "CREATE TABLE theirs (id)")
        write_migration(migrations, 1)
        with writer_holding(database), DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)

            assert daemon.stop() == 0
        assert applied_versions(database) == []

    def test_sighup_adds_a_new_target(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'databases = ["one.db"]')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            (tmp_path / "more").mkdir()
            write_migration(tmp_path / "more", 7)
            configure(tmp_path, 'databases = ["one.db"]', 'databases = ["two.db"]\nmigrations = "more"')
            daemon.send(signal.SIGHUP)
            daemon.wait_for("daemon.reloaded")
            daemon.wait_for("migration.applied", version=7, database="two.db")
            write_migration(tmp_path / "more", 8)
            daemon.wait_for("migration.applied", version=8, database="two.db")
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2, database="one.db")

    def test_sighup_with_an_invalid_configuration_keeps_the_old_one(
        self, tmp_path: Path, migrations: Path
    ) -> None:
        configure(tmp_path, 'databases = ["one.db"]')
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            configure(tmp_path, 'databases = ["two.db"]\ncolour = "red"')
            daemon.send(signal.SIGHUP)
            failed = daemon.wait_for("daemon.reload_failed")
            assert "migrated.toml:4" in failed["reason"]
            assert "colour" in failed["reason"]
            write_migration(migrations, 1)
            daemon.wait_for("migration.applied", version=1, database="one.db")
            daemon.look()

        assert not (tmp_path / "two.db").exists()

    def test_sigusr1_starts_a_full_pass(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'databases = ["*.db"]', top='resync_interval = "1h"')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            execute(tmp_path / "new.db", "CREATE TABLE theirs (id)")
            daemon.send(signal.SIGUSR1)
            daemon.wait_for("migration.applied", version=1, database="new.db")


class TestServiceManager:
    def test_ready_is_sent_after_the_first_pass(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        execute(database, "CREATE TABLE theirs (id)")
        write_migration(migrations, 1)
        with writer_holding(database) as release, DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            daemon.pass_over_notices()
            assert [notice for notice in daemon.notices if "READY" in notice] == []
            release()
            assert daemon.wait_for_notice("READY")["READY"] == "1"
            assert applied_versions(database) == [1]

    def test_status_reload_and_stop_are_sent(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'databases = ["a.db", "b.db"]')
        execute(tmp_path / "b.db", "CREATE TABLE t1 (other)")
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            status = daemon.wait_for_notice("READY")["STATUS"]
            assert "1 of 2" in status
            assert "t1 already exists" in status
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            daemon.send(signal.SIGHUP)
            reloading = daemon.wait_for_notice("RELOADING")
            assert reloading["RELOADING"] == "1"
            after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            assert before <= int(reloading["MONOTONIC_USEC"]) <= after
            assert daemon.wait_for_notice("READY")["READY"] == "1"
            (tmp_path / "migrated.toml").write_text("what = ")
            daemon.send(signal.SIGHUP)
            daemon.wait_for_notice("RELOADING")
            assert daemon.wait_for_notice("READY")["READY"] == "1"
            assert daemon.stop() == 0
            assert daemon.wait_for_notice("STOPPING")["STOPPING"] == "1"

    def test_notify_socket_may_be_a_file(self, tmp_path: Path, migrations: Path) -> None:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
            receiver.bind(str(tmp_path / "notify"))
            receiver.settimeout(DEADLINE)
            command = [*PROGRAM, "run"]
            variables = environment(NOTIFY_SOCKET=str(tmp_path / "notify"))
            with subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.DEVNULL) as process:
                try:
                    # recv() times out if the message was not sent, which fails the test.
                    while "READY=1" not in receiver.recv(8192).decode().split("\n"):
                        pass
                finally:
                    process.kill()


class TestProcess:
    def test_retry_that_cannot_run_does_not_spin(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        """Regression: the retry fell due, no pass reached the database, and the retry was due again at once."""
        configure(tmp_path, 'databases = ["app.db"]\nbusy_timeout = "50ms"')
        write_migration(migrations, 1)
        execute(database, "CREATE TABLE t (x)")
        with writer_holding(database), DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("database.unavailable")
            put_file(migrations, "2_bad.sql", "-- migrated: nonsense\n")
            daemon.wait_for("file.invalid")
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(1.5)
            before = ticks(daemon.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(2)

            assert ticks(daemon.pid) - before <= 20

    def test_second_daemon_ends_and_names_the_first(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as first:
            first.wait_until_ready()
            with DaemonProcess(tmp_path) as second:
                assert second.wait() == 5
            (held,) = second.logged("lock.held")
            assert re.search(rf"\b{first.pid}\b", held["holder"])
            assert second.logged("daemon.ready") == []
            write_migration(migrations, 1)
            first.wait_for("migration.applied", version=1)

    def test_next_daemon_starts_at_once_after_a_kill(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1, up=LONG)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("migration.applying", version=1)
            daemon.kill()
        assert daemon.logged("migration.applied") == []
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()

            assert daemon.logged("lock.held") == []
        assert applied_versions(database) == [1]
        assert tables(database) == ["t1"]

    @pytest.mark.parametrize("state", ["current", "blocked"])
    def test_removed_lock_file_is_locked_again(self, tmp_path: Path, migrations: Path, state: str) -> None:
        write_migration(migrations, 1, up="NOT SQL;" if state == "blocked" else None)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            assert bool(daemon.logged("database.blocked")) == (state == "blocked")
            shutil.rmtree(tmp_path / ".migrated")
            daemon.look()
            with DaemonProcess(tmp_path) as second:
                second.wait_for("lock.held")
                assert second.wait() == 5
            write_migration(migrations, 1)
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)


# Sends a heartbeat at every tick. The arguments after the wrapper are `python -m migrated`.
_HASTY = """
import sys
from migrated.cli import run
from migrated.daemon import loop
loop.ALIVE_SECONDS = 0.0
sys.argv = sys.argv[3:]
run()
"""


class TestLog:
    def test_heartbeat_counts_databases_and_pending_migrations(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1, up="CREATE TABLE one (x);")
        write_migration(migrations, 2)
        execute(tmp_path / "b.db", "CREATE TABLE one (x)")
        (tmp_path / "c.db").write_bytes(b"no database at all, but long enough to be taken for one" * 40)
        options = [part for name in "abc" for part in ("-d", f"{name}.db")]
        with DaemonProcess(tmp_path, *options, wrapper=[sys.executable, "-c", _HASTY]) as daemon:
            counts = {"databases": 3, "current": 1, "blocked": 1, "unavailable": 1, "pending": 2}
            daemon.wait_for("daemon.ready", **counts)
            alive = daemon.wait_for("daemon.alive", **counts)

        assert alive["message"].startswith("alive: 1 of 3 databases current; 1 blocked")

    def end(self, daemon: DaemonProcess, database: Path, versions: Iterable[int]) -> None:
        """Check that the daemon goes on working although nobody can read its log."""
        daemon.wait_for_notice("READY")
        expected = list(versions)
        for version in expected:
            write_migration(database.parent / "migrations", version)
        poll(lambda: applied_versions(database) == expected, "migrations applied")
        assert daemon.stop() == 0

    def test_work_goes_on_when_the_log_reader_is_gone(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        reader, writer = os.pipe()
        with DaemonProcess(tmp_path, stderr=writer) as daemon:
            os.close(writer)
            assert b"daemon.starting" in os.read(reader, 4096)
            os.close(reader)
            self.end(daemon, database, [1, 2])

    def test_work_goes_on_when_the_disk_of_the_log_is_full(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with (
            Path("/dev/full").open("wb") as full,
            DaemonProcess(tmp_path, stderr=full.fileno()) as daemon,
        ):
            self.end(daemon, database, [1, 2])

    def test_work_goes_on_when_the_log_reader_is_stuck(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        reader, writer = os.pipe()
        try:
            # One page: full after about a dozen lines.
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
            with DaemonProcess(tmp_path, stderr=writer) as daemon:
                self.end(daemon, database, range(1, 21))
        finally:
            os.close(reader)
            os.close(writer)


@contextmanager
def daemon_lock_held(directory: Path) -> Iterator[None]:
    """Hold the daemon lock of a directory, as another daemon does."""
    lock = FileLock(directory / ".migrated/daemon.lock")
    with lock.acquire(timeout=0):
        yield


class TestReload:
    def test_reload_locks_exactly_the_configured_directories(self, tmp_path: Path, migrations: Path) -> None:
        for name in ("one", "two", "three", "four"):
            (tmp_path / name).mkdir()
        configure(tmp_path, 'databases = ["one/a.db", "two/a.db"]')
        write_migration(migrations, 1, down="DROP TABLE t1;")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            configure(tmp_path, 'databases = ["one/a.db"]')
            daemon.send(signal.SIGHUP)
            daemon.wait_for("daemon.reloaded")
            assert migrated(tmp_path, "down", "-d", "two/a.db").returncode == 0
            assert migrated(tmp_path, "down", "-d", "one/a.db").returncode == 5
            with daemon_lock_held(tmp_path / "four"):
                configure(tmp_path, 'databases = ["one/a.db", "three/a.db", "four/a.db"]')
                daemon.send(signal.SIGHUP)
                daemon.wait_for("daemon.reload_failed")
            execute(tmp_path / "three/a.db", "CREATE TABLE t (x)")
            assert migrated(tmp_path, "down", "-d", "three/a.db").returncode == 0

    def test_database_at_rest_is_judged_by_the_policy_in_force(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        """Neither it nor the files change: only the configuration does."""
        write_migration(migrations, 1)
        path = write_migration(migrations, 2)
        bring_up(tmp_path)
        path.unlink()
        # What was written a moment ago is looked at again in any case.
        os.utime(database, (time.time() - 60, time.time() - 60))
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("database.blocked")
            daemon.look()
            configure(tmp_path, 'on_missing = "ignore"')
            daemon.send(signal.SIGHUP)
            daemon.wait_for("database.unblocked")

    def test_removed_glob_match_is_not_created_again(self, tmp_path: Path, migrations: Path) -> None:
        """The database was found at the start of the pass, and removed while the one before it was visited."""
        (tmp_path / "t").mkdir()
        first, second = tmp_path / "t/a.db", tmp_path / "t/b.db"
        for path in (first, second):
            execute(path, "CREATE TABLE t (x)")
        write_migration(migrations, 1)
        with writer_holding(first) as release, DaemonProcess(tmp_path, "-d", "t/*.db") as daemon:
            daemon.wait_for("migration.applying", database="t/a.db")
            second.unlink()
            release()
            daemon.wait_for("migration.applied", database="t/a.db")
            daemon.wait_until_ready()

            assert not second.exists()
