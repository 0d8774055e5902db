"""Atomic replacement of a file by `replace_if_changed`."""

import os
import resource
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from migrated.system.files import replace_if_changed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of the file in its own directory; it does not exist yet."""
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "schema.sql"


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the file size: writes beyond it fail like on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_text_is_written_once(path: Path) -> None:
    assert replace_if_changed(str(path), b"one\xff\n")
    before = identity(path)

    assert not replace_if_changed(str(path), b"one\xff\n")
    assert path.read_bytes() == b"one\xff\n"
    assert identity(path) == before


@pytest.mark.parametrize("before", [b"", b"on", b"one and more", b"two", b"x" * 100_000])
def test_another_text_is_replaced(path: Path, before: bytes) -> None:
    path.write_bytes(before)

    assert replace_if_changed(str(path), b"one")
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["schema.sql"]


def test_open_reader_keeps_the_old_text(path: Path) -> None:
    replace_if_changed(str(path), b"old" * 10_000)
    with path.open("rb", buffering=0) as file:
        start = file.read(3)
        replace_if_changed(str(path), b"new" * 20_000)

        assert start + file.read() == b"old" * 10_000


def test_failing_write_leaves_the_old_text_and_nothing_else(path: Path) -> None:
    path.write_bytes(b"old")
    before = identity(path)
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        replace_if_changed(str(path), b"new" * 1000)

    assert path.read_bytes() == b"old"
    assert identity(path) == before
    assert os.listdir(path.parent) == ["schema.sql"]


def test_failing_first_write_leaves_nothing(path: Path) -> None:
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        replace_if_changed(str(path), b"new" * 1000)

    assert os.listdir(path.parent) == []


def test_missing_directory_is_an_error(path: Path) -> None:
    path.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        replace_if_changed(str(path), b"text")

    assert not path.parent.exists()


def test_path_that_is_not_a_regular_file_is_not_replaced(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(FileExistsError, match="it is not a regular file"):
        replace_if_changed(str(path), b"text")

    assert stat.S_ISFIFO(path.stat().st_mode)


def test_database_is_not_replaced(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"and its pages" * 100)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="it is a database"):
        replace_if_changed(str(path), b"text")

    assert path.read_bytes() == before


def test_symbolic_link_is_preserved(path: Path, tmp_path: Path) -> None:
    (tmp_path / "behind.sql").write_bytes(b"old")
    path.symlink_to("../behind.sql")

    assert replace_if_changed(str(path), b"new")
    assert path.is_symlink()
    assert (tmp_path / "behind.sql").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_mode_is_preserved(path: Path, mode: int) -> None:
    path.write_bytes(b"old")
    path.chmod(mode)
    replace_if_changed(str(path), b"new")

    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_new_file_has_the_mode_of_the_umask(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    replace_if_changed(str(path), b"new")

    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("there", [True, False], ids=["to the owner of the file", "to the owner of the directory"])
def test_file_written_by_root_belongs_to_the_directory_owner(path: Path, there: bool) -> None:  # noqa: FBT001 - parametrized
    os.chown(path.parent, 1234, 1235)
    if there:
        path.write_bytes(b"old")
        os.chown(path, 1236, 1237)
    replace_if_changed(str(path), b"new")

    assert (path.stat().st_uid, path.stat().st_gid) == ((1236, 1237) if there else (1234, 1235))


def test_temporary_file_of_a_killed_process_is_removed_after_an_hour(path: Path) -> None:
    old, young, other = (
        path.parent / f".{name}.part" for name in ("schema.sql.0123abcd", "schema.sql.4567cdef", "x")
    )
    for leftover in (old, young, other):
        leftover.touch()
    two_hours_ago = time.time() - 7200
    for leftover in (old, other):
        os.utime(leftover, (two_hours_ago, two_hours_ago))
    replace_if_changed(str(path), b"text")

    assert {entry.name for entry in path.parent.iterdir()} == {"schema.sql", young.name, other.name}


def test_name_too_long_for_a_temporary_file_is_an_error(path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        replace_if_changed(str(path.parent / ("x" * 250)), b"text")

    assert os.listdir(path.parent) == []
