"""The complete log of one operation on one database."""

import inspect
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from integration.children import Children, line_from
from support import checksum, execute, put_file, write_migration

from migrated import (
    ChecksumMismatchError,
    LockHeldError,
    MigrationRunner,
    OnLate,
    OnMissing,
    Policy,
    read_migrations,
)
from migrated.config.settings import NO_SNAPSHOTS, SnapshotPolicy, Target
from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.records import AppliedMigration
from migrated.engine.backend import EarlierState, Observer, Progress, RowRestoreReport, StepResult
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.job import DatabaseJob, Operation
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.reporting import LoggingObserver, report
from migrated.logs.logger import configure

Line = dict[str, Any]


class Work:
    """A target with one database, and the log of operations on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.policy = Policy()
        self.create = True
        self.snapshots = NO_SNAPSHOTS

    def do(self, operation: Operation = lambda runner: runner.run()) -> tuple[Outcome, list[Line]]:
        """Run an operation; return the outcome and the lines of the log."""
        log_file = self.home / "log"
        target = Target(
            str(self.home),
            ("app.db",),
            str(self.home / "migrations"),
            self.create,
            self.policy,
            busy_timeout=0.05,
            snapshots=self.snapshots,
        )
        descriptor = os.open(log_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        try:
            log = configure("json", "debug", descriptor)
            migrations = read_migrations(target.migrations)
            database = DatabasePath("app.db", str(self.home / "app.db"))
            outcome = DatabaseJob(target, migrations, operation, log, lock_timeout=0.05).run(database)
            report(outcome, log)
        finally:
            os.close(descriptor)
        return outcome, [_steady(line) for line in log_file.read_text().splitlines()]


def _steady(text: str) -> Line:
    """Return a line without values that differ between runs, after checking their form."""
    line: Line = json.loads(text)
    timestamp = line.pop("timestamp")
    assert (len(timestamp), timestamp[-8], timestamp[-1]) == (27, ".", "Z")
    assert line.pop("pid") == os.getpid()
    assert line.pop("service") == "migrated"
    assert line.pop("database") == "app.db"
    if "execution_time_ms" in line:
        assert isinstance(line.pop("execution_time_ms"), int)
    # The sentence contains a time.
    if line["event"] in {"migration.applied", "migration.rolled_back"}:
        line["message"] = line["message"].rpartition(" in ")[0]
    return line


@pytest.fixture
def work(tmp_path: Path, migrations: Path) -> Work:
    return Work(tmp_path)


def steps(migrations: Path, version: int, *, rows: int = 0) -> list[Line]:
    """Return the two lines of an applied migration."""
    up = f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY);"
    common = {"version": version, "name": "change", "checksum": checksum(up), "direction": "up"}
    return [
        {
            "event": "migration.applying",
            "level": "info",
            "message": f"applying {version}_change to app.db",
            "file": str(migrations / f"{version}_change.sql"),
            **common,
        },
        {
            "event": "migration.applied",
            "level": "info",
            "message": f"applied {version}_change to app.db",
            "rows_changed": rows,
            **common,
        },
    ]


def finished(outcome: str, applied: int, pending: int, level: str = "info") -> Line:
    """Return the line `run.finished`."""
    return {
        "event": "run.finished",
        "level": level,
        "message": f"app.db: {outcome}, {applied} applied, {pending} pending",
        "outcome": outcome,
        "applied": applied,
        "pending": pending,
    }


CREATED = {"event": "database.created", "level": "info", "message": "created app.db"}


def test_events_of_applied_migrations(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    write_migration(migrations, 2)

    outcome, lines = work.do()

    # They share the transaction of a new database, and are logged after its commit.
    both = list(zip(steps(migrations, 1), steps(migrations, 2), strict=True))
    assert lines == [*both[0], *both[1], CREATED, finished("applied", 2, 0)]
    assert (outcome.result, outcome.applied, outcome.pending, outcome.error) == (OutcomeKind.APPLIED, 2, 0, None)


def test_snapshots_are_logged(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    work.do()
    write_migration(migrations, 2)
    work.snapshots = SnapshotPolicy()

    _, (_, taken, *_) = work.do()

    (kept,) = (work.home / ".migrated/snapshots/app.db").iterdir()
    identifier, size = taken.pop("snapshot"), taken.pop("size")
    assert kept.name == f"{identifier}.1.before-run.snapshot"
    assert size == kept.stat().st_size
    message = taken.pop("message")
    assert message.startswith(f"took snapshot {identifier} of app.db ({size} bytes, ")
    assert taken == {"event": "snapshot.taken", "level": "info"}


def test_skipped_snapshot_is_logged(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    work.do()
    write_migration(migrations, 2)
    work.snapshots = SnapshotPolicy(max_size=1000)

    _, (_, skipped, *_) = work.do()

    reason = "its size is 16.4 kB, and max_size is 1.0 kB"
    message = f"no snapshot of app.db: {reason}"
    assert skipped == {"event": "snapshot.skipped", "level": "info", "message": message, "reason": reason}
    assert not (work.home / ".migrated/snapshots").exists()


def test_events_of_up_to_a_version(work: Work, migrations: Path) -> None:
    for version in (1, 2, 3):
        write_migration(migrations, version)

    outcome, lines = work.do(lambda runner: runner.run_up_to(1))

    assert lines == [*steps(migrations, 1), CREATED, finished("applied", 1, 2)]
    assert (outcome.applied, outcome.pending) == (1, 2)


def test_current_database_logs_nothing(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    work.do()

    outcome, lines = work.do()

    assert lines == []
    assert (outcome.result, outcome.did_something) == (OutcomeKind.CURRENT, False)


def test_rows_changed_are_counted(work: Work, migrations: Path) -> None:
    up = "CREATE TABLE t (x);\nINSERT INTO t VALUES (1), (2), (3);\nUPDATE t SET x = 0 WHERE x > 1;"
    write_migration(migrations, 1, up=up)

    _, lines = work.do()

    assert [line["rows_changed"] for line in lines if "rows_changed" in line] == [5]


def test_events_of_a_rollback(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1, down="DROP TABLE t1;")
    work.do()

    outcome, lines = work.do(lambda runner: runner.roll_back())

    common = {
        "version": 1,
        "name": "change",
        "checksum": checksum("CREATE TABLE t1 (id INTEGER PRIMARY KEY);"),
        "direction": "down",
        "level": "info",
    }
    assert lines == [
        {
            "event": "migration.rolling_back",
            "message": "rolling back 1_change in app.db",
            "file": str(migrations / "1_change.sql"),
            **common,
        },
        {
            "event": "migration.rolled_back",
            "message": "rolled back 1_change in app.db",
            "rows_changed": 0,
            **common,
        },
        {
            "event": "run.finished",
            "level": "info",
            "message": "app.db: 1 rolled back, 1 pending",
            "outcome": "applied",
            "applied": 0,
            "pending": 1,
            "direction": "down",
        },
    ]
    assert (outcome.applied, outcome.rolled_back) == (0, 1)


def test_events_of_a_failure(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    write_migration(migrations, 2, up="CREATE TABLE b (x);\nINSERT INTO nowhere VALUES ('secret');")
    write_migration(migrations, 3)

    outcome, lines = work.do()

    begun = steps(migrations, 2)[0] | {
        "checksum": checksum("CREATE TABLE b (x);\nINSERT INTO nowhere VALUES ('secret');")
    }
    applying, applied = steps(migrations, 1)
    assert lines == [
        applying,
        begun,
        applied,
        CREATED,
        {
            "event": "migration.failed",
            "level": "error",
            "message": "2_change failed in app.db: no such table: nowhere",
            "version": 2,
            "name": "change",
            "file": str(migrations / "2_change.sql"),
            "line": 3,
            "column": 1,
            "statement": "INSERT INTO nowhere VALUES ('secret');",
            "reason": "no such table: nowhere",
            "error": {
                "type": "ExecutionFailedError",
                "message": "no such table: nowhere",
                "code": "SQLITE_ERROR",
            },
        },
        finished("failed", 1, 2),
    ]
    assert (outcome.result, outcome.applied, outcome.pending) == (OutcomeKind.FAILED, 1, 2)


def test_refused_names_every_offender(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    write_migration(migrations, 2)
    work.do()
    write_migration(migrations, 1, up="CREATE TABLE other (x);")
    (migrations / "2_change.sql").unlink()
    write_migration(migrations, 3)

    outcome, lines = work.do()

    applied, edited = (
        checksum("CREATE TABLE t1 (id INTEGER PRIMARY KEY);"),
        checksum("CREATE TABLE other (x);"),
    )
    hint = (
        "`migrated diff 1` shows what changed; restore the text that was applied (only the UP section counts) "
        "and make the change a new migration; "
        "restore the file, roll it back with `migrated down` (its down text was recorded), "
        'or set on_missing = "ignore"; see `migrated help repair`'
    )
    reason = (
        f"1_change was changed after it was applied: expected checksum {applied}, found {edited}; "
        "applied, but no longer among the migrations: 2_change"
    )
    mismatch = {"version": 1, "name": "change", "file": str(migrations / "1_change.sql"), "hint": hint}
    assert lines == [
        {
            "event": "checksum.mismatch",
            "level": "error",
            "message": "1_change was changed after it was applied to app.db: statements differ",
            "reason": "statements differ",
            "expected": applied,
            "found": edited,
            **mismatch,
        },
        {
            "event": "migration.missing",
            "level": "warning",
            "message": "2_change is applied to app.db, but no file has it",
            "version": 2,
            "name": "change",
            "expected": checksum("CREATE TABLE t2 (id INTEGER PRIMARY KEY);"),
            "hint": hint,
        },
        {
            "event": "database.blocked",
            "level": "error",
            "message": f"app.db is blocked: {reason}",
            "reason": reason,
            "expected": applied,
            "found": edited,
            "error": {"type": "ChecksumMismatchError", "message": reason, "code": "CHECKSUM_MISMATCH"},
            **mismatch,
        },
        finished("refused", 0, 1),
    ]
    assert (outcome.result, outcome.applied, outcome.pending) == (OutcomeKind.REFUSED, 0, 1)


def test_outcome_stores_only_an_excerpt_of_a_changed_text(work: Work, migrations: Path) -> None:
    """The daemon stores the outcome of each database while it is refused."""
    write_migration(migrations, 1, up="\n".join(f"SELECT '{'x' * 1000}', {n};" for n in range(1000)))
    work.do()
    write_migration(migrations, 1, up="\n".join(f"SELECT '{'y' * 1000}', {n};" for n in range(1000)))

    outcome, _ = work.do()

    assert isinstance(outcome.error, ChecksumMismatchError)
    assert outcome.error.recorded == {}
    assert list(outcome.changes) == [1]
    assert 1000 < len(str(outcome.changes[1]["difference"])) < 10_000


def test_applied_late_migration_is_logged(work: Work, migrations: Path) -> None:
    write_migration(migrations, 2)
    work.do()
    write_migration(migrations, 1)

    _, lines = work.do()

    applying, applied = steps(migrations, 1)
    assert lines == [
        applying
        | {
            "event": "migration.late",
            "level": "warning",
            "message": "1_change is below the highest version applied to app.db",
        },
        applying,
        applied,
        finished("applied", 1, 0),
    ]


def test_events_of_a_refused_late_migration(work: Work, migrations: Path) -> None:
    write_migration(migrations, 2)
    work.do()
    write_migration(migrations, 1)
    work.policy = Policy(on_late=OnLate.REFUSE)

    outcome, lines = work.do()

    reason = "pending below the highest applied version: 1_change"
    common = {
        "version": 1,
        "name": "change",
        "file": str(migrations / "1_change.sql"),
        "hint": 'give them a higher version, or set on_late = "apply"; see `migrated help repair`',
    }
    assert lines == [
        {
            "event": "migration.late",
            "level": "warning",
            "message": "1_change is below the highest version applied to app.db",
            **common,
        },
        {
            "event": "database.blocked",
            "level": "error",
            "message": f"app.db is blocked: {reason}",
            "reason": reason,
            "error": {"type": "LateMigrationError", "message": reason, "code": "LATE_MIGRATION"},
            **common,
        },
        finished("refused", 0, 1),
    ]
    assert outcome.result is OutcomeKind.REFUSED


def test_rolled_back_missing_migration_is_logged(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1, down="DROP TABLE t1;").rename(migrations / "1_change.sql")
    work.do()
    (migrations / "1_change.sql").unlink()
    write_migration(migrations, 2)
    work.policy = Policy(on_missing=OnMissing.ROLLBACK)

    outcome, lines = work.do()

    assert [(line["event"], line.get("version")) for line in lines] == [
        ("migration.rolling_back", 1),
        ("migration.rolled_back", 1),
        ("migration.applying", 2),
        ("migration.applied", 2),
        ("run.finished", None),
    ]
    assert (outcome.applied, outcome.rolled_back, outcome.pending) == (1, 1, 0)


def test_rollback_without_down_text_is_a_failure(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)
    work.do()

    outcome, lines = work.do(lambda runner: runner.roll_back())

    reason = "cannot roll back 1_change: no down text"
    hint = (
        "add a DOWN section (`-- migrated: nothing-to-undo` in it if there is nothing to undo); "
        "nothing was rolled back"
    )
    assert lines == [
        {
            "event": "migration.failed",
            "level": "error",
            "message": f"1_change failed in app.db: {reason}",
            "version": 1,
            "name": "change",
            "reason": reason,
            "hint": hint,
            "error": {"type": "RollbackFailedError", "message": reason, "code": "ROLLBACK_FAILED"},
        },
        finished("failed", 0, 0),
    ]
    assert outcome.result is OutcomeKind.FAILED


def test_unavailable_when_missing(work: Work, migrations: Path, database: Path) -> None:
    write_migration(migrations, 1)
    work.create = False

    outcome, lines = work.do()

    assert [line["event"] for line in lines] == ["database.unavailable", "run.finished"]
    assert lines[0]["level"] == "error"
    assert lines[0]["error"]["type"] == "DatabaseError"
    assert lines[0]["error"]["code"] == "SQLITE_CANTOPEN"
    assert lines[1] == finished("unavailable", 0, 0)
    assert outcome.result is OutcomeKind.UNAVAILABLE
    assert not database.exists()


def test_unavailable_when_it_is_no_database(work: Work, migrations: Path, database: Path) -> None:
    write_migration(migrations, 1)
    put_file(database.parent, "app.db", "no database, " * 100)

    outcome, lines = work.do()

    reason, hint = "file is not a database", "this is not a SQLite database, or it is encrypted; check the path"
    assert lines == [
        {
            "event": "database.unavailable",
            "level": "error",
            "message": f"app.db is unavailable: {reason}",
            "reason": reason,
            "hint": hint,
            "error": {"type": "DatabaseError", "message": reason, "code": "SQLITE_NOTADB"},
        },
        finished("unavailable", 0, 0),
    ]
    assert outcome.result is OutcomeKind.UNAVAILABLE


def test_bug_of_ours_is_an_internal_error_with_its_traceback(work: Work, migrations: Path) -> None:
    write_migration(migrations, 1)

    def meet_a_bug(_runner: MigrationRunner) -> NoReturn:
        raise ZeroDivisionError("ours")

    outcome, lines = work.do(meet_a_bug)

    traceback = lines[0].pop("traceback")
    assert traceback.startswith("Traceback (most recent call last):")
    assert "in meet_a_bug" in traceback
    assert traceback.endswith("ZeroDivisionError: ours\n")
    reason = "internal error: ZeroDivisionError('ours')"
    assert lines == [
        {
            "event": "internal.error",
            "level": "error",
            "message": f"app.db: {reason}",
            "reason": reason,
            "hint": "this is a bug in migrated; please report it with this line",
            "error": {"type": "DatabaseError", "message": reason, "code": "DATABASE"},
        },
        finished("unavailable", 0, 0),
    ]
    assert outcome.result is OutcomeKind.UNAVAILABLE
    assert outcome.error is not None
    assert outcome.error.exit_code == 6
    assert outcome.error.transient


STEP = Step(Migration(1, "one", "SELECT 1"), MigrationDirection.UP)
ENTRY = AppliedMigration(1, "one", "aa", datetime(2024, 1, 1, tzinfo=UTC), 0)
ARGUMENTS: dict[str, dict[str, object]] = {
    "lock_waiting": {"holder": "pid 7"},
    "planned": {"steps": 1},
    "beginning": {"step": STEP, "late": True},
    "progress": {"progress": Progress(STEP, 1, 2, 3, 4, 5)},
    "done": {"result": StepResult(ENTRY, 1, 2), "direction": MigrationDirection.UP},
    "snapshot_taken": {"identifier": "s1", "size": 1, "execution_time_ms": 2},
    "snapshot_skipped": {"reason": "empty"},
    "restored_snapshot": {"earlier": EarlierState(None)},
    "updated": {"migration": STEP.migration},
    "rows_restored": {"report": RowRestoreReport("s1", {"users": 1}, {"posts": "gone"})},
}
NOTIFICATIONS = [name for name in vars(Observer) if not name.startswith("_")]


class Recorder(Observer):
    """Records every notification that `Observer` has, also future ones."""

    def __init__(self) -> None:
        self.received: list[tuple[str, list[object]]] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in NOTIFICATIONS:
            return super().__getattribute__(name)
        return lambda *values, **named: self.received.append((name, [*values, *named.values()]))


@pytest.mark.parametrize("name", NOTIFICATIONS)
def test_notification_is_forwarded_once_and_unchanged(name: str) -> None:
    recorder = Recorder()
    observer = LoggingObserver(configure("json", "critical"), recorder)
    # By position, as far as the signature allows: the names in it may differ from those of `Observer`.
    parameters = inspect.signature(getattr(Observer, name)).parameters.values()
    by_name = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    arguments = ARGUMENTS[name]

    getattr(observer, name)(
        *(value for key, value in arguments.items() if key not in by_name),
        **{key: value for key, value in arguments.items() if key in by_name},
    )

    assert recorder.received == [(name, list(arguments.values()))]


HOLDER = """
import sys
from migrated.system import file_locks
with file_locks.file_lock(sys.argv[1], file_locks.APPLYING, 0):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_lock_held_by_another_process(work: Work, migrations: Path, database: Path, children: Children) -> None:
    write_migration(migrations, 1)
    execute(database, "CREATE TABLE theirs (x)")
    child = children.start(HOLDER, database)
    assert line_from(child) == "held"

    outcome, lines = work.do()

    assert isinstance(outcome.error, LockHeldError)
    holder = outcome.error.holder
    assert holder is not None
    assert holder.startswith(f"pid {child.pid} on ")
    reason = f"{database.parent}/.migrated/lock is held by another process: {holder}"
    assert lines == [
        {
            "event": "lock.waiting",
            "level": "info",
            "message": f"waiting for the lock of app.db, held by {holder}",
            "holder": holder,
        },
        {
            "event": "lock.held",
            "level": "error",
            "message": reason,
            "reason": reason,
            "holder": holder,
            "hint": "wait until it has finished, or stop it; the lock is released when it ends",
            "error": {"type": "LockHeldError", "message": reason, "code": "LOCK_HELD"},
        },
        finished("unavailable", 0, 1),
    ]
    assert outcome.result is OutcomeKind.UNAVAILABLE
    assert MigrationRunner(database).get_applied() == []
