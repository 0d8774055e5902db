"""What every row works with: sizes, rounds, places, and the programs under test."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.making import settle_disk
from benchmarks.measuring import Ended, run
from benchmarks.peers import Peers
from support import PROGRAM

WORKERS = 4
"""How many databases are worked on at once, by us and by the floor."""
SNAPSHOTS_NEVER = 'snapshots = { when = "never" }'
_FLOORS = str(Path(__file__).with_name("floors.py"))
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Bench:
    """The settings of one whole run. `scale` multiplies every size, and the time that is spent idle."""

    scale: float
    rounds: int
    place: Path
    peers: Peers
    settle: tuple[str, ...] = ()
    """A line of the configuration for the daemons that wait for single files; none for the default."""

    @property
    def heavy_rounds(self) -> int:
        """For what takes some ten seconds each."""
        return max(1, self.rounds * 3 // 5)

    @property
    def fewest_rounds(self) -> int:
        """For what takes minutes."""
        return max(1, self.rounds // 5)

    def rounds_for(self, size: int) -> int:
        """Fewer for what is big: `size` as it is without scale."""
        return self.fewest_rounds if size >= 10_000 else self.heavy_rounds

    def size(self, full: int) -> int:
        """A number of things, at this scale."""
        return max(_FEWEST, round(full * self.scale))

    @contextmanager
    def home(self, name: str) -> Iterator[Path]:
        """A directory of its own, which is removed afterwards."""
        home = self.place / name
        home.mkdir()
        try:
            yield home
        finally:
            shutil.rmtree(home)


def configure(home: Path, databases: Sequence[str], *target: str, top: Sequence[str] = ()) -> None:
    """Write `migrated.toml`: lines for the top, and for the one target."""
    names = ", ".join(f'"{name}"' for name in databases)
    top, target = tuple(top), (f"databases = [{names}]", *target)
    (home / "migrated.toml").write_text("\n".join([*top, f"workers = {WORKERS}", "[[target]]", *target, ""]))


def migrated(home: Path, *arguments: str) -> Ended:
    """Our program, to its end."""
    settle_disk()
    return run([*PROGRAM, *arguments], home)


def interpreter(home: Path) -> Ended:
    """What every program in Python costs before it does anything."""
    return run([sys.executable, "-c", "pass"], home)


def floor(home: Path, *arguments: str) -> Ended:
    """A floor as a whole program; `said` has its own time, without its start, and that of the processor."""
    settle_disk()
    return run([sys.executable, _FLOORS, *arguments], home)


def floor_command(*arguments: str) -> list[str]:
    return [sys.executable, _FLOORS, *arguments]


def peer(home: Path, command: Sequence[str]) -> Ended:
    settle_disk()
    return run(command, home)


def inner(ended: Ended) -> tuple[float, float]:
    """The times that a floor took itself: seconds, and seconds of the processor."""
    seconds, used = ended.said.split()
    return float(seconds), float(used)
