"""New databases copied from a template equal those that ran every migration."""

import threading
from pathlib import Path

import pytest
from daemon_process import holding, poll, writer_holding
from support import applied_versions, execute, query, schema

from migrated import DatabaseError, Migration, MigrationRunner
from migrated.engine.backend import Template
from migrated.system.cancellation import CancelToken

PLAIN = [
    Migration(
        1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP);"
    ),
    Migration(2, "index", "CREATE INDEX by_name ON users (name); PRAGMA user_version = 7;"),
    Migration.repeatable("names", "CREATE VIEW names AS SELECT name FROM users;"),
]
WITH_ROWS = [
    *PLAIN[1:],
    Migration(
        1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO users VALUES (1, 'a');"
    ),
    Migration(
        3, "search", "CREATE VIRTUAL TABLE texts USING fts5 (text); INSERT INTO texts VALUES ('some words');"
    ),
]


def runner(location: str | Path, migrations: list[Migration], *, application_id: int = 0) -> MigrationRunner:
    made = MigrationRunner(location, application_id=application_id)
    made.add_migrations(migrations)
    return made


def template_of(migrations: list[Migration], *, application_id: int = 0) -> Template | None:
    return runner(":memory:", migrations, application_id=application_id).make_template()


def content(path: Path) -> object:
    """The whole content of a database, without times."""
    tables = [name for (name,) in query(path, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
    rows = {
        name: query(path, f'SELECT * FROM "{name}"') for name in tables if not str(name).startswith("_migrations")
    }
    pragmas = [
        query(path, f"PRAGMA {name}")
        for name in ("user_version", "application_id", "page_size", "encoding", "journal_mode", "auto_vacuum")
    ]
    ledger = query(path, "SELECT version, name, checksum FROM _migrations ORDER BY version")
    history = query(
        path,
        "SELECT id, action, version, name, checksum, directives, up_sql, down_sql, rows_changed, reason, host "
        "FROM _migrations_history",
    )
    repeatables = query(path, "SELECT name, checksum, objects FROM _migrations_repeatable")
    return schema(path), rows, pragmas, ledger, history, repeatables


@pytest.mark.parametrize("there", [True, False], ids=["empty file", "no file"])
@pytest.mark.parametrize("migrations", [PLAIN, WITH_ROWS], ids=["schema", "rows"])
def test_copy_of_a_template_equals_a_run(tmp_path: Path, migrations: list[Migration], *, there: bool) -> None:
    replayed, copied = tmp_path / "replayed.db", tmp_path / "copied.db"
    if there:
        copied.touch()
    runner(replayed, migrations, application_id=99).run()
    template = template_of(migrations, application_id=99)
    assert template is not None
    entries = runner(copied, migrations, application_id=99).run_from(template)

    assert content(copied) == content(replayed)
    assert query(copied, "PRAGMA integrity_check") == [("ok",)]
    assert [entry.version for entry in entries] == applied_versions(copied)
    assert runner(copied, migrations, application_id=99).run() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".migrated", "copied.db", "replayed.db"]


def test_change_of_a_copy_does_not_affect_the_template(tmp_path: Path) -> None:
    template = template_of(PLAIN)
    assert template is not None
    for name in ("a.db", "b.db"):
        runner(tmp_path / name, PLAIN).run_from(template)
    execute(tmp_path / "a.db", "INSERT INTO users (name) VALUES ('only here')")

    assert query(tmp_path / "b.db", "SELECT count(*) FROM users") == [(0,)]


def insert(value: str) -> list[Migration]:
    return [Migration(1, "rows", f"CREATE TABLE t (x DEFAULT ({value})); INSERT INTO t DEFAULT VALUES;")]


@pytest.mark.parametrize(
    "migrations",
    [
        pytest.param(insert("hex(randomblob(16))"), id="random bytes"),
        pytest.param(insert("RANDOM()"), id="random number"),
        pytest.param(insert("current_timestamp"), id="time, as a keyword"),
        pytest.param(insert("datetime('now')"), id="time"),
        pytest.param(
            [Migration(1, "a", "CREATE TABLE t AS SELECT random() AS x;")], id="rows of a table that is selected"
        ),
        pytest.param(
            [Migration(1, "a", "-- migrated: no-transaction\nPRAGMA journal_mode = wal;")], id="another in memory"
        ),
        pytest.param([Migration(1, "a", "PRAGMA page_size = 512; CREATE TABLE t (x);")], id="of the file"),
        pytest.param([*PLAIN, Migration.repeatable("r", "CREATE TABLE r AS SELECT random();")], id="repeatable"),
    ],
)
def test_nondeterministic_migrations_have_no_template(migrations: list[Migration]) -> None:
    assert template_of(migrations) is None


def test_random_default_without_rows_is_accepted() -> None:
    assert template_of([Migration(1, "t", "CREATE TABLE t (id TEXT DEFAULT (hex(randomblob(16))));")]) is not None


def test_existing_content_is_not_overwritten(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    execute(database, "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
    template = template_of(PLAIN)
    assert template is not None

    runner(database, PLAIN).run_from(template)

    assert query(database, "SELECT * FROM theirs") == [(1,)]
    assert applied_versions(database) == [1, 2]


_WRITE = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE; CREATE TABLE theirs (x)").fetchall()
print("held", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
"""


def test_concurrently_written_content_is_not_overwritten(tmp_path: Path) -> None:
    """Another process writes after the check for an empty file and before our lock."""
    database = tmp_path / "app.db"
    database.touch()
    template = template_of(PLAIN)
    assert template is not None
    supervision = CancelToken()
    copying = MigrationRunner(database, supervision=supervision)
    copying.add_migrations(PLAIN)
    with holding(_WRITE, database) as commit:
        thread = threading.Thread(target=copying.run_from, args=(template,))
        thread.start()
        poll(lambda: supervision.heartbeats, "it waits for the lock")
        commit()
        thread.join()

    assert query(database, "SELECT count(*) FROM theirs") == [(0,)]
    assert applied_versions(database) == [1, 2]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def test_locked_file_fails_the_copy(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    database.touch()
    template = template_of(PLAIN)
    assert template is not None
    copying = MigrationRunner(database, busy_timeout=0.02)
    copying.add_migrations(PLAIN)

    with writer_holding(database), pytest.raises(DatabaseError) as refused:
        copying.run_from(template)

    assert refused.value.code == "SQLITE_BUSY"
    assert refused.value.transient
    assert database.stat().st_size == 0


def test_failing_migration_has_no_template() -> None:
    with pytest.raises(Exception, match="syntax error"):
        template_of([Migration(1, "bad", "CREATE TABEL t (x);")])
