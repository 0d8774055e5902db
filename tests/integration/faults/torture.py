"""Fault a scenario at one operation after another, and check the database each time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from integration.faults.faulty_vfs import Fault, Kind
from integration.faults.scenarios import SCENARIOS, contents
from integration.faults.serving import KILLED, Outcome, Servers
from support import execute, query

from migrated import MigrationRunner

Point = TypeVar("Point")
_DATABASE = "app.db"
_MAY_STAY = {
    ".migrated",
    ".migrated/.gitignore",
    ".migrated/daemon.lock",
    ".migrated/lock",
    ".migrated/snapshots",
    f".migrated/snapshots/{_DATABASE}",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A scenario in a journal mode."""

    scenario: str
    journal: str

    def __str__(self) -> str:
        return f"{self.scenario}-{self.journal}"

    def prepare(self, directory: Path) -> Path:
        """Make the database in an empty directory; in DELETE mode it may be for the scenario to create it."""
        for name, content in _prepared(self).items():
            path = directory / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(content)
        return directory / _DATABASE

    def judge(self, database: Path, outcome: Outcome) -> None:
        """Raise `AssertionError` unless a struck process left a sound database that the next run finishes."""
        _assert_it_ended_well(outcome)
        # The program's own way of looking is the first to meet what was left behind.
        MigrationRunner(database).get_applied()
        if database.exists():
            assert query(database, "PRAGMA integrity_check") == [("ok",)]
            assert query(database, "PRAGMA foreign_key_check") == []
        scenario = SCENARIOS[self.scenario]
        scenario.check(database, len(outcome.told("kept")))

        scenario.act(database, lambda _step: None)

        assert contents(database) == undisturbed(self.scenario)
        assert query(database, "PRAGMA integrity_check") == [("ok",)]
        assert query(database, "PRAGMA journal_mode") == [(self.journal,)]
        assert left_beside(database) == set()


SETTINGS = [Setting(scenario, journal) for scenario in SCENARIOS for journal in ("delete", "wal")]
# Every scenario in at least one mode, for the runs that must be short.
SOME_SETTINGS = [
    *(
        Setting(scenario, journal)
        for scenario in ("apply", "restore", "in-pieces")
        for journal in ("delete", "wal")
    ),
    *(Setting("create", "wal"), Setting("roll-back", "delete"), Setting("at-once", "delete")),
    Setting("snapshots", "wal"),
]


@cache
def _prepared(setting: Setting) -> dict[str, bytes]:
    with TemporaryDirectory() as directory:
        database = Path(directory, _DATABASE)
        if setting.journal == "wal":
            execute(database, "PRAGMA journal_mode = wal")
        SCENARIOS[setting.scenario].prepare(database)
        made = [path for path in Path(directory).rglob("*") if path.is_file()]
        return {str(path.relative_to(directory)): path.read_bytes() for path in made}


@cache
def undisturbed(scenario: str) -> list[tuple[object, ...]]:
    """The content of the database after a run without faults."""
    with TemporaryDirectory() as directory:
        database = Path(directory, _DATABASE)
        SCENARIOS[scenario].prepare(database)
        SCENARIOS[scenario].act(database, lambda _step: None)
        return contents(database)


def left_beside(database: Path) -> set[str]:
    """The files in the database's directory that no process needs after an orderly end."""
    found = {str(path.relative_to(database.parent)) for path in database.parent.rglob("*")} - {database.name}
    return {name for name in found if name not in _MAY_STAY and not _is_snapshot(name)}


def _is_snapshot(name: str) -> bool:
    unfinished = (".part", "-journal", "-wal", "-shm")
    return name.startswith(f".migrated/snapshots/{_DATABASE}/") and not name.endswith(unfinished)


def _assert_it_ended_well(outcome: Outcome) -> None:
    """Killed, finished, or failed with an error of ours; never anything else."""
    if outcome.code == KILLED:
        return
    failed, finished = outcome.told("failed"), outcome.told("finished")

    assert outcome.code == 0, f"{outcome.lines}\n{outcome.traceback}"
    assert len(failed) + len(finished) == 1, outcome
    assert all(len(line.split(" ", 2)) == 3 for line in failed), f"a failure without a message: {outcome}"


def spread(points: Sequence[Point], wanted: int | None, *, shift: int = 0) -> list[Point]:
    """About `wanted` of the points, the first and the last two among them; all of them for None.

    The others lie at equal distances, and elsewhere for another `shift`.
    """
    if wanted is None or wanted >= len(points):
        return list(points)
    ends = {0, len(points) - 2, len(points) - 1}
    between = max(1, wanted - len(ends))
    step = len(points) / between
    chosen = {int(step * (number + shift % 7 / 7)) for number in range(between)}
    return [points[number] for number in sorted(ends | chosen)]


def bound() -> int | None:
    """How many points a full sweep tries: what `MIGRATED_TORTURE_POINTS` says; without it None, every point."""
    given = os.environ.get("MIGRATED_TORTURE_POINTS")
    return int(given) if given else None


def count_operations(servers: Servers, setting: Setting, directory: Path) -> int:
    """How many operations of SQLite's reach the disk when nothing fails."""
    outcome = struck(servers, setting, directory, Fault(Kind.COUNT))

    assert outcome.told("finished"), outcome
    return int(outcome.told("operations")[0])


def struck(servers: Servers, setting: Setting, directory: Path, fault: Fault) -> Outcome:
    """Let a fault of the disk strike, and judge what it left."""
    with TemporaryDirectory(dir=directory) as own:
        database = setting.prepare(Path(own))
        with servers.one() as server:
            server.say(database, setting.scenario, fault)
            outcome = server.outcome()
        try:
            setting.judge(database, outcome)
        except Exception as error:
            raise AssertionError(f"{setting} {fault}: {error!r}; {outcome}") from error
        return outcome
