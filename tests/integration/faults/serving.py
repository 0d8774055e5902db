"""Start and observe the processes that a fault hits, as many at a time as there are processors."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import IO, Self, TypeVar

from support import ROOT

CHILD = Path(__file__).with_name("child.py")
KILLED = -signal.SIGKILL
Point = TypeVar("Point")
Result = TypeVar("Result")


def environment() -> dict[str, str]:
    """The surroundings of a child that imports the helpers of the tests too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


@dataclass(slots=True)
class Outcome:
    """The output and the end of a process under a fault: exit code (negative for a signal) and traceback."""

    code: int = 0
    lines: list[str] = field(default_factory=list)
    traceback: str = ""

    def told(self, word: str) -> list[str]:
        """The rest of every line that begins with a word."""
        return [line.partition(" ")[2] for line in self.lines if line.partition(" ")[0] == word]


class Server:
    """`child.py` as a process. A context manager: at its end it is gone, and the process that it forked too."""

    def __init__(self) -> None:
        self._errors: IO[str] = TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, CHILD],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Its own group, so that what it forked can be ended with it.
            process_group=0,
        )
        self.line("serving")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._errors.close()

    def say(self, *words: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def line(self, word: str = "") -> str:
        """The next line, which must begin with a word."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().rstrip("\n")

        assert line, f"it is gone; {self.errors()}"
        assert line.startswith(word), f"{line!r} instead of {word!r}; {self.errors()}"
        return line

    def until(self, *words: str) -> list[str]:
        """The next lines, up to and with the first that begins with one of the words."""
        lines = [self.line()]
        while not lines[-1].startswith(words):
            lines.append(self.line())
        return lines

    def outcome(self) -> Outcome:
        """Read until the struck process has ended."""
        *lines, last = self.until("ended ")
        outcome = Outcome(int(last.removeprefix("ended ")), lines)
        if outcome.code > 0:
            outcome.traceback = self.errors()
        return outcome

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-4000:]


class Servers:
    """As many as there are processors, each used by one thread at a time."""

    def __init__(self) -> None:
        self._free: SimpleQueue[Server] = SimpleQueue()
        self._stack = ExitStack()
        self._count = min(4, os.cpu_count() or 1)

    def __enter__(self) -> Self:
        for server in [self._stack.enter_context(Server()) for _ in range(self._count)]:
            self._free.put(server)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def one(self) -> Iterator[Server]:
        server = self._free.get()
        try:
            yield server
        except BaseException:
            # It may be out of step, and is not used again.
            self._free.put(self._stack.enter_context(Server()))
            raise
        self._free.put(server)

    def for_each(self, strike: Callable[[Point], Result], points: Iterable[Point]) -> list[Result]:
        """Strike at every point, several at a time. Raises what the first that failed raised."""
        with ThreadPoolExecutor(self._count) as pool:
            return list(pool.map(strike, points))
