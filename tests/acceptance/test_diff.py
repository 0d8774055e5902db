"""`migrated diff`, and the difference in the log of a mismatch."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, bring_up, log_lines, migrated, on_a_terminal
from support import ROOT, checksum, everything, execute, needs, query, write_migration

from migrated.cli import main

Diff = Callable[..., tuple[int, str, str]]
TABLE = "CREATE TABLE t1 (\n    id INTEGER PRIMARY KEY,\n    name TEXT\n);"
DOWN = "DROP TABLE t1;"


def edited(migrations: Path, old: str, new: str, version: int = 1) -> Path:
    """Change the file of an applied migration."""
    path = migrations / f"{version}_change.sql"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def shown_colours(text: str) -> str:
    return re.sub(r"\033\[([0-9;]+)m", r"<\1>", text)


def without_times(text: str) -> str:
    return re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", re.sub(r"\b20\d\d-\d\d-\d\d\b", "DATE", text))


@pytest.fixture
def applied(tmp_path: Path, migrations: Path) -> Path:
    """Two applied migrations."""
    write_migration(migrations, 1, up=TABLE, down=DOWN)
    write_migration(migrations, 2, down="DROP TABLE t2;")
    bring_up(tmp_path)
    return migrations


@pytest.fixture
def diff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Diff:
    """Run the command in this process; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["diff", *arguments])
        return code, *capsys.readouterr()

    return run


# The command


def test_piped_output_is_a_unified_diff_and_nothing_changes(tmp_path: Path, applied: Path, database: Path) -> None:
    path = edited(applied, "name TEXT\n", "name TEXT NOT NULL\n")
    before = everything(database), sorted(tmp_path.rglob("*"))
    done = migrated(tmp_path, "diff")

    assert (done.returncode, done.stderr) == (0, "")
    assert without_times(done.stdout) == (
        "app.db: 1_change was changed after it was applied: statements differ\n"
        "--- as applied DATE TIME UTC\n"
        f"+++ {path}\n"
        "@@ -2,4 +2,4 @@\n"
        " CREATE TABLE t1 (\n"
        "     id INTEGER PRIMARY KEY,\n"
        "-    name TEXT\n"
        "+    name TEXT NOT NULL\n"
        " );\n"
    )
    assert (everything(database), sorted(tmp_path.rglob("*"))) == before


def test_databases_with_the_same_change_are_grouped(tmp_path: Path, applied: Path, diff: Diff) -> None:
    for name in ("b.db", "c.db"):
        bring_up(tmp_path, database=name)
    write_migration(applied, 1, up=TABLE.replace("name", "title"), down=DOWN)
    bring_up(tmp_path, database="d.db")
    execute(tmp_path / "b.db", "UPDATE _migrations SET applied_at = '2024-01-01 12:00:00'")
    edited(applied, "title", "heading")
    code, out, _ = diff("-d", "?.db", "-d", "app.db")

    assert code == 0
    assert re.findall("^.* was changed after it was applied: .*$", out, re.MULTILINE) == [
        "b.db, c.db, app.db: 1_change was changed after it was applied: statements differ",
        "d.db: 1_change was changed after it was applied: statements differ",
    ]
    assert re.search(r"^--- as applied 2024-01-01 12:00:00 to 20[\d-]{8} [\d:]{8} UTC$", out, re.MULTILINE)
    assert re.findall("^[-+]    .*$", out, re.MULTILINE) == [
        *("-    name TEXT", "+    heading TEXT", "-    title TEXT", "+    heading TEXT")
    ]


def test_changed_down_section_has_its_own_diff(tmp_path: Path, applied: Path, diff: Diff) -> None:
    path = edited(applied, DOWN, f"-- gone\x07\n{DOWN}")
    _, down_alone, _ = diff()
    edited(applied, "TEXT", "TEXT -- of any kind")
    _, both, _ = diff()

    assert without_times(down_alone) == (
        "app.db: 1_change, DOWN (not covered by the checksum): only comments and white space differ\n"
        f"--- as applied DATE TIME UTC\n+++ {path}\n@@ -8 +8,2 @@\n+-- gone\x07\n DROP TABLE t1;\n"
    )
    assert both.endswith(down_alone)
    assert both.startswith(
        "app.db: 1_change was changed after it was applied: only comments and white space differ\n"
    )


@pytest.mark.parametrize(
    "by_hand",
    [
        pytest.param("DROP TABLE _migrations_history", id="no history"),
        pytest.param("DELETE FROM _migrations_history WHERE version = 1", id="no entry"),
        pytest.param("UPDATE _migrations_history SET up_sql = NULL", id="an entry without a text"),
        pytest.param("UPDATE _migrations SET checksum = 'other'", id="a checksum of another text"),
    ],
)
def test_missing_stored_text_is_reported(applied: Path, database: Path, diff: Diff, by_hand: str) -> None:
    execute(database, by_hand)
    edited(applied, "name", "title")
    code, out, _ = diff("1")
    ((expected,),) = query(database, "SELECT checksum FROM _migrations WHERE version = 1")

    assert code == 0
    assert out == (
        "app.db: 1_change was changed after it was applied: the text that was applied is not recorded\n"
        f"  expected checksum {expected}\n"
        f"  found             {checksum(TABLE.replace('name', 'title'))}\n"
    )


def test_version_argument_and_its_remarks(applied: Path, diff: Diff) -> None:
    edited(applied, "name", "title")
    write_migration(applied, 3)

    assert diff("2") == (0, "app.db: 2_change is unchanged since it was applied\n", "")
    assert diff("3") == (0, "app.db: 3_change is not applied\n", "")
    (applied / "2_change.sql").unlink()
    assert diff("2") == (0, "app.db: 2_change is applied, and its file is missing\n", "")
    assert diff("1")[1].startswith("app.db: 1_change was changed")
    assert "2_change" not in diff()[1]


@pytest.mark.parametrize("version", ["7", "0"])
def test_unknown_version_is_refused(applied: Path, diff: Diff, version: str) -> None:
    code, out, err = diff(version)

    assert (code, out) == (4, "")
    assert f"version {version} is unknown" in err
    assert json.loads(diff(version, "--json")[1])["problems"][0]["type"] == "MigrationNotFoundError"


def test_no_changes_are_reported(tmp_path: Path, applied: Path, diff: Diff) -> None:
    bring_up(tmp_path, 1, database="b.db")
    bring_up(tmp_path, database="c.db")

    assert diff("-d", "*.db") == (
        0,
        "app.db, c.db: 2 applied, no file has changed\nb.db: 1 applied, no file has changed\n",
        "",
    )


def test_json_output_is_one_document(tmp_path: Path, applied: Path) -> None:
    path = edited(applied, "name", "title")
    edited(applied, DOWN, DOWN.lower())
    edited(applied, "DROP TABLE t2;", "DROP TABLE  t2;", version=2)
    (tmp_path / "b.db").write_bytes(b"no database " * 100)
    done = migrated(tmp_path, "diff", "--json", "-d", "app.db", "-d", "b.db")
    document: dict[str, Any] = json.loads(done.stdout)
    first, second = document["differences"]

    assert (done.returncode, done.stderr) == (6, "")
    down, shown = first.pop("down"), first.pop("diff").split("\n")
    assert first.pop("applied_at").endswith("+00:00")
    assert first == {
        "database": "app.db",
        "version": 1,
        "name": "change",
        "file": str(path),
        "verdict": "real",
        "reason": "statements differ",
        "expected": checksum(TABLE),
        "found": checksum(TABLE.replace("name", "title")),
    }
    assert (shown[1], shown[-3:]) == (f"+++ {path}", ["-    name TEXT", "+    title TEXT", " );"])
    assert (down["verdict"], down["diff"].split("\n")[-2:]) == ("real", ["-DROP TABLE t1;", "+drop table t1;"])
    assert (second["verdict"], second["diff"], second["down"]["verdict"]) == (None, None, "cosmetic")
    assert [(problem["database"], problem["type"]) for problem in document["problems"]] == [
        ("b.db", "DatabaseError")
    ]


def test_invalid_files_are_reported_and_exit_4(applied: Path, diff: Diff) -> None:
    (applied / "3_bad.sql").write_text("-- migrated: nonsense\n")
    edited(applied, "name", "title")
    code, out, err = diff()

    assert code == 4
    assert "3_bad.sql" in err
    assert "1_change was changed" in out


def test_diff_is_coloured_on_a_terminal_unless_disabled(tmp_path: Path, applied: Path) -> None:
    path = edited(applied, "name TEXT\n", "name TEXT -- \033[31m\n")
    (code, coloured), (_, plain) = on_a_terminal(tmp_path, "diff"), on_a_terminal(tmp_path, "diff", NO_COLOR="1")

    assert code == 0
    assert without_times(shown_colours(coloured)) == (
        "app.db: 1_change was changed after it was applied: <32>only comments and white space differ<0>\n"
        "<1>--- as applied DATE TIME UTC<0>\n"
        f"<1>+++ {path}<0>\n"
        "<36>@@ -2,4 +2,4 @@<0>\n"
        " CREATE TABLE t1 (\n"
        "     id INTEGER PRIMARY KEY,\n"
        "<31>-    name TEXT<0>\n"
        "<32>+    name TEXT -- \\x1b[31m<0>\n"
        " );\n"
    )
    assert "\033" not in plain
    assert "-    name TEXT" in plain


@needs("patch")
def test_patch_undoes_the_change_of_both_sections(applied: Path, diff: Diff) -> None:
    path = applied / "1_change.sql"
    before = path.read_text()
    edited(applied, "CREATE TABLE", "-- One\n-- two\nCREATE TABLE")
    edited(applied, DOWN, f"{DOWN}\nSELECT 1;")
    subprocess.run(["patch", "-R", path], input=diff("1")[1], text=True, check=True, capture_output=True)

    assert path.read_text() == before


# The log


def test_mismatch_has_a_diff_on_the_console_but_not_in_json(tmp_path: Path, applied: Path) -> None:
    path = edited(applied, "name TEXT\n", "title TEXT\n")
    code, seen = on_a_terminal(tmp_path, "up")
    (told, *_) = log_lines(migrated(tmp_path, "up").stderr)

    assert code == 4
    assert without_times(shown_colours(seen)) == (
        "<2>TIME<0> <31>error   1_change was changed after it was applied to app.db: statements differ<0>\n"
        "         <1>--- as applied DATE TIME UTC<0>\n"
        f"         <1>+++ {path}<0>\n"
        "         <36>@@ -2,4 +2,4 @@<0>\n"
        "          CREATE TABLE t1 (\n"
        "              id INTEGER PRIMARY KEY,\n"
        "         <31>-    name TEXT<0>\n"
        "         <32>+    title TEXT<0>\n"
        "          );\n"
        "         <36>hint:<0> `migrated diff 1` shows what changed; restore the text that was applied (only the "
        "UP section counts) and make the change a new migration; see `migrated help repair`\n"
        "<2>TIME<0> <31>error   app.db is blocked until this is fixed<0>\n"
    )
    assert (told["event"], told["reason"]) == ("checksum.mismatch", "statements differ")
    assert "title" not in json.dumps(told)


def test_sample_in_the_manual_equals_the_output(tmp_path: Path) -> None:
    topic = (ROOT / "migrated" / "docs" / "repair.md").read_text()
    shown = topic.partition("## Changed migrations")[2].split("```\n")[1]
    migrations = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", migrations)
    bring_up(tmp_path)
    path = migrations / "20240115093000_create_posts.sql"
    path.write_text(path.read_text().replace("'draft'", "'new'"))
    seen = migrated(tmp_path, "up", "--log-format", "console").stderr
    rows = [line.rstrip() for line in without_times(seen).splitlines()]

    assert rows == without_times(shown).replace("/srv/shop", str(tmp_path)).splitlines()


def test_long_difference_is_cut_in_the_log(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1, up="\n".join(f"SELECT {number};" for number in range(100)))
    bring_up(tmp_path)
    write_migration(migrations, 1, up="\n".join(f"SELECT {number};" for number in range(100, 200)))
    seen = migrated(tmp_path, "up", "--log-format", "console").stderr.split("\n")

    assert [row.strip() for row in seen[39:42]] == [
        "-SELECT 35;",
        "-SELECT 36;",
        "… 163 more lines: migrated diff 1",
    ]
    assert "\033" not in "".join(seen)


def test_daemon_logs_whether_a_change_is_cosmetic(tmp_path: Path, applied: Path) -> None:
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        write_migration(applied, 1, up=f"{TABLE} -- the first", down=DOWN)
        daemon.wait_for("checksum.mismatch", version=1, reason="only comments and white space differ")
        write_migration(applied, 1, up=TABLE.replace("name", "title"), down=DOWN)
        daemon.wait_for("checksum.mismatch", version=1, reason="statements differ")
        write_migration(applied, 1, up=TABLE, down=DOWN)
        daemon.wait_for("database.unblocked")
        daemon.stop()


def test_saving_a_changed_file_logs_two_lines(tmp_path: Path, applied: Path) -> None:
    """Four lines in JSON: applying, snapshot, applied, run finished."""
    write_migration(applied, 3)
    _, seen = on_a_terminal(tmp_path, "up")

    first, second, *rest = without_times(shown_colours(seen)).splitlines()
    assert re.fullmatch(r"<2>TIME info    took snapshot app\.db\.\w+ of app\.db \(\d+ bytes, \d+ ms\)<0>", first)
    assert re.fullmatch(r"<2>TIME info    <0><32>applied 3_change<0> to app\.db in \d+ ms", second)
    assert rest == []
