"""Schema files: when they are written, and what is logged if writing fails."""

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from daemon_process import DEADLINE, poll
from integration.children import Children
from support import execute, write_migration

from migrated import DatabaseError, ExecutionFailedError, LockHeldError, MigrationError, MigrationRunner
from migrated.config.settings import Target
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.schema_dump import SchemaFiles
from migrated.logs import logger
from migrated.system.cancellation import CancelToken

UPDATE = """
import sys
from migrated.logs import logger
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.schema_dump import SchemaFiles
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.config.settings import Target
from migrated.system.cancellation import CancelToken

database, file = sys.argv[1:]
outcome = Outcome(DatabasePath("app.db", database), OutcomeKind.CURRENT)
target = Target("/", (database,), "/nowhere", schema_file=file)
SchemaFiles().update(target, outcome, logger.configure("json", "info"), CancelToken())
"""


@contextmanager
def noticed_when_opened(file: BinaryIO) -> Iterator[Callable[[], bool]]:
    """Block every open of the file until the context ends; the yielded function tells whether one waits."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield lambda: fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_WRLCK
    finally:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, before)


class Bench:
    """A target with one database and a schema file, and what was logged."""

    def __init__(self, home: Path) -> None:
        self.database = home / "app.db"
        self.file = home / "db" / "schema.sql"
        self.target = Target(
            str(home), ("app.db",), str(home / "migrations"), busy_timeout=0.1, schema_file=str(self.file)
        )
        self.schemas = SchemaFiles()
        self._lines = home / "log"
        self._descriptor = os.open(self._lines, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._log = logger.configure("json", "info", self._descriptor)
        self.file.parent.mkdir()

    def update(
        self,
        result: OutcomeKind = OutcomeKind.CURRENT,
        error: MigrationError | None = None,
        *,
        done: int = 0,
        undone: int = 0,
    ) -> None:
        outcome = Outcome(
            DatabasePath("app.db", str(self.database)), result, applied=done, rolled_back=undone, error=error
        )
        self.schemas.update(self.target, outcome, self._log, CancelToken())

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines.read_text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.logged()]

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    execute(made.database, "CREATE TABLE one (a)")
    yield made
    made.close()


def stamp(file: Path) -> tuple[int, int]:
    """Return what a write would change. The access time may change at any read."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


class TestWriting:
    def test_first_update_writes_and_logs(self, bench: Bench) -> None:
        bench.update()

        assert "CREATE TABLE one (a);" in bench.file.read_text()
        (line,) = bench.logged()
        assert (line["level"], line["event"]) == ("info", "schema.dumped")
        assert (line["database"], line["file"]) == ("app.db", str(bench.file))

    def test_equal_schema_file_is_not_written(self, bench: Bench) -> None:
        bench.update()
        before = stamp(bench.file)
        execute(bench.database, "INSERT INTO one VALUES (1)")
        bench.update()
        bench.schemas = SchemaFiles()
        bench.update()

        assert bench.events() == ["schema.dumped"]
        assert stamp(bench.file) == before

    def test_change_is_written(self, bench: Bench) -> None:
        bench.update()
        execute(bench.database, "ALTER TABLE one ADD COLUMN b")
        bench.update()

        assert "CREATE TABLE one (a, b);" in bench.file.read_text()
        assert bench.events() == ["schema.dumped"] * 2

    def test_edited_file_is_not_overwritten_until_the_schema_changes(self, bench: Bench) -> None:
        """A person may be resolving a merge conflict in it."""
        bench.update()
        bench.file.write_text("<<<<<<<")
        bench.update()

        assert bench.file.read_text() == "<<<<<<<"
        execute(bench.database, "CREATE TABLE two (a)")
        bench.update()
        assert "two" in bench.file.read_text()

    def test_nothing_is_written_without_schema_file(self, tmp_path: Path, bench: Bench) -> None:
        bench.target = Target(str(tmp_path), ("app.db",), str(tmp_path / "migrations"))
        bench.update()

        assert list(bench.file.parent.iterdir()) == []
        assert bench.events() == []

    def test_missing_database_has_no_schema(self, bench: Bench) -> None:
        bench.database.unlink()
        bench.update()

        assert not bench.file.exists()
        assert not bench.database.exists()
        assert bench.events() == []

    @pytest.mark.parametrize(
        ("result", "error", "done", "undone", "written"),
        [
            (OutcomeKind.CURRENT, None, 0, 0, True),
            (OutcomeKind.APPLIED, None, 1, 0, True),
            (OutcomeKind.APPLIED, None, 0, 1, True),
            (OutcomeKind.FAILED, ExecutionFailedError("x"), 2, 0, True),
            (OutcomeKind.FAILED, ExecutionFailedError("x"), 0, 0, False),
            (OutcomeKind.REFUSED, MigrationError("x"), 0, 0, False),
            (OutcomeKind.UNAVAILABLE, LockHeldError("x"), 0, 0, False),
            (OutcomeKind.UNAVAILABLE, DatabaseError("x"), 0, 3, True),
        ],
    )
    def test_update_needs_a_change_or_a_successful_outcome(
        self,
        bench: Bench,
        result: OutcomeKind,
        error: MigrationError | None,
        done: int,
        undone: int,
        *,
        written: bool,
    ) -> None:
        bench.update(result, error, done=done, undone=undone)

        assert bench.file.exists() is written

    def test_unfinished_migration_leaves_the_old_schema_file(self, bench: Bench, migrations: Path) -> None:
        bench.update()
        before = bench.file.read_bytes()
        write_migration(migrations, 1)
        write_migration(
            migrations, 2, up="-- migrated: no-transaction\nCREATE TABLE two (a); CREATE TABLE two (a);"
        )
        runner = MigrationRunner(bench.database)
        runner.add_directory(migrations)
        with pytest.raises(ExecutionFailedError) as caught:
            runner.run()
        bench.update(OutcomeKind.FAILED, caught.value, done=1)

        assert bench.file.read_bytes() == before

    def test_last_of_concurrent_writers_writes_the_latest_schema(self, bench: Bench, children: Children) -> None:
        """One process has read the schema; another changes it and writes the file before the first one does."""
        bench.file.write_text("before")
        with bench.file.open("r+b") as file, noticed_when_opened(file) as is_noticed:
            slow = children.start(UPDATE, bench.database, bench.file)
            poll(is_noticed, "that the other opens the file")
            execute(bench.database, "CREATE TABLE two (a)")
            bench.file.unlink()
            bench.update(OutcomeKind.APPLIED, done=1)
            latest = bench.file.read_bytes()

        _, log = slow.communicate(timeout=DEADLINE)
        assert [json.loads(line)["event"] for line in log.splitlines()] == ["schema.dumped"]
        assert b"CREATE TABLE two" in latest
        assert bench.file.read_bytes() == latest


class TestFailing:
    def test_missing_directory_is_logged_once(self, bench: Bench) -> None:
        bench.file.parent.rmdir()
        bench.update()
        bench.update()

        (line,) = bench.logged()
        assert (line["level"], line["event"]) == ("error", "schema.dump_failed")
        assert (line["database"], line["file"]) == ("app.db", str(bench.file))
        assert line["reason"] == "No such file or directory"
        assert line["hint"] == "create its directory, or set schema_file to another path"
        assert line["error"]["code"] == "ENOENT"

    def test_new_cause_is_logged_and_the_same_cause_after_a_success(self, bench: Bench) -> None:
        bench.file.parent.rmdir()
        bench.file.parent.write_text("no directory")
        bench.update()
        bench.file.parent.unlink()
        bench.update()
        bench.file.parent.mkdir()
        bench.update()
        bench.file.unlink()
        bench.file.parent.rmdir()
        execute(bench.database, "CREATE TABLE two (a)")
        bench.update()
        bench.update()

        assert [(line["event"], line.get("reason")) for line in bench.logged()] == [
            ("schema.dump_failed", "Not a directory"),
            ("schema.dump_failed", "No such file or directory"),
            ("schema.dumped", None),
            ("schema.dump_failed", "No such file or directory"),
        ]

    def test_failed_write_is_retried(self, bench: Bench) -> None:
        bench.file.parent.rmdir()
        bench.update()
        bench.file.parent.mkdir()
        bench.update()

        assert "CREATE TABLE one" in bench.file.read_text()

    def test_directory_at_the_path_of_the_schema_file(self, bench: Bench) -> None:
        bench.file.mkdir()
        bench.update()

        (line,) = bench.logged()
        assert (line["reason"], line["hint"]) == (
            "it is not a regular file",
            "check schema_file and what exists at that path",
        )
        assert bench.file.is_dir()

    def test_unreadable_database_is_logged(self, bench: Bench) -> None:
        bench.update()
        before = bench.file.read_bytes()
        bench.database.write_bytes(b"no database, and longer than the header of one" * 20)
        bench.update()

        line = bench.logged()[-1]
        assert (line["event"], line["reason"]) == ("schema.dump_failed", "file is not a database")
        assert line["error"]["code"] == "SQLITE_NOTADB"
        assert line["file"] == str(bench.file)
        assert bench.file.read_bytes() == before
