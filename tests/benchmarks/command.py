"""The command line: which groups, how big, how often; it prints the table and writes it beside these files."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks import bursts, fleets, growth, latency, report, single, standing
from benchmarks.bench import Bench
from benchmarks.growth import Series
from benchmarks.peers import find
from benchmarks.results import Row

_HERE = Path(__file__).parent
_PEERS = Path(tempfile.gettempdir()) / "migrated-peers"
GROUPS: dict[str, Callable[[Bench], list[Row]]] = {
    "single": single.measure,
    "fleet": fleets.measure,
    "daemon": standing.measure,
    "latency": latency.measure,
    "bursts": bursts.measure,
}
GROWTH: dict[str, tuple[str, Callable[[Bench], list[Series]]]] = {
    "migrations": ("migrations", growth.by_migrations),
    "databases": ("databases", growth.by_databases),
    "bytes": ("bytes", growth.by_bytes),
}
_EVERY = [*GROUPS, *GROWTH]
_ABOUT = """
single      one database: many migrations, none, and what the reading commands take
fleet       many databases, by commands
daemon      many databases, by the daemon: news, resync, doing nothing
latency     from a saved file to its commit
bursts      a checkout of many files; a file written in two halves
migrations  cost against the number of migrations
databases   cost against the number of databases
bytes       cost against the size of a database

Peers: run `npm install dbmate` in the directory given by --peers, make a venv with watchfiles there, and install
inotify-tools and entr. What is missing is not run.
"""


def main() -> None:
    """Measure, print, write."""
    parser = _parser()
    arguments = parser.parse_args()
    if not arguments.no_plots and find_spec("matplotlib") is None:
        parser.error("the drawings need matplotlib: pip install -e '.[benchmarks]', or give --no-plots")
    is_whole = arguments.only == _EVERY and arguments.scale == 1
    output = arguments.output or (_HERE if is_whole else None)
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="migrated-bench-") as place:
        settle = (f'settle = "{arguments.settle}"',) if arguments.settle else ()
        bench = Bench(arguments.scale, arguments.rounds, Path(place), find(arguments.peers), settle)
        for name in arguments.only:
            began = time.monotonic()
            found, series = measure(bench, name)
            rows += found
            if output:
                write(output, bench, rows, load)
                if not arguments.no_plots:
                    draw(output, name, found, series)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(report.table(rows))


def measure(bench: Bench, name: str) -> tuple[list[Row], list[Series]]:
    """The rows of one group, and the same as series where their size is what matters."""
    if name in GROUPS:
        return GROUPS[name](bench), []
    series = GROWTH[name][1](bench)
    return [row for each in series for row in each.rows], series


def write(output: Path, bench: Bench, rows: list[Row], load: float) -> None:
    """The table so far: a later group that fails does not take the figures of the others with it."""
    where = report.surroundings(bench.peers, bench.place, bench.scale, bench.rounds, load)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.md").write_text(f"# Benchmarks\n\n{where}\n\n{report.table(rows)}\n")


def draw(output: Path, name: str, rows: list[Row], series: list[Series]) -> None:
    """The drawing of a group that has one."""
    from benchmarks import plots

    if series:
        plots.draw_growth(output / f"{name}.svg", series, GROWTH[name][0])
    elif name == "latency":
        medians = [row for row in rows if row.what.endswith(latency.SEEN) or row.what.startswith(latency.COMPARED)]
        plots.draw_latencies(output / "latency.svg", medians)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python tests/benchmarks",
        description="Measure migrated beside its floors and its peers.",
        epilog=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_names, default=_EVERY, metavar="NAME,…")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every size (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="fewer are taken of what is slow (default: 5)")
    parser.add_argument("--settle", help="for latency and bursts, such as 10ms (default: the program's)")
    parser.add_argument("--directory", type=Path, help="where to work (default: that for temporary files)")
    parser.add_argument("--peers", type=Path, default=_PEERS, help=f"where the peers are (default: {_PEERS})")
    parser.add_argument(
        "--output", type=Path, help="where results.md and the drawings go (default: here, for a whole run alone)"
    )
    parser.add_argument("--no-plots", action="store_true", help="write the table alone")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in _EVERY]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(_EVERY)}")
    return names
