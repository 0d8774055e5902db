"""The progress bar of `up` on a terminal."""

import re
from pathlib import Path

from daemon_process import on_a_terminal
from support import applied_versions, write_migration

# The bar is drawn after one second. A hundred thousand rows take about 0.02 s of CPU time.
LONG = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {})\nSELECT max(n) FROM c;"
DRAWN = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"


def seen_of_up(directory: Path) -> str:
    """Return the visible text, without colours and cursor movements."""
    code, seen = on_a_terminal(directory, "up", NO_COLOR="1")
    assert code == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)


def test_bar_of_a_long_run_is_below_the_log(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1, up="CREATE TABLE a (x);")
    assert seen_of_up(tmp_path).count(DRAWN) == 0
    write_migration(migrations, 2, "long", up=LONG.format(15_000_000))
    write_migration(migrations, 3, "short", up="CREATE TABLE b (x);")

    seen = seen_of_up(tmp_path)

    assert re.search(rf"3_short {DRAWN}+ 2/2 ", seen)
    # Every log line is a separate line, also while the bar is drawn.
    lines = [line.strip() for line in re.split(r"[\r\n]+", seen)]
    assert [
        line for line in lines if re.fullmatch(r"\d\d:\d\d:\d\d info    applied 3_short to app.db in \d+ ms", line)
    ]
    assert applied_versions(tmp_path / "app.db") == [1, 2, 3]


def test_bar_of_a_fleet_is_below_the_log(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "tenants").mkdir()
    for number in range(12):
        (tmp_path / "tenants" / f"{number:02}.db").touch()
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["tenants/*.db"]\n')
    # random() prevents the template: otherwise the rows would be copied, which is too fast.
    write_migration(
        migrations, 1, up=f"CREATE TABLE a (x); INSERT INTO a VALUES (random()); {LONG.format(1_500_000)}"
    )

    seen = seen_of_up(tmp_path)

    assert re.search(rf"databases {DRAWN}+ 12/12 [\d,]+/s 0:00:00", seen)
    lines = [line.strip() for line in re.split(r"[\r\n]+", seen)]
    assert [line for line in lines if re.fullmatch(r"\d\d:\d\d:\d\d info    12 of 12 databases current, .*", line)]
