"""The directory of the control socket, its permissions, and the removal of stale sockets."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from migrated.daemon.control.server import listen, remove_stale, socket_directory, socket_in


@pytest.fixture
def lock(tmp_path: Path) -> str:
    """Return the path of a daemon's lock file."""
    (tmp_path / "data/.migrated").mkdir(parents=True)
    return str(tmp_path / "data/.migrated/daemon.lock")


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set and return `$RUNTIME_DIRECTORY`, as systemd does."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{folder}:{tmp_path}/second")
    return folder


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set `$XDG_RUNTIME_DIR`, as a login session does, and return our directory in it."""
    folder = tmp_path / "session"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def listening() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_runtime_directory_of_systemd_is_preferred(lock: str, given: Path, session: Path) -> None:
    assert socket_directory(lock) == given


def test_runtime_directory_of_the_session_comes_second(lock: str, session: Path) -> None:
    assert socket_directory(lock) == session / "migrated"
    assert (session / "migrated").stat().st_mode & 0o777 == 0o700


def test_directory_beside_the_lock_comes_last(lock: str) -> None:
    folder = socket_directory(lock)

    assert folder == Path(lock).parent / "control"
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_directory_writable_by_others_is_skipped(lock: str, given: Path, session: Path, mode: int) -> None:
    given.chmod(mode)

    assert socket_directory(lock) == session / "migrated"


def test_unusable_directory_is_skipped(
    lock: str, given: Path, session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given.rmdir()
    given.symlink_to(session)
    assert socket_directory(lock) == session / "migrated"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert socket_directory(lock) == Path(lock).parent / "control"
    monkeypatch.setenv("RUNTIME_DIRECTORY", "")
    assert socket_directory(lock) == Path(lock).parent / "control"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_directory_of_another_user_is_skipped(lock: str, given: Path) -> None:
    os.chown(given, 65534, 65534)

    assert socket_directory(lock) == Path(lock).parent / "control"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in the directories of others")
def test_directory_made_by_root_belongs_to_the_owner_of_the_databases(lock: str) -> None:
    for folder in (Path(lock).parent.parent, Path(lock).parent):
        os.chown(folder, 65534, 65534)
    made = socket_directory(lock)

    assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (65534, 0o700)
    assert socket_directory(lock) == made


def test_no_usable_directory_is_an_error(lock: str) -> None:
    beside = Path(lock).parent / "control"
    beside.mkdir()
    beside.chmod(0o770)

    with pytest.raises(PermissionError, match="other users can write to it"):
        socket_directory(lock)


def test_only_sockets_without_a_listener_are_stale(tmp_path: Path, listening: ExitStack) -> None:
    alive = tmp_path / "control-1.sock"
    listening.enter_context(listen(alive, 1))
    for name in ("control-2.sock", ".control-3.sock", "theirs.sock"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / name))
    (tmp_path / "control-4.sock").write_text("a file")
    (tmp_path / "control-5.sock").symlink_to(tmp_path / "nowhere")
    remove_stale(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {
        "control-1.sock",
        "control-4.sock",
        "control-5.sock",
        "theirs.sock",
    }


def test_socket_with_a_full_backlog_is_not_stale(tmp_path: Path, listening: ExitStack) -> None:
    alive = tmp_path / "control-1.sock"
    listening.enter_context(listen(alive, 0))
    remove_stale(tmp_path)
    for _ in range(3):
        channel = listening.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        channel.connect_ex(str(alive))
    remove_stale(tmp_path)

    assert alive.is_socket()


def test_socket_is_accessible_to_its_owner_only_whatever_the_umask(tmp_path: Path, listening: ExitStack) -> None:
    before = os.umask(0)
    try:
        path = socket_in(tmp_path)
        listening.enter_context(listen(path, 1))
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_socket_left_by_a_process_with_our_pid_is_replaced(tmp_path: Path, listening: ExitStack) -> None:
    path = socket_in(tmp_path)
    listen(path, 1).close()
    listening.enter_context(listen(path, 1))

    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(path))
