"""Work in a thread of its own, so that the main one hears a signal at once and passes it on."""

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
_LOOK_UP_SECONDS = 1.0


class _Finished:
    """The work is over: its exit code, or what it raised."""

    def __init__(self, code: int | None, error: BaseException | None) -> None:
        self.code = code
        self.error = error


def in_worker(work: Callable[[CancelToken], int], stop_grace: float) -> int:
    """Do `work` and return its exit code, or 128 and the signal's number when one stopped it.

    At the first SIGINT or SIGTERM nothing more begins, and what is running may take `stop_grace` seconds; at the
    second it is interrupted; a third one has its usual effect.
    """
    inbox: SimpleQueue[_Finished | signal.Signals] = SimpleQueue()
    supervision = CancelToken()

    def heard(number: int, _frame: FrameType | None) -> None:
        inbox.put(signal.Signals(number))

    def do() -> None:
        # Two signals at once would both be taken by this thread, and the main one would go on waiting.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            inbox.put(_Finished(work(supervision), None))
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            inbox.put(_Finished(None, error))

    before = {number: signal.signal(number, heard) for number in _SIGNALS}
    thread = threading.Thread(target=do, name="migrated-worker")
    thread.start()
    stopped_by = 0
    try:
        while not isinstance(message := _next(inbox), _Finished):
            stopped_by = stopped_by or message
            _pass_on(message, supervision, stop_grace)
    finally:
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    if message.error is not None:
        raise message.error
    return _KILLED + stopped_by if stopped_by else message.code or 0


def _next(inbox: "SimpleQueue[_Finished | signal.Signals]") -> "_Finished | signal.Signals":
    while True:
        # A signal that another thread took is heard here only when this one looks up.
        with suppress(Empty):
            return receive(inbox, _LOOK_UP_SECONDS)


def _pass_on(number: signal.Signals, supervision: CancelToken, stop_grace: float) -> None:
    if supervision.stop_requested():
        supervision.interrupt()
        # A third one kills: an unfinished migration is then undone by SQLite's journal.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        return
    supervision.stop(number.name, time.monotonic() + stop_grace)
    print_problem(
        f"{number.name}: the running step may finish within {stop_grace:g} s; "
        "send the signal again to interrupt it",
        "warning",
    )
    sys.stderr.flush()
