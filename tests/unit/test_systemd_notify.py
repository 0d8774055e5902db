import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrated.daemon.systemd import notify, reloading


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return a datagram socket bound to `$NOTIFY_SOCKET`, as systemd has."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listening


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        pytest.param(["READY=1"], b"READY=1", id="one"),
        pytest.param(["READY=1", "STATUS=2 of 2"], b"READY=1\nSTATUS=2 of 2", id="two, a line each"),
        pytest.param(["STATUS=a\nREADY=1"], b"STATUS=a READY=1", id="a line end cannot make another field"),
        pytest.param(["STATUS=é"], "STATUS=é".encode(), id="UTF-8"),
        pytest.param(["STATUS=\udcff"], b"STATUS=?", id="a name that is not UTF-8"),
    ],
)
def test_fields_are_sent_as_one_message(manager: socket.socket, fields: list[str], sent: bytes) -> None:
    notify(*fields)

    assert sent == manager.recv(4096)


def test_abstract_socket_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")

        assert listening.recv(4096) == b"READY=1"


def test_reload_carries_the_time(manager: socket.socket) -> None:
    """Systemd ignores a reload without `MONOTONIC_USEC`: microseconds of the monotonic clock."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    first, _, second = manager.recv(4096).decode().partition("\n")
    name, _, sent = second.partition("=")

    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(sent) <= after


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here", "/" + "x" * 200])
def test_missing_listener_is_ignored(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1")


def test_missing_notify_socket_is_ignored() -> None:
    notify("READY=1")
