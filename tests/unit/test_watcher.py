"""File names that a directory watch reports, and its polling mode."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from daemon_process import DEADLINE, WITHOUT_INOTIFY, environment, require
from support import put_file

from migrated.daemon.watcher import DirectoryWatch, WatchEvent

LAST = "9999_last.sql"


@contextmanager
def watched(directory: Path) -> Iterator[SimpleQueue[str | None]]:
    names_seen: SimpleQueue[str | None] = SimpleQueue()
    watch = DirectoryWatch(str(directory), "events", names_seen.put)
    assert watch.check() is not None
    try:
        yield names_seen
    finally:
        watch.stop()


def names_until_last(directory: Path, names_seen: "SimpleQueue[str | None]") -> set[str | None]:
    put_file(directory, LAST, "SELECT 1;")
    found: set[str | None] = set()
    while (name := names_seen.get(timeout=DEADLINE)) != LAST:
        found.add(name)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    return made


def test_moved_file_is_the_only_name(directory: Path) -> None:
    with watched(directory) as names_seen:
        put_file(directory, "1_users.sql", "SELECT 1;")

        assert names_until_last(directory, names_seen) <= {"1_users.sql", ""}


def test_file_saved_through_a_temporary_file_is_the_only_name(directory: Path) -> None:
    with watched(directory) as names_seen:
        (directory / ".1_users.sql.swp").write_text("SELECT 1;")
        (directory / ".1_users.sql.swp").rename(directory / "1_users.sql")

        assert names_until_last(directory, names_seen) == {"1_users.sql", ""}


def test_two_files_are_two_names(directory: Path) -> None:
    with watched(directory) as names_seen:
        put_file(directory, "1_users.sql", "SELECT 1;")
        (directory / "2_posts.sql").write_text("SELECT 1;")

        assert names_until_last(directory, names_seen) >= {"1_users.sql", "2_posts.sql"}


def test_name_that_is_not_utf_8_is_reported(directory: Path) -> None:
    with watched(directory) as names_seen:
        (directory / os.fsdecode(b"1_\xff.sql")).touch()

        assert names_until_last(directory, names_seen) >= {os.fsdecode(b"1_\xff.sql")}


_FALLING_BACK = """
import sys
from queue import SimpleQueue
from migrated.daemon.watcher import DirectoryWatch, WatchEvent
names_seen = SimpleQueue()
watch = DirectoryWatch(sys.argv[1], "auto", names_seen.put)
event = watch.check()
print(event.kind, event.reason)
print(*(watch.check() for _ in range(3)))
watch.stop()
print(names_seen.qsize())
"""


def drain(names_seen: "SimpleQueue[str | None]") -> list[str | None]:
    return [names_seen.get_nowait() for _ in range(names_seen.qsize())]


class TestPolling:
    """A poller misses changes made before its first snapshot, so the next two checks report a change."""

    @pytest.fixture
    def names_seen(self) -> "SimpleQueue[str | None]":
        return SimpleQueue()

    @pytest.fixture
    def watch(self, directory: Path, names_seen: "SimpleQueue[str | None]") -> Iterator[DirectoryWatch]:
        watch = DirectoryWatch(str(directory), "polling", names_seen.put)
        yield watch
        watch.stop()

    def test_two_checks_after_the_start_report_a_change(
        self, watch: DirectoryWatch, names_seen: "SimpleQueue[str | None]"
    ) -> None:
        assert watch.check() == WatchEvent("started", "polling")
        assert drain(names_seen) == []

        for _ in range(3):
            assert watch.check() is None

        assert drain(names_seen) == [None, None]

    def test_two_checks_after_a_restart_report_a_change(
        self, watch: DirectoryWatch, directory: Path, names_seen: "SimpleQueue[str | None]"
    ) -> None:
        for _ in range(3):
            watch.check()
        directory.rename(directory.with_name("old"))
        directory.mkdir()
        assert watch.check() == WatchEvent("restored", "polling")
        # The old watch may have reported the renaming.
        drain(names_seen)

        for _ in range(3):
            assert watch.check() is None

        assert drain(names_seen) == [None, None]

    def test_two_checks_after_falling_back_to_polling_report_a_change(self, directory: Path) -> None:
        require(WITHOUT_INOTIFY)

        done = subprocess.run(
            [*WITHOUT_INOTIFY, sys.executable, "-c", _FALLING_BACK, str(directory)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

        assert done.stdout.split("\n") == ["started polling", "None None None", "2", ""], done.stderr
