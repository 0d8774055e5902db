"""Stop requests by `CancelToken`, and the worker thread that obeys them."""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest
from daemon_process import poll

from migrated.cli.worker import in_worker
from migrated.system.cancellation import CancelToken


def test_there_is_no_deadline_without_a_stop_request() -> None:
    supervision = CancelToken()

    assert not supervision.stop_requested()
    assert not supervision.deadline_passed(1e300)
    assert supervision.reason == ""


def test_running_work_may_continue_until_the_deadline() -> None:
    supervision = CancelToken()
    supervision.stop("SIGTERM", 10.0)

    assert supervision.stop_requested()
    assert supervision.reason == "SIGTERM"
    assert [supervision.deadline_passed(now) for now in (0.0, 9.99, 10.0, 11.0)] == [False, False, True, True]


def test_interruption_is_immediate_and_final() -> None:
    supervision = CancelToken()
    supervision.stop("SIGTERM", 10.0)
    supervision.interrupt()
    supervision.stop("SIGTERM", 20.0)

    assert supervision.deadline_passed(-math.inf)


@pytest.mark.parametrize("times", [(10.0, 20.0), (20.0, 10.0)])
def test_earliest_deadline_counts(times: tuple[float, float]) -> None:
    supervision = CancelToken()
    for at in times:
        supervision.stop("SIGTERM", at)

    assert [supervision.deadline_passed(now) for now in (9.0, 10.0)] == [False, True]


def test_interruption_alone_does_not_stop_the_next_step() -> None:
    """An interruption follows a stop request, so it sets none itself."""
    supervision = CancelToken()
    supervision.interrupt()

    assert supervision.deadline_passed(0.0)
    assert not supervision.stop_requested()


def test_pause_stops_new_steps_and_not_the_running_one() -> None:
    supervision = CancelToken()
    supervision.pause()

    assert supervision.stop_requested()
    assert not supervision.is_stopping()
    assert not supervision.deadline_passed(1e300)
    supervision.resume()
    assert not supervision.stop_requested()


def test_stop_request_outlasts_a_pause() -> None:
    supervision = CancelToken()
    supervision.pause()
    supervision.stop("SIGTERM", 10.0)
    supervision.resume()

    assert supervision.stop_requested()
    assert supervision.is_stopping()
    assert supervision.reason == "SIGTERM"


def test_heartbeats_are_counted() -> None:
    supervision = CancelToken()
    for _ in range(3):
        supervision.beat()

    assert supervision.heartbeats == 3


class TestWorker:
    def test_work_runs_in_another_thread_and_returns_its_exit_code(self) -> None:
        threads: list[threading.Thread] = []

        def work(_supervision: CancelToken) -> int:
            threads.append(threading.current_thread())
            return 4

        assert in_worker(work, 30) == 4
        assert threads[0] is not threading.main_thread()
        assert not threads[0].is_alive()

    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
    def test_exception_of_the_work_is_raised(self, error: BaseException) -> None:
        def work(_supervision: CancelToken) -> int:
            raise error

        with pytest.raises(type(error)) as raised:
            in_worker(work, 30)
        assert raised.value is error

    @pytest.mark.parametrize("fails", [False, True])
    def test_signal_handlers_are_restored(self, fails: bool) -> None:  # noqa: FBT001 - a parameter
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

        def work(_supervision: CancelToken) -> int:
            assert signal.getsignal(signal.SIGTERM) not in before
            if fails:
                raise ValueError("no")
            return 0

        if fails:
            with pytest.raises(ValueError, match="no"):
                in_worker(work, 30)
        else:
            in_worker(work, 30)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    @pytest.mark.parametrize(
        ("numbers", "code"),
        [
            ([signal.SIGTERM], 143),
            ([signal.SIGINT], 130),
            ([signal.SIGTERM, signal.SIGINT], 143),
            ([signal.SIGINT, signal.SIGTERM], 130),
        ],
    )
    def test_signals_reach_the_token(
        self, numbers: list[signal.Signals], code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first signal stops with a grace period, the second aborts; the exit code is the first's."""
        seen: list[tuple[bool, bool, bool]] = []

        def work(supervision: CancelToken) -> int:
            asked: list[Callable[[], bool]] = [
                supervision.stop_requested,
                lambda: supervision.deadline_passed(0.0),
            ]
            for number, condition in zip(numbers, asked, strict=False):
                os.kill(os.getpid(), number)
                poll(condition, f"{number.name} passed on")
                now = (
                    supervision.stop_requested(),
                    supervision.deadline_passed(0.0),
                    supervision.deadline_passed(math.inf),
                )
                seen.append(now)
            return 7

        assert in_worker(work, 12.5) == code
        assert seen == [(True, False, True), (True, True, True)][: len(numbers)]
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"{numbers[0].name}: the running step may finish within 12.5 s" in told

    def test_grace_period_begins_with_the_signal(self) -> None:
        ends: list[bool] = []

        def work(supervision: CancelToken) -> int:
            before = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
            poll(supervision.stop_requested, "the signal passed on")
            after = time.monotonic()
            ends.extend([supervision.deadline_passed(before + 99.9), supervision.deadline_passed(after + 100)])
            return 0

        in_worker(work, 100)
        assert ends == [False, True]

    def test_error_is_raised_despite_a_signal(self) -> None:
        def work(supervision: CancelToken) -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            poll(supervision.stop_requested, "the signal passed on")
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            in_worker(work, 30)

    def test_signal_that_another_thread_took_is_heard(self) -> None:
        """While a hook is started, the worker thread has no signals blocked."""

        def work(supervision: CancelToken) -> int:
            waiting = threading.main_thread().ident
            poll(
                lambda: sys._current_frames()[waiting or 0].f_code.co_name == "receive", "the main thread waiting"
            )
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            poll(supervision.stop_requested, "the signal passed on")
            return 0

        assert in_worker(work, 30) == 143
