"""What the watch of a directory knows of a change."""

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
def names(directory: Path) -> Iterator[SimpleQueue[str | None]]:
    heard: SimpleQueue[str | None] = SimpleQueue()
    watch = DirectoryWatch(str(directory), "events", heard.put)
    assert watch.check() is not None
    try:
        yield heard
    finally:
        watch.stop()


def heard_until_the_last(directory: Path, heard: "SimpleQueue[str | None]") -> set[str | None]:
    put_file(directory, LAST, "SELECT 1;")
    found: set[str | None] = set()
    while (name := heard.get(timeout=DEADLINE)) != LAST:
        found.add(name)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    return made


def test_file_that_is_moved_in_is_the_only_one(directory: Path) -> None:
    with names(directory) as heard:
        put_file(directory, "1_users.sql", "SELECT 1;")

        assert heard_until_the_last(directory, heard) <= {"1_users.sql", ""}


def test_file_that_is_saved_by_a_temporary_one_is_the_only_one(directory: Path) -> None:
    with names(directory) as heard:
        (directory / ".1_users.sql.swp").write_text("SELECT 1;")
        (directory / ".1_users.sql.swp").rename(directory / "1_users.sql")

        assert heard_until_the_last(directory, heard) == {"1_users.sql", ""}


def test_two_files_are_two(directory: Path) -> None:
    with names(directory) as heard:
        put_file(directory, "1_users.sql", "SELECT 1;")
        (directory / "2_posts.sql").write_text("SELECT 1;")

        assert heard_until_the_last(directory, heard) >= {"1_users.sql", "2_posts.sql"}


def test_name_that_is_not_utf_8_is_no_surprise(directory: Path) -> None:
    with names(directory) as heard:
        (directory / os.fsdecode(b"1_\xff.sql")).touch()

        assert heard_until_the_last(directory, heard) >= {os.fsdecode(b"1_\xff.sql")}


_FALLING_BACK = """
import sys
from queue import SimpleQueue
from migrated.daemon.watcher import DirectoryWatch, WatchEvent
heard = SimpleQueue()
watch = DirectoryWatch(sys.argv[1], "auto", heard.put)
event = watch.check()
print(event.kind, event.reason)
print(*(watch.check() for _ in range(3)))
watch.stop()
print(heard.qsize())
"""


def drained(heard: "SimpleQueue[str | None]") -> list[str | None]:
    return [heard.get_nowait() for _ in range(heard.qsize())]


class TestPolling:
    """A poller is deaf to what was changed before its thread took the first look: the next two checks stand in."""

    @pytest.fixture
    def heard(self) -> "SimpleQueue[str | None]":
        return SimpleQueue()

    @pytest.fixture
    def watch(self, directory: Path, heard: "SimpleQueue[str | None]") -> Iterator[DirectoryWatch]:
        watch = DirectoryWatch(str(directory), "polling", heard.put)
        yield watch
        watch.stop()

    def test_two_checks_after_the_start_report_a_change(
        self, watch: DirectoryWatch, heard: "SimpleQueue[str | None]"
    ) -> None:
        assert watch.check() == WatchEvent("started", "polling")
        assert drained(heard) == []

        for _ in range(3):
            assert watch.check() is None

        assert drained(heard) == [None, None]

    def test_two_checks_after_a_restart_report_a_change(
        self, watch: DirectoryWatch, directory: Path, heard: "SimpleQueue[str | None]"
    ) -> None:
        for _ in range(3):
            watch.check()
        directory.rename(directory.with_name("old"))
        directory.mkdir()
        assert watch.check() == WatchEvent("restored", "polling")
        # The watch that was given up may have heard of the renaming.
        drained(heard)

        for _ in range(3):
            assert watch.check() is None

        assert drained(heard) == [None, None]

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
