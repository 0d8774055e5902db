"""The table, as Markdown: every row with what it is compared with, the goal, and whether it is met."""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import apsw
from benchmarks.measuring import Samples
from benchmarks.peers import Peers
from benchmarks.results import Beside, Goal, Kind, Row, is_met, value

_HEAD = "| what | migrated | beside | its figure | compared | goal | met |\n|---|---|---|---|---|---|---|"


def table(rows: Sequence[Row]) -> str:
    """Medians with the smallest and the largest figure."""
    return "\n".join([_HEAD, *(line for row in rows for line in lines(row))])


def lines(row: Row) -> list[str]:
    """A row's lines: one for each thing that it is compared with."""
    ours = figure(row.ours, row.unit)
    if not row.beside:
        return [_line(row.what, ours, "", "", "", *_judged(row, None, row.goal))]
    found = []
    for number, beside in enumerate(row.beside):
        theirs = "not run" if beside.samples is None else figure(beside.samples, row.unit)
        judged = _judged(row, beside, beside.goal)
        compared = _compared(row, beside)
        found.append(
            _line(*((row.what, ours) if number == 0 else ("", "")), beside.name, theirs, compared, *judged)
        )
    return found


def figure(samples: Samples, unit: str) -> str:
    """The median, and how far the samples lie apart where there are several."""
    middle = f"{_number(statistics.median(samples))} {unit}".strip()
    if len(samples) == 1:
        return middle
    return f"{middle} [{_number(min(samples))}..{_number(max(samples))}]"


def surroundings(peers: Peers, place: Path, scale: float, rounds: int, load: float) -> str:
    """When, where and how the figures were taken; `load` is the machine's before anything was measured."""
    command = " ".join(["python tests/benchmarks", *sys.argv[1:]])
    facts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}` (scale {scale:g}, {rounds} rounds)",
        f"{_processor()}, {os.cpu_count()} cores, load before it {load:.1f}",
        f"Linux {platform.release()}, {_filesystem(place)}",
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()} in migrated and the floors",
        f"{_dbmate(peers)}; {peers.describe()}",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(figure: float) -> str:
    if figure == 0:
        return "0"
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def _compared(row: Row, beside: Beside) -> str:
    found = value(row.ours, beside.samples, beside.goal)
    if found is None:
        return ""
    match beside.goal.kind if beside.goal else Kind.TIMES:
        case Kind.TIMES:
            return f"{found:.2f}x"
        case Kind.FASTER:
            return f"{found:.2f}x faster" if found >= 1 else f"{1 / found:.2f}x slower"
        case _:
            return f"{found:+.1f} {row.unit}"


def _judged(row: Row, beside: Beside | None, goal: Goal | None) -> tuple[str, str]:
    if goal is None:
        return "", ""
    stated = {
        Kind.TIMES: f"≤ {goal.limit:g}x",
        Kind.FASTER: f"≥ {goal.limit:g}x faster",
        Kind.BEYOND: f"≤ +{goal.limit:g} {row.unit}",
        Kind.LIMIT: f"≤ {goal.limit:g} {row.unit}".strip(),
    }[goal.kind]
    found = value(row.ours, beside.samples if beside else None, goal)
    if found is None:
        return stated, "not run"
    return stated, "yes" if is_met(found, goal) else "**no**"


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def _filesystem(place: Path) -> str:
    command = ["df", "--output=fstype", str(place)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.split()[-1] if said.stdout else "unknown file system"


def _dbmate(peers: Peers) -> str:
    if peers.dbmate is None:
        return "no dbmate"
    said = subprocess.run([peers.dbmate, "--version"], capture_output=True, text=True, check=False)
    return said.stdout.strip()
