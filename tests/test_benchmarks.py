"""The benchmarks measure something: every row has figures, and what did no work fails."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.making import DBMATE_LEDGER, NothingDoneError, require_applied, write_migrations
from benchmarks.report import table
from benchmarks.results import Beside, Goal, Row, at_most, at_most_beyond, at_most_times, times_faster
from daemon_process import bring_up, environment
from support import ROOT, execute

GROUPS = ["single", "fleet", "daemon", "latency", "bursts", "migrations", "databases", "bytes"]


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", GROUPS)
def test_every_row_has_figures(tmp_path: Path, group: str) -> None:
    command = [sys.executable, "tests/benchmarks", "--scale", "0.01", "--rounds", "1", "--no-plots"]
    done = subprocess.run(
        [*command, "--only", group, "--output", tmp_path / "out", "--directory", tmp_path],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    lines = [line for line in (tmp_path / "out" / "results.md").read_text().splitlines() if line.startswith("|")]
    assert len(lines) > 2
    for line in lines[2:]:
        _, what, ours, beside, theirs, *_ = (cell.strip() for cell in line.split("|"))
        assert bool(what) == bool(ours)
        assert not what or re.match(r"[0-9]", ours), line
        assert not beside or theirs == "not run" or re.match(r"[0-9]", theirs), line
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_not_applied_is_noticed(tmp_path: Path, migrations: Path) -> None:
    database = tmp_path / "app.db"
    with pytest.raises(NothingDoneError):
        require_applied([database], 2)
    write_migrations(migrations, [1, 2])
    bring_up(tmp_path)
    require_applied([database], 2)

    with pytest.raises(NothingDoneError):
        require_applied([database], 3)
    with pytest.raises(NothingDoneError):
        require_applied([database], 2, DBMATE_LEDGER)
    with pytest.raises(NothingDoneError):
        require_applied([], 0)
    execute(tmp_path / "other.db", "CREATE TABLE t (a)")
    with pytest.raises(NothingDoneError):
        require_applied([database, tmp_path / "other.db"], 2)


@pytest.mark.parametrize(
    ("goal", "theirs", "compared", "met"),
    [
        (at_most_times(1.5), [10.0, 20.0], "1.50x", "yes"),
        (at_most_times(1.4), [10.0, 20.0], "1.50x", "**no**"),
        (times_faster(2), [30.0, 60.0], "2.00x faster", "yes"),
        (times_faster(3), [30.0, 60.0], "2.00x faster", "**no**"),
        (times_faster(1), [7.5, 15.0], "2.00x slower", "**no**"),
        (at_most_beyond(10), [10.0, 20.0], "+7.5 ms", "yes"),
        (at_most_beyond(5), [10.0, 20.0], "+7.5 ms", "**no**"),
        (at_most_times(2), None, "", "not run"),
    ],
)
def test_goal_is_judged_by_its_kind(goal: Goal, theirs: list[float] | None, compared: str, met: str) -> None:
    row = Row("it", 1, "ms", [15.0, 30.0], [Beside("other", theirs, goal)])
    cells = [cell.strip() for cell in table([row]).splitlines()[-1].split("|")]

    assert (cells[5], cells[7]) == (compared, met)


def test_absolute_goal_is_judged_by_the_median() -> None:
    rows = [Row("it", 1, "MB", [60.0, 79.0, 90.0], goal=at_most(limit)) for limit in (80, 70)]

    assert [line.split("|")[7].strip() for line in table(rows).splitlines()[2:]] == ["yes", "**no**"]
