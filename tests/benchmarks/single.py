"""One database: many new migrations, none, and what the commands that only read take to start."""

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.bench import SNAPSHOTS_NEVER, Bench, configure, floor, interpreter, migrated, peer
from benchmarks.making import (
    DBMATE,
    DBMATE_LEDGER,
    execute,
    make_big,
    remove_database,
    require_applied,
    write_migrations,
)
from benchmarks.measuring import Samples, take_turns
from benchmarks.peers import dbmate_up
from benchmarks.results import Beside, Goal, Row, at_most_beyond, at_most_times, in_milliseconds, times_faster

_BEFORE = "CREATE TABLE before_us (id INTEGER PRIMARY KEY);"
_FLOOR = "plain apsw, one transaction"
_LOOK = "plain apsw: read, hash, compare"
Ways = dict[str, Callable[[], float]]
Goals = dict[str, Goal | None]


def measure(bench: Bench) -> list[Row]:
    """Rows 1, 2 and 10."""
    count, rounds = bench.size(1000), bench.rounds
    return [
        fresh(bench, count, rounds),
        used(bench, count, rounds),
        current(bench, count, rounds * 2),
        *reading(bench, rounds * 3),
    ]


def fresh(bench: Bench, count: int, rounds: int, *, with_peers: bool = True) -> Row:
    """All migrations onto a database that does not exist yet."""
    found = _up(bench, "fresh", count, rounds, before="", with_peers=with_peers)
    goals: Goals = {_FLOOR: None}
    if with_peers:
        goals = {_FLOOR: at_most_times(1.3), "dbmate": times_faster(3)}
    return _row(f"{count:,} migrations, fresh database: `up`", count, found, goals)


def used(bench: Bench, count: int, rounds: int) -> Row:
    """All migrations onto a database with a table in it, which takes a transaction for each."""
    found = _up(bench, "used", count, rounds, before=_BEFORE, with_peers=True)
    goals: Goals = {_FLOOR: None, "dbmate": times_faster(1)}
    return _row(f"{count:,} migrations, database not new, no snapshot: `up`", count, found, goals)


def _up(bench: Bench, name: str, count: int, rounds: int, *, before: str, with_peers: bool) -> dict[str, Samples]:
    with bench.home(name) as home:
        write_migrations(home / "migrations", range(1, count + 1))
        write_migrations(home / "dbmate", range(1, count + 1), DBMATE)
        configure(home, ["app.db"], *([SNAPSHOTS_NEVER] if before else []))

        def renewed(way: Callable[[], float], ledger: str = "_migrations") -> Callable[[], float]:
            def call() -> float:
                remove_database(home / "app.db")
                if before:
                    execute(home / "app.db", before)
                seconds = way()
                require_applied([home / "app.db"], count, ledger)
                return seconds

            return call

        ways: Ways = {
            "migrated": renewed(lambda: migrated(home, "up").seconds),
            _FLOOR: renewed(lambda: floor(home, "apply", "1", "plain", "migrations", "app.db").seconds),
        }
        if with_peers and (dbmate := bench.peers.dbmate):
            up = dbmate_up(dbmate, "dbmate", "app.db")
            ways["dbmate"] = renewed(lambda: peer(home, up).seconds, DBMATE_LEDGER)
        return take_turns(rounds, ways)


def current(bench: Bench, count: int, rounds: int, *, with_peers: bool = True) -> Row:
    """Everything is applied already."""
    with bench.home("current") as home:
        write_migrations(home / "migrations", range(1, count + 1))
        write_migrations(home / "dbmate", range(1, count + 1), DBMATE)
        floor(home, "apply", "1", "plain", "migrations", "app.db")
        ways: Ways = {
            "migrated": lambda: migrated(home, "up").seconds,
            "python -c pass": lambda: interpreter(home).seconds,
            _LOOK: lambda: floor(home, "look", "migrations", "app.db").seconds,
        }
        if with_peers and (dbmate := bench.peers.dbmate):
            up = dbmate_up(dbmate, "dbmate", "peer.db")
            peer(home, up)
            require_applied([home / "peer.db"], count, DBMATE_LEDGER)
            ways["dbmate"] = lambda: peer(home, up).seconds
        found = take_turns(rounds, ways)
        require_applied([home / "app.db"], count)
    goals: Goals = {_LOOK: None}
    if with_peers:
        goals = {"python -c pass": at_most_beyond(60), "dbmate": None, _LOOK: None}
    return _row(f"{count:,} migrations, all applied: `up`", count, found, goals)


def reading(bench: Bench, rounds: int) -> list[Row]:
    """The commands that only read, on one database with 20 migrations; without a configuration, and with one."""
    commands = ("status", "plan", "verify")
    with bench.home("reading") as home:
        write_migrations(home / "migrations", range(1, 21))
        floor(home, "apply", "1", "plain", "migrations", "app.db")
        ways: Ways = {name: _reader(home, name) for name in commands}
        ways["python -c pass"] = lambda: interpreter(home).seconds
        found = take_turns(rounds, ways)
        configure(home, ["app.db"])
        configured = take_turns(rounds, ways)
        require_applied([home / "app.db"], 20)
    goals: Goals = {"python -c pass": at_most_beyond(35)}
    return [
        *(_reading_row(name, found, goals) for name in commands),
        *(
            _reading_row(name, configured, {"python -c pass": None}, " that `migrated.toml` names")
            for name in commands
        ),
    ]


def _reading_row(name: str, found: Mapping[str, Samples], goals: Goals, which: str = "") -> Row:
    beside = {"migrated": found[name], "python -c pass": found["python -c pass"]}
    return _row(f"`{name}`, one database{which}, 20 migrations", 20, beside, goals)


def _reader(home: Path, command: str) -> Callable[[], float]:
    return lambda: migrated(home, command).seconds


def add_column(bench: Bench, size: int, rounds: int, *target: str, kind: str = "plain") -> Row:
    """One column for a table that fills the database: nothing of its rows is read for that."""
    with bench.home("column") as home:
        for name in ("ours", "floor"):
            make_big(home / f"{name}.db", size)
        configure(home, ["ours.db"], *target)
        done = {"ours": 0, "floor": 0}

        def one_more(name: str, way: Callable[[], float]) -> Callable[[], float]:
            def call() -> float:
                done[name] += 1
                column = f"c{done[name]}"
                sql = (f"ALTER TABLE big ADD COLUMN {column} TEXT;", f"ALTER TABLE big DROP COLUMN {column};")
                write_migrations(home / "migrations", [done[name]], sql=sql)
                return way()

            return call

        # The first rounds make the ledgers, and are not counted.
        found = take_turns(
            rounds + 1,
            {
                "migrated": one_more("ours", lambda: migrated(home, "up").seconds),
                _FLOOR: one_more(
                    "floor", lambda: floor(home, "apply", "1", kind, "migrations", "floor.db").seconds
                ),
            },
        )
        require_applied([home / "ours.db"], rounds + 1)
        require_applied([home / "floor.db"], rounds + 1)
    kept = "snapshot as by default" if kind == "snapshot" else "no snapshot"
    what = f"ADD COLUMN, database of {size / 1e6:,.0f} MB, {kept}: `up`"
    return _row(what, size, {name: samples[1:] for name, samples in found.items()}, {_FLOOR: None})


def _row(what: str, size: float, found: dict[str, Samples], goals: Goals) -> Row:
    ours = in_milliseconds(found["migrated"])
    beside = [
        Beside(name, in_milliseconds(found[name]) if name in found else None, goal) for name, goal in goals.items()
    ]
    return Row(what, size, "ms", ours, beside)
