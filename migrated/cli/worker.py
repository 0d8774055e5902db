"""Run work in a thread, so that the main thread can handle signals at once."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType

from migrated.cli.terminal import print_problem
from migrated.system.cancellation import CancelToken
from migrated.system.inbox import receive

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KILLED = 128
_WAKE_UP_SECONDS = 1.0


class _Finished:
    """The result of the work: its exit code, or the exception that it raised."""

    def __init__(self, code: int | None, error: BaseException | None) -> None:
        self.code = code
        self.error = error


def in_worker(work: Callable[[CancelToken], int], stop_grace: float) -> int:
    """Run `work` and return its exit code, or 128 plus the number of the signal that stopped it.

    After the first SIGINT or SIGTERM no other step begins, and the running one may take `stop_grace` seconds. The
    second interrupts it. A third has its default effect. An exception of `work` is raised here.
    """
    inbox: SimpleQueue[_Finished | signal.Signals] = SimpleQueue()
    cancel_token = CancelToken()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        inbox.put(signal.Signals(number))

    def run() -> None:
        # Otherwise the kernel could deliver a signal to this thread; the main thread, where Python runs handlers,
        # would not wake up from its wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            inbox.put(_Finished(work(cancel_token), None))
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            inbox.put(_Finished(None, error))

    previous = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    thread = threading.Thread(target=run, name="migrated-worker")
    thread.start()
    stopped_by = 0
    try:
        while not isinstance(message := _next(inbox), _Finished):
            stopped_by = stopped_by or message
            _pass_on(message, cancel_token, stop_grace)
    finally:
        thread.join()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if message.error is not None:
        raise message.error
    return _KILLED + stopped_by if stopped_by else message.code or 0


def _next(inbox: "SimpleQueue[_Finished | signal.Signals]") -> "_Finished | signal.Signals":
    while True:
        # Another thread (of a library) may have received the signal: its handler runs when this wait times out.
        with suppress(Empty):
            return receive(inbox, _WAKE_UP_SECONDS)


def _pass_on(number: signal.Signals, cancel_token: CancelToken, stop_grace: float) -> None:
    if cancel_token.stop_requested():
        cancel_token.interrupt()
        # A third signal kills the process; SQLite's journal then undoes an unfinished migration.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        return
    cancel_token.stop(number.name, time.monotonic() + stop_grace)
    print_problem(
        f"{number.name}: the running step may finish within {stop_grace:g} s; "
        "send the signal again to interrupt it",
        "warning",
    )
    sys.stderr.flush()
