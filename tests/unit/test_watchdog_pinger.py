"""When systemd is told that the daemon lives."""

import math
import os

import pytest

from migrated.daemon.scheduler import WatchdogPinger
from migrated.daemon.systemd import watchdog_interval


def test_nobody_who_watches_is_told_nothing() -> None:
    pinger = WatchdogPinger(None, 5.0)

    assert pinger.check_at == math.inf


def test_it_is_told_twice_within_the_interval() -> None:
    pinger = WatchdogPinger(10.0, 100.0)
    looks = []
    for _ in range(4):
        looks.append(pinger.check_at)
        assert pinger.should_ping(pinger.check_at, None)

    assert looks == [100.0, 105.0, 110.0, 115.0]


def test_a_worker_that_advances_may_take_as_long_as_it_likes() -> None:
    pinger = WatchdogPinger(10.0, 0.0)

    assert all(pinger.should_ping(5.0 * number, (number, b"")) for number in range(100))


def test_a_worker_that_gives_no_sign_is_covered_for_one_interval() -> None:
    pinger = WatchdogPinger(10.0, 0.0)

    assert [pinger.should_ping(now, (7, b"")) for now in (0.0, 5.0, 9.9, 10.0, 15.0)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_either_sign_is_enough_and_it_is_told_again_after_the_next_one() -> None:
    pinger = WatchdogPinger(10.0, 0.0)
    pinger.should_ping(0.0, (7, b""))

    assert not pinger.should_ping(20.0, (7, b""))
    assert pinger.should_ping(25.0, (8, b""))
    assert pinger.should_ping(35.0, (8, b"read"))
    assert not pinger.should_ping(45.0, (8, b"read"))


def test_an_idle_worker_is_well() -> None:
    pinger = WatchdogPinger(10.0, 0.0)
    pinger.should_ping(0.0, (7, b""))

    assert pinger.should_ping(50.0, None)
    # The same signs at the beginning of the next piece of work.
    assert pinger.should_ping(100.0, (7, b""))


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        pytest.param("60000000", None, 60.0, id="no process named"),
        pytest.param("500000", "ours", 0.5, id="ours"),
        pytest.param("60000000", "1", None, id="another process"),
        pytest.param(None, None, None, id="nobody watches"),
        pytest.param("0", None, None, id="nought"),
        pytest.param("soon", None, None, id="not a number"),
    ],
)
def test_the_interval_is_what_systemd_says(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert watchdog_interval() == interval
