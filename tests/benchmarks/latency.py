"""From the rename of a file into the directory to the committed change, for daemons and for loops around dbmate.

All of them run side by side, each in a directory of its own, and get one file after the other in turns. The time
ends when the line that speaks of the commit can be read: `migration.applied` in our log, "Applied" from dbmate.
"""

import os
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

from benchmarks.bench import SNAPSHOTS_NEVER, Bench, configure, floor, floor_command, peer
from benchmarks.making import (
    DBMATE,
    DBMATE_LEDGER,
    LEDGER,
    NothingDoneError,
    file_name,
    require_applied,
    settle_disk,
    write_migrations,
)
from benchmarks.making import OURS as MARKS
from benchmarks.measuring import FailedError, Samples, percentile, surroundings
from benchmarks.peers import ENTR, INOTIFYWAIT, dbmate_up, loops
from benchmarks.results import Beside, Goal, Row, at_most, at_most_times, in_milliseconds
from support import PROGRAM

BEFORE = 20
SEEN = ": file renamed in to commit seen"
COMPARED = "for comparison: "
_EVENTS = 100
_FEW_EVENTS = 20
_PAUSE = 0.02
_START_SECONDS = 30.0
_LOST_SECONDS = 5.0
_FLOOR = "inotify and plain apsw in one process"
_REDO = "`migrated dev`, the newest file edited"
# The name, the command, and lines for the target.
OURS = (
    ("`migrated run`", "run", ()),
    ("`migrated run`, no snapshots", "run", (SNAPSHOTS_NEVER,)),
    ("`migrated dev`", "dev", ()),
    ("`migrated dev`, no snapshots", "dev", (SNAPSHOTS_NEVER,)),
    (_REDO, "dev", ()),
)
_OURS = (MARKS, LEDGER)
_SAID = (b'"event":"migration.applied"', b"Applied: ", b"applied ")


class Contestant:
    """A watching program in a directory with 20 applied migrations. A context manager; it is ended at the end."""

    edits = False
    """Whether the newest file is written again, each time with another text, in place of one more."""

    def __init__(self, home: Path, command: list[str], marks: tuple[str, str], ledger: str, ready: bytes) -> None:
        self.taken: Samples = []
        self.lost = 0
        self._home = home
        self._marks = marks
        self._ledger = ledger
        self._applied = BEFORE
        self._saves = 0
        self._ready: SimpleQueue[None] = SimpleQueue()
        self._commits: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        self._expects = ready
        # A group of its own: a loop has children, which must end with it.
        self._process = subprocess.Popen(
            command,
            cwd=home,
            env=surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read)
        self._reader.start()

    def wait_until_ready(self) -> None:
        if not self._expects:
            time.sleep(1)  # It says nothing.
            return
        try:
            self._ready.get(timeout=_START_SECONDS)
        except Empty:
            raise FailedError(f"{self._home.name} does not begin to watch") from None

    def save(self) -> None:
        """Rename a new file in and take the time until it is committed; what nobody noticed counts as lost."""
        self._saves += 1
        edited = (f"CREATE TABLE edited (c{self._saves} TEXT);", "DROP TABLE edited;")
        self._applied = BEFORE + (1 if self.edits else self._saves)
        began = time.perf_counter()
        write_migrations(self._home / "migrations", [self._applied], self._marks, edited if self.edits else None)
        try:
            self.taken.append(self._committed() - began)
        except Empty:
            self.lost += 1
        time.sleep(_PAUSE)

    def _committed(self) -> float:
        """When the newest version was; what comes late of one that was given up is passed over."""
        wanted = file_name(self._applied).partition("_")[0].encode()
        while True:
            when, line = self._commits.get(timeout=_LOST_SECONDS)
            if wanted in line:
                return when

    def require_applied(self, *, all_noticed: bool) -> None:
        """Raise `NothingDoneError` unless it did what it seemed to do."""
        if not self.taken or (self.lost and all_noticed):
            raise NothingDoneError(f"{self._home.name} did not notice {self.lost} files")
        if not self.lost:
            require_applied([self._home / "app.db"], self._applied, self._ledger)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if any(mark in line for mark in _SAID):
                self._commits.put((time.perf_counter(), line))
            elif self._expects and self._expects in line:
                self._ready.put(None)


def measure(bench: Bench) -> list[Row]:
    """The rows of group 8 that are about time."""
    events = bench.size(_EVENTS)
    with bench.home("latency") as home, ExitStack() as stack:
        contestants = {name: stack.enter_context(each) for name, each in _contestants(bench, home)}
        for contestant in contestants.values():
            contestant.wait_until_ready()
        settle_disk()
        for number in range(events):
            for name, contestant in contestants.items():
                # It takes half a second for each; so it gets fewer.
                if name != ENTR or number < max(1, events * _FEW_EVENTS // _EVENTS):
                    contestant.save()
        names = [name for name, _, _ in OURS]
        for name, contestant in contestants.items():
            contestant.require_applied(all_noticed=name in (*names, _FLOOR))
    return [row for name in names for row in _rows(name, contestants)] + _others(contestants)


def _contestants(bench: Bench, home: Path) -> list[tuple[str, Contestant]]:
    found = []
    for number, (name, command, target) in enumerate(OURS):
        own = _home(bench, home / f"ours{number}", is_ours=True)
        configure(own, ["app.db"], *target, top=bench.settle)
        contestant = Contestant(own, [*PROGRAM, command], *_OURS, b'"event":"daemon.ready"')
        contestant.edits = name == _REDO
        found.append((name, contestant))
    own = _home(bench, home / "floor", is_ours=True)
    command_line = floor_command("watch", "migrations", "app.db")
    found.append((_FLOOR, Contestant(own, command_line, *_OURS, b"watching")))
    for number, (name, loop) in enumerate(loops(bench.peers, "migrations", "app.db").items()):
        if loop:
            own = _home(bench, home / f"loop{number}", is_ours=False)
            found.append((name, Contestant(own, loop, DBMATE, DBMATE_LEDGER, b"")))
    return found


def _home(bench: Bench, home: Path, *, is_ours: bool) -> Path:
    home.mkdir()
    if is_ours:
        write_migrations(home / "migrations", range(1, BEFORE + 1))
        floor(home, "apply", "1", "plain", "migrations", "app.db")
    elif bench.peers.dbmate:
        write_migrations(home / "migrations", range(1, BEFORE + 1), DBMATE)
        peer(home, dbmate_up(bench.peers.dbmate, "migrations", "app.db"))
    return home


def _rows(name: str, contestants: dict[str, Contestant]) -> list[Row]:
    """The median beside the floor and the best loop; and how far the slowest are from it."""
    taken = in_milliseconds(contestants[name].taken)
    loop = contestants.get(INOTIFYWAIT)
    usable = in_milliseconds(loop.taken) if loop and not loop.lost else None
    beside = [
        Beside(_FLOOR, in_milliseconds(contestants[_FLOOR].taken)),
        Beside(INOTIFYWAIT, usable, None if name == _REDO else at_most_times(1)),
    ]
    return [Row(f"{name}{SEEN}", len(taken), "ms", taken, beside), _spread(name, taken, at_most(20))]


def _spread(name: str, taken: Samples, goal: Goal | None = None) -> Row:
    spread = percentile(taken, 0.99) - statistics.median(taken)
    return Row(f"{name}: the 99th percentile beyond the median", len(taken), "ms", [spread], goal=goal)


def _others(contestants: dict[str, Contestant]) -> list[Row]:
    rows = []
    names = [name for name, _, _ in OURS]
    for name, contestant in contestants.items():
        if name not in names:
            lost = f" ({contestant.lost} not noticed in {_LOST_SECONDS:.0f} s)" if contestant.lost else ""
            taken = in_milliseconds(contestant.taken)
            rows += [Row(f"{COMPARED}{name}{lost}", len(taken), "ms", taken), _spread(name, taken)]
    return rows
