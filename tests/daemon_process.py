"""The program as its users have it: real processes, their log as it comes, what they tell systemd."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Self

import pytest
from support import PROGRAM, ROOT

from migrated import MigrationRunner

# Only what has gone wrong is waited for so long. A machine that is busy with other work takes ten times as long
# as an idle one for anything, and must not turn a test red.
DEADLINE = 45.0
Line = dict[str, Any]
# Root passes any check of permissions, unless it gave up the two capabilities for it.
BOUND_BY_PERMISSIONS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
# A limit of the new user namespace alone; the machine's own stays as it is.
WITHOUT_INOTIFY = (
    *("unshare", "--user", "--map-root-user", "sh", "-ec"),
    'echo 0 > /proc/sys/user/max_inotify_instances; exec "$@"',
    "sh",
)

_HOLD = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN {how}")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


def environment(**changes: str) -> dict[str, str]:
    """The surroundings of a child: the code under test is the one beside these tests, wherever they lie."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def migrated(
    directory: Path, *arguments: str | Path, wrapper: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in a directory to its end."""
    return subprocess.run(
        [*wrapper, *PROGRAM, *map(str, arguments)],
        cwd=directory,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )


def on_a_terminal(
    directory: Path, *arguments: str, stdout: int | None = None, **variables: str
) -> tuple[int, str]:
    """Run the program on a terminal to its end: its exit code, and all that the terminal was sent.

    With `stdout` only its standard error is the terminal.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(TERM="xterm", COLUMNS="100", **variables),
        stdin=subprocess.DEVNULL,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                # How a terminal says that nobody holds its other end.
                break
            if not part:
                break
            seen += part
        os.close(ours)
        return process.wait(), seen.decode().replace("\r\n", "\n")


def bring_up(directory: Path, target: int | None = None, *, database: str = "app.db") -> None:
    """Apply what lies in `migrations`, through the library: for what a test begins with, where speed counts."""
    runner = MigrationRunner(directory / database)
    runner.add_directory(directory / "migrations")
    if target is None:
        runner.run()
    else:
        runner.run_to(target)


@contextmanager
def running(
    *command: str | Path,
    cwd: Path,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run any command beside the test; it is gone when the block ends."""
    with subprocess.Popen(
        [*map(str, command)],
        cwd=cwd,
        env=environment(),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def writer_holding(database: Path) -> AbstractContextManager[Callable[[], None]]:
    """Another process with a write transaction open; the function given ends it."""
    return holding(_HOLD.format(how="IMMEDIATE"), database)


def everybody_kept_out(database: Path) -> AbstractContextManager[Callable[[], None]]:
    """Another process that lets nobody even read; the function given ends it."""
    return holding(_HOLD.format(how="EXCLUSIVE"), database)


@contextmanager
def holding(script: str, database: Path) -> Iterator[Callable[[], None]]:
    """Another process that says "held" once it has what it holds on to; the function given ends it."""
    command = (sys.executable, "-c", script, database)
    with running(*command, cwd=database.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        def release() -> None:
            process.communicate(timeout=DEADLINE)

        yield release


def poll(condition: Callable[[], object], what: str) -> None:
    """Wait for what nothing announces."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    (mask,) = (
        line.split()[1]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    )
    return bool(int(mask, 16) >> (number - 1) & 1)


def children(pid: int) -> list[str]:
    """The processes that it has started and that are not reaped yet."""
    return [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def ticks(pid: int) -> int:
    """User and system time so far, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def require(wrapper: Sequence[str], command: Sequence[str] = ("true",)) -> None:
    """Skip the test where this machine does not let us."""
    if not shutil.which([*wrapper, *command][0]):
        pytest.skip(f"no {wrapper[0]} here")
    tried = subprocess.run([*wrapper, *command], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"{wrapper[0]} is not allowed here: {tried.stderr.strip()}")


def log_lines(text: str) -> list[Line]:
    """A log of JSON lines, each of which must be one."""
    return [json.loads(line) for line in text.splitlines()]


def _has(line: Line, keys: Line) -> bool:
    return all(line.get(key) == value for key, value in keys.items())


class DaemonProcess:
    """`migrated run`, or `dev`, in a directory. A context manager: at its end the process is gone in any case.

    The log is read in order: waiting looks only at lines after the one that was given last. With `stderr` the
    log goes to that descriptor and is not read.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str | Path,
        wrapper: Sequence[str] = (),
        command: str = "run",
        stderr: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.lines: list[Line] = []
        self.notices: list[dict[str, str]] = []
        self._next_line = 0
        self._next_notice = 0
        self._incoming: SimpleQueue[Line | None] = SimpleQueue()
        self._told: SimpleQueue[dict[str, str]] = SimpleQueue()
        self._marks = 0
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # An abstract address that the kernel chooses.
        self._ear.bind("")
        self._address: bytes = self._ear.getsockname()
        notify = {"NOTIFY_SOCKET": "@" + self._address[1:].decode()}
        self.process = subprocess.Popen(
            [*wrapper, *PROGRAM, command, *map(str, arguments)],
            cwd=directory,
            env=environment(**notify, **(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if stderr is None else stderr,
        )
        self._threads = [Thread(target=self._listen)]
        if stderr is None:
            self._threads.append(Thread(target=self._read))
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, event: str, **keys: object) -> Line:
        """The next line of this event with these keys."""
        return self.wait_for_all({"event": event, **keys})

    def wait_for_all(self, *wanted: Line) -> Line:
        """The last of several coming lines, whatever their order."""
        missing = list(wanted)
        while True:
            while self._next_line < len(self.lines):
                line = self.lines[self._next_line]
                self._next_line += 1
                missing = [keys for keys in missing if not _has(line, keys)]
                if not missing:
                    return line
            # One that still says something has not got stuck, however slow it is.
            if not self._receive(time.monotonic() + DEADLINE):
                raise AssertionError(f"no {missing} in the log:\n{self.text()}")

    def wait_until_ready(self) -> Self:
        self.wait_for("daemon.ready")
        return self

    def wait_for_notice(self, name: str) -> dict[str, str]:
        """The next message to systemd that has this field."""
        deadline = time.monotonic() + DEADLINE
        while True:
            while self._next_notice < len(self.notices):
                notice = self.notices[self._next_notice]
                self._next_notice += 1
                if name in notice:
                    return notice
            try:
                self.notices.append(self._told.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                raise AssertionError(f"no {name} in {self.notices}; the log:\n{self.text()}") from None

    def pass_over_notices(self) -> None:
        """Take in every message to systemd that was sent until now."""
        self._marks += 1
        self._say(f"MARK={self._marks}")
        while self.wait_for_notice("MARK")["MARK"] != str(self._marks):
            pass

    def look(self) -> None:
        """Return when a pass that began after this call is over."""
        self.pass_over_notices()
        # The first to end may have begun before.
        for _ in range(2):
            self.send(signal.SIGUSR1)
            self.wait_for_notice("X_MIGRATED_PASS")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it in order and return its exit code; `lines` is the whole log then."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; `lines` is the whole log then."""
        try:
            code = self.process.wait(2 * DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; the log:\n{self.text()}") from None
        while self.process.stderr is not None and self._receive(time.monotonic() + DEADLINE):
            pass
        return code

    def logged(self, event: str, **keys: object) -> list[Line]:
        """The lines of an event so far; all of them after `stop`, `kill` or `wait`."""
        return [line for line in self.lines if _has(line, {"event": event, **keys})]

    def text(self) -> str:
        return "\n".join(map(json.dumps, self.lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._say("END=1")
        for thread in self._threads:
            thread.join()
        self._ear.close()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _receive(self, deadline: float) -> bool:
        try:
            line = self._incoming.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return False
        if line is None:
            # For whoever asks after the end.
            self._incoming.put(None)
            return False
        self.lines.append(line)
        return True

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self._incoming.put(json.loads(line))
            except ValueError:
                self._incoming.put({"event": "not JSON", "text": line.decode(errors="replace")})
        self._incoming.put(None)

    def _listen(self) -> None:
        while (message := self._ear.recv(8192)) != b"END=1":
            fields = (field.partition("=") for field in message.decode().split("\n"))
            self._told.put({name: value for name, _, value in fields})

    def _say(self, message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
            mouth.sendto(message.encode(), self._address)
