"""Taking times: whole programs, in turns, and what a running process has used so far."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import ROOT

Samples = list[float]
_SAID = 2_000


class FailedError(Exception):
    """A program that is measured did not do its work."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that ended well: how long it took, in seconds, and what it printed."""

    seconds: float
    said: str


def run(command: Sequence[str], home: Path) -> Ended:
    """Run a program in a directory to its end, with its output in a file. Raises `FailedError`."""
    output = home.parent / f"{home.name}.out"
    with output.open("w") as file:
        began = time.perf_counter()
        code = subprocess.call(
            command, cwd=home, env=surroundings(), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        seconds = time.perf_counter() - began
    said = output.read_text()
    if code:
        raise FailedError(f"{' '.join(command)[:500]} in {home}: exit code {code}\n{said[-_SAID:]}")
    return Ended(seconds, said)


def surroundings(**changes: str) -> dict[str, str]:
    """The environment of a child: the code measured is the one beside these files."""
    # An installed program has its byte code; that must not depend on where this is run.
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": str(ROOT), **changes}


def take_turns(rounds: int, ways: Mapping[str, Callable[[], float]]) -> dict[str, Samples]:
    """Call each way once a round, another one first each time; what they return, by their names."""
    names = list(ways)
    found: dict[str, Samples] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(ways[name]())
    return found


def ratio(ours: Samples, theirs: Samples) -> float:
    """The median of the ratios of each round: what disturbs a whole round disturbs both."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def difference(ours: Samples, theirs: Samples) -> float:
    """The median of the differences of each round."""
    return statistics.median(one - other for one, other in zip(ours, theirs, strict=True))


def percentile(samples: Samples, share: float) -> float:
    """The sample below which that share of all lies, the nearest one."""
    return sorted(samples)[min(len(samples) - 1, round(share * len(samples)))]


def processor_seconds(pid: int) -> float:
    """User and system time of all threads of a process so far, to the nanosecond."""
    # The clock that clock_getcpuclockid(3) gives: /proc/PID/stat counts in hundredths of a second.
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))
