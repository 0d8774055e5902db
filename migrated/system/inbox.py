"""Waiting for a message with a limit of time."""

from queue import Empty, SimpleQueue
from typing import TypeVar

Message = TypeVar("Message")


def receive(inbox: "SimpleQueue[Message]", timeout: float) -> Message:
    """The next message, waited for `timeout` seconds at most. Raises `Empty` when none came. For one reader alone.

    `SimpleQueue.get` by itself may wait for ever: where its time is over before it has begun to wait, it goes on
    with what is left, which is less than nothing, and a lock takes that for no limit (seen in CPython 3.11.7). It
    does not begin anew behind a look that found nothing.
    """
    try:
        return inbox.get_nowait()
    except Empty:
        return inbox.get(timeout=timeout)
