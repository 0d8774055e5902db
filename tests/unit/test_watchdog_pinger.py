"""When the daemon sends watchdog pings to systemd."""

import math
import os

import pytest

from migrated.daemon.scheduler import WatchdogPinger
from migrated.daemon.systemd import watchdog_interval


def test_no_pings_without_an_interval() -> None:
    pinger = WatchdogPinger(None, 5.0)

    assert pinger.check_at == math.inf


def test_pings_twice_in_each_interval() -> None:
    pinger = WatchdogPinger(10.0, 100.0)
    times = []
    for _ in range(4):
        times.append(pinger.check_at)
        assert pinger.should_ping(pinger.check_at, None)

    assert times == [100.0, 105.0, 110.0, 115.0]


def test_advancing_worker_is_alive_for_any_time() -> None:
    pinger = WatchdogPinger(10.0, 0.0)

    assert all(pinger.should_ping(5.0 * number, (number, b"")) for number in range(100))


def test_stuck_worker_is_alive_for_one_interval() -> None:
    pinger = WatchdogPinger(10.0, 0.0)

    assert [pinger.should_ping(now, (7, b"")) for now in (0.0, 5.0, 9.9, 10.0, 15.0)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_any_change_of_the_progress_token_revives_the_worker() -> None:
    pinger = WatchdogPinger(10.0, 0.0)
    pinger.should_ping(0.0, (7, b""))

    assert not pinger.should_ping(20.0, (7, b""))
    assert pinger.should_ping(25.0, (8, b""))
    assert pinger.should_ping(35.0, (8, b"read"))
    assert not pinger.should_ping(45.0, (8, b"read"))


def test_idle_worker_is_alive() -> None:
    pinger = WatchdogPinger(10.0, 0.0)
    pinger.should_ping(0.0, (7, b""))

    assert pinger.should_ping(50.0, None)
    # The next piece of work starts with the same progress token.
    assert pinger.should_ping(100.0, (7, b""))


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        pytest.param("60000000", None, 60.0, id="no process named"),
        pytest.param("500000", "ours", 0.5, id="ours"),
        pytest.param("60000000", "1", None, id="another process"),
        pytest.param(None, None, None, id="no watchdog"),
        pytest.param("0", None, None, id="zero"),
        pytest.param("soon", None, None, id="not a number"),
    ],
)
def test_interval_comes_from_the_environment(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert watchdog_interval() == interval
