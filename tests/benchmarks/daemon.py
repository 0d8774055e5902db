"""A daemon that is measured: its log goes to a file, and what it tells systemd says when a pass is over."""

import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

from benchmarks.measuring import FailedError, processor_seconds, resident_bytes, surroundings
from support import PROGRAM

_PATIENCE = 600.0
_STOP_SECONDS = 60.0
_MESSAGE_BYTES = 8_192


class Daemon:
    """`migrated run` in a directory. A context manager; it is ended at the end."""

    def __init__(self, home: Path, command: str = "run") -> None:
        self._log = home.parent / f"{home.name}.log"
        self._ends: SimpleQueue[float] = SimpleQueue()
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # An abstract address that the kernel chooses.
        self._ear.bind("")
        self._address: bytes = self._ear.getsockname()
        Thread(target=self._listen, daemon=True).start()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, command],
                cwd=home,
                env=surroundings(NOTIFY_SOCKET="@" + self._address[1:].decode()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def pass_ended(self) -> float:
        """Wait until a pass is over; when it was, by `time.perf_counter`."""
        try:
            return self._ends.get(timeout=_PATIENCE)
        except Empty:
            raise FailedError(f"the daemon does not end its pass:\n{self._log.read_text()[-2000:]}") from None

    def passes_until_quiet(self, seconds: float) -> int:
        """How many more passes there are until none has ended for so long."""
        count = 0
        with suppress(Empty):
            while True:
                self._ends.get(timeout=seconds)
                count += 1
        return count

    def look(self) -> None:
        """Have it look at everything, and wait until it has."""
        self.process.send_signal(signal.SIGUSR1)
        self.pass_ended()

    def processor_seconds(self) -> float:
        return processor_seconds(self.process.pid)

    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
                mouth.sendto(b"", self._address)

    def _listen(self) -> None:
        with self._ear:
            while message := self._ear.recv(_MESSAGE_BYTES):
                if b"X_MIGRATED_PASS=" in message:
                    self._ends.put(time.perf_counter())
