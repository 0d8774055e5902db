"""A file that has one whole text or another."""

import os
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrated.system.files import write_if_other


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file goes: in a directory of its own, nothing is there yet."""
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "schema.sql"


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What goes beyond it fails like a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_text_is_written_once(path: Path) -> None:
    assert write_if_other(str(path), b"one\xff\n")
    before = identity(path)

    assert not write_if_other(str(path), b"one\xff\n")
    assert path.read_bytes() == b"one\xff\n"
    assert identity(path) == before


@pytest.mark.parametrize("before", [b"", b"on", b"one and more", b"two", b"x" * 100_000])
def test_another_text_is_replaced(path: Path, before: bytes) -> None:
    path.write_bytes(before)

    assert write_if_other(str(path), b"one")
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["schema.sql"]


def test_who_reads_the_old_text_reads_it_to_its_end(path: Path) -> None:
    write_if_other(str(path), b"old" * 10_000)
    with path.open("rb", buffering=0) as file:
        start = file.read(3)
        write_if_other(str(path), b"new" * 20_000)

        assert start + file.read() == b"old" * 10_000


def test_failing_write_leaves_the_old_text_and_nothing_else(path: Path) -> None:
    path.write_bytes(b"old")
    before = identity(path)
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write_if_other(str(path), b"new" * 1000)

    assert path.read_bytes() == b"old"
    assert identity(path) == before
    assert os.listdir(path.parent) == ["schema.sql"]


def test_failing_first_write_leaves_nothing(path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        write_if_other(str(path), b"new" * 1000)

    assert os.listdir(path.parent) == []


def test_directory_must_be_there(path: Path) -> None:
    path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        write_if_other(str(path), b"text")

    assert not path.parent.exists()


def test_what_is_no_file_is_left_alone(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FileExistsError, match="it is not a regular file"):
        write_if_other(str(path), b"text")

    assert stat.S_ISFIFO(path.stat().st_mode)


def test_database_is_left_alone(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"and its pages" * 100)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="it is a database"):
        write_if_other(str(path), b"text")

    assert path.read_bytes() == before


def test_link_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "behind.sql").write_bytes(b"old")
    path.symlink_to("../behind.sql")

    assert write_if_other(str(path), b"new")
    assert path.is_symlink()
    assert (tmp_path / "behind.sql").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_mode_stays(path: Path, mode: int) -> None:
    path.write_bytes(b"old")
    path.chmod(mode)
    write_if_other(str(path), b"new")

    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_new_file_has_the_mode_that_the_user_s_files_have(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_if_other(str(path), b"new")

    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("there", [True, False], ids=["to the owner of the file", "to the owner of the directory"])
def test_what_root_writes_belongs_to_the_owner(path: Path, there: bool) -> None:  # noqa: FBT001 - parametrized
    os.chown(path.parent, 1234, 1235)
    if there:
        path.write_bytes(b"old")
        os.chown(path, 1236, 1237)
    write_if_other(str(path), b"new")

    assert (path.stat().st_uid, path.stat().st_gid) == ((1236, 1237) if there else (1234, 1235))


def test_what_a_killed_process_left_is_cleared_away_once_it_is_nobody_s(path: Path) -> None:
    old, young, other = (
        path.parent / f".{name}.part" for name in ("schema.sql.0123abcd", "schema.sql.4567cdef", "x")
    )
    for leftover in (old, young, other):
        leftover.touch()
    two_hours_ago = time.time() - 7200
    for leftover in (old, other):
        os.utime(leftover, (two_hours_ago, two_hours_ago))
    write_if_other(str(path), b"text")

    assert {entry.name for entry in path.parent.iterdir()} == {"schema.sql", young.name, other.name}


def test_name_that_leaves_no_room_for_another_is_an_error(path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        write_if_other(str(path.parent / ("x" * 250)), b"text")

    assert os.listdir(path.parent) == []
