"""Random scripts, valid and broken: as migrations they come to what SQLite alone makes of them, or to nothing."""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st
from integration.children import run_script
from integration.scripts import GROUND, Draw, Script, scripts
from support import execute, put_file, query

from migrated import (
    AppliedMigration,
    InvalidFormatError,
    Migration,
    MigrationError,
    MigrationRunner,
    read_migrations,
)
from migrated.core.migration import Directive

# Valid scripts know nothing of these; broken ones hit upon them.
MORE_GROUND = """
CREATE TABLE child (id INTEGER PRIMARY KEY, plain_id INTEGER REFERENCES plain (id) ON DELETE CASCADE, u UNIQUE);
INSERT INTO child VALUES (1, 1, 'a'), (2, 2, 'b'), (3, NULL, 'c');
CREATE INDEX child_u ON child (u);
CREATE VIEW seen AS SELECT u, plain_id FROM child;
CREATE TRIGGER on_child AFTER DELETE ON child BEGIN
    INSERT INTO "select" ("end") VALUES (CASE old.u WHEN 'a' THEN 'gone; ' ELSE 'end' END);
END;
CREATE TRIGGER unwound BEFORE UPDATE ON child WHEN new.u = 'x' BEGIN SELECT RAISE(ROLLBACK, 'unwound'); END;
"""
STATEMENTS = [
    *("BEGIN", "BEGIN IMMEDIATE", "COMMIT", "END", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"),
    *("ATTACH ':memory:' AS other", "DETACH main", "VACUUM", "VACUUM INTO ''", "ANALYZE", "REINDEX"),
    *("DROP TABLE _migrations", "DELETE FROM _migrations_history", "SELECT * FROM _migrations"),
    *("CREATE TABLE u (x); ALTER TABLE u RENAME TO _migrations_u", "SELECT load_extension('x')"),
    "CREATE TRIGGER meddler AFTER INSERT ON child BEGIN DELETE FROM _migrations; END",
    *("CREATE TABLE orphan (a REFERENCES child); INSERT INTO orphan VALUES (77)", "DELETE FROM child"),
    *("INSERT OR ROLLBACK INTO child VALUES (9, 9, 'a')", "UPDATE child SET u = 'x'", "DROP TRIGGER unwound"),
    *(
        "INSERT INTO child VALUES (4, 1, 'd')",
        "INSERT INTO child VALUES (9, 9, 'z')",
        'UPDATE child SET u = "nope"',
    ),
    *(
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = ON",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = 1",
    ),
    *(
        "PRAGMA foreign_keys = ON",
        "PRAGMA recursive_triggers = ON",
        "PRAGMA count_changes = ON",
        "PRAGMA optimize",
    ),
    *("PRAGMA legacy_alter_table = ON", "PRAGMA max_page_count = 9", "PRAGMA busy_timeout = 1"),
    *("PRAGMA reverse_unordered_selects = 1", "PRAGMA schema_version = 1", "PRAGMA integrity_check"),
]
PIECES = [
    *(
        "CREATE TABLE",
        "CREATE TEMP TABLE",
        "CREATE VIEW",
        "CREATE UNIQUE INDEX i ON",
        "CREATE TRIGGER",
        "DROP TABLE",
    ),
    *("INSERT INTO child VALUES", "(9, 9, 'z')", "(4, 1, 'd')", "UPDATE child SET", "u = 'y'", "u = id", "PRAGMA"),
    *(
        "SELECT",
        "SELECT 1",
        "FROM",
        "WHERE",
        "CASE",
        "WHEN",
        "THEN",
        "ELSE",
        "RETURNING *",
        "AS",
        "WITH",
        "EXPLAIN",
    ),
    *(
        "child",
        "plain",
        '"select"',
        "seen",
        "u",
        "id",
        "sqlite_schema",
        "sqlite_sequence",
        "x",
        "?",
        ":a",
        "$b",
        "@c",
    ),
    *(
        "'",
        '"',
        "`",
        "[",
        "]",
        "''",
        "(",
        ")",
        ",",
        ";",
        ";",
        ";",
        "--",
        "/*",
        "*/",
        "*",
        "=",
        ".",
        "\n",
        "\r\n",
        "\v",
    ),
    *("\0", "\ud800", "\ufeff", "\u00a0", "é", "-- migrated: no-transaction\n", "-- migrated: nothing-to-do\n"),
    *("-- UP\n", "-- DOWN\n", "1", "NULL", "x'00'", "CAST(x'c3a9' AS TEXT)", "last_insert_rowid()", "changes()"),
    *("_migrations", "_migrations_history"),
]
# What SQLite would do, and a migration may not.
FORBIDDEN = re.compile(
    "not allowed in a migration|has no effect inside a transaction|new foreign-key violation"
    "|would write to the migrations table|ended its own transaction|no-transaction is not supported"
)


class Bench:
    """A directory for one database after another, each of which begins with the same content."""

    def __init__(self, home: Path) -> None:
        self.home = home
        execute(home / "ground.db", GROUND)
        self.ground = (home / "ground.db").read_bytes()
        execute(home / "ground.db", MORE_GROUND)
        self.more_ground = (home / "ground.db").read_bytes()
        MigrationRunner(home / "ground.db").init()
        self.with_ledger = (home / "ground.db").read_bytes()

    def database(self, name: str, content: bytes) -> Path:
        """Make the database anew. No connection to the one before may be open."""
        path = self.home / name
        path.write_bytes(content)
        return path


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    # Thousands of commits: on a disk they would take minutes.
    in_memory = Path("/dev/shm")  # noqa: S108 - the directory made there has a name of its own
    home = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
    yield Bench(home)
    shutil.rmtree(home)


def contents(database: Path) -> dict[str, list[tuple[object, ...]]]:
    """The schema and all rows, without the ledger and what ANALYZE says of it."""
    schema = query(
        database,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE substr(tbl_name, 1, 11) != '_migrations'"
        " ORDER BY type, name",
    )
    found = {"": [*schema, *query(database, "SELECT * FROM pragma_user_version, pragma_application_id")]}
    for table in [str(row[1]) for row in schema if row[0] == "table"]:
        quoted = '"' + table.replace('"', '""') + '"'
        found[table] = [row for row in query(database, f"SELECT * FROM {quoted}") if not _is_ours(row)]
    return found


def _is_ours(row: tuple[object, ...]) -> bool:
    return str(row[0]).startswith("_migrations")


def run_as_migration(database: Path, migration: Migration) -> list[AppliedMigration]:
    runner = MigrationRunner(database)
    runner.add_migration(migration)
    return runner.run()


def run_by_sqlite(database: Path, script: str) -> None:
    """Run a script in one transaction, with the settings that migrations have, to its end or its error."""
    connection = apsw.Connection(str(database))
    try:
        for option in (apsw.SQLITE_DBCONFIG_DQS_DDL, apsw.SQLITE_DBCONFIG_DQS_DML):
            connection.config(option, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.execute("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE")
        for _ in connection.execute(script):
            pass
        connection.execute("COMMIT")
    finally:
        connection.close()


def try_many(check: Callable[[Any], None], values: st.SearchStrategy[Any], examples: int) -> None:
    """Call the check with so many values."""
    limits = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
    )
    limits(given(values)(check))()


def how_many(default: int, long: int) -> list[Any]:
    """The numbers of examples: one for every run of the tests, one for a run that may take minutes."""
    return [
        pytest.param(default, id="some"),
        pytest.param(long, marks=[pytest.mark.long, pytest.mark.timeout(3600)], id="many"),
    ]


# Valid


@pytest.mark.parametrize("examples", how_many(100, 5000))
def test_valid_script_comes_to_the_same_as_in_sqlite_alone(bench: Bench, examples: int) -> None:
    kinds: Counter[str] = Counter()
    changes: Counter[bool] = Counter()
    unchanged = contents(bench.database("ground.db", bench.ground))

    def check(script: Script) -> None:
        ours, direct = bench.database("ours.db", bench.ground), bench.database("direct.db", bench.ground)
        run_by_sqlite(direct, script.text)

        entries = run_as_migration(ours, Migration(1, "change", script.text))

        expected = contents(direct)
        assert len(entries) == bool(script.statements)
        assert contents(ours) == expected
        assert query(ours, "SELECT up_sql FROM _migrations_history") == [(script.text,)] * len(entries)
        kinds.update(script.kinds)
        changes[expected != unchanged] += 1
        target(float(len(set(script.kinds))))

    try_many(check, scripts(), examples)

    # Of 21 kinds of statements; Hypothesis dwells on some.
    assert len(kinds) > 10, kinds
    assert changes[True] > examples / 5, changes


@st.composite
def files(draw: Draw) -> tuple[str, str, str | None]:
    """The text of a file, and the texts of its sections as the manual says they are to be read."""
    up = draw(scripts(most=6)).text
    header = draw(st.sampled_from(["", "-- Migration: change\n-- Version: 1\n\n"]))
    way = draw(st.sampled_from(["up alone", "up", "nothing to undo", "down", "down"]))
    if way == "up alone":
        return up, _as_read(up), None
    text = f"{header}-- UP\n{up}"
    marker = draw(st.sampled_from(["\n-- DOWN\n", "\n\t-- down \r\n", "\n--DOWN\n"]))
    match way:
        case "down":
            down = draw(scripts(most=3)).text
            return f"\ufeff{text}{marker}{down}", _as_read(up), _as_read(down)
        case "nothing to undo":
            return text + marker + draw(st.sampled_from(["", "-- there is no way back"])), _as_read(up), None
        case _:
            return text, _as_read(up), None


def _as_read(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@pytest.mark.parametrize("examples", how_many(100, 5000))
def test_file_gives_back_the_script_that_was_put_into_it(bench: Bench, examples: int) -> None:
    directory = bench.home / "migrations"
    directory.mkdir(exist_ok=True)

    def check(file: tuple[str, str, str | None]) -> None:
        text, up, down = file
        put_file(directory, "1_change.sql", text)

        (migration,) = read_migrations(directory)

        assert (migration.up_sql, migration.down_sql) == (up, down)
        ours, direct = bench.database("ours.db", bench.ground), bench.database("direct.db", bench.ground)
        run_by_sqlite(direct, up)
        run_as_migration(ours, migration)
        assert contents(ours) == contents(direct)

    try_many(check, files(), examples)


# Broken


@st.composite
def broken(draw: Draw) -> str:
    """A valid script cut off, cut out of, put together with another or sprinkled; or mere pieces of SQL."""

    def offset(text: str) -> int:
        return int(draw(st.integers(0, len(text))))

    way = draw(st.sampled_from(["cut", "cut", "hole", "splice", "sprinkle", "pieces"]))
    if way == "pieces":
        return str(draw(st.sampled_from(["", " "])).join(draw(st.lists(_PIECES, min_size=1, max_size=12))))
    text, statements, _ = draw(scripts(most=5))
    at = offset(text)
    match way:
        case "cut":
            return str(text[: draw(st.sampled_from([at, at, *(end for _, end in statements)]))])
        case "hole":
            return str(text[:at] + text[at + draw(st.integers(1, 30)) :])
        case "splice":
            other = draw(scripts(most=3)).text
            return str(text[:at] + other[offset(other) :])
        case _:
            return f"{text[:at]} {draw(_PIECES)} {draw(_PIECES)} {text[at:]}"


_PIECES = st.one_of(st.sampled_from(PIECES), st.sampled_from(STATEMENTS), st.text(max_size=3))


def outcome(bench: Bench, script: str) -> str:
    """Try a script as a migration: it comes to what SQLite makes of it, or fails and leaves every byte alone."""
    ours = bench.database("ours.db", bench.more_ground)
    direct = bench.database("direct.db", bench.with_ledger)
    try:
        entries = run_as_migration(ours, Migration(1, "change", script))
    except MigrationError as error:
        assert not (bench.home / "ours.db-journal").exists()
        if Directive.NO_TRANSACTION in script:
            # Of its first statement nothing is left but the record that was made for it.
            assert contents(ours) in (
                contents(direct),
                contents(bench.database("as-it-was.db", bench.more_ground)),
            )
        else:
            assert ours.read_bytes() == bench.more_ground
        if isinstance(error, InvalidFormatError) or FORBIDDEN.search(error.message):
            return "forbidden"
        with pytest.raises(apsw.Error):
            run_by_sqlite(direct, script)
        return "failed"
    assert entries or ours.read_bytes() == bench.more_ground
    # SQLite takes the two characters for a comment only where something follows them.
    if not script.endswith("/*"):
        run_by_sqlite(direct, script)
        assert contents(ours) == contents(direct)
    return "applied" if entries else "draft"


@pytest.mark.parametrize("examples", how_many(150, 10_000))
def test_broken_script_comes_to_the_same_as_in_sqlite_or_to_nothing(bench: Bench, examples: int) -> None:
    outcomes: Counter[str] = Counter()

    try_many(lambda script: outcomes.update([outcome(bench, script)]), broken(), examples)

    assert min(outcomes["applied"], outcomes["failed"]) > 0, outcomes


@st.composite
def interrupted(draw: Draw, statement: str) -> str:
    """A valid script with this statement between two of its own, or at an end."""
    text, statements, _ = draw(scripts(most=4))
    at = draw(st.sampled_from([*(start for start, _ in statements), len(text)]))
    # The last one may lack its semicolon, and the text end in a comment.
    return f"{text[:at]}\n;{statement};{text[at:]}"


@pytest.mark.parametrize("examples", how_many(4, 300))
@pytest.mark.parametrize("statement", STATEMENTS)
def test_odd_statement_in_a_script_comes_to_the_same_as_in_sqlite_or_to_nothing(
    bench: Bench, statement: str, examples: int
) -> None:
    outcomes: Counter[str] = Counter()

    try_many(lambda script: outcomes.update([outcome(bench, script)]), interrupted(statement), examples)

    assert outcomes["draft"] == 0


# Found by the above


@pytest.mark.parametrize(
    ("ground", "script"),
    [
        pytest.param("", "SELECT CAST(x'e9' AS TEXT); CREATE TABLE a (x)", id="a row of the migration"),
        pytest.param(
            "CREATE TABLE t (x); INSERT INTO t VALUES (CAST(x'e9' AS TEXT))",
            "UPDATE t SET x = x RETURNING x; CREATE TABLE a (x)",
            id="an old row",
        ),
        pytest.param(
            "CREATE TABLE p (x TEXT PRIMARY KEY); CREATE TABLE c (x REFERENCES p);"
            "INSERT INTO c VALUES (CAST(x'e9' AS TEXT))",
            "INSERT INTO c VALUES (NULL); CREATE TABLE a (x)",
            id="an old violation of a foreign key",
        ),
        pytest.param(
            "CREATE TABLE t (x); CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 'caf~'; END;"
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET"
            " sql = CAST(replace(CAST(sql AS BLOB), x'7e', x'e9') AS TEXT) WHERE name = 'g'",
            "CREATE TABLE a (x); CREATE TRIGGER h AFTER INSERT ON a BEGIN SELECT 1; END",
            id="an old trigger",
        ),
    ],
)
def test_text_that_is_no_unicode_stops_no_migration(database: Path, ground: str, script: str) -> None:
    execute(database, ground)

    assert len(run_as_migration(database, Migration(1, "change", script))) == 1
    assert query(database, "SELECT count(*) FROM sqlite_schema WHERE name = 'a'") == [(1,)]


LIMITED = """
import sys
from migrated import Migration, MigrationError, MigrationRunner
first, second = MigrationRunner(sys.argv[1]), MigrationRunner(sys.argv[2])
first.add_migration(Migration(1, "limit", "PRAGMA hard_heap_limit = 1000; CREATE TABLE a (x)"))
second.add_migration(Migration(1, "change", "CREATE TABLE a (x)"))
try:
    first.run()
except MigrationError:
    pass
print(len(second.run()))
"""


def test_limit_of_memory_in_one_database_does_not_stop_the_next(database: Path) -> None:
    done = run_script(LIMITED, database, database.parent / "other.db")

    assert (done.stdout, done.stderr) == ("1\n", "")
