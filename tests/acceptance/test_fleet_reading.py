"""Reading commands over many databases: counts and causes, every database with --all, streamed JSON."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DEADLINE, DaemonProcess, bring_up, everybody_kept_out, migrated, on_a_terminal, running
from support import PROGRAM, checksum, execute, write_migration

FLEET = 60
BEHIND = ("t10.db", "t11.db")
CHANGED = ("t20.db", "t21.db", "t22.db", "t23.db", "t24.db")
NO_DATABASE = "t30.db"
LOCKED = "t40.db"
EXPECTED = checksum("CREATE TABLE other (id);")
FOUND = checksum("CREATE TABLE t1 (id INTEGER PRIMARY KEY);")
MISMATCH = f"1_change was changed after it was applied: expected checksum {EXPECTED}, found {FOUND}"
HINT = (
    "hint: `migrated diff 1` shows what changed; restore the text that was applied (only the UP section counts) "
    "and make the change a new migration; see `migrated help repair`"
)


def fleet(directory: Path, count: int) -> None:
    """Create equal databases in `tenants`, and a configuration with short timeouts."""
    tenants = directory / "tenants"
    tenants.mkdir()
    bring_up(directory, database="tenants/t00.db")
    for number in range(1, count):
        shutil.copyfile(tenants / "t00.db", tenants / f"t{number:02}.db")
    (directory / "migrated.toml").write_text(
        '[[target]]\ndatabases = ["tenants/*.db"]\nmigrations = "migrations"\nbusy_timeout = "50ms"\n'
    )


@pytest.fixture
def tenants(tmp_path: Path, migrations: Path) -> Path:
    """Two migrations and sixty databases that have both applied."""
    write_migration(migrations, 1)
    write_migration(migrations, 2)
    fleet(tmp_path, FLEET)
    return tmp_path / "tenants"


@contextmanager
def exceptions(tenants: Path) -> Iterator[None]:
    """Give nine of the databases a problem; one of them stays locked while the context lasts."""
    for name in BEHIND:
        execute(tenants / name, "DELETE FROM _migrations WHERE version = 2")
    for name in CHANGED:
        execute(tenants / name, f"UPDATE _migrations SET checksum = '{EXPECTED}' WHERE version = 1")
    (tenants / NO_DATABASE).write_bytes(b"no database " * 100)
    with everybody_kept_out(tenants / LOCKED):
        yield


class TestStatus:
    def test_status_of_many_databases_is_counts_and_causes(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "status")
            strict = migrated(tmp_path, "status", "--exit-code")

        assert (done.returncode, strict.returncode, done.stderr) == (6, 4, "")
        told = re.sub(r"pid \d+ \(\w+\)", "pid 1 (python)", done.stdout)
        assert told.splitlines() == [
            "# 60 databases: 51 current, 2 pending, 5 blocked, 2 unavailable",
            f"5 databases: blocked: {tmp_path}/migrations/1_change.sql: {MISMATCH}",
            f"  {HINT}",
            "  tenants/t20.db, tenants/t21.db, tenants/t22.db and 2 more",
            "tenants/t30.db: unavailable: file is not a database",
            "  hint: this is not a SQLite database, or it is encrypted; check the path",
            "tenants/t40.db: unavailable: database is locked",
            "  hint: another connection is using the database: pid 1 (python)",
            "tenants/t10.db, tenants/t11.db: pending: 1 migration (2_change)",
        ]

    def test_shared_cause_is_one_line(self, tmp_path: Path, migrations: Path, tenants: Path) -> None:
        write_migration(migrations, 3)
        write_migration(migrations, 4, "next")
        done = migrated(tmp_path, "status", "--exit-code")

        assert (done.returncode, done.stderr) == (3, "")
        assert done.stdout.splitlines() == [
            "# 60 databases: 60 pending",
            "60 databases: pending: 2 migrations (3_change to 4_next)",
            "  tenants/t00.db, tenants/t01.db, tenants/t02.db and 57 more",
        ]

    def test_all_shows_every_database(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "status", "--all")

        assert done.returncode == 6
        shown = re.findall(r"^# tenants/(t\d\d.db): (\w+), (\d) applied", done.stdout, re.MULTILINE)
        assert len(shown) == FLEET
        assert Counter(state for _, state, _ in shown) == {
            "current": 51,
            "pending": 2,
            "blocked": 5,
            "unavailable": 2,
        }
        assert [name for name, state, _ in shown if state == "blocked"] == list(CHANGED)
        assert done.stdout.count("\tchange\t") == 2 * (FLEET - 2)
        assert done.stderr.count(MISMATCH) == len(CHANGED)

    def test_summary_begins_with_eleven_databases(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1)
        fleet(tmp_path, 11)

        assert migrated(tmp_path, "status").stdout.splitlines() == ["# 11 databases: 11 current"]
        (tmp_path / "tenants/t10.db").unlink()
        few = migrated(tmp_path, "status").stdout.splitlines()
        assert [line for line in few if line.startswith("#")] == [
            f"# tenants/t{number:02}.db: current, 1 applied, 0 pending" for number in range(10)
        ]

    def test_invalid_file_is_one_cause(self, tmp_path: Path, migrations: Path, tenants: Path) -> None:
        write_migration(migrations, "01", "again")
        done = migrated(tmp_path, "status")

        assert done.returncode == 4
        assert done.stderr.count("used by more than one file") == 1
        first, second = done.stdout.splitlines()[:2]
        assert first == "# 60 databases: 60 blocked"
        assert second.startswith("60 databases: blocked: ")

    def test_daemon_is_asked_once_for_all_databases(self, tmp_path: Path, tenants: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            shown = migrated(tmp_path, "status").stdout.splitlines()
            document = json.loads(migrated(tmp_path, "status", "--json").stdout)

        assert shown[0].startswith(f"# daemon 0.1.0, pid {daemon.pid}: ")
        assert shown[1:] == ["# 60 databases: 60 current"]
        assert [each["pid"] for each in document["daemons"]] == [daemon.pid]
        assert [each["daemon"]["state"] for each in document["databases"]] == ["current"] * FLEET

    def test_status_uses_the_policy_of_a_dev_daemon(self, tmp_path: Path, tenants: Path) -> None:
        with DaemonProcess(tmp_path, command="dev") as daemon:
            daemon.wait_until_ready()
            execute(tenants / "t20.db", f"UPDATE _migrations SET checksum = '{EXPECTED}' WHERE version = 1")
            shown = migrated(tmp_path, "status").stdout.splitlines()

        assert shown[1:] == [
            "# 60 databases: 59 current, 1 pending",
            "tenants/t20.db: pending: 1 migration (1_change)",
        ]


class TestStatusAsJson:
    def test_document_has_every_database_and_a_summary(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "status", "--json")

        assert (done.returncode, done.stderr) == (6, "")
        document = json.loads(done.stdout)
        assert list(document) == ["daemons", "databases", "directories", "summary"]
        states = {each["database"]: each["state"] for each in document["databases"]}
        assert len(states) == FLEET
        summary = document["summary"]
        causes = summary.pop("causes")
        assert summary == {"databases": FLEET, "current": 51, "pending": 2, "blocked": 5, "unavailable": 2}
        assert Counter(states.values()) == {key: summary[key] for key in summary if key != "databases"}
        assert causes[0] == {
            "state": "blocked",
            "type": "ChecksumMismatchError",
            "message": MISMATCH,
            "databases": 5,
            "examples": ["tenants/t20.db", "tenants/t21.db", "tenants/t22.db"],
        }
        assert sorted((cause["state"], cause["type"]) for cause in causes[1:] if cause["type"]) == [
            ("unavailable", "DatabaseError"),
            ("unavailable", "DatabaseError"),
        ]

    def test_each_database_has_its_own_times(self, tmp_path: Path, tenants: Path) -> None:
        for number, name in enumerate(("t01.db", "t02.db")):
            execute(tenants / name, f"UPDATE _migrations SET applied_at = '2026-01-0{number + 1} 00:00:00'")
        document = json.loads(migrated(tmp_path, "status", "--json").stdout)
        moments = [each["migrations"][0]["applied_at"] for each in document["databases"][1:3]]

        assert moments == ["2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"]

    def test_document_is_written_while_databases_are_read(self, tmp_path: Path, tenants: Path) -> None:
        config = tmp_path / "migrated.toml"
        config.write_text(config.read_text().replace("50ms", "30s"))
        with everybody_kept_out(tenants / "t59.db") as release, reading(tmp_path, "status", "--json") as status:
            assert status.stdout is not None
            first = status.stdout.read(4096)
            assert "tenants/t00.db" in first
            release()
            rest = status.stdout.read()
            assert status.wait(DEADLINE) == 0

        assert json.loads(first + rest)["summary"]["current"] == FLEET

    @pytest.mark.parametrize("command", ["status", "plan", "verify"])
    def test_closed_pipe_is_no_error(self, tmp_path: Path, tenants: Path, command: str) -> None:
        config = tmp_path / "migrated.toml"
        config.write_text(config.read_text().replace("50ms", "30s"))
        # The command is waiting for a lock when the reader closes the pipe.
        with everybody_kept_out(tenants / "t00.db") as release, reading(tmp_path, command, "--json") as left:
            assert left.stdout is not None
            assert left.stderr is not None
            left.stdout.close()
            release()
            assert left.stderr.read() == ""
            assert left.wait(DEADLINE) == 0

    @pytest.mark.parametrize("command", ["status", "plan", "verify"])
    def test_document_is_complete_without_databases(self, tmp_path: Path, migrations: Path, command: str) -> None:
        done = migrated(tmp_path, command, "--json", "-d", "none/*.db")

        assert done.returncode == 6
        assert json.loads(done.stdout)["databases"] == []


class TestPlan:
    def test_equal_plans_are_grouped(self, tmp_path: Path, migrations: Path, tenants: Path) -> None:
        write_migration(migrations, 3, "next")
        with exceptions(tenants):
            done = migrated(tmp_path, "plan")
            dry = migrated(tmp_path, "up", "--dry-run")

        assert done.returncode == 4
        assert done.stdout.splitlines() == [
            "51 databases: 1 to apply",
            "  apply 3_next",
            "  tenants/t00.db, tenants/t01.db, tenants/t02.db and 48 more",
            "tenants/t10.db, tenants/t11.db: 2 to apply",
            "  apply 2_change",
            "  apply 3_next",
        ]
        faults = [line for line in done.stderr.splitlines() if line.startswith("migrated: ")]
        assert faults == [
            f"migrated: error: 5 databases: {tmp_path}/migrations/1_change.sql: {MISMATCH}",
            "migrated: error: tenants/t30.db: file is not a database",
            "migrated: error: tenants/t40.db: database is locked",
        ]
        assert dry.stdout == done.stdout

    def test_all_shows_every_plan(self, tmp_path: Path, migrations: Path, tenants: Path) -> None:
        write_migration(migrations, 3, "next")
        lines = migrated(tmp_path, "plan", "--all").stdout.splitlines()

        assert lines == [
            line for number in range(FLEET) for line in (f"tenants/t{number:02}.db: 1 to apply", "  apply 3_next")
        ]

    def test_json_has_every_plan(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "plan", "--json")
        document = json.loads(done.stdout)

        assert (done.returncode, list(document), document["problems"]) == (4, ["databases", "problems"], [])
        assert Counter(_kind(plan) for plan in document["databases"]) == {"0": 51, "1": 2, "fault": 7}


def _kind(plan: dict[str, Any]) -> str:
    return "fault" if plan["problem"] else str(len(plan["migrations"]))


class TestVerify:
    def test_shared_cause_is_one_line(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "verify")

        assert done.returncode == 4
        assert done.stdout.splitlines() == [
            "51 databases: 2 applied, all match their files",
            "  tenants/t00.db, tenants/t01.db, tenants/t02.db and 48 more",
            "tenants/t10.db, tenants/t11.db: 1 applied, all match their files",
        ]
        assert done.stderr.count("migrated: error: ") == 3
        assert f"migrated: error: 5 databases: {tmp_path}/migrations/1_change.sql: {MISMATCH}\n" in done.stderr

    def test_all_shows_every_result(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            done = migrated(tmp_path, "verify", "--all")

        assert (done.stdout.count("all match their files\n"), done.stderr.count("migrated: error: ")) == (53, 7)

    def test_json_has_every_result(self, tmp_path: Path, tenants: Path) -> None:
        with exceptions(tenants):
            document = json.loads(migrated(tmp_path, "verify", "--json").stdout)

        assert list(document) == ["databases", "problems"]
        assert Counter(each["ok"] for each in document["databases"]) == {True: 53, False: 7}


def test_wait_groups_databases_by_cause(tmp_path: Path, migrations: Path, tenants: Path) -> None:
    write_migration(migrations, 3)
    done = migrated(tmp_path, "wait", "--timeout", "1ms")

    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "migrated: error: 60 databases: 1 pending",
        "  tenants/t00.db, tenants/t01.db, tenants/t02.db and 57 more",
    ]


def test_diff_names_the_first_few_databases(tmp_path: Path, tenants: Path) -> None:
    said = "tenants/t00.db, tenants/t01.db, tenants/t02.db and 57 more: 2 applied, no file has changed\n"

    assert migrated(tmp_path, "diff").stdout == said


def test_repair_lists_only_databases_with_an_unfinished_migration(tmp_path: Path, tenants: Path) -> None:
    assert migrated(tmp_path, "repair").stdout == "no stopped migration\n"


class TestBar:
    """Inspecting takes longer than a second if a database is locked."""

    DRAWN = r"databases \N{BOX DRAWINGS HEAVY HORIZONTAL}+ 60/60"

    @pytest.fixture
    def slow(self, tmp_path: Path, tenants: Path) -> Iterator[None]:
        config = tmp_path / "migrated.toml"
        config.write_text(config.read_text().replace("50ms", "1200ms"))
        with everybody_kept_out(tenants / "t00.db"):
            yield

    @pytest.mark.parametrize("command", ["status", "plan", "verify"])
    def test_bar_is_drawn_on_a_terminal_and_removed_at_the_end(
        self, tmp_path: Path, slow: None, command: str
    ) -> None:
        code, seen = on_a_terminal(tmp_path, command, NO_COLOR="1")

        assert code == 6
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
        assert re.search(self.DRAWN, shown)
        assert shown.rindex("60/60") < shown.index("59 ")

    def test_bar_is_not_written_into_redirected_output(self, tmp_path: Path, slow: None) -> None:
        with open(tmp_path / "out.json", "wb") as out:
            _, seen = on_a_terminal(tmp_path, "status", "--json", stdout=out.fileno(), NO_COLOR="1")

        assert re.search(self.DRAWN, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))
        assert "tenants" not in seen
        assert len(json.loads((tmp_path / "out.json").read_text())["databases"]) == FLEET

    def test_bar_is_not_drawn_if_every_database_prints_to_the_terminal(self, tmp_path: Path, slow: None) -> None:
        _, seen = on_a_terminal(tmp_path, "verify", "--all", NO_COLOR="1")

        assert "60/60" not in seen

    def test_bar_is_not_drawn_for_a_short_command(self, tmp_path: Path, tenants: Path) -> None:
        code, seen = on_a_terminal(tmp_path, "status")

        assert (code, seen) == (0, "# 60 databases: 60 current\n")


def reading(directory: Path, *arguments: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """A command whose output is read while it runs."""
    pipe = subprocess.PIPE
    return running(*PROGRAM, *arguments, cwd=directory, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
