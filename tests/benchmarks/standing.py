"""A daemon over many databases: a pass with news, a look without, and doing nothing."""

import statistics
import time
from pathlib import Path

from benchmarks.bench import SNAPSHOTS_NEVER, WORKERS, Bench, configure, floor, inner
from benchmarks.daemon import Daemon
from benchmarks.making import applied, make_fleet, require_applied, settle_disk, write_migrations
from benchmarks.measuring import Samples, take_turns
from benchmarks.results import Beside, Row, at_most, at_most_times

_BEFORE = 5
_LOOKS = 10
_IDLE_SECONDS = 60.0
_STATS = "scandir and stats alone"
_FLOOR = f"plain apsw, {WORKERS} threads"


def measure(bench: Bench) -> list[Row]:
    """Rows 6, 7 and 9. Each size has one daemon, which is asked for everything."""
    few, passes = _with_fleet(bench, bench.size(1_000), bench.heavy_rounds)
    many, many_passes = _with_fleet(bench, bench.size(10_000), bench.fewest_rounds, idle=True)
    each = [seconds * 1000 / bench.size(1_000) for seconds in passes]
    each_of_many = [seconds * 1000 / bench.size(10_000) for seconds in many_passes]
    what = f"one database in a pass over {bench.size(10_000):,}"
    # Their rounds were not taken in turns: the medians are compared.
    usual = [statistics.median(each)] * len(each_of_many)
    beside = Beside(f"in one over {bench.size(1_000):,}", usual, at_most_times(1.15))
    return [*few, *many, Row(what, bench.size(10_000), "ms", each_of_many, [beside])]


def _with_fleet(bench: Bench, count: int, rounds: int, *, idle: bool = False) -> tuple[list[Row], Samples]:
    with bench.home("standing") as home:
        for directory in ("migrations", "for-floor"):
            write_migrations(home / directory, range(1, _BEFORE + 1))
        floor(home, "apply", "1", "plain", "migrations", "like.db")
        fleets = {name: make_fleet(home / name, count, home / "like.db") for name in ("ours", "floor")}
        configure(home, ["ours/*.db"], SNAPSHOTS_NEVER, top=['resync_interval = "24h"'])
        with Daemon(home) as daemon:
            daemon.pass_ended()
            rows, passes = _news(home, daemon, fleets, rounds)
            if idle:
                rows += [_looks(home, daemon, count), *_nothing(bench, daemon, count)]
        for paths in fleets.values():
            require_applied(paths, _BEFORE + rounds)
    return rows, passes


def _news(home: Path, daemon: Daemon, fleets: dict[str, list[Path]], rounds: int) -> tuple[list[Row], Samples]:
    """One new file: until its last database is current. The floor is a program that runs already, too."""
    count = len(fleets["ours"])
    numbers = {name: iter(range(_BEFORE + 1, _BEFORE + rounds + 1)) for name in fleets}

    def by_daemon() -> float:
        newest = next(numbers["ours"])
        settle_disk()
        began = time.perf_counter()
        write_migrations(home / "migrations", [newest])
        ended = daemon.pass_ended()
        # A pass that had begun before the file was there is not the one.
        while any(applied(path) < newest for path in fleets["ours"]):
            ended = daemon.pass_ended()
        return ended - began

    def by_floor() -> float:
        write_migrations(home / "for-floor", [next(numbers["floor"])])
        return inner(floor(home, "apply", str(WORKERS), "plain", "for-floor", "floor/*.db"))[0]

    found = take_turns(rounds, {"migrated": by_daemon, _FLOOR: by_floor})
    what = f"{count:,} databases, daemon: new file to the last commit, no snapshots"
    beside = [Beside(_FLOOR, found[_FLOOR], at_most_times(1.5))]
    return [Row(what, count, "s", found["migrated"], beside)], found["migrated"]


def _looks(home: Path, daemon: Daemon, count: int) -> Row:
    """A resync, asked for by SIGUSR1: the time of the processor for each of several."""
    ours, stats = [], []
    for _ in range(_LOOKS):
        before = daemon.processor_seconds()
        daemon.look()
        ours.append((daemon.processor_seconds() - before) * 1000)
        stats.append(inner(floor(home, "stat", "1", "ours"))[1] * 1000)
    what = f"{count:,} databases, daemon: resync without news, time of the processor"
    return Row(what, count, "ms", ours, [Beside(_STATS, stats, at_most_times(2))])


def _nothing(bench: Bench, daemon: Daemon, count: int) -> list[Row]:
    seconds = max(1.0, _IDLE_SECONDS * bench.scale)
    before = daemon.processor_seconds()
    time.sleep(seconds)
    share = (daemon.processor_seconds() - before) / seconds * 100
    size = daemon.resident_bytes() / 1e6
    return [
        Row(f"{count:,} databases, daemon idle: share of a core", count, "%", [share], goal=at_most(0.1)),
        Row(f"{count:,} databases, daemon: memory after {_LOOKS} passes", count, "MB", [size], goal=at_most(80)),
    ]
