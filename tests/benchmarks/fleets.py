"""Many databases, by commands: fresh ones, one new migration, nothing to do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import SNAPSHOTS_NEVER, WORKERS, Bench, configure, floor, migrated, peer
from benchmarks.making import (
    DBMATE,
    DBMATE_LEDGER,
    NothingDoneError,
    file_name,
    make_fleet,
    require_applied,
    write_migrations,
)
from benchmarks.measuring import Samples, take_turns
from benchmarks.peers import dbmate_fleet, dbmate_up
from benchmarks.results import Beside, Goal, Row, at_most_times, times_faster

BEFORE = 20
"""How many migrations are applied before something new comes."""
_FLOOR = f"plain apsw, {WORKERS} threads"
_LOOK = "plain apsw, reads every ledger"
_DBMATE = "xargs -P2 dbmate"
Goals = dict[str, Goal | None]


def measure(bench: Bench) -> list[Row]:
    """Rows 3, 4 and 5."""
    count = bench.size(1000)
    return [
        fresh(bench, count),
        *one_new(bench, count, bench.heavy_rounds, with_peers=True),
        one_new_with_snapshots(bench, count),
    ]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal databases in a directory of a home, brought up to date in one way, and what each has applied."""

    home: Path
    name: str
    count: int

    @property
    def pattern(self) -> str:
        return f"{self.name}/*.db"

    def make(self, like: Path | None = None) -> list[str]:
        """Make its databases anew; their paths below the home."""
        return [f"{self.name}/{path.name}" for path in make_fleet(self.home / self.name, self.count, like)]

    def require(self, applied: int) -> None:
        ledger = DBMATE_LEDGER if self.name == "dbmate" else "_migrations"
        paths = sorted((self.home / self.name).glob("*.db"))
        if len(paths) != self.count:
            raise NothingDoneError(f"{self.count} databases were made, {len(paths)} are there")
        require_applied(paths, applied, ledger)

    def way(self, bench: Bench, kind: str = "plain") -> Callable[[], float]:
        """How its databases are brought up to date: one program, to its end."""
        match self.name:
            case "ours":
                return lambda: migrated(self.home, "up").seconds
            case "floor":
                threads = str(WORKERS)
                return lambda: floor(self.home, "apply", threads, kind, "migrations", self.pattern).seconds
            case _:
                command = dbmate_fleet(bench.peers.dbmate or "", "for-dbmate", self.name)
                return lambda: peer(self.home, command).seconds


def fleets(bench: Bench, home: Path, count: int, *, with_peers: bool) -> dict[str, Fleet]:
    names = {"migrated": "ours", _FLOOR: "floor"}
    if with_peers and bench.peers.dbmate:
        names[_DBMATE] = "dbmate"
    return {label: Fleet(home, name, count) for label, name in names.items()}


def write_for_all(home: Path, first: int, last: int) -> None:
    """New files for everyone."""
    write_migrations(home / "migrations", range(first, last + 1))
    write_migrations(home / "for-dbmate", range(first, last + 1), DBMATE)


def fresh(bench: Bench, count: int) -> Row:
    """Empty files, and 20 migrations for each."""
    with bench.home("fresh-fleet") as home:
        write_for_all(home, 1, BEFORE)
        configure(home, ["ours/*.db"], "create = true")

        def renewed(fleet: Fleet) -> Callable[[], float]:
            way = fleet.way(bench)

            def call() -> float:
                fleet.make()
                seconds = way()
                fleet.require(BEFORE)
                return seconds

            return call

        all_fleets = fleets(bench, home, count, with_peers=True)
        found = take_turns(bench.heavy_rounds, {name: renewed(fleet) for name, fleet in all_fleets.items()})
    goals: Goals = {_FLOOR: at_most_times(1.5), _DBMATE: times_faster(5)}
    return _row(f"{count:,} fresh databases, {BEFORE} migrations each: `up`", count, found, goals)


def one_new(bench: Bench, count: int, rounds: int, *, with_peers: bool) -> list[Row]:
    """One new migration for all, and then nothing to do for anyone."""
    with bench.home("fleet") as home:
        configure(home, ["ours/*.db"], SNAPSHOTS_NEVER)
        all_fleets = fleets(bench, home, count, with_peers=with_peers)
        _prepare(bench, home, all_fleets)
        found = _news(bench, home, all_fleets, rounds)
        nothing = {name: fleet.way(bench) for name, fleet in all_fleets.items() if name != _FLOOR}
        nothing[_LOOK] = lambda: floor(home, "look", "migrations", "floor/*.db").seconds
        idle = take_turns(rounds, nothing)
        for fleet in all_fleets.values():
            fleet.require(BEFORE + rounds)
    goals: Goals = {_FLOOR: None}
    idle_goals: Goals = {_LOOK: None}
    if with_peers:
        goals = {_FLOOR: at_most_times(1.5), _DBMATE: times_faster(4)}
        idle_goals = {_DBMATE: times_faster(25), _LOOK: None}
    return [
        _row(f"{count:,} databases, one new migration, no snapshots: `up`", count, found, goals),
        _row(f"{count:,} databases, nothing to do: `up`", count, idle, idle_goals),
    ]


def one_new_with_snapshots(bench: Bench, count: int) -> Row:
    """As by default: each database is kept before it is changed."""
    rounds = bench.heavy_rounds
    with bench.home("kept-fleet") as home:
        configure(home, ["ours/*.db"])
        all_fleets = fleets(bench, home, count, with_peers=False)
        _prepare(bench, home, all_fleets)
        found = _news(bench, home, all_fleets, rounds, kind="snapshot")
    named = {"migrated": found["migrated"], f"{_FLOOR}, with a copy": found[_FLOOR]}
    what = f"{count:,} databases, one new migration, snapshots as by default: `up`"
    return _row(what, count, named, {f"{_FLOOR}, with a copy": None})


def _prepare(bench: Bench, home: Path, all_fleets: dict[str, Fleet]) -> None:
    """Every fleet gets copies of one database with the migrations that are there before."""
    write_for_all(home, 1, BEFORE)
    floor(home, "apply", "1", "plain", "migrations", "like.db")
    if bench.peers.dbmate and _DBMATE in all_fleets:
        peer(home, dbmate_up(bench.peers.dbmate, "for-dbmate", "like-dbmate.db"))
    for fleet in all_fleets.values():
        fleet.make(home / ("like-dbmate.db" if fleet.name == "dbmate" else "like.db"))


def _news(
    bench: Bench, home: Path, all_fleets: dict[str, Fleet], rounds: int, kind: str = "plain"
) -> dict[str, Samples]:
    """One new migration each round, for everyone."""
    newest = dict.fromkeys(all_fleets, BEFORE)

    def one_more(name: str, fleet: Fleet) -> Callable[[], float]:
        way = fleet.way(bench, kind)

        def call() -> float:
            newest[name] += 1
            if not (home / "migrations" / file_name(newest[name])).exists():
                write_for_all(home, newest[name], newest[name])
            seconds = way()
            fleet.require(newest[name])
            return seconds

        return call

    return take_turns(rounds, {name: one_more(name, fleet) for name, fleet in all_fleets.items()})


def _row(what: str, size: int, found: dict[str, Samples], goals: Goals) -> Row:
    beside = [Beside(name, found.get(name), goal) for name, goal in goals.items()]
    return Row(what, size, "s", found["migrated"], beside)
