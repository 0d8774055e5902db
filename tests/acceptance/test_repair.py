"""`migrated repair`, and every other command beside a stopped migration."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from daemon_process import DEADLINE, DaemonProcess, bring_up, log_lines, migrated, poll, running
from filelock import FileLock
from support import PROGRAM, applied_versions, everything, execute, query, schema, write_migration

from migrated import ExecutionFailedError

DIRECTIVE = "-- migrated: no-transaction"
STOPS = f"{DIRECTIVE}\nCREATE TABLE a (x);\nINSERT INTO a SELECT x FROM more;\nCREATE TABLE b (x);"
ENDLESS = """\
CREATE TABLE endless AS
WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c;"""
SETTLE = "repair it with: migrated repair 2 --resume | --mark-applied | --forget"


@pytest.fixture
def stopped(tmp_path: Path, migrations: Path, database: Path) -> Iterator[Path]:
    """A database whose second migration of three stopped after its first statement."""
    write_migration(migrations, 1, down="DROP TABLE t1;")
    write_migration(migrations, 2, "stops", up=STOPS, down="DROP TABLE a;")
    write_migration(migrations, 3)
    with pytest.raises(ExecutionFailedError, match="stopped after statement 1 of 3"):
        bring_up(tmp_path)
    yield database
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def history(database: Path) -> list[tuple[object, ...]]:
    return query(database, "SELECT action, version, statement, statements FROM _migrations_history ORDER BY id")


def files_in(directory: Path) -> list[tuple[str, bytes]]:
    """Return every file with its content, except locks. No connection may be open on any of them."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.parent.name != ".migrated"]
    return [(str(path), path.read_bytes()) for path in files]


# Showing


def test_no_unfinished_migration(tmp_path: Path, migrations: Path, database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    before = files_in(tmp_path)

    shown, document = migrated(tmp_path, "repair"), migrated(tmp_path, "repair", "--json")

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "app.db: no stopped migration\n", "")
    assert (document.returncode, json.loads(document.stdout)) == (0, {"unfinished": []})
    assert files_in(tmp_path) == before


def test_showing_creates_no_database(tmp_path: Path, migrations: Path, database: Path) -> None:
    assert migrated(tmp_path, "repair").returncode == 0
    assert not database.exists()


def test_unfinished_migration_is_shown_in_full_and_nothing_changes(tmp_path: Path, stopped: Path) -> None:
    before = files_in(tmp_path)
    when, host, pid = query(stopped, "SELECT happened_at, host, pid FROM _migrations_history WHERE statement = 1")[
        0
    ]

    shown = migrated(tmp_path, "repair")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "app.db: 2_stops stopped after statement 1 of 3",
        f"  the last statement finished at {str(when)[:19].replace('T', ' ')} UTC, run by pid {pid} on {host}",
        "  next: INSERT INTO a SELECT x FROM more;",
        f"  {SETTLE}",
    ]
    assert files_in(tmp_path) == before


def test_unfinished_migration_as_json(tmp_path: Path, stopped: Path) -> None:
    document = migrated(tmp_path, "repair", "--json")

    assert document.returncode == 0
    ((found,),) = json.loads(document.stdout).values()
    row = query(stopped, "SELECT host, pid FROM _migrations_history WHERE statement = 1")[0]
    assert found.pop("happened_at").endswith("+00:00")
    assert (found.pop("host"), found.pop("pid")) == row
    assert found == {
        "database": "app.db",
        "version": 2,
        "name": "stops",
        "direction": "up",
        "statement": 1,
        "statements": 3,
        "next": "INSERT INTO a SELECT x FROM more;",
    }


# Repairing


def test_resume_runs_the_remaining_statements(tmp_path: Path, stopped: Path) -> None:
    execute(stopped, "CREATE TABLE more (x); INSERT INTO more VALUES (7)")

    settled = migrated(tmp_path, "repair", "2", "--resume", "--reason", "the table was missing, é")

    assert (settled.returncode, settled.stderr) == (0, "")
    assert settled.stdout == "app.db: 2 was resumed and is finished\n"
    assert query(stopped, "SELECT x FROM a") == [(7,)]
    assert applied_versions(stopped) == [1, 2]
    reasons = query(stopped, "SELECT statement, reason FROM _migrations_history WHERE version = 2")
    assert reasons == [(1, None), (2, "the table was missing, é"), (3, "the table was missing, é")]
    assert migrated(tmp_path, "up").returncode == 0
    assert applied_versions(stopped) == [1, 2, 3]


@pytest.mark.parametrize(
    ("how", "said", "applied"),
    [("--mark-applied", "is recorded as applied", [1, 2]), ("--forget", "is recorded as not applied", [1])],
)
def test_mark_applied_and_forget_change_only_the_records(
    tmp_path: Path, stopped: Path, how: str, said: str, applied: list[int]
) -> None:
    there = schema(stopped)

    settled = migrated(tmp_path, "repair", how, "2", "--reason=by hand")

    assert (settled.returncode, settled.stdout, settled.stderr) == (0, f"app.db: 2 {said}\n", "")
    assert (schema(stopped), applied_versions(stopped)) == (there, applied)
    assert history(stopped)[-1] == (how[2:], 2, 1, 3)
    assert query(stopped, "SELECT reason FROM _migrations_history ORDER BY id DESC LIMIT 1") == [("by hand",)]


def test_resume_that_fails_again_reports_the_statement(tmp_path: Path, stopped: Path) -> None:
    before = everything(stopped)

    failed = migrated(tmp_path, "repair", "2", "--resume")

    assert (failed.returncode, failed.stdout) == (1, "")
    assert "2_stops.sql:4:1: no such table: more; stopped after statement 1 of 3" in failed.stderr
    assert "4 | INSERT INTO a SELECT x FROM more;" in failed.stderr
    assert everything(stopped) == before


def test_resume_uses_an_edited_rest_and_refuses_an_edited_beginning(
    tmp_path: Path, migrations: Path, stopped: Path
) -> None:
    before = everything(stopped)
    write_migration(migrations, 2, "stops", up=STOPS.replace("CREATE TABLE a (x)", "CREATE TABLE a (y)"))

    refused = migrated(tmp_path, "repair", "2", "--resume")

    assert refused.returncode == 4
    assert "2_stops cannot be resumed: statement 1 has been executed and was changed since" in refused.stderr
    assert everything(stopped) == before
    write_migration(migrations, 2, "stops", up=f"{DIRECTIVE}\nCREATE TABLE a (x);\nVACUUM;")
    assert migrated(tmp_path, "repair", "2", "--resume").returncode == 0
    assert applied_versions(stopped) == [1, 2]
    assert migrated(tmp_path, "verify").returncode == 0


def test_resume_uses_the_stored_text_if_the_file_is_missing(
    tmp_path: Path, migrations: Path, stopped: Path
) -> None:
    (migrations / "2_stops.sql").unlink()
    execute(stopped, "CREATE TABLE more (x)")

    assert migrated(tmp_path, "repair", "2", "--resume").returncode == 0

    assert applied_versions(stopped) == [1, 2]
    assert [row[1] for row in schema(stopped)] == ["a", "b", "more", "t1"]


def test_repair_of_a_stopped_rollback(tmp_path: Path, migrations: Path, database: Path) -> None:
    (migrations / "1_both.sql").write_text(
        f"{DIRECTIVE}\n-- UP\nCREATE TABLE a (x);\n-- DOWN\nDROP TABLE a;\nDROP TABLE more;\nVACUUM;\n"
    )
    assert migrated(tmp_path, "up").returncode == 0
    failed = migrated(tmp_path, "down")
    assert failed.returncode == 1
    (line,) = [line for line in log_lines(failed.stderr) if line["event"] == "migration.failed"]
    assert line["reason"].startswith("no such table: more; stopped after statement 1 of 3")
    assert (line["line"], line["column"], line["statement"]) == (6, 1, "DROP TABLE more;")
    shown = migrated(tmp_path, "repair")
    assert "app.db: the rollback of 1_both stopped after statement 1 of 3" in shown.stdout
    assert json.loads(migrated(tmp_path, "repair", "--json").stdout)["unfinished"][0]["direction"] == "down"
    execute(database, "CREATE TABLE more (x)")

    assert migrated(tmp_path, "repair", "1", "--resume").returncode == 0

    assert (schema(database), applied_versions(database)) == ([], [])


def test_repair_without_an_unfinished_migration_is_an_error(
    tmp_path: Path, migrations: Path, database: Path
) -> None:
    write_migration(migrations, 1)
    bring_up(tmp_path)
    before = everything(database)

    refused = migrated(tmp_path, "repair", "1", "--resume")

    assert (refused.returncode, refused.stdout) == (4, "")
    assert refused.stderr == "migrated: error: no database has a stopped migration 1\n"
    assert everything(database) == before


def test_repair_of_another_version_changes_nothing(tmp_path: Path, stopped: Path) -> None:
    before = everything(stopped)

    assert migrated(tmp_path, "repair", "3", "--forget").returncode == 4

    assert everything(stopped) == before


WRONG = [
    ["2"],
    ["--forget", "--reason", "x"],
    ["2", "--resume", "--forget"],
    ["two", "--resume"],
    ["2", "--resume", "--reason"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage(tmp_path: Path, stopped: Path, arguments: list[str]) -> None:
    before = everything(stopped)

    wrong = migrated(tmp_path, "repair", *arguments)

    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr
    assert everything(stopped) == before


def test_repair_respects_the_lock_of_another_runner(tmp_path: Path, stopped: Path) -> None:
    # The option must apply: waiting for the configured time would exceed the limit of this test.
    (tmp_path / "migrated.toml").write_text('lock_timeout = "1h"\n')
    before = everything(stopped)

    with FileLock(tmp_path / ".migrated" / "lock"):
        held = migrated(tmp_path, "repair", "2", "--forget", "--lock-timeout", "50ms")
        assert migrated(tmp_path, "repair").returncode == 0

    assert held.returncode == 5
    assert everything(stopped) == before


def test_unreadable_database_is_not_reported_as_repaired(tmp_path: Path, stopped: Path) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["app.db"]\nbusy_timeout = "50ms"\n')
    before = everything(stopped)
    other = apsw.Connection(str(stopped))
    other.execute("BEGIN EXCLUSIVE")
    refused = migrated(tmp_path, "repair", "2", "--forget")
    other.close()

    assert refused.returncode == 6
    assert "database is locked" in refused.stderr
    assert "has a stopped migration" not in refused.stderr
    assert everything(stopped) == before


def test_missing_directory_is_an_error(tmp_path: Path, migrations: Path, stopped: Path) -> None:
    migrations.rename(tmp_path / "elsewhere")
    before = everything(stopped)

    shown = migrated(tmp_path, "repair")
    refused = migrated(tmp_path, "repair", "2", "--forget")

    assert (shown.returncode, refused.returncode) == (4, 4)
    assert "migrations" in shown.stderr
    assert "has a stopped migration" not in refused.stderr
    assert everything(stopped) == before


# Before the repair

REFUSED = [
    pytest.param(["up"], 4, id="up"),
    pytest.param(["up", "--dry-run"], 4, id="up dry"),
    pytest.param(["down"], 4, id="down"),
    pytest.param(["down", "--to", "0"], 4, id="down to"),
    pytest.param(["plan"], 4, id="plan"),
    pytest.param(["plan", "--to", "0"], 4, id="plan down"),
    pytest.param(["verify"], 4, id="verify"),
    pytest.param(["status", "--exit-code"], 4, id="status"),
    pytest.param(["wait", "--timeout", "1ms"], 3, id="wait"),
]


@pytest.mark.parametrize(("arguments", "code"), REFUSED)
def test_every_command_refuses_a_stopped_migration(
    tmp_path: Path, stopped: Path, arguments: list[str], code: int
) -> None:
    before = files_in(tmp_path)

    refused = migrated(tmp_path, *arguments)

    assert refused.returncode == code, refused.stdout
    assert "2_stops stopped after statement 1 of 3" in refused.stderr + refused.stdout
    assert "migrated repair 2" in refused.stderr + refused.stdout
    assert files_in(tmp_path) == before


def test_status_shows_a_stopped_migration(tmp_path: Path, stopped: Path) -> None:
    document = json.loads(migrated(tmp_path, "status", "--json").stdout)

    assert [row["state"] for row in _migrations(document)] == ["applied", "stopped", "pending"]
    assert [row.get("statement") for row in _migrations(document)] == [None, 1, None]
    assert [row.get("statements") for row in _migrations(document)] == [None, 3, None]
    assert "stopped" in migrated(tmp_path, "status").stdout


def _migrations(document: object) -> list[dict[str, object]]:
    """Return the list of migrations at any depth of a status document."""
    if isinstance(document, dict):
        if "migrations" in document and isinstance(document["migrations"], list):
            return list(document["migrations"])
        document = [*document.values()]
    if not isinstance(document, list):
        return []
    return [entry for each in document for entry in _migrations(each)]


def test_daemon_logs_the_blocked_database_once(tmp_path: Path, stopped: Path) -> None:
    lines = log_lines(migrated(tmp_path, "up").stderr)

    (blocked,) = [line for line in lines if line["event"] == "database.blocked"]
    assert blocked["version"] == 2
    assert blocked["reason"].startswith("2_stops stopped after statement 1 of 3")
    assert blocked["error"]["code"] == "UNFINISHED"
    assert (lines[-1]["event"], lines[-1]["outcome"], lines[-1]["applied"]) == ("run.finished", "refused", 0)


# Several databases


def test_repair_works_on_every_database_with_the_unfinished_migration(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 2, "stops", up=STOPS)
    names = ["a.db", "b.db", "c.db"]
    (tmp_path / "migrated.toml").write_text(f"[[target]]\ndatabases = {names}\n")
    execute(tmp_path / "c.db", "CREATE TABLE more (x)")
    assert migrated(tmp_path, "up").returncode == 1
    shown = migrated(tmp_path, "repair")
    assert [line for line in shown.stdout.splitlines() if line.startswith(tuple(names))] == [
        "a.db: 2_stops stopped after statement 1 of 3",
        "b.db: 2_stops stopped after statement 1 of 3",
        "c.db: no stopped migration",
    ]
    found = json.loads(migrated(tmp_path, "repair", "--json").stdout)["unfinished"]
    assert [entry["database"] for entry in found] == ["a.db", "b.db"]
    execute(tmp_path / "b.db", "CREATE TABLE more (x)")
    before = everything(tmp_path / "c.db")

    half = migrated(tmp_path, "repair", "2", "--resume")

    assert (half.returncode, half.stdout) == (1, "b.db: 2 was resumed and is finished\n")
    assert "a.db: " in half.stderr
    assert [applied_versions(tmp_path / name) for name in names] == [[], [2], [2]]
    rest = migrated(tmp_path, "repair", "2", "--mark-applied")
    assert (rest.returncode, rest.stdout) == (0, "a.db: 2 is recorded as applied\n")
    assert everything(tmp_path / "c.db") == before


def test_one_of_several_databases_can_be_chosen(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 2, "stops", up=STOPS)
    both = ["-d", "a.db", "-d", "b.db"]
    migrated(tmp_path, "up", *both)

    assert migrated(tmp_path, "repair", "2", "--forget", "-d", "b.db").returncode == 0

    assert [history(tmp_path / name)[-1][0] for name in ("a.db", "b.db")] == ["apply-statement", "forget"]


# Killed or interrupted


def test_repair_resumes_after_a_kill(tmp_path: Path, migrations: Path, database: Path) -> None:
    up = f"{DIRECTIVE}\nCREATE TABLE a (x);\nVACUUM;\nPRAGMA user_version = 7;\n{ENDLESS}"
    write_migration(migrations, 2, "stops", up=up)
    with running(*PROGRAM, "up", cwd=tmp_path, stderr=subprocess.DEVNULL) as program:
        poll(lambda: _done(database) == 3, "the third statement")
        program.send_signal(signal.SIGKILL)
        program.wait()

    assert [row[2] for row in history(database)] == [1, 2, 3]
    (found,) = json.loads(migrated(tmp_path, "repair", "--json").stdout)["unfinished"]
    assert (found["pid"], found["statement"], found["statements"]) == (program.pid, 3, 4)
    assert [row[1] for row in schema(database)] == ["a"]
    write_migration(migrations, 2, "stops", up=up.replace(ENDLESS, "CREATE TABLE b (x);"))
    assert migrated(tmp_path, "repair", "2", "--resume").returncode == 0
    assert [row[1] for row in schema(database)] == ["a", "b"]
    assert (applied_versions(database), query(database, "PRAGMA user_version")) == ([2], [(7,)])


def _done(database: Path) -> int:
    if not database.exists() or not query(
        database, "SELECT 1 FROM sqlite_schema WHERE name = '_migrations_history'"
    ):
        return 0
    return len(history(database))


@pytest.mark.parametrize("command", ["up", "repair"])
def test_interruption_reports_the_last_statement(
    tmp_path: Path, migrations: Path, database: Path, command: str
) -> None:
    path = write_migration(migrations, 2, "stops", up=f"{DIRECTIVE}\nCREATE TABLE a (x);\nnonsense;")
    arguments = ["up"]
    if command == "repair":
        assert migrated(tmp_path, "up").returncode == 1
        arguments = ["repair", "2", "--resume"]
    text = f"{DIRECTIVE}\nCREATE TABLE a (x);\nCREATE TABLE b (x);\n{ENDLESS}"
    write_migration(migrations, 2, "stops", up=text)
    with running(*PROGRAM, *arguments, cwd=tmp_path, stderr=subprocess.PIPE) as program:
        poll(lambda: _done(database) == 2, "the second statement")
        program.send_signal(signal.SIGTERM)
        assert program.stderr is not None
        while "send the signal again to interrupt it" not in (line := program.stderr.readline()):
            assert line
        program.send_signal(signal.SIGINT)
        _, told = program.communicate(timeout=DEADLINE)

    assert program.returncode == 128 + signal.SIGTERM
    assert "stopped after statement 2 of 3" in told
    assert f"{path.name}:5:1" in told or '"line":5' in told.replace(" ", "")
    assert [row[1] for row in schema(database)] == ["a", "b"]
    assert (_done(database), applied_versions(database)) == (2, [])


# Beside the daemon


def test_daemon_continues_after_the_repair(tmp_path: Path, migrations: Path, database: Path) -> None:
    write_migration(migrations, 1)
    write_migration(migrations, 2, "stops", up=STOPS)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        write_migration(migrations, 3)
        daemon.look()
        assert applied_versions(database) == [1]
        before = everything(database)
        daemon.look()
        assert everything(database) == before
        shown = migrated(tmp_path, "repair")
        assert "2_stops stopped after statement 1 of 3" in shown.stdout
        execute(database, "CREATE TABLE more (x)")

        settled = migrated(tmp_path, "repair", "2", "--resume", "--reason", "beside the daemon")

        assert (settled.returncode, settled.stderr) == (0, "")
        daemon.send(signal.SIGUSR1)
        daemon.wait_for("migration.applied", version=3)
        assert daemon.stop() == 0
    assert applied_versions(database) == [1, 2, 3]
    assert [line["version"] for line in daemon.logged("migration.failed")] == [2]
    assert daemon.logged("database.blocked")
    assert len(daemon.logged("database.unblocked", database="app.db")) == 1


def test_restarted_daemon_leaves_a_stopped_migration_to_repair(
    tmp_path: Path, migrations: Path, database: Path
) -> None:
    write_migration(migrations, 2, "stops", up=f"{DIRECTIVE}\nCREATE TABLE a (x);\n{ENDLESS}")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_for("migration.applying", version=2)
        poll(lambda: _done(database) == 1, "the first statement")
        daemon.kill()
    before = everything(database)

    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        (blocked,) = daemon.logged("database.blocked")
        assert blocked["error"]["code"] == "UNFINISHED"
        assert everything(database) == before
        assert migrated(tmp_path, "repair", "2", "--mark-applied").returncode == 0
        daemon.send(signal.SIGUSR1)
        daemon.wait_for("database.unblocked", database="app.db")
        assert daemon.stop() == 0
    assert applied_versions(database) == [2]


def test_stopped_migration_in_one_database_does_not_stop_the_others(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 2, "stops", up=STOPS)
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["a.db", "b.db"]\n')
    execute(tmp_path / "b.db", "CREATE TABLE more (x)")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        write_migration(migrations, 3)
        daemon.wait_for("migration.applied", version=3, database="b.db")
        assert daemon.stop() == 0

    assert [applied_versions(tmp_path / name) for name in ("a.db", "b.db")] == [[], [2, 3]]
