import subprocess
import sys
from queue import Empty, SimpleQueue

import pytest
from daemon_process import DEADLINE, environment

from migrated.system.inbox import receive

# With plain `SimpleQueue.get` this program hangs after about three thousand messages.
MANY = """
from queue import Empty, SimpleQueue
from migrated.system.inbox import receive
inbox = SimpleQueue()
for number in range(8_000):
    inbox.put(number)
    assert receive(inbox, 1) == number
    try:
        receive(inbox, 0.000000001)
    except Empty:
        pass
print("done")
"""


def test_messages_arrive_in_order() -> None:
    inbox: SimpleQueue[int] = SimpleQueue()
    inbox.put(1)
    inbox.put(2)

    assert [receive(inbox, 0), receive(inbox, 1)] == [1, 2]
    with pytest.raises(Empty):
        receive(inbox, 0.001)


def test_receive_never_blocks_forever_with_a_tiny_timeout() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )

    assert done.stdout == "done\n", done.stderr
