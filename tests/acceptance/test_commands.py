"""Every command as users run it: exit codes, output streams, and what must not change."""

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from daemon_process import (
    BOUND_BY_PERMISSIONS,
    DEADLINE,
    DaemonProcess,
    bring_up,
    environment,
    log_lines,
    migrated,
    require,
    running,
)
from support import (
    PROGRAM,
    applied_versions,
    checksum,
    everything,
    execute,
    put_file,
    query,
    schema,
    write_migration,
)

GLOBAL_OPTIONS = ["-c", "--config", "-d", "--database", "-m", "--migrations", "--log-format", "--log-level"]
OPTIONS = {
    "run": [],
    "up": ["--to", "--dry-run", "--lock-timeout"],
    "down": ["--to", "--steps", "--lock-timeout"],
    "status": ["--json", "--all", "--exit-code"],
    "plan": ["--to", "--json", "--all"],
    "verify": ["--json", "--all"],
    "diff": ["VERSION", "--json"],
    "new": ["NAME"],
    "wait": ["--timeout"],
}
READING = [
    pytest.param(["status"], id="status"),
    pytest.param(["status", "--json", "--exit-code"], id="status as JSON"),
    pytest.param(["plan"], id="plan"),
    pytest.param(["plan", "--to", "0"], id="plan down"),
    pytest.param(["verify"], id="verify"),
    pytest.param(["diff"], id="diff"),
    pytest.param(["wait", "--timeout", "1ms"], id="wait"),
    pytest.param(["up", "--dry-run"], id="up dry"),
]
TEMPLATE = """\
-- Migration: {name}
-- Version: {version}

-- UP


-- DOWN

"""


def files_in(directory: Path) -> list[tuple[str, bytes]]:
    """Return every file below a directory with its content."""
    return sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in directory.rglob("*"))


@contextmanager
def lock_of(directory: Path, which: str = "lock") -> Iterator[None]:
    """Hold one of the locks of the databases in a directory, as another runner would."""
    path = directory / ".migrated" / which
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        json.dump({"pid": 4711, "host": "elsewhere", "command": "migrated up", "since": "now"}, file)
        file.flush()
        yield


@pytest.fixture
def three(migrations: Path) -> Path:
    """Three migrations with down sections."""
    for version in (1, 2, 3):
        write_migration(migrations, version, down=f"DROP TABLE t{version};")
    return migrations


class TestExitCodes:
    def test_0_for_success_and_for_nothing_to_do(self, tmp_path: Path, three: Path, database: Path) -> None:
        assert migrated(tmp_path, "up").returncode == 0
        assert applied_versions(database) == [1, 2, 3]
        assert migrated(tmp_path, "up").returncode == 0

    def test_1_when_a_migration_fails(self, tmp_path: Path, three: Path, database: Path) -> None:
        write_migration(three, 2, up="CREATE TABLE a (id);\nNOT SQL;")

        assert migrated(tmp_path, "up").returncode == 1
        assert applied_versions(database) == [1]
        assert [row[1] for row in schema(database)] == ["t1"]

    def test_1_when_a_rollback_fails(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        write_migration(migrations, 1, down="DROP TABLE t1;")
        write_migration(migrations, 2, down="DROP TABLE nowhere;")
        bring_up(tmp_path)
        before = everything(database)

        done = migrated(tmp_path, "down", "--to", "0")
        assert done.returncode == 1
        assert everything(database) == before
        (failed,) = [line for line in log_lines(done.stderr) if line["event"] == "migration.failed"]
        assert (failed["version"], failed["statement"]) == (2, "DROP TABLE nowhere;")

    @pytest.mark.parametrize(
        "arguments",
        [
            pytest.param([], id="no command"),
            pytest.param(["sideways"], id="unknown command"),
            pytest.param(["up", "--colour"], id="unknown option"),
            pytest.param(["up", "--to", "latest"], id="not a version"),
            pytest.param(["down", "--steps", "0"], id="no steps"),
            pytest.param(["down", "--steps", "2", "--to", "1"], id="steps and target"),
            pytest.param(["down", "--to", "1", "--steps", "1"], id="target and the default of steps"),
            pytest.param(["--log-format", "xml", "up"], id="unknown format"),
            pytest.param(["wait", "--timeout", "soon"], id="not a duration"),
            pytest.param(["new"], id="no name"),
        ],
    )
    def test_2_for_wrong_usage(self, tmp_path: Path, three: Path, arguments: list[str]) -> None:
        before = files_in(tmp_path)

        done = migrated(tmp_path, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage:" in done.stderr
        assert files_in(tmp_path) == before

    def test_3_for_pending_migrations_with_exit_code_option(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        assert migrated(tmp_path, "status", "--exit-code").returncode == 3
        assert migrated(tmp_path, "status").returncode == 0
        bring_up(tmp_path)
        assert migrated(tmp_path, "status", "--exit-code").returncode == 0

    @pytest.mark.parametrize("command", ["up", "verify", "plan"])
    @pytest.mark.parametrize("cause", ["changed", "missing", "invalid"])
    def test_4_when_refused(self, tmp_path: Path, three: Path, database: Path, command: str, cause: str) -> None:
        bring_up(tmp_path)
        before = everything(database)
        write_migration(three, 4)
        match cause:
            case "changed":
                write_migration(three, 2, up="CREATE TABLE other (id);")
            case "missing":
                (three / "2_change.sql").unlink()
            case _:
                put_file(three, "5_bad.sql", "-- Version: 6\n-- UP\nSELECT 1;\n")

        done = migrated(tmp_path, command)
        assert done.returncode == 4
        assert ("5_bad.sql" if cause == "invalid" else "2_change") in done.stderr
        assert everything(database) == before

    def test_4_for_a_late_migration_if_the_policy_refuses_it(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        (tmp_path / "migrated.toml").write_text('[[target]]\non_late = "refuse"\n')
        (three / "2_change.sql").rename(tmp_path / "away")
        bring_up(tmp_path)
        (tmp_path / "away").rename(three / "2_change.sql")

        assert migrated(tmp_path, "up").returncode == 4
        assert applied_versions(database) == [1, 3]

    def test_5_when_the_lock_is_held(self, tmp_path: Path, three: Path, database: Path) -> None:
        with lock_of(tmp_path):
            done = migrated(tmp_path, "up", "--lock-timeout", "100ms")

        assert done.returncode == 5
        (held,) = [line for line in log_lines(done.stderr) if line["event"] == "lock.held"]
        assert "4711" in held["holder"]
        assert not database.exists()

    @pytest.mark.parametrize("command", ["up", "down", "status", "plan", "verify"])
    def test_6_when_the_file_is_not_a_database(
        self, tmp_path: Path, three: Path, database: Path, command: str
    ) -> None:
        content = b"not a database " * 100
        database.write_bytes(content)

        done = migrated(tmp_path, command)
        assert done.returncode == 6
        assert "app.db" in done.stderr
        assert database.read_bytes() == content

    @pytest.mark.parametrize("command", ["up", "down"])
    def test_6_when_the_directory_of_the_database_is_missing(
        self, tmp_path: Path, three: Path, command: str
    ) -> None:
        done = migrated(tmp_path, command, "-d", "nowhere/app.db")

        assert done.returncode == 6
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize("command", ["run", "up", "status"])
    def test_78_names_every_error_of_the_configuration(self, tmp_path: Path, three: Path, command: str) -> None:
        (tmp_path / "migrated.toml").write_text(
            'settle = 50\ncolour = "red"\n\n[[target]]\ndatabases = []\n\n[[target]]\non_missing = "shrug"\n'
        )
        before = files_in(tmp_path)

        done = migrated(tmp_path, command)
        assert (done.returncode, done.stdout) == (78, "")
        for fault in (
            r"migrated\.toml:1: settle",
            r"migrated\.toml:2: colour",
            r"migrated\.toml:5: .*databases",
            r"migrated\.toml:8: .*on_missing",
        ):
            assert re.search(fault, done.stderr)
        assert files_in(tmp_path) == before

    def test_78_when_the_named_configuration_is_missing(self, tmp_path: Path, three: Path) -> None:
        done = migrated(tmp_path, "up", "-c", "other.toml")

        assert done.returncode == 78
        assert "other.toml" in done.stderr


class TestSeveralDatabases:
    @pytest.mark.parametrize(
        ("troubled", "expected"),
        [
            pytest.param(["held", "garbage", "changed", "failing"], 1, id="1 first"),
            pytest.param(["held", "garbage", "changed"], 4, id="then 4"),
            pytest.param(["held", "garbage"], 6, id="then 6"),
            pytest.param(["held"], 5, id="then 5"),
        ],
    )
    def test_every_database_is_tried(
        self, tmp_path: Path, migrations: Path, troubled: list[str], expected: int
    ) -> None:
        write_migration(migrations, 1)
        for name in troubled:
            (tmp_path / name).mkdir()
        databases = [tmp_path / name / "app.db" for name in troubled]
        for name, path in zip(troubled, databases, strict=True):
            if name == "failing":
                execute(path, "CREATE TABLE t2 (other)")
            elif name == "garbage":
                path.write_bytes(b"not a database " * 100)
            elif name == "changed":
                bring_up(tmp_path, database=f"{name}/app.db")
                execute(path, "UPDATE _migrations SET checksum = 'x'")
        write_migration(migrations, 2)
        good = tmp_path / "good.db"
        options = [part for path in [*databases, good] for part in ("-d", str(path))]
        with ExitStack() as locks:
            if "held" in troubled:
                locks.enter_context(lock_of(tmp_path / "held"))
            done = migrated(tmp_path, "up", "--lock-timeout", "50ms", *options)

        assert done.returncode == expected
        assert applied_versions(good) == [1, 2]
        finished = [line for line in log_lines(done.stderr) if line["event"] == "run.finished"]
        assert {line["database"] for line in finished} == {str(path) for path in [*databases, good]}
        assert len(finished) == len(troubled) + 1

    def test_globs_and_paths_before_and_after_the_command(self, tmp_path: Path, migrations: Path) -> None:
        other = migrations.rename(tmp_path / "other")
        write_migration(other, 1)
        for name in ("x1", "x2"):
            execute(tmp_path / f"{name}.db", "CREATE TABLE theirs (id)")
        done = migrated(tmp_path, "-d", "one.db", "-m", "other", "up", "-d", "two.db", "-d", "x*.db")

        assert done.returncode == 0
        for name in ("one", "two", "x1", "x2"):
            assert applied_versions(tmp_path / f"{name}.db") == [1]
        assert not (tmp_path / "app.db").exists()

    def test_a_glob_without_a_match_is_an_error(self, tmp_path: Path, three: Path) -> None:
        done = migrated(tmp_path, "up", "-d", "tenants/*.db")

        assert done.returncode == 6
        assert "tenants/*.db" in done.stderr


class TestUp:
    def test_up_to_a_version(self, tmp_path: Path, three: Path, database: Path) -> None:
        assert migrated(tmp_path, "up", "--to", "2").returncode == 0
        assert applied_versions(database) == [1, 2]

    def test_up_to_never_goes_down(self, tmp_path: Path, three: Path, database: Path) -> None:
        bring_up(tmp_path)
        assert migrated(tmp_path, "up", "--to", "1").returncode == 0
        assert applied_versions(database) == [1, 2, 3]

    def test_an_unknown_version_is_refused(self, tmp_path: Path, three: Path, database: Path) -> None:
        done = migrated(tmp_path, "up", "--to", "9")

        assert done.returncode == 4
        assert "9" in log_lines(done.stderr)[0]["reason"]
        assert applied_versions(database) == []

    def test_dry_run_prints_the_plan_and_changes_nothing(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        bring_up(tmp_path, 1)
        before = files_in(tmp_path)

        done = migrated(tmp_path, "up", "--to", "2", "--dry-run")
        assert done.returncode == 0
        assert "2_change" in done.stdout
        assert "1_change" not in done.stdout
        assert "3_change" not in done.stdout
        assert files_in(tmp_path) == before

    def test_up_waits_for_another_runner(self, tmp_path: Path, three: Path, database: Path) -> None:
        with ExitStack() as other:
            other.enter_context(lock_of(tmp_path))
            with running(*PROGRAM, "up", cwd=tmp_path, stderr=subprocess.PIPE) as up:
                assert up.stderr is not None
                waiting = json.loads(up.stderr.readline())
                assert (waiting["event"], waiting["database"]) == ("lock.waiting", "app.db")
                assert "4711" in waiting["holder"]
                assert not database.exists()
                other.close()
                up.communicate(timeout=DEADLINE)
                assert up.returncode == 0
        assert applied_versions(database) == [1, 2, 3]

    def test_up_works_beside_a_daemon(self, tmp_path: Path, three: Path, database: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            # So that `up` applies it and not the daemon.
            daemon.send(signal.SIGSTOP)
            write_migration(three, 4)
            done = migrated(tmp_path, "up")
            daemon.send(signal.SIGCONT)
            daemon.look()
            daemon.stop()

        assert done.returncode == 0
        assert [line["version"] for line in daemon.logged("migration.applied")] == [1, 2, 3]
        assert query(database, "SELECT version FROM _migrations_history ORDER BY id") == [(1,), (2,), (3,), (4,)]

    def test_two_concurrent_runs_apply_everything_once(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        for version in range(1, 31):
            write_migration(migrations, version)
        with ExitStack() as stack:
            racers = [
                stack.enter_context(running(*PROGRAM, "up", cwd=tmp_path, stderr=subprocess.PIPE))
                for _ in range(3)
            ]
            for racer in racers:
                racer.communicate(timeout=2 * DEADLINE)
            assert [racer.returncode for racer in racers] == [0, 0, 0]

        assert applied_versions(database) == list(range(1, 31))
        assert query(database, "SELECT count(*) FROM _migrations_history") == [(30,)]


class TestDown:
    @pytest.mark.parametrize(
        ("options", "left"),
        [
            pytest.param([], [1, 2], id="one step by default"),
            pytest.param(["--steps", "2"], [1], id="steps"),
            pytest.param(["--steps", "9"], [], id="more steps than there are"),
            pytest.param(["--to", "1"], [1], id="to a version"),
            pytest.param(["--to", "0"], [], id="to nothing"),
            pytest.param(["--to", "3"], [1, 2, 3], id="to the highest"),
        ],
    )
    def test_down_rolls_back_as_far_as_the_options_say(
        self, tmp_path: Path, three: Path, database: Path, options: list[str], left: list[int]
    ) -> None:
        bring_up(tmp_path)

        done = migrated(tmp_path, "down", *options)
        assert done.returncode == 0
        assert applied_versions(database) == left
        assert [row[1] for row in schema(database)] == [f"t{version}" for version in left]
        undone = [line["version"] for line in log_lines(done.stderr) if line["event"] == "migration.rolled_back"]
        assert undone == sorted({1, 2, 3}.difference(left), reverse=True)

    def test_nothing_is_rolled_back_if_one_step_has_no_down_text(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        write_migration(migrations, 1)
        write_migration(migrations, 2, down="DROP TABLE t2;")
        bring_up(tmp_path)
        before = everything(database)

        done = migrated(tmp_path, "down", "--steps", "2")
        assert done.returncode == 1
        assert "1_change" in log_lines(done.stderr)[0]["reason"]
        assert everything(database) == before

    def test_migration_without_its_file_is_rolled_back_with_the_stored_text(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        bring_up(tmp_path)
        (three / "3_change.sql").unlink()

        assert migrated(tmp_path, "down").returncode == 0
        assert applied_versions(database) == [1, 2]

    def test_down_is_refused_beside_a_daemon(self, tmp_path: Path, three: Path, database: Path) -> None:
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            before = everything(database)

            done = migrated(tmp_path, "down")
            assert done.returncode == 5
            (held,) = [line for line in log_lines(done.stderr) if line["event"] == "lock.held"]
            assert str(daemon.pid) in held["holder"]
            assert "daemon" in held["reason"]
            assert everything(database) == before


class TestStatus:
    @pytest.fixture
    def states(self, tmp_path: Path, three: Path, database: Path) -> None:
        """A database with a migration in every state."""
        write_migration(three, 5)
        bring_up(tmp_path)
        write_migration(three, 2, up="CREATE TABLE other (id);")
        (three / "3_change.sql").unlink()
        write_migration(three, 4, "between")
        write_migration(three, 6, "next")
        write_migration(three, 7, "idea", up="-- later")

    def test_piped_status_is_separated_by_tabs(self, tmp_path: Path, states: None) -> None:
        done = migrated(tmp_path, "status")

        assert done.returncode == 0
        rows = [line.split("\t") for line in done.stdout.splitlines() if not line.startswith("#")]
        assert {len(row) for row in rows} == {5}
        header, *migrations = rows
        assert header[:2] == ["version", "name"]
        assert [(row[0], row[1], row[4]) for row in migrations] == [
            ("1", "change", "applied"),
            ("2", "change", "changed"),
            ("3", "change", "missing"),
            ("4", "between", "late"),
            ("5", "change", "applied"),
            ("6", "next", "pending"),
            ("7", "idea", "draft"),
        ]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", migrations[0][2])
        assert migrations[5][2:4] == ["-", "-"]
        assert "2_change" in done.stderr
        assert migrated(tmp_path, "status", "--exit-code").returncode == 4

    def test_json_status_is_one_document(self, tmp_path: Path, states: None) -> None:
        done = migrated(tmp_path, "status", "--json")

        assert (done.returncode, done.stderr) == (0, "")
        (database,) = json.loads(done.stdout)["databases"]
        assert (database["database"], database["state"]) == ("app.db", "blocked")
        assert (database["applied"], database["pending"]) == (4, 2)
        assert [entry["state"] for entry in database["migrations"]] == [
            *("applied", "changed", "missing", "late", "applied", "pending", "draft")
        ]
        changed = database["migrations"][1]
        assert changed["expected"] == checksum("CREATE TABLE t2 (id INTEGER PRIMARY KEY);")
        assert changed["found"] == checksum("CREATE TABLE other (id);")

    def test_status_on_a_terminal_is_a_table(self, tmp_path: Path, states: None) -> None:
        ours, theirs = pty.openpty()
        with (
            open(ours, "rb", buffering=0) as screen,
            subprocess.Popen(
                [*PROGRAM, "status"],
                cwd=tmp_path,
                env=environment(TERM="xterm", COLUMNS="100"),
                stdout=theirs,
                stderr=subprocess.DEVNULL,
            ) as status,
        ):
            os.close(theirs)
            shown = b""
            try:
                while piece := screen.read(65536):
                    shown += piece
            except OSError:
                # Linux reports a closed terminal as EIO.
                pass
            assert status.wait(DEADLINE) == 0
        text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
        assert "\t" not in text
        assert re.search(r"[─━]{5}", text)
        assert re.search(r"^ *4 +between +- +- +late *\r?$", text, re.MULTILINE)

    def test_invalid_file_is_reported_and_exits_4(self, tmp_path: Path, three: Path) -> None:
        put_file(three, "003_again.sql", "SELECT 1;")
        put_file(three, "notes.sql", "SELECT 1;")

        done = migrated(tmp_path, "status")
        assert done.returncode == 4
        assert "003_again.sql" in done.stderr
        assert "notes.sql" in done.stderr


class TestPlan:
    def test_plan_has_every_pending_migration(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path, 1)

        shown = migrated(tmp_path, "plan").stdout
        assert re.findall(r"apply (\d+)_change", shown) == ["2", "3"]
        (plan,) = json.loads(migrated(tmp_path, "plan", "--json").stdout)["databases"]
        assert plan["direction"] == "up"
        assert [step["version"] for step in plan["migrations"]] == [2, 3]

    def test_plan_down_to_a_version(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path)

        shown = migrated(tmp_path, "plan", "--to", "1").stdout
        assert re.findall(r"roll back (\d+)_change", shown) == ["3", "2"]
        done = migrated(tmp_path, "plan", "--to", "1", "--json")
        (plan,) = json.loads(done.stdout)["databases"]
        assert plan["direction"] == "down"
        assert [step["version"] for step in plan["migrations"]] == [3, 2]
        assert done.stderr == ""

    def test_an_unknown_version_is_refused(self, tmp_path: Path, three: Path) -> None:
        assert migrated(tmp_path, "plan", "--to", "9").returncode == 4


class TestVerify:
    def test_unchanged_files_are_verified(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path, 2)

        assert migrated(tmp_path, "verify").returncode == 0

    def test_changed_file_is_reported(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path)
        write_migration(three, 2, up="CREATE TABLE other (id);")

        done = migrated(tmp_path, "verify", "--json")
        assert done.returncode == 4
        (verdict,) = json.loads(done.stdout)["databases"]
        assert verdict["ok"] is False
        assert verdict["problem"]["expected"] == checksum("CREATE TABLE t2 (id INTEGER PRIMARY KEY);")


class TestNew:
    def test_path_is_printed_and_the_file_is_a_draft(self, tmp_path: Path, database: Path) -> None:
        done = migrated(tmp_path, "new", "add users  email")
        assert (done.returncode, done.stderr) == (0, "")
        path = Path(done.stdout.removesuffix("\n"))
        named = re.fullmatch(r"(\d{14})_add_users_email\.sql", path.name)
        assert named
        assert path.parent == tmp_path / "migrations"
        assert path.read_text() == TEMPLATE.format(name="add_users_email", version=named[1])
        assert migrated(tmp_path, "up").returncode == 0
        assert applied_versions(database) == []
        status = migrated(tmp_path, "status").stdout
        assert re.search(rf"^{named[1]}\tadd_users_email\t.*\tdraft$", status, re.MULTILINE)

    def test_file_is_valid_once_it_has_a_statement(self, tmp_path: Path, migrations: Path, database: Path) -> None:
        path = Path(migrated(tmp_path, "new", "add").stdout.strip())
        put_file(migrations, path.name, path.read_text().replace("-- UP\n", "-- UP\nCREATE TABLE a (id);\n"))

        assert migrated(tmp_path, "up").returncode == 0
        assert [row[1] for row in schema(database)] == ["a"]

    def test_versions_are_unique(self, tmp_path: Path, migrations: Path) -> None:
        with ExitStack() as stack:
            makers = [
                stack.enter_context(running(*PROGRAM, "new", f"n{number}", cwd=tmp_path, stdout=subprocess.PIPE))
                for number in range(8)
            ]
            printed = {maker.communicate(timeout=2 * DEADLINE)[0].strip() for maker in makers}

        assert printed == {str(path) for path in migrations.iterdir()}
        assert len({path.name.split("_")[0] for path in migrations.iterdir()}) == 8

    @pytest.mark.parametrize("name", ["", "a/b", "über", "semi;colon", "../up"])
    def test_invalid_name_is_wrong_usage(self, tmp_path: Path, name: str) -> None:
        done = migrated(tmp_path, "new", name)

        assert (done.returncode, done.stdout) == (2, "")
        assert "letters, digits" in done.stderr
        assert files_in(tmp_path) == []


class TestWait:
    def test_wait_returns_when_another_process_has_applied_everything(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        with running(*PROGRAM, "wait", "--timeout", "60s", cwd=tmp_path) as wait:
            assert migrated(tmp_path, "up", "--to", "2").returncode == 0
            assert wait.poll() is None
            assert migrated(tmp_path, "up").returncode == 0
            assert wait.wait(DEADLINE) == 0
        assert migrated(tmp_path, "wait").returncode == 0

    def test_timeout_prints_why_databases_are_not_current(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path, 1)

        done = migrated(tmp_path, "wait", "--timeout", "100ms")
        assert done.returncode == 3
        assert "app.db: 2 pending" in done.stderr


class TestConfiguration:
    def test_no_configuration_file_is_needed(self, tmp_path: Path, three: Path) -> None:
        assert migrated(tmp_path, "up").returncode == 0
        assert applied_versions(tmp_path / "app.db") == [1, 2, 3]

    @pytest.mark.parametrize("url", ["sqlite:here/other.db", "sqlite:///here/other.db", "sqlite:{}/here/other.db"])
    def test_database_url_of_the_environment_is_used(self, tmp_path: Path, three: Path, url: str) -> None:
        (tmp_path / "here").mkdir()

        assert migrated(tmp_path, "up", DATABASE_URL=url.format(tmp_path)).returncode == 0
        assert applied_versions(tmp_path / "here/other.db") == [1, 2, 3]

    def test_command_line_takes_precedence_over_the_environment(self, tmp_path: Path, three: Path) -> None:
        assert migrated(tmp_path, "up", "-d", "this.db", DATABASE_URL="sqlite:that.db").returncode == 0
        assert applied_versions(tmp_path / "this.db") == [1, 2, 3]
        assert not (tmp_path / "that.db").exists()

    def test_url_of_another_kind_of_database_is_an_error(self, tmp_path: Path, three: Path) -> None:
        done = migrated(tmp_path, "up", DATABASE_URL="postgres://localhost/app")

        assert done.returncode == 78
        assert "DATABASE_URL" in done.stderr

    @pytest.mark.parametrize(
        ("file", "table"), [("other.toml", "target"), ("pyproject.toml", "tool.migrated.target")]
    )
    def test_paths_are_relative_to_the_configuration_file(
        self, tmp_path: Path, three: Path, file: str, table: str
    ) -> None:
        place = tmp_path / "etc"
        place.mkdir()
        (place / file).write_text(f'[[{table}]]\ndatabases = ["its.db"]\nmigrations = "../migrations"\n')
        (tmp_path / "elsewhere").mkdir()

        for arguments in (["up", "-c", f"../etc/{file}"], ["-c", f"../etc/{file}", "status", "--exit-code"]):
            assert migrated(tmp_path / "elsewhere", *arguments).returncode == 0
        assert applied_versions(place / "its.db") == [1, 2, 3]

    def test_pyproject_of_the_working_directory_is_used(self, tmp_path: Path, three: Path) -> None:
        (tmp_path / "pyproject.toml").write_text('[[tool.migrated.target]]\ndatabases = ["project.db"]\n')

        assert migrated(tmp_path, "up").returncode == 0
        assert applied_versions(tmp_path / "project.db") == [1, 2, 3]

    def test_migrated_toml_takes_precedence_over_pyproject(self, tmp_path: Path, three: Path) -> None:
        (tmp_path / "pyproject.toml").write_text('[[tool.migrated.target]]\ndatabases = ["project.db"]\n')
        (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["own.db"]\n')

        assert migrated(tmp_path, "up").returncode == 0
        assert applied_versions(tmp_path / "own.db") == [1, 2, 3]
        assert not (tmp_path / "project.db").exists()


class TestMigrationsDirectory:
    @pytest.mark.parametrize(
        ("command", "state"),
        [
            *((command, "missing") for command in ("up", "down", "status", "plan", "verify")),
            ("up", "a file"),
            ("up", "not readable"),
        ],
    )
    def test_unreadable_directory_is_an_error_not_nothing_to_do(
        self, tmp_path: Path, three: Path, database: Path, command: str, state: str
    ) -> None:
        bring_up(tmp_path)
        before = everything(database)
        wrapper: Sequence[str] = ()
        match state:
            case "missing":
                three.rename(tmp_path / "away")
            case "a file":
                three.rename(tmp_path / "away")
                three.write_text("")
            case _:
                wrapper = BOUND_BY_PERMISSIONS
                require(wrapper)
                three.chmod(0)

        done = migrated(tmp_path, command, wrapper=wrapper)
        if state == "not readable":
            three.chmod(0o755)
        assert done.returncode == 4
        assert "migrations" in done.stderr
        assert everything(database) == before

    def test_file_being_written_is_not_reported_as_missing(
        self, tmp_path: Path, three: Path, database: Path
    ) -> None:
        bring_up(tmp_path)
        with (three / "2_change.sql").open("a"):
            verify = migrated(tmp_path, "verify")

        assert verify.returncode == 4
        assert "2_change.sql" in verify.stderr
        assert "no migration has it" not in verify.stderr


class TestReadingChangesNothing:
    @pytest.mark.parametrize("command", READING)
    def test_reading_creates_no_database(self, tmp_path: Path, three: Path, command: list[str]) -> None:
        before = files_in(tmp_path)
        migrated(tmp_path, *command)

        assert files_in(tmp_path) == before

    @pytest.mark.parametrize("command", READING)
    @pytest.mark.parametrize("mode", ["delete", "wal"])
    def test_reading_creates_no_ledger(
        self, tmp_path: Path, three: Path, database: Path, command: list[str], mode: str
    ) -> None:
        execute(database, f"PRAGMA journal_mode = {mode}; CREATE TABLE theirs (id)")
        before = files_in(tmp_path)
        migrated(tmp_path, *command)

        assert files_in(tmp_path) == before


class TestHelp:
    def test_help_of_the_program(self, tmp_path: Path) -> None:
        done = migrated(tmp_path, "--help")

        assert (done.returncode, done.stderr) == (0, "")
        for word in [*OPTIONS, *GLOBAL_OPTIONS, "--version"]:
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", done.stdout), word
        for code in (0, 1, 2, 3, 4, 5, 6, 78):
            assert re.search(rf"^ +{code} ", done.stdout, re.MULTILINE)

    @pytest.mark.parametrize("command", OPTIONS)
    def test_help_of_a_command(self, tmp_path: Path, command: str) -> None:
        done = migrated(tmp_path, command, "--help")

        assert (done.returncode, done.stderr) == (0, "")
        for word in [*OPTIONS[command], *GLOBAL_OPTIONS]:
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", done.stdout), word
        assert re.search(rf"example:\n +migrated {command}\b", done.stdout)

    def test_version_option(self, tmp_path: Path) -> None:
        assert re.fullmatch(r"migrated \d+\.\d+\.\d+\S*\n", migrated(tmp_path, "--version").stdout)


class TestLog:
    def lines(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        """Return the logged events after checking the keys of every line."""
        assert done.stdout == ""
        found = log_lines(done.stderr)
        assert found
        for line in found:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
            assert line["level"] in {"info", "warning", "error"}
            assert line["message"]
            assert line["service"] == "migrated"
            assert isinstance(line["pid"], int)
        return [line["event"] for line in found]

    def test_events_of_a_success(self, tmp_path: Path, three: Path) -> None:
        assert self.lines(migrated(tmp_path, "up", "--to", "1")) == [
            *("migration.applying", "migration.applied", "database.created", "run.finished")
        ]
        assert self.lines(migrated(tmp_path, "down")) == [
            *("migration.rolling_back", "snapshot.taken", "migration.rolled_back", "run.finished")
        ]

    def test_events_of_a_failure(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1, up=f"CREATE TABLE a (id);\nSELECT '{'x' * 5000}', nowhere FROM a;")
        done = migrated(tmp_path, "up")
        told = self.lines(done)
        failed = log_lines(done.stderr)[told.index("migration.failed")]

        assert (failed["line"], failed["truncated"]) == (3, True)
        assert max(len(line.encode()) for line in done.stderr.splitlines()) < 4096
        assert told[-1] == "run.finished"

    def test_events_of_refusals(self, tmp_path: Path, three: Path) -> None:
        bring_up(tmp_path)
        write_migration(three, 2, up="CREATE TABLE other (id);")
        assert "checksum.mismatch" in self.lines(migrated(tmp_path, "up"))
        put_file(three, "3_again.sql", "SELECT 1;")
        put_file(three, "4.sql", "SELECT 1;")
        told = self.lines(migrated(tmp_path, "up"))
        assert "file.invalid" in told
        assert "file.ignored" in told

    def test_console_format_is_readable(self, tmp_path: Path, three: Path) -> None:
        done = migrated(tmp_path, "--log-format", "console", "up")

        assert "applied 1_change to app.db" in done.stderr
        assert not done.stderr.startswith("{")

    def test_log_level_is_respected(self, tmp_path: Path, three: Path) -> None:
        done = migrated(tmp_path, "up", "--log-level", "error")

        assert (done.returncode, done.stderr) == (0, "")


class TestOddPaths:
    def test_path_that_is_not_utf8_is_reported_and_does_not_stop_others(
        self, tmp_path: Path, migrations: Path
    ) -> None:
        write_migration(migrations, 1)
        (tmp_path / "t").mkdir()
        execute(tmp_path / "t/b.db", "CREATE TABLE t (x)")
        (tmp_path / os.fsdecode(b"t/a\xff.db")).write_bytes((tmp_path / "t/b.db").read_bytes())

        done = migrated(tmp_path, "up", "-d", "t/*.db")

        assert done.returncode == 6
        assert applied_versions(tmp_path / "t/b.db") == [1]
        for command in (["status"], ["status", "--json"], ["plan"], ["verify", "--json"]):
            looked = migrated(tmp_path, *command, "-d", "t/*.db")
            assert looked.returncode == 6
            assert "xff.db" in looked.stdout + looked.stderr
            assert "Traceback" not in looked.stderr


class TestShapesOfTheLog:
    @pytest.mark.parametrize("shape", ["json", "ecs", "otel"])
    def test_error_in_a_huge_statement_from_an_odd_directory_has_short_log_lines(
        self, tmp_path: Path, shape: str
    ) -> None:
        (tmp_path / "migrated.toml").write_text(f'log_format = "{shape}"\n')
        odd = tmp_path / os.fsdecode(b"m\xff")
        odd.mkdir()
        write_migration(odd, 1, up=f"INSERT INTO missing VALUES ('{'é' * 500_000}');")

        done = migrated(tmp_path, "up", "-m", odd)
        lines = done.stderr.encode().splitlines()
        (failed,) = [line for line in map(json.loads, lines) if "migration.failed" in json.dumps(line)]

        assert done.returncode == 1
        assert max(map(len, lines)) < 4096
        assert all(isinstance(json.loads(line), dict) for line in lines)
        for told in ("1_change failed", "no such table: missing", "m\\\\xff/1_change.sql", "INSERT INTO missing"):
            assert told in json.dumps(failed)


class TestStreams:
    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_standard_stream_does_not_damage_a_database(
        self, tmp_path: Path, migrations: Path, database: Path, closed: str
    ) -> None:
        """Output must not be written into a file that was opened with the descriptor of the closed stream."""
        write_migration(migrations, 1)
        for command in ("up", "status", "up"):
            line = f'exec "$@" {command} {closed}'
            done = subprocess.run(["sh", "-c", line, "sh", *PROGRAM], cwd=tmp_path, env=environment(), check=False)

            assert done.returncode == 0
        assert query(database, "PRAGMA integrity_check") == [("ok",)]
        assert applied_versions(database) == [1]
        assert json.loads((tmp_path / ".migrated/lock").read_text())["command"].endswith("up")


class TestOneRun:
    def test_all_log_lines_of_a_run_share_its_run_id(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1, down="DROP TABLE t1;")
        ids = [
            {line["run_id"] for line in log_lines(migrated(tmp_path, command).stderr)}
            for command in ("up", "down")
        ]

        assert [len(each) for each in ids] == [1, 1]
        assert ids[0] != ids[1]

    def test_invalid_file_is_a_refusal_for_every_database(self, tmp_path: Path, migrations: Path) -> None:
        put_file(migrations, "1_a.sql", "-- migrated: nonsense\n")
        databases = ["-d", "a.db", "-d", "b.db"]
        done = migrated(tmp_path, "up", *databases)
        finished = [line for line in log_lines(done.stderr) if line["event"] == "run.finished"]
        shown = json.loads(migrated(tmp_path, "status", "--json", *databases).stdout)["databases"]

        assert done.returncode == 4
        assert [(line["database"], line["outcome"]) for line in finished] == [
            ("a.db", "refused"),
            ("b.db", "refused"),
        ]
        assert [(each["state"], each["problem"]["type"]) for each in shown] == [
            ("blocked", "InvalidFormatError")
        ] * 2


class TestRepeatable:
    """Repeatable migrations in the output of commands."""

    def test_repeatable_is_pending_then_applied_then_pending_again(self, tmp_path: Path, migrations: Path) -> None:
        write_migration(migrations, 1)
        put_file(migrations, "R__one.sql", "DROP VIEW IF EXISTS one;\nCREATE VIEW one AS SELECT 1;")
        assert [line for line in migrated(tmp_path, "plan").stdout.splitlines() if "R__one" in line] == [
            "  apply R__one"
        ]
        done = migrated(tmp_path, "up", "--log-format", "json")
        applied = [line for line in log_lines(done.stderr) if line["event"] == "migration.applied"]
        assert [(line.get("version"), line["name"]) for line in applied] == [(1, "change"), (None, "R__one")]
        assert applied[1]["message"].startswith("applied R__one to app.db")
        assert migrated(tmp_path, "status", "--exit-code").stdout.splitlines()[-1].split("\t")[::4] == [
            "-",
            "applied",
        ]

        put_file(migrations, "R__one.sql", "DROP VIEW IF EXISTS one;\nCREATE VIEW one AS SELECT 2;")
        shown = migrated(tmp_path, "status", "--json", "--exit-code")
        (database,) = json.loads(shown.stdout)["databases"]
        assert shown.returncode == 3
        assert (database["state"], database["pending"]) == ("pending", 1)
        assert [(each["name"], each["state"]) for each in database["repeatables"]] == [("R__one", "pending")]
