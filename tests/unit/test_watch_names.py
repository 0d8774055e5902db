"""What the watch of a directory knows of a change."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest
from daemon_process import DEADLINE
from support import put_file

from migrated.daemon.watcher import DirectoryWatch

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
