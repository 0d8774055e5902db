"""Cost against size: migrations, databases, bytes. A program that does nothing silly grows as its work does."""

from dataclasses import dataclass

from benchmarks import fleets, single
from benchmarks.bench import SNAPSHOTS_NEVER, Bench
from benchmarks.results import Row

_SIZES = (100, 1_000, 10_000)
_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Series:
    """Rows that differ in their size alone, ascending."""

    name: str
    rows: list[Row]


def by_migrations(bench: Bench) -> list[Series]:
    """Commands on one database."""
    fresh = [single.fresh(bench, bench.size(n), bench.rounds_for(n), with_peers=False) for n in _SIZES]
    current = [single.current(bench, bench.size(n), bench.rounds_for(n), with_peers=False) for n in _SIZES]
    return [Series("fresh database: up", fresh), Series("all applied: up", current)]


def by_databases(bench: Bench) -> list[Series]:
    """Commands on a fleet."""
    pairs = [fleets.one_new(bench, bench.size(n), bench.rounds_for(n), with_peers=False) for n in _SIZES]
    return [
        Series("one new migration: up", [news for news, _ in pairs]),
        Series("nothing to do: up", [idle for _, idle in pairs]),
    ]


def by_bytes(bench: Bench) -> list[Series]:
    """One column for a table that fills the database."""
    rounds = bench.heavy_rounds
    sizes = [max(_MEGABYTE // 10, round(size * bench.scale)) for size in (10 * _MEGABYTE, 1_000 * _MEGABYTE)]
    bare = [single.add_column(bench, size, rounds, SNAPSHOTS_NEVER) for size in sizes]
    kept = [single.add_column(bench, sizes[0], rounds, kind="snapshot")]
    return [Series("ADD COLUMN, no snapshot", bare), Series("ADD COLUMN, with a snapshot", kept)]
