"""What can happen to a watched directory while the daemon runs."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from daemon_process import BOUND_BY_PERMISSIONS, WITHOUT_INOTIFY, DaemonProcess, require
from support import applied_versions, needs_git, put_file, write_migration

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


@pytest.fixture
def replacement(tmp_path: Path) -> Path:
    """Make another directory, with the applied migrations and one more."""
    directory = tmp_path / "replacement"
    directory.mkdir()
    write_migration(directory, 1)
    write_migration(directory, 2)
    return directory


class TestReplacement:
    def test_directory_deleted_and_created_again(
        self, tmp_path: Path, migrations: Path, replacement: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            shutil.rmtree(migrations)
            daemon.wait_for("watch.lost")
            daemon.look()
            assert applied_versions(database) == [1]
            replacement.rename(migrations)
            daemon.wait_for_all({"event": "watch.restored"}, {"event": "migration.applied", "version": 2})
            write_migration(migrations, 3)
            daemon.wait_for("migration.applied", version=3)

    def test_directory_deleted_and_created_again_at_once(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            shutil.rmtree(migrations)
            migrations.mkdir()
            write_migration(migrations, 1)
            daemon.wait_for_all({"event": "migration.applied", "version": 1}, {"event": "watch.restored"})
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)

    def test_directory_replaced_by_another(
        self, tmp_path: Path, migrations: Path, replacement: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            old = migrations.rename(tmp_path / "old")
            replacement.rename(migrations)
            daemon.wait_for_all({"event": "migration.applied", "version": 2}, {"event": "watch.restored"})
            write_migration(old, 3)
            write_migration(migrations, 4)
            daemon.wait_for("migration.applied", version=4)
            daemon.look()

        assert applied_versions(database) == [1, 2, 4]

    def test_symlink_pointed_to_another_directory(
        self, tmp_path: Path, migrations: Path, replacement: Path, database: Path
    ) -> None:
        real = migrations.rename(tmp_path / "real")
        migrations.symlink_to(real)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            write_migration(real, 1)
            daemon.wait_for("migration.applied", version=1)
            (tmp_path / "link").symlink_to(replacement)
            (tmp_path / "link").rename(migrations)
            daemon.wait_for_all({"event": "migration.applied", "version": 2}, {"event": "watch.restored"})
            write_migration(real, 3)
            write_migration(replacement, 4)
            daemon.wait_for("migration.applied", version=4)
            daemon.look()

        assert applied_versions(database) == [1, 2, 4]

    def test_directory_mounted_over(
        self, tmp_path: Path, migrations: Path, replacement: Path, database: Path
    ) -> None:
        require((*OWN_MOUNTS, "mount", "--bind", str(replacement)), (str(migrations),))
        require(("nsenter", "--version"))
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path, wrapper=OWN_MOUNTS) as daemon:
            daemon.wait_until_ready()
            inside = ["nsenter", "--target", str(daemon.pid), "--mount", "--"]
            subprocess.run([*inside, "mount", "--bind", str(replacement), str(migrations)], check=True)
            daemon.wait_for("migration.applied", version=2)
            write_migration(replacement, 3)
            daemon.wait_for("migration.applied", version=3)
            subprocess.run([*inside, "umount", str(migrations)], check=True)
            for path in replacement.iterdir():
                shutil.copy(path, migrations)
            write_migration(migrations, 4)
            daemon.wait_for("migration.applied", version=4)

    def test_atomic_update_of_a_kubernetes_volume(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        def publish(generation: str, versions: Sequence[int]) -> None:
            (migrations / generation).mkdir()
            for version in versions:
                write_migration(migrations / generation, version)
            (migrations / "..data_tmp").symlink_to(generation)
            (migrations / "..data_tmp").rename(migrations / "..data")
            for version in versions:
                link = migrations / f"{version}_change.sql"
                if not link.is_symlink():
                    link.symlink_to(f"..data/{link.name}")

        publish("..1", [1])
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            assert applied_versions(database) == [1]
            publish("..2", [1, 2])
            shutil.rmtree(migrations / "..1")
            daemon.wait_for("migration.applied", version=2)
            daemon.look()
            daemon.stop()

        assert applied_versions(database) == [1, 2]
        assert daemon.logged("database.blocked") == []


class TestAbsence:
    def test_directory_missing_at_the_start(self, tmp_path: Path, database: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            lost = daemon.wait_for("watch.lost")
            assert lost["file"] == str(tmp_path / "migrations")
            assert lost["reason"]
            daemon.wait_until_ready().look()
            assert not database.exists()
            (tmp_path / "migrations").mkdir()
            daemon.wait_for("watch.restored")
            write_migration(tmp_path / "migrations", 1)
            daemon.wait_for("migration.applied", version=1)
            daemon.stop()

        assert len(daemon.logged("watch.lost")) == 1

    def test_missing_directory_is_not_an_empty_one(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        (tmp_path / "migrated.toml").write_text('[[target]]\non_missing = "rollback"\n')
        write_migration(migrations, 1, down="DROP TABLE t1;")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            migrations.rename(tmp_path / "away")
            daemon.wait_for("watch.lost")
            daemon.look()

            assert applied_versions(database) == [1]
            assert str(migrations) in daemon.notices[-1]["STATUS"]

    def test_file_in_place_of_the_directory(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            migrations.rmdir()
            migrations.write_text("not a directory")
            daemon.wait_for("watch.lost", reason="not a directory")
            migrations.unlink()
            migrations.mkdir()
            write_migration(migrations, 1)
            daemon.wait_for_all({"event": "watch.restored"}, {"event": "migration.applied", "version": 1})

    def test_directory_unreadable_at_the_start_and_later(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        require(BOUND_BY_PERMISSIONS)
        write_migration(migrations, 1)
        migrations.chmod(0)
        with DaemonProcess(tmp_path, wrapper=BOUND_BY_PERMISSIONS) as daemon:
            try:
                assert daemon.wait_for("watch.lost")["reason"] == "Permission denied"
                daemon.wait_until_ready().look()
                assert not database.exists()
                migrations.chmod(0o755)
                daemon.wait_for_all({"event": "watch.restored"}, {"event": "migration.applied", "version": 1})
                migrations.chmod(0)
                assert daemon.wait_for("watch.lost")["reason"] == "Permission denied"
                migrations.chmod(0o755)
                write_migration(migrations, 2)
                daemon.wait_for("migration.applied", version=2)
            finally:
                migrations.chmod(0o755)


class TestQuantity:
    def test_overflow_of_the_kernel_event_queue(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if kept > 50_000:
            pytest.skip(f"{kept} events are kept here: too many to make in a test")
        # Alternate two files: the kernel merges equal events that follow each other.
        junk = [migrations / "a.txt", migrations / "b.txt"]
        for path in junk:
            path.touch()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            daemon.send(signal.SIGSTOP)
            for number in range(kept + 1000):
                os.utime(junk[number % 2])
            write_migration(migrations, 1)
            daemon.send(signal.SIGCONT)
            daemon.wait_for("migration.applied", version=1)
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)

    @needs_git
    def test_checkout_of_many_files_takes_few_passes(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        def git(*arguments: str) -> None:
            identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
            subprocess.run(["git", *identity, *arguments], cwd=migrations, check=True, capture_output=True)

        put_file(migrations, "readme.txt", "here be migrations")
        git("init", "--initial-branch=main")
        git("add", ".")
        git("commit", "-m", "empty")
        git("checkout", "-b", "full")
        for version in range(1, 201):
            write_migration(migrations, f"{version:04}", up=f"CREATE TABLE t{version} (id);")
        git("add", ".")
        git("commit", "-m", "full")
        git("checkout", "main")
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            assert not database.exists()
            git("checkout", "full")
            daemon.wait_for("migration.applied", version=200)
            daemon.look()
            daemon.stop()

        assert applied_versions(database) == list(range(1, 201))
        finished = daemon.logged("run.finished")
        assert sum(line["applied"] for line in finished) == 200
        assert 1 <= len({line["run_id"] for line in finished}) <= 5
        assert daemon.logged("migration.late") == []

    def test_files_written_shortly_after_each_other_are_applied_in_one_pass(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        (tmp_path / "migrated.toml").write_text('settle = "500ms"\nsettle_max = "10s"\n')
        source = tmp_path / "source"
        source.mkdir()
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            moments = []
            for version in range(1, 31):
                path = write_migration(source, version)
                # One process per file: as slow as a person's script, and far slower than a pass.
                subprocess.run(["cp", path, migrations], check=True)
                moments.append(time.monotonic())
            daemon.wait_for("migration.applied", version=30)
            daemon.look()
            daemon.stop()

        assert applied_versions(database) == list(range(1, 31))
        # On a busy machine some of the files are written too late for the same pass.
        late = sum(second - first > 0.25 for first, second in pairwise(moments))
        assert len({line["run_id"] for line in daemon.logged("run.finished")}) <= 4 + late


class TestPolling:
    def test_polling_if_configured(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        (tmp_path / "migrated.toml").write_text('watch = "polling"\n')
        with DaemonProcess(tmp_path) as daemon:
            assert daemon.wait_for("watch.started")["reason"] == "polling"
            daemon.wait_until_ready()
            write_migration(migrations, 1)
            daemon.wait_for("migration.applied", version=1)

    def test_polling_if_the_kernel_has_no_more_watches(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        require(WITHOUT_INOTIFY)
        with DaemonProcess(tmp_path, wrapper=WITHOUT_INOTIFY) as daemon:
            assert daemon.wait_for("watch.started")["reason"] == "polling"
            daemon.wait_until_ready()
            write_migration(migrations, 1)
            daemon.wait_for("migration.applied", version=1)


class TestReading:
    def test_read_error_is_retried_soon(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        """No event reports that the error has gone, and the next full pass is half a minute away."""
        write_migration(migrations, 1)
        require(("strace", "-V"))
        failing = (
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            str(tmp_path / "calls"),
            "-P",
            str(migrations / "1_change.sql"),
        )
        wrapper = (*failing, "-e", "inject=openat:error=EIO:when=1..3")
        with DaemonProcess(tmp_path, wrapper=wrapper) as daemon:
            invalid = daemon.wait_for("file.invalid")
            assert invalid["reason"] == "the migration cannot be read: Input/output error"
            daemon.wait_for("migration.applied", version=1)

        assert "(INJECTED)" in (tmp_path / "calls").read_text()
