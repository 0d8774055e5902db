"""An application continues while its database is migrated; neither disturbs the other."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess
from integration.children import Children, line_from, tell
from support import ROOT, applied_versions, execute, query, write_migration

from migrated import Migration, MigrationRunner, OnChanged, OnMissing, Policy, SnapshotPolicy, SnapshotWhen
from migrated.core.migration import Step
from migrated.engine.backend import Observer

APPLICATION = (ROOT / "tests" / "integration" / "application.py").read_text()
GROUND = """
CREATE TABLE account (id INTEGER PRIMARY KEY, total INTEGER NOT NULL);
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    writer INTEGER NOT NULL,
    number INTEGER NOT NULL
);
INSERT INTO account VALUES (1, 0), (2, 0);
"""
# Ten migrations; each set adds one column to the table that the application writes.
CYCLE = [
    "CREATE TABLE extra (id INTEGER PRIMARY KEY, x);\nINSERT INTO extra (x) SELECT number FROM entry;",
    "CREATE INDEX by_number ON entry (number, writer);",
    "ALTER TABLE entry ADD COLUMN note{round} TEXT NOT NULL DEFAULT 'new';",
    "UPDATE entry SET note{round} = writer || ':' || number;",
    (
        "CREATE TABLE new_account (id INTEGER PRIMARY KEY, total INTEGER NOT NULL, round DEFAULT {round});\n"
        "INSERT INTO new_account (id, total) SELECT id, total FROM account;\n"
        "DROP TABLE account;\n"
        "ALTER TABLE new_account RENAME TO account;"
    ),
    (
        "CREATE TABLE audit (id INTEGER PRIMARY KEY, entry_id INTEGER UNIQUE);\n"
        "INSERT INTO audit (entry_id) SELECT id FROM entry;\n"
        "CREATE TRIGGER audited AFTER INSERT ON entry BEGIN INSERT INTO audit (entry_id) VALUES (new.id); END;"
    ),
    "ALTER TABLE audit ADD COLUMN at TEXT;",
    "DROP TRIGGER audited;\nDROP TABLE audit;",
    "DROP INDEX by_number;",
    "DROP TABLE extra;",
]


def migration_texts(count: int) -> list[str]:
    return [CYCLE[number % 10].format(round=number // 10) for number in range(count)]


class Workers:
    """The processes of the application. They work concurrently with the migrations."""

    def __init__(self, children: Children, database: Path, load: int) -> None:
        self._load = load
        self._writers = [
            children.start(APPLICATION, "writer", database, 1, "plain"),
            children.start(APPLICATION, "writer", database, 2, "foreign-keys"),
        ]
        self._readers = [children.start(APPLICATION, "reader", database) for _ in range(2)]
        self._working = False
        self.acknowledged: list[tuple[int, int]] = []
        self.schemas: set[int] = set()
        self.reads = self.busy = 0
        assert [line_from(child) for child in self._all] == ["ready"] * 4

    @property
    def _all(self) -> list[subprocess.Popen[str]]:
        return [*self._writers, *self._readers]

    def next_turn(self) -> None:
        """Give them more work after all have finished the work before."""
        self.finish_turn()
        for child in self._all:
            tell(child, str(self._load))
        self._working = True

    def finish_turn(self) -> None:
        if not self._working:
            return
        for number, child in enumerate(self._writers, 1):
            report = self._report_of(child)
            self.acknowledged += [(number, written) for written in report["acknowledged"]]
        for child in self._readers:
            report = self._report_of(child)
            self.reads += report["reads"]
            self.schemas |= set(report["schemas"])
        self._working = False

    def _report_of(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(line_from(child) or "{}")
        self.busy += report["busy"]
        return report


class Conductor(Observer):
    """Gives the application its next work before each migration, outside of any transaction."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def beginning(self, step: Step, *, late: bool) -> None:
        self._workers.next_turn()


@pytest.fixture(params=["wal", "delete"])
def live(request: pytest.FixtureRequest, database: Path) -> Path:
    """The application's database in each journal mode."""
    execute(database, f"PRAGMA journal_mode = {request.param}; {GROUND}")
    return database


def hard_work(load: int, count: int, long_load: int, long_count: int) -> pytest.MarkDecorator:
    """The work per process and the number of migrations, for normal and for long runs."""
    long = [pytest.mark.long, pytest.mark.timeout(1800)]
    return pytest.mark.parametrize(
        ("load", "count"),
        [pytest.param(load, count, id="short"), pytest.param(long_load, long_count, marks=long, id="long")],
    )


def assert_nobody_was_harmed(database: Path, workers: Workers, load: int, count: int, schemas: int) -> None:
    turns = len(workers.acknowledged) // 2 // load
    written = Counter(query(database, "SELECT writer, number FROM entry"))

    assert workers.busy == 0
    assert written == Counter(workers.acknowledged)
    assert set(written) == {(writer, number) for writer in (1, 2) for number in range(1, turns * load + 1)}
    assert query(database, "SELECT sum(total) FROM account") == [(2 * turns * load,)]
    assert turns >= count
    assert workers.reads == 2 * turns * load
    # The application worked while the schema changed.
    assert len(workers.schemas) > schemas
    assert applied_versions(database) == list(range(1, count + 1))
    assert (
        query(database, "SELECT version, count(*) FROM _migrations_history GROUP BY 1 HAVING count(*) != 1") == []
    )
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert query(database, "PRAGMA foreign_key_check") == []
    # The migrations updated every row: only rows inserted later have the default.
    unfilled = "note0 = 'new' AND id <= (SELECT max(id) FROM entry WHERE note0 != 'new')"
    assert query(database, f"SELECT count(*) FROM entry WHERE {unfilled}") == [(0,)]


@hard_work(1, 200, 10, 1000)
def test_application_continues_while_a_runner_migrates(
    live: Path, children: Children, load: int, count: int
) -> None:
    workers = Workers(children, live, load)
    runner = MigrationRunner(live, observer=Conductor(workers))
    runner.add_migrations(
        Migration(version, "change", text) for version, text in enumerate(migration_texts(count), 1)
    )

    runner.run()
    workers.finish_turn()

    assert_nobody_was_harmed(live, workers, load, count, schemas=count // 4)


@hard_work(1, 100, 10, 1000)
def test_application_continues_while_the_daemon_migrates(
    live: Path, migrations: Path, children: Children, load: int, count: int
) -> None:
    """Files arrive singly and in bursts while the daemon still applies earlier ones."""
    workers = Workers(children, live, load)
    texts = iter(enumerate(migration_texts(count), 1))
    with DaemonProcess(live.parent) as daemon:
        daemon.wait_until_ready()
        for applied in range(1, count + 1):
            for version, text in _coming(texts, applied):
                write_migration(migrations, version, up=text)
            workers.next_turn()
            daemon.wait_for("migration.applied", version=applied)
        workers.finish_turn()
        assert daemon.stop() == 0

    trouble = [line["event"] for line in daemon.lines if line["level"] in {"warning", "error"}]
    assert trouble == ["daemon.as_root"] * (os.geteuid() == 0)
    assert_nobody_was_harmed(live, workers, load, count, schemas=count // 20)


def _coming(texts: Iterator[tuple[int, str]], applied: int) -> Iterator[tuple[int, str]]:
    """Return the files to write before waiting for this version: seven, and three while those are applied."""
    wanted = {1: 7, 4: 3}.get(applied % 10, 0)
    for _, file in zip(range(wanted), texts, strict=False):
        yield file


FOLLOWING = Policy(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)


@pytest.mark.parametrize("down", ["DROP INDEX by_number; DROP TABLE extra", None], ids=["in place", "on a copy"])
@hard_work(2, 30, 5, 500)
def test_application_continues_while_migrations_are_redone(
    live: Path, children: Children, load: int, count: int, down: str | None
) -> None:
    """Without a down text the content is restored from a snapshot each time; no row may be missing afterwards."""
    workers = Workers(children, live, load)
    for number in range(count):
        up = (
            f"CREATE TABLE extra (id INTEGER PRIMARY KEY, note{number});\nCREATE INDEX by_number ON entry (number)"
        )
        runner = MigrationRunner(live, policy=FOLLOWING, snapshots=SnapshotPolicy(SnapshotWhen.BEFORE_EACH))
        runner.add_migration(Migration(1, "extra", up, down))
        workers.next_turn()
        runner.run()
    workers.finish_turn()

    assert workers.busy == 0
    written = Counter(query(live, "SELECT writer, number FROM entry"))
    assert written == Counter(workers.acknowledged)
    assert set(written) == {(writer, number) for writer in (1, 2) for number in range(1, count * load + 1)}
    assert query(live, "SELECT sum(total) FROM account") == [(2 * count * load,)]
    assert len(workers.schemas) > count // 4
    assert query(live, "PRAGMA integrity_check") == [("ok",)]
    assert query(live, "SELECT name FROM pragma_table_info('extra')") == [("id",), (f"note{count - 1}",)]


@pytest.mark.parametrize("count", [200])
def test_long_wal_reader_keeps_its_view_and_blocks_nothing(database: Path, children: Children, count: int) -> None:
    execute(database, f"PRAGMA journal_mode = wal; {GROUND}; INSERT INTO entry VALUES (1, 1, 9, 1), (2, 2, 9, 2)")
    holder = children.start(APPLICATION, "holder", database)
    assert line_from(holder) == "ready"
    look = _looking_with(holder)
    before = look(1)
    # Nothing waits for the reader.
    runner = MigrationRunner(database, busy_timeout=0)
    runner.add_migrations(
        Migration(version, "change", text) for version, text in enumerate(migration_texts(count), 1)
    )

    runner.run()

    assert applied_versions(database) == list(range(1, count + 1))
    assert look(1) == before
    assert before["rows"] == [[1, 1, 9, 1], [2, 2, 9, 2]]
    after = look(0)
    assert after["rows"] == before["rows"]
    assert "note0" in after["schema"]
    assert "note0" not in before["schema"]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def _looking_with(holder: subprocess.Popen[str]) -> Callable[[int], dict[str, Any]]:
    def look(times: int) -> dict[str, Any]:
        tell(holder, str(times))
        return dict(json.loads(line_from(holder)))

    return look
