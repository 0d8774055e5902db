"""`migrated doctor`: problems are found, hints fix them, and nothing is changed or left behind."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_process import BOUND_BY_PERMISSIONS, bring_up, migrated, on_a_terminal, require, running
from integration.children import line_from
from support import execute, put_file, write_migration

from migrated.checks import inputs, machine
from migrated.checks.findings import Level
from migrated.cli import main
from migrated.config.settings import SnapshotPolicy, SnapshotWhen
from migrated.engine.sqlite.snapshots.catalog import folder_of
from migrated.system import file_locks

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others takes root")
THEM = 61235
HOLD = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""
Doctor = Callable[..., tuple[int, list[dict[str, Any]]]]


def tree(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return mode, owner, time and content of files, and mode and owner of directories."""
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        is_file = stat.S_ISREG(status.st_mode)
        content = path.read_bytes() if is_file else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns if is_file else 0, content)
    return found


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command in this process and check that it changes nothing; return exit code and findings."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        before = tree(tmp_path)
        code = main(["doctor", "--json", *arguments])
        out, err = capsys.readouterr()
        document = json.loads(out)
        levels = [finding["level"] for finding in document["findings"]]

        assert err == ""
        assert tree(tmp_path) == before
        assert (document["problems"], document["warnings"]) == (levels.count("problem"), levels.count("warning"))
        assert code == (1 if document["problems"] else 0)
        return code, document["findings"]

    return run


@pytest.fixture
def project(tmp_path: Path, migrations: Path) -> Path:
    """A project with one applied migration and no problem."""
    write_migration(migrations, 1, down="DROP TABLE t1;")
    bring_up(tmp_path)
    return tmp_path


def wrong(doctor: Doctor, *arguments: str) -> list[tuple[str, str, str, str | None]]:
    """Return the problems: check, subject, message and hint."""
    _, findings = doctor(*arguments)
    return [
        (each["check"], each["subject"], each["message"], each["hint"])
        for each in findings
        if each["level"] == "problem"
    ]


def found(doctor: Doctor, check: str) -> list[dict[str, Any]]:
    return [finding for finding in doctor()[1] if finding["check"] == check]


# No problem


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_healthy_project_has_no_problem(project: Path, doctor: Doctor, journal: str) -> None:
    execute(project / "app.db", f"PRAGMA journal_mode = {journal}")
    write_migration(project / "migrations", 2)
    code, findings = doctor()

    # Whether the clock of this machine is synchronised is beyond this test.
    assert {each["check"] for each in findings if each["level"] != "ok"} <= {"clock.synchronised"}
    assert code == 0
    said = {(each["check"], each["subject"]): each["message"] for each in findings}
    assert said["migrations.files", str(project / "migrations")] == "2 migrations"
    assert said["database.content", "app.db"] == f"1 applied, 1 pending, journal mode {journal}"
    assert said["watch.hears", str(project / "migrations")].startswith("changes are noticed by events")
    assert said["locks.daemon", str(project / ".migrated/daemon.lock")].startswith("no daemon is running")
    assert {check.partition(".")[0] for check, _ in said} >= {"python", "sqlite", "systemd", "user", "inotify"}


def test_missing_database_that_will_be_created_is_no_problem(
    tmp_path: Path, migrations: Path, doctor: Doctor
) -> None:
    write_migration(migrations, 1)

    assert doctor()[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["migrations"]


def test_changes_are_noticed_by_polling(project: Path, doctor: Doctor) -> None:
    (project / "migrated.toml").write_text('watch = "polling"')

    (finding,) = found(doctor, "watch.hears")
    assert finding["message"].startswith("changes are noticed by polling")


def test_text_output_has_a_level_and_a_hint_per_finding(project: Path) -> None:
    (project / "migrations").chmod(0o777)
    code, shown = on_a_terminal(project, "doctor")

    assert code == 1
    assert "\033[32mok       \033[0mapp.db: 1 applied" in shown
    assert (
        f"\033[31mproblem  \033[0m{project}/migrations: the migrations directory has insecure permissions" in shown
    )
    assert f"\n         hint: `chmod o-w {project}/migrations`" in shown
    assert "\n1 problem, " in shown


# Problems


def test_every_error_of_the_configuration_is_listed(project: Path, doctor: Doctor) -> None:
    (project / "migrated.toml").write_text('watch = "no"\ncolour = 1\n')

    problems = wrong(doctor)

    assert [(check, message.split(": ")[1]) for check, _, message, _ in problems] == [
        ("configuration", "watch"),
        ("configuration", "colour"),
    ]
    assert {hint for *_, hint in problems} == {"`migrated help configuration` lists every key and its values"}


def test_missing_migrations_directory_is_a_problem(tmp_path: Path, doctor: Doctor) -> None:
    ((check, subject, message, hint),) = wrong(doctor)

    assert (check, subject) == ("migrations.files", str(tmp_path / "migrations"))
    assert message == "the migrations directory cannot be read: No such file or directory"
    assert hint is not None


def test_unsafe_permissions_are_a_problem(project: Path, doctor: Doctor) -> None:
    path = project / "migrations/1_change.sql"
    path.chmod(0o666)

    ((check, subject, _, hint),) = wrong(doctor)
    assert (check, subject) == ("migrations.files", str(path))
    assert hint is not None
    assert f"`chmod o-w {path}`" in hint
    (project / "migrated.toml").write_text("allow_insecure_permissions = true\n")
    (warned,) = found(doctor, "migrations.permissions")
    assert (warned["level"], warned["subject"], warned["hint"]) == ("warning", str(path), f"`chmod o-w {path}`")


def test_invalid_and_ignored_files_are_reported(project: Path, doctor: Doctor) -> None:
    invalid = put_file(project / "migrations", "2_bad.sql", "-- DOWN\nSELECT 1;\n")
    misnamed = put_file(project / "migrations", "three.sql", "")

    ((_, subject, message, hint),) = wrong(doctor)
    assert (subject, message) == (str(invalid), "a DOWN section without an UP section")
    assert hint == "put a line `-- UP` above the statements that make the change"
    assert (str(misnamed), "warning") in [(each["subject"], each["level"]) for each in doctor()[1]]


def test_changed_migration_is_a_problem(project: Path, doctor: Doctor) -> None:
    write_migration(project / "migrations", 1, up="CREATE TABLE other (id);")

    ((check, subject, message, hint),) = wrong(doctor)
    assert (check, subject) == ("database.content", "app.db")
    assert "1_change" in message
    assert hint is not None
    assert "migrated diff" in hint


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        pytest.param(Path.mkdir, "the path leads to a directory, not to a file", "check the path", id="directory"),
        pytest.param(
            lambda path: path.write_bytes(b"no database" * 100),
            "file is not a database",
            "this is not a SQLite database, or it is encrypted; check the path",
            id="no database",
        ),
    ],
)
@pytest.mark.usefixtures("migrations")
def test_unusable_database_path_is_a_problem(
    tmp_path: Path, doctor: Doctor, make: Callable[[Path], object], message: str, hint: str
) -> None:
    make(tmp_path / "app.db")

    assert [problem[1:] for problem in wrong(doctor)] == [("app.db", message, hint)]


def test_missing_databases_are_problems(project: Path, doctor: Doctor) -> None:
    target = '[[target]]\ndatabases = ["gone.db", "none/*.db"]\ncreate = false\n[[target]]\ndatabases = ["x/*.db"]'
    (project / "migrated.toml").write_text(target)

    assert [problem[1:] for problem in wrong(doctor)] == [
        ("gone.db", "missing, and may not be created", "check the path, or set create = true"),
        ("x/*.db", "no file matches x/*.db", "check the pattern; a glob does not create databases"),
    ]


@AS_ROOT
def test_file_beside_a_database_that_its_owner_cannot_write_is_reported(project: Path, doctor: Doctor) -> None:
    database, journal = project / "app.db", project / "app.db-journal"
    journal.write_bytes(b"")
    journal.chmod(0o644)
    folder = Path(folder_of(str(database)))
    folder.mkdir(parents=True)
    os.chown(database, THEM, THEM)

    ((check, subject, message, hint),) = wrong(doctor)
    assert (check, subject) == ("database.owners", str(journal))
    assert message == f"owned by root, not writable by uid {THEM}"
    assert hint == f"`chown --reference={database} {journal}`; do not delete it"
    warned = [each["subject"] for each in found(doctor, "database.owners") if each["level"] == "warning"]
    assert {str(project / ".migrated/lock"), str(folder), str(folder.parent)} <= {*warned}
    os.chown(journal, THEM, THEM)
    assert wrong(doctor) == []


def test_missing_directory_of_the_metrics_file_is_a_problem(project: Path, doctor: Doctor) -> None:
    (project / "migrated.toml").write_text('metrics_file = "none/m.prom"')

    ((check, subject, message, hint),) = wrong(doctor)
    assert (check, subject) == ("metrics", str(project / "none/m.prom"))
    assert message == "its directory is missing or not writable"
    assert hint == f"create {project / 'none'}, or give this user write access to it"


def test_missing_program_of_a_hook_is_a_problem(project: Path, doctor: Doctor) -> None:
    (project / "migrated.toml").write_text('[hooks]\nafter_apply = ["./tell"]\non_failure = ["true"]')

    ((check, subject, message, hint),) = wrong(doctor)
    assert (check, subject) == ("hooks", "after_apply")
    assert message == "program ./tell does not exist or is not executable"
    assert hint == "check its name, and that this user may execute it"
    (project / "tell").write_text("#!/bin/sh\n")
    (project / "tell").chmod(0o755)
    assert wrong(doctor) == []


def test_changes_that_are_not_noticed_are_a_problem(
    project: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "EVENT_TIMEOUT_SECONDS", 0)
    (project / "migrated.toml").write_text('watch = "polling"')

    ((check, subject, message, hint),) = wrong(doctor)
    assert (check, subject, hint) == ("watch.hears", str(project / "migrations"), 'set watch = "polling"')
    assert message.startswith("no event within 0 s after a file was written")


def test_nothing_is_created_in_the_migrations_directory_or_without_permission(project: Path) -> None:
    """Noticing changes cannot be tested then, which the finding says."""
    require(BOUND_BY_PERMISSIONS)
    (project / "data").mkdir()
    project.chmod(0o555)
    try:
        done = migrated(project, "doctor", "-d", "data/app.db", wrapper=BOUND_BY_PERMISSIONS)
    finally:
        project.chmod(0o755)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"ok       {project}/migrations: not tested: no writable directory beside it" in done.stdout


# Warnings and facts


def test_lock_holders_are_named(project: Path, doctor: Doctor) -> None:
    with file_locks.file_lock(str(project / "app.db"), file_locks.DAEMON, 0):
        (held,) = found(doctor, "locks.daemon")
    (free,) = found(doctor, "locks.daemon")

    assert held["message"].startswith(f"a daemon is running: pid {os.getpid()} on ")
    assert free["message"] == "no daemon is running"


def test_unfinished_snapshot_is_a_warning(project: Path, doctor: Doctor) -> None:
    part = Path(folder_of(str(project / "app.db"))) / ".app.db.20260101T000000000000Z.part"
    part.parent.mkdir(exist_ok=True, parents=True)
    part.write_bytes(b"half")

    (finding,) = found(doctor, "database.leftovers")
    assert (finding["level"], finding["subject"]) == ("warning", str(part))
    assert f"`rm {part}`" in finding["hint"]


def test_database_in_use_is_no_problem(project: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BUSY_SECONDS", 0.0)
    command = (sys.executable, "-c", HOLD, project / "app.db")
    with running(*command, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert line_from(process) == "held"
        (finding,) = found(doctor, "database.content")
        assert (finding["level"], finding["hint"]) == ("warning", "try again later")
        assert finding["message"].startswith(f"in use at the moment, by pid {process.pid} ")
        process.communicate()


def test_failing_check_does_not_stop_the_others(
    project: Path, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(inputs, "check_room", fail)
    code, findings = doctor()

    assert code == 1
    assert [(each["check"], each["message"]) for each in findings if each["level"] == "problem"] == [
        ("database.room", "the check failed: a surprise")
    ]
    assert {"locks.lock", "clock.files"} <= {each["check"] for each in findings}


# States of the machine that a test cannot create


@pytest.mark.parametrize(("version", "level"), [("3.51.2", "problem"), ("3.51.3", "ok"), ("3.100.0", "ok")])
def test_sqlite_with_the_wal_reset_bug_is_a_problem(version: str, level: str) -> None:
    finding = machine.judge_sqlite(version)

    assert finding.level == level
    assert finding.hint == ("`pip install -U 'apsw>=3.51.3'`" if level == "problem" else None)


def test_inotify_limits() -> None:
    assert machine.judge_inotify(8192, 128, 5).level is Level.OK
    short = machine.judge_inotify(8192, 128, 127)
    assert (short.level, short.hint) == (
        Level.WARNING,
        '`sysctl fs.inotify.max_user_instances=256`, or set watch = "polling"',
    )
    assert machine.judge_inotify(0, 128, 5).level is Level.WARNING


@pytest.mark.parametrize(("state", "level"), [(-1, "ok"), (0, "ok"), (5, "warning")])
def test_unsynchronised_clock_is_a_warning(state: int, level: str) -> None:
    assert machine.judge_time(state).level == level


@pytest.mark.parametrize(("difference", "level"), [(0.0, "ok"), (1.9, "ok"), (-3.0, "warning"), (3.0, "warning")])
def test_file_system_clock_difference_is_a_warning(difference: float, level: str) -> None:
    assert machine.judge_clock("/srv", difference).level == level


@pytest.mark.parametrize(
    ("size", "free", "level"),
    [(10_000_000, 5_000_000, "problem"), (10_000_000, 20_000_000, "warning"), (10_000_000, 40_000_000, "ok")],
)
def test_free_disk_space(size: int, free: int, level: str) -> None:
    assert inputs.judge_room("app.db", size, free, SnapshotPolicy()).level == level


def test_space_for_a_snapshot_is_required_only_if_one_is_taken() -> None:
    for policy in (SnapshotPolicy(SnapshotWhen.NEVER), SnapshotPolicy(max_size=1_000_000)):
        assert inputs.judge_room("app.db", 10_000_000, 5_000_000, policy).level is Level.WARNING


def test_shared_file_system() -> None:
    assert inputs.judge_file_system("app.db", "ext4", shared=False, wal=True).level is Level.OK
    assert inputs.judge_file_system("app.db", "nfs4", shared=True, wal=False).level is Level.WARNING
    assert inputs.judge_file_system("app.db", "nfs4", shared=True, wal=True).level is Level.PROBLEM
