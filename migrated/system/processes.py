"""Run one program until it exits or its time limit passes.

The program gets its own session, so that signals for us do not reach it and its whole process group can be killed.
Its output is read continuously, and only the last bytes are kept.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from migrated.system.cancellation import CancelToken

if TYPE_CHECKING:
    import subprocess

GRACE_SECONDS = 2.0
"""Time between SIGTERM and SIGKILL."""
KEPT_BYTES = 8192
_INTERVAL_SECONDS = 0.02
_CHUNK = 65536
_MOST_CHUNKS_AFTER_THE_END = 16


class Ended(NamedTuple):
    """Result of a program. `reason` says what went wrong; None if it exited with code 0.

    `output` has the last bytes of standard output and standard error together; `is_cut` if there was more.
    """

    reason: str | None
    hint: str | None = None
    output: bytes = b""
    is_cut: bool = False


def run_program(
    command: Sequence[str],
    directory: str,
    environment: Mapping[str, str | bytes],
    timeout: float,
    cancel_token: CancelToken,
) -> Ended:
    """Run `command` in `directory` for at most `timeout` seconds, and no longer than `cancel_token` allows.

    Returns when the program itself has exited; processes that it left in the background are not touched. After a
    timeout the whole process group is terminated. Never raises for anything a program can do.
    """
    # Imported here: few configurations have a hook, and commands start sooner without it.
    import subprocess

    deadline = time.monotonic() + timeout
    try:
        reader, writer = os.pipe()
    except OSError as error:
        return _not_started(error, command[0], directory)
    try:
        try:
            process = _start(command, directory, environment, writer)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return _not_started(error, command[0], directory)
        finally:
            os.close(writer)
        run = _Run(process, reader)
        if run.wait(lambda now: now >= deadline or cancel_token.deadline_passed(now)):
            return _exited(process.wait(), run, directory)
        if cancel_token.deadline_passed(time.monotonic()):
            reason, hint = (
                f"it was terminated because migrated is stopping: {cancel_token.reason}",
                "raise stop_grace",
            )
        else:
            reason, hint = f"it ran longer than {timeout:g} s and was terminated", "raise `timeout` in [hooks]"
        if run.end():
            process.wait()
        else:
            reason += "; it is still running, even after SIGKILL"
        return Ended(reason, hint, bytes(run.output), run.is_cut)
    finally:
        os.close(reader)


def _start(
    command: Sequence[str], directory: str, environment: Mapping[str, str | bytes], output: int
) -> "subprocess.Popen[bytes]":
    import subprocess

    # The worker thread of a command has all signals blocked, and the program would inherit that mask: SIGTERM
    # could not terminate it. Signal handlers need no reset: they are at their defaults in the program anyway.
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        return subprocess.Popen(  # noqa: S603 - which program is for the configuration's owner to say
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Run:
    """A running program and its output so far."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: int) -> None:
        os.set_blocking(reader, False)
        self._pid = process.pid
        self._reader = reader
        self._poll = select.poll()
        self._poll.register(reader, select.POLLIN)
        self._is_open = True
        self.output = bytearray()
        self.is_cut = False

    def wait(self, is_over: Callable[[float], bool]) -> bool:
        """Read output until the program has exited or `is_over`. Return True if it has exited."""
        while not self._has_ended():
            if is_over(time.monotonic()):
                return False
            self._read_output(_INTERVAL_SECONDS)
        for _ in range(_MOST_CHUNKS_AFTER_THE_END):
            self._read_output(0)
        return True

    def end(self) -> bool:
        """Terminate the process group: SIGTERM, then SIGKILL. Return True if the program is gone."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        # An open pipe means that children of the program are still terminating, even if it has exited itself.
        while time.monotonic() < deadline and not (self._has_ended() and not self._is_open):
            self._read_output(_INTERVAL_SECONDS)
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + GRACE_SECONDS
        return self.wait(lambda now: now >= deadline)

    def _has_ended(self) -> bool:
        try:
            # WNOWAIT does not reap it: until it is reaped, its pid is not reused, so a signal cannot hit another
            # process.
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _signal(self, number: signal.Signals) -> None:
        # The group is gone, or runs as another user (setuid).
        with suppress(OSError):
            os.killpg(self._pid, number)

    def _read_output(self, seconds: float) -> None:
        """Read once, waiting up to `seconds` for something to read."""
        if not self._is_open:
            time.sleep(seconds)
        elif self._poll.poll(seconds * 1000):
            data = os.read(self._reader, _CHUNK)
            if not data:
                self._is_open = False
                self._poll.unregister(self._reader)
            self.output += data
            self.is_cut = self.is_cut or len(self.output) > KEPT_BYTES
            del self.output[:-KEPT_BYTES]


def _exited(code: int, run: _Run, directory: str) -> Ended:
    output = bytes(run.output)
    if code == 0:
        return Ended(None, None, output, run.is_cut)
    reason = f"it was terminated by {_signal_name(-code)}" if code < 0 else f"it exited with code {code}"
    return Ended(reason, f"run it by hand in {directory} to see why", output, run.is_cut)


def _not_started(error: Exception, program: str, directory: str) -> Ended:
    if isinstance(error, OSError) and error.filename == directory:
        return Ended(f"cannot enter its working directory {directory}: {error.strerror}")
    match getattr(error, "errno", None):
        case errno.ENOENT:
            hint = f"a name without a slash is looked up in PATH, other paths are relative to {directory}"
            return Ended(f"{program} or its interpreter was not found", hint)
        case errno.EACCES:
            return Ended(f"{program} is not executable", f"chmod +x {program}")
        case errno.ENOEXEC:
            return Ended(f"{program} is not a program", "a script begins with a line such as #!/bin/sh")
        case _:
            return Ended(f"{program} could not be started: {error}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
