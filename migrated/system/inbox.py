"""Receive a message from a queue with a timeout."""

from queue import Empty, SimpleQueue
from typing import TypeVar

Message = TypeVar("Message")


def receive(inbox: "SimpleQueue[Message]", timeout: float) -> Message:
    """Return the next message, waiting at most `timeout` seconds. Raises `Empty` if none came.

    Only one thread may read from `inbox`.
    """
    # SimpleQueue.get alone may block forever: if its timeout expires before it starts to wait, it continues with a
    # negative remainder, which the lock takes as "no limit" (seen in CPython 3.11.7). It does not do that after a
    # get_nowait() that found nothing.
    try:
        return inbox.get_nowait()
    except Empty:
        return inbox.get(timeout=timeout)
