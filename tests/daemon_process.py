"""Runs the program as its users do: real processes, their log, and their messages to systemd."""

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

# Only failures wait this long. On a busy machine everything takes ten times as long as on an idle one, and that
# must not fail a test.
DEADLINE = 45.0
Line = dict[str, Any]
# Root passes any permission check unless it gives up these two capabilities.
BOUND_BY_PERMISSIONS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
# A limit of the new user namespace only; the limit of the machine does not change.
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
    """Return the environment of a child process: it runs the code beside these tests, not an installed copy."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def migrated(
    directory: Path, *arguments: str | Path, wrapper: Sequence[str] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in a directory and wait for its end."""
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
    """Run the program on a terminal. Return its exit code and the terminal's output.

    With `stdout`, only standard error is the terminal.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(**{"TERM": "xterm", "COLUMNS": "100", **variables}),
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
                # Linux reports EIO when no process has the other end of a pseudo-terminal open.
                break
            if not part:
                break
            seen += part
        os.close(ours)
        return process.wait(), seen.decode().replace("\r\n", "\n")


def bring_up(directory: Path, target: int | None = None, *, database: str = "app.db") -> None:
    """Apply the migrations with the library: for the preparation of tests, because it is faster."""
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
    """Run any command in the background. The process is killed at the end of the block."""
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
    """Hold a write transaction in another process. Yields a function that ends it."""
    return holding(_HOLD.format(how="IMMEDIATE"), database)


def everybody_kept_out(database: Path) -> AbstractContextManager[Callable[[], None]]:
    """Hold an exclusive transaction in another process: nobody can read. Yields a function that ends it."""
    return holding(_HOLD.format(how="EXCLUSIVE"), database)


@contextmanager
def holding(script: str, database: Path) -> Iterator[Callable[[], None]]:
    """Run a script that prints "held" when it holds something. Yields a function that ends it."""
    command = (sys.executable, "-c", script, database)
    with running(*command, cwd=database.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        def release() -> None:
            process.communicate(timeout=DEADLINE)

        yield release


def poll(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that no event announces."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for: {what}"
        time.sleep(0.02)


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Return True if the process has a handler for the signal."""
    (mask,) = (
        line.split()[1]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    )
    return bool(int(mask, 16) >> (number - 1) & 1)


def children(pid: int) -> list[str]:
    """Return the child processes that were not reaped yet."""
    return [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def ticks(pid: int) -> int:
    """Return the user and system time used so far, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def require(wrapper: Sequence[str], command: Sequence[str] = ("true",)) -> None:
    """Skip the test if this machine does not allow the command."""
    if not shutil.which([*wrapper, *command][0]):
        pytest.skip(f"no {wrapper[0]} here")
    tried = subprocess.run([*wrapper, *command], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"{wrapper[0]} is not allowed here: {tried.stderr.strip()}")


def log_lines(text: str) -> list[Line]:
    """Parse a log of JSON lines. Every line must be valid."""
    return [json.loads(line) for line in text.splitlines()]


def _has(line: Line, keys: Line) -> bool:
    return all(line.get(key) == value for key, value in keys.items())


class DaemonProcess:
    """`migrated run` or `dev` in a directory. A context manager: at its end the process is killed.

    The log is read in order: waiting considers only lines after the last one returned. With `stderr` the log
    goes to that descriptor and is not read.
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
        self._received: SimpleQueue[dict[str, str]] = SimpleQueue()
        self._marks = 0
        self._receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # An abstract address chosen by the kernel.
        self._receiver.bind("")
        self._address: bytes = self._receiver.getsockname()
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
        """Return the next line of this event with these keys."""
        return self.wait_for_all({"event": event, **keys})

    def wait_for_all(self, *wanted: Line) -> Line:
        """Return the last of several awaited lines, which may come in any order."""
        missing = list(wanted)
        while True:
            while self._next_line < len(self.lines):
                line = self.lines[self._next_line]
                self._next_line += 1
                missing = [keys for keys in missing if not _has(line, keys)]
                if not missing:
                    return line
            # The deadline applies to each line: a daemon that keeps logging is not stuck, however slow it is.
            if not self._receive(time.monotonic() + DEADLINE):
                raise AssertionError(f"no {missing} in the log:\n{self.text()}")

    def wait_until_ready(self) -> Self:
        self.wait_for("daemon.ready")
        return self

    def wait_for_notice(self, name: str) -> dict[str, str]:
        """Return the next message to systemd that has this field."""
        deadline = time.monotonic() + DEADLINE
        while True:
            while self._next_notice < len(self.notices):
                notice = self.notices[self._next_notice]
                self._next_notice += 1
                if name in notice:
                    return notice
            try:
                self.notices.append(self._received.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                raise AssertionError(f"no {name} in {self.notices}; the log:\n{self.text()}") from None

    def pass_over_notices(self) -> None:
        """Receive every message sent to systemd until now."""
        self._marks += 1
        self._send_message(f"MARK={self._marks}")
        while self.wait_for_notice("MARK")["MARK"] != str(self._marks):
            pass

    def look(self) -> None:
        """Return when a pass that began after this call has ended."""
        self.pass_over_notices()
        # The first pass to end may have begun before the call.
        for _ in range(2):
            self.send(signal.SIGUSR1)
            self.wait_for_notice("X_MIGRATED_PASS")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon in order and return its exit code. `lines` is then the whole log."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the end of the process. `lines` is then the whole log."""
        try:
            code = self.process.wait(2 * DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end; the log:\n{self.text()}") from None
        while self.process.stderr is not None and self._receive(time.monotonic() + DEADLINE):
            pass
        return code

    def logged(self, event: str, **keys: object) -> list[Line]:
        """Return the lines of an event so far; all of them after `stop`, `kill` or `wait`."""
        return [line for line in self.lines if _has(line, {"event": event, **keys})]

    def text(self) -> str:
        return "\n".join(map(json.dumps, self.lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._send_message("END=1")
        for thread in self._threads:
            thread.join()
        self._receiver.close()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _receive(self, deadline: float) -> bool:
        try:
            line = self._incoming.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return False
        if line is None:
            # Keep the end marker for later calls.
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
        while (message := self._receiver.recv(8192)) != b"END=1":
            fields = (field.partition("=") for field in message.decode().split("\n"))
            self._received.put({name: value for name, _, value in fields})

    def _send_message(self, message: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), self._address)
