"""Applying one migration: atomicity, forbidden statements and the exact position of errors."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from daemon_process import DEADLINE
from integration.children import run_script
from support import applied_versions, checksum, everything, execute, put_file, query, schema

from migrated import (
    DatabaseError,
    ExecutionFailedError,
    Migration,
    MigrationError,
    MigrationRunner,
    read_migrations,
)
from migrated.core import VERSION
from migrated.core.migration import Step
from migrated.engine.backend import Observer
from migrated.system.cancellation import CancelToken


def runner_for(database: Path, *texts: str, busy_timeout: float = 5) -> MigrationRunner:
    """Return a runner with migrations 1, 2, … of these texts."""
    runner = MigrationRunner(database, busy_timeout=busy_timeout)
    runner.add_migrations(Migration(number, f"m{number}", text) for number, text in enumerate(texts, 1))
    return runner


def failure_of(runner: MigrationRunner) -> ExecutionFailedError:
    """Run, and return the expected failure."""
    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()
    return failed.value


GROUND = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE); INSERT INTO t VALUES (1, 'one')"


# Atomicity


def test_failed_migration_leaves_no_change(database: Path) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)

    failure = failure_of(
        runner_for(
            database,
            GROUND,
            "CREATE TABLE u (x);\nINSERT INTO t VALUES (2, 'two');\nDELETE FROM t WHERE id = 1;\n"
            "CREATE INDEX i ON t (a);\nINSERT INTO t VALUES (3, 'two');\nCREATE TABLE never (x);",
        )
    )

    assert str(failure) == "5:1: UNIQUE constraint failed: t.a\n5 | INSERT INTO t VALUES (3, 'two');\n  | ^"
    assert (failure.version, failure.name, failure.code) == (2, "m2", "SQLITE_CONSTRAINT_UNIQUE")
    assert failure.statement == "INSERT INTO t VALUES (3, 'two');"
    assert not failure.transient
    assert everything(database) == before


def test_failing_first_migration_leaves_no_ledger(database: Path) -> None:
    failure_of(runner_for(database, "CREATE TABLE a (x); nonsense"))

    assert everything(database) == []


def test_earlier_migrations_stay_applied_and_corrected_file_finishes_the_run(database: Path) -> None:
    texts = [
        "CREATE TABLE a (x)",
        "CREATE TABLE b (x)",
        "CREATE TABLE c (x); CREATE TABLE a (x)",
        "CREATE TABLE d (x)",
    ]
    failure = failure_of(runner_for(database, *texts))

    assert [entry.version for entry in failure.completed] == [1, 2]
    assert applied_versions(database) == [1, 2]
    assert [row[1] for row in schema(database)] == ["a", "b"]
    texts[2] = "CREATE TABLE c (x)"

    assert [entry.version for entry in runner_for(database, *texts).run()] == [3, 4]
    assert [row[1] for row in schema(database)] == ["a", "b", "c", "d"]


SCRIPTS = {
    "trigger with semicolons": (
        """
        CREATE TABLE log (x);
        CREATE TRIGGER g AFTER INSERT ON t BEGIN
          INSERT INTO log VALUES (CASE WHEN new.id > 1 THEN 'end;' ELSE 'x' END);
          SELECT 1;
        END;
        INSERT INTO t VALUES (2, 'two');
        """,
        "SELECT x FROM log",
        [("end;",)],
    ),
    "strings with semicolons": (
        "INSERT INTO t VALUES (2, 'a;b'), (3, 'it''s; -- no comment /*'); INSERT INTO t VALUES (4, ';')",
        "SELECT a FROM t WHERE id > 1",
        [("a;b",), ("it's; -- no comment /*",), (";",)],
    ),
    "comments": (
        """
        -- one; two
        INSERT INTO t /* ; */ VALUES (2, 'x'); -- after;
        /* ; */;;
        INSERT INTO t VALUES (3, 'y') -- end;""",
        "SELECT id FROM t",
        [(1,), (2,), (3,)],
    ),
    "no final semicolon": ("INSERT INTO t VALUES (2, 'x')", "SELECT id FROM t", [(1,), (2,)]),
    "rows in the middle": (
        """
        INSERT INTO t VALUES (2, 'x'), (3, 'y') RETURNING id;
        SELECT * FROM t, t AS other;
        PRAGMA table_info(t);
        WITH RECURSIVE c (n) AS (VALUES (4) UNION ALL SELECT n + 1 FROM c WHERE n < 9)
        INSERT INTO t SELECT n, n FROM c RETURNING *;
        UPDATE t SET a = a || '!' RETURNING a;
        """,
        "SELECT count(*), min(a) FROM t",
        [(9, "4!")],
    ),
    "keywords as names": (
        'CREATE TABLE "commit" ("begin" TEXT, [end] TEXT, `rollback` TEXT); INSERT INTO "commit" VALUES (1, 2, 3)',
        'SELECT "begin", "end", "rollback" FROM "commit"',
        [("1", "2", "3")],
    ),
    "case after end": (
        "CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; END;\nUPDATE t SET a = 'z';",
        "SELECT a FROM t",
        [("z",)],
    ),
    "view and index": (
        "CREATE VIEW v AS SELECT id FROM t;\nCREATE UNIQUE INDEX i ON t (a) WHERE a <> ';';",
        "SELECT name FROM sqlite_schema WHERE name IN ('v', 'i') ORDER BY 1",
        [("i",), ("v",)],
    ),
}


@pytest.mark.parametrize(("script", "look", "expected"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_every_statement_of_a_script_is_run_to_its_end(
    database: Path, script: str, look: str, expected: list[tuple[object, ...]]
) -> None:
    runner_for(database, GROUND, script).run()

    assert query(database, look) == expected
    assert applied_versions(database) == [1, 2]


# Ledger and history


def test_ledger_and_history_record_each_step(database: Path) -> None:
    up = "-- migrated: foreign-keys=on\n"
    up += "CREATE TABLE é (x);\nINSERT INTO é VALUES (1), (2);\nDELETE FROM é WHERE x=1"
    runner = MigrationRunner(database)
    runner.add_migration(Migration(20240101120000, "add_é", up, "DROP TABLE é"))

    (entry,) = runner.run()
    runner.roll_back()

    assert query(
        database,
        "SELECT action, version, name, checksum, up_sql, down_sql, host, pid, program_version "
        "FROM _migrations_history ORDER BY id",
    ) == [
        (
            action,
            20240101120000,
            "add_é",
            checksum(up),
            up,
            "DROP TABLE é",
            os.uname().nodename,
            os.getpid(),
            VERSION,
        )
        for action in ("apply", "rollback")
    ]
    assert query(database, "SELECT rows_changed FROM _migrations_history WHERE action = 'apply'") == [(3,)]
    assert query(database, "SELECT execution_time_ms FROM _migrations_history WHERE action = 'apply'") == [
        (entry.execution_time_ms,)
    ]
    ((recent,),) = query(
        database, "SELECT abs(unixepoch(happened_at) - unixepoch()) < 60 FROM _migrations_history LIMIT 1"
    )
    assert recent == 1


def test_directives_of_the_header_are_recorded_for_a_later_rollback(database: Path, migrations: Path) -> None:
    put_file(
        migrations,
        "1_one.sql",
        "-- migrated: foreign-keys=on\n-- UP\nCREATE TABLE p (id INTEGER PRIMARY KEY);\n"
        "CREATE TABLE c (p REFERENCES p ON DELETE CASCADE);\n-- DOWN\nSELECT 1;",
    )
    put_file(
        migrations,
        "2_two.sql",
        "-- migrated: foreign-keys=on\n-- UP\nINSERT INTO p VALUES (1);\nINSERT INTO c VALUES (1);\n"
        "-- DOWN\nDELETE FROM p;",
    )
    runner = MigrationRunner(database)
    runner.add_directory(migrations)
    runner.run()

    MigrationRunner(database).roll_back()

    assert query(database, "SELECT * FROM c") == []
    assert query(database, "SELECT directives FROM _migrations_history ORDER BY id") == [("foreign-keys=on",)] * 3


# Forbidden statements

OWN_TRANSACTION = "remove it: each migration runs in its own transaction"
ONE_DATABASE = "a migration may change only its own database"
RECORD = "tables whose names begin with _migrations are reserved for migrated"
NO_DIRECTIVE = (
    "move it to a separate migration that has the line `-- migrated: no-transaction` at the top of its section"
)

FORBIDDEN = [
    ("BEGIN", "BEGIN is not allowed in a migration", OWN_TRANSACTION),
    ("BEGIN IMMEDIATE TRANSACTION", "BEGIN is not allowed in a migration", OWN_TRANSACTION),
    ("COMMIT", "COMMIT is not allowed in a migration", OWN_TRANSACTION),
    ("END TRANSACTION", "COMMIT is not allowed in a migration", OWN_TRANSACTION),
    ("rollback", "ROLLBACK is not allowed in a migration", OWN_TRANSACTION),
    ("SAVEPOINT s", "SAVEPOINT s is not allowed in a migration", OWN_TRANSACTION),
    ("RELEASE s", "RELEASE s is not allowed in a migration", OWN_TRANSACTION),
    ("ROLLBACK TO s", "ROLLBACK TO s is not allowed in a migration", OWN_TRANSACTION),
    ("ATTACH 'other.db' AS other", "ATTACH is not allowed in a migration", ONE_DATABASE),
    ("DETACH main", "DETACH is not allowed in a migration", ONE_DATABASE),
    *(
        (f"PRAGMA {name} = {value}", f"PRAGMA {name} is not allowed in a migration", hint)
        for name, value, hint in (
            ("writable_schema", "1", "change the schema with ALTER TABLE, or rebuild the table"),
            ("schema_version", "9", "SQLite maintains it"),
            ("query_only", "1", "it would prevent migrated from recording the migration"),
        )
    ),
    (
        "PRAGMA main.writable_schema(on)",
        "PRAGMA writable_schema is not allowed in a migration",
        "change the schema with ALTER TABLE, or rebuild the table",
    ),
    *(
        (f"PRAGMA {pragma}", f"PRAGMA {pragma.split()[0]} has no effect inside a transaction", NO_DIRECTIVE)
        for pragma in (
            "journal_mode = wal",
            "synchronous = off",
            "locking_mode = exclusive",
            "wal_checkpoint",
            "wal_checkpoint (truncate)",
        )
    ),
    ("VACUUM", "cannot VACUUM from within a transaction", NO_DIRECTIVE),
    ("VACUUM INTO 'copy.db'", "VACUUM INTO is not allowed in a migration", ONE_DATABASE),
]
LEDGER_WRITES = [
    ("INSERT INTO _migrations VALUES (9, 'x', 'y', 'z', 0)", "a write to _migrations"),
    ("REPLACE INTO main._migrations (version) VALUES (1)", "a write to _migrations"),
    ("UPDATE _Migrations SET name = 'x'", "a write to _migrations"),
    ("DELETE FROM [_migrations]", "a write to _migrations"),
    ("WITH w AS (SELECT 1) DELETE FROM _migrations WHERE version IN w", "a write to _migrations"),
    ("DROP TABLE _migrations", "dropping _migrations"),
    ("ALTER TABLE _migrations ADD COLUMN x", "altering _migrations"),
    ("ALTER TABLE _migrations RENAME TO mine", "altering _migrations"),
    ("ALTER TABLE _migrations DROP COLUMN name", "altering _migrations"),
    ("CREATE INDEX i ON _migrations (name)", "an index on _migrations"),
    ("CREATE TRIGGER g AFTER INSERT ON _migrations BEGIN SELECT 1; END", "a trigger on _migrations"),
    ("CREATE TEMP TRIGGER g AFTER DELETE ON _migrations BEGIN SELECT 1; END", "a trigger on _migrations"),
    ("CREATE TEMP TABLE _migrations (x)", "creating _migrations"),
    ("CREATE TEMP TABLE _migrations AS SELECT 1", "creating _migrations"),
    ("CREATE TEMP VIEW _migrations AS SELECT 1", "creating _migrations"),
    ("CREATE TABLE _migrations_more (x)", "creating _migrations_more"),
    ("CREATE VIEW _migrations_more AS SELECT 1", "creating _migrations_more"),
    ("CREATE VIRTUAL TABLE _migrations_more USING fts5(x)", "creating _migrations_more"),
    ("INSERT INTO _migrations_history (id) VALUES (1)", "a write to _migrations_history"),
    ("UPDATE _migrations_history SET up_sql = ''", "a write to _migrations_history"),
    ("DELETE FROM _migrations_history", "a write to _migrations_history"),
    ("DROP TABLE _migrations_history", "dropping _migrations_history"),
    ("ALTER TABLE _migrations_history RENAME COLUMN name TO title", "altering _migrations_history"),
    ("CREATE INDEX i ON _migrations_history (name)", "an index on _migrations_history"),
    (
        "CREATE TRIGGER g AFTER INSERT ON _migrations_history BEGIN SELECT 1; END",
        "a trigger on _migrations_history",
    ),
    ("CREATE TEMP TABLE _migrations_history (x)", "creating _migrations_history"),
    ("CREATE TEMP VIEW _migrations_history AS SELECT 1", "creating _migrations_history"),
]


@pytest.mark.parametrize(
    ("statement", "message", "hint"),
    [*FORBIDDEN, *((sql, f"{what} is not allowed in a migration", RECORD) for sql, what in LEDGER_WRITES)],
    ids=[row[0] for row in [*FORBIDDEN, *LEDGER_WRITES]],
)
def test_forbidden_statement_is_named_and_undoes_the_migration(
    database: Path, statement: str, message: str, hint: str
) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)

    failure = failure_of(
        runner_for(database, GROUND, f"INSERT INTO t VALUES (2, 'é');\n  {statement};\nCREATE TABLE never (x)")
    )

    assert str(failure) == f"2:3: {message}\n2 |   {statement};\n  |   ^\nhint: {hint}"
    assert failure.statement == f"{statement};"
    assert (failure.version, failure.line, failure.column) == (2, 2, 3)
    assert everything(database) == before
    assert sorted(path.name for path in database.parent.iterdir() if path.is_file()) == ["app.db"]


def test_load_extension_is_not_allowed(database: Path) -> None:
    failure = failure_of(runner_for(database, "SELECT 1;\nSELECT 'é', load_extension('x');"))

    assert str(failure) == (
        "2:13: load_extension() is not allowed in a migration\n2 | SELECT 'é', load_extension('x');\n"
        "  |             ^\nhint: load it in the application"
    )
    assert everything(database) == []


def test_rename_of_a_table_to_a_reserved_name_is_refused(database: Path) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)

    failure_of(runner_for(database, GROUND, "ALTER TABLE t RENAME TO _migrations_old"))

    assert everything(database) == before


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_trigger_on_the_ledger_is_refused_in_every_encoding(database: Path, encoding: str) -> None:
    execute(database, f"PRAGMA encoding = '{encoding}'; {GROUND}")
    before = everything(database)

    failure = failure_of(
        runner_for(database, "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM _migrations; END")
    )

    assert failure.message == "the trigger g would write to the migrations table, which is not allowed"
    assert everything(database) == before


@pytest.mark.parametrize("kind", ["", "TEMP "])
def test_trigger_that_writes_to_the_ledger_is_refused(database: Path, kind: str) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)

    failure = failure_of(
        runner_for(
            database,
            GROUND,
            f"CREATE {kind}TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM _migrations; END;\n"
            "INSERT INTO t VALUES (2, 'x');",
        )
    )

    assert str(failure) == (
        "2:1: a write to _migrations is not allowed in a migration (through the trigger g)\n"
        f"2 | INSERT INTO t VALUES (2, 'x');\n  | ^\nhint: {RECORD}"
    )
    assert everything(database) == before


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM _migrations",
        "PRAGMA table_info(_migrations)",
        "PRAGMA journal_mode",
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 7",
        "PRAGMA defer_foreign_keys = on",
        "CREATE TABLE my_migrations (x)",
        "PRAGMA integrity_check",
        "ANALYZE",
        "REINDEX",
    ],
)
def test_names_similar_to_forbidden_ones_are_allowed(database: Path, statement: str) -> None:
    assert [entry.version for entry in runner_for(database, GROUND, statement).run()] == [1, 2]


# Statements that end the transaction

ENDING = {
    "INSERT OR ROLLBACK": "INSERT OR ROLLBACK INTO t VALUES (1, 'again')",
    "UPDATE OR ROLLBACK": "UPDATE OR ROLLBACK t SET id = 1",
    "RAISE(ROLLBACK)": "UPDATE guarded SET x = 2",
    "ON CONFLICT ROLLBACK": "INSERT INTO strict_one VALUES (1)",
}


@pytest.mark.parametrize("statement", ENDING.values(), ids=ENDING.keys())
def test_statement_that_ends_the_transaction_leaves_nothing_and_nothing_runs_after_it(
    database: Path, statement: str
) -> None:
    ground = (
        f"{GROUND}; CREATE TABLE guarded (x); INSERT INTO guarded VALUES (1);"
        "CREATE TRIGGER g BEFORE UPDATE ON guarded BEGIN SELECT RAISE(ROLLBACK, 'no update here'); END;"
        "CREATE TABLE strict_one (x UNIQUE ON CONFLICT ROLLBACK); INSERT INTO strict_one VALUES (1)"
    )
    runner_for(database, ground).run()
    before = everything(database)
    runner = runner_for(
        database,
        ground,
        f"INSERT INTO t VALUES (2, 'two');\nINSERT INTO guarded VALUES (5);\n{statement};\nCREATE TABLE never (x)",
        "CREATE TABLE never_either (x)",
    )

    failure = failure_of(runner)

    assert (failure.version, failure.line, failure.column) == (2, 3, 1)
    assert failure.statement == f"{statement};"
    assert failure.completed == ()
    assert everything(database) == before


# Error positions

PLACES = {
    "syntax": ("SELEC 1", "1:1", 'near "SELEC": syntax error', "SELEC 1"),
    "syntax later": (
        "CREATE TABLE a (x);\nSELECT 1 FRM a;",
        "2:14",
        'near "a": syntax error',
        "SELECT 1 FRM a;",
    ),
    "column": (
        "CREATE TABLE a (x);\n\n  SELECT x,\n\t nope FROM a;",
        "4:3",
        "no such column: nope",
        "SELECT x,\n\t nope FROM a;",
    ),
    "text of several bytes before it": (
        "SELECT 'é€😀', nope;",
        "1:15",
        "no such column: nope",
        "SELECT 'é€😀', nope;",
    ),
    "several bytes in an earlier statement": (
        "SELECT 'é€😀'; /* ü */ SELECT 'ß', nope;",
        "1:35",
        "no such column: nope",
        "SELECT 'ß', nope;",
    ),
    "function": (
        "SELECT 1;\nSELECT nofunction(1);",
        "2:8",
        "no such function: nofunction",
        "SELECT nofunction(1);",
    ),
    "inside a trigger": (
        "CREATE TABLE a (x);\nCREATE TRIGGER g AFTER INSERT ON a BEGIN\n  SELECT 1;\n  SELEC 2;\nEND;\nSELECT 3;",
        "4:3",
        'near "SELEC": syntax error',
        "CREATE TRIGGER g AFTER INSERT ON a BEGIN\n  SELECT 1;\n  SELEC 2;\nEND;",
    ),
    "without an offset": (
        "CREATE TABLE a (x);\nINSERT INTO a VALUES (1);\n\n-- then\nINSERT INTO gone VALUES (1);\nSELECT 2;",
        "5:1",
        "no such table: gone",
        "INSERT INTO gone VALUES (1);",
    ),
    "without an offset, first": (
        "DROP TABLE gone;\nSELECT 1;",
        "1:1",
        "no such table: gone",
        "DROP TABLE gone;",
    ),
    "without an offset, after rows": (
        "SELECT 1 UNION SELECT 2;\nDROP TABLE gone",
        "2:1",
        "no such table: gone",
        "DROP TABLE gone",
    ),
    "at run time": (
        "CREATE TABLE a (x NOT NULL);\n-- why\nINSERT INTO a\n  VALUES (1),\n  (NULL);\nDROP TABLE gone;",
        "3:1",
        "NOT NULL constraint failed: a.x",
        "INSERT INTO a\n  VALUES (1),\n  (NULL);",
    ),
    "at run time, after some rows": (
        "SELECT 1;\nSELECT abs(column1) FROM (VALUES (1), (-9223372036854775807 - 1));\nDROP TABLE gone;",
        "2:1",
        "integer overflow",
        "SELECT abs(column1) FROM (VALUES (1), (-9223372036854775807 - 1));",
    ),
    "in a view that an ALTER meets": (
        "CREATE TABLE a (x);\nCREATE VIEW v AS SELECT    nope FROM a;\nALTER TABLE a RENAME TO b;\nSELECT 1;",
        "3:1",
        "error in view v: no such column: nope",
        "ALTER TABLE a RENAME TO b;",
    ),
    "in a trigger that fires": (
        "CREATE TABLE a (x);\nCREATE TRIGGER g INSERT ON a BEGIN DELETE FROM b; END;\nINSERT INTO a VALUES (1);",
        "3:1",
        "no such table: main.b",
        "INSERT INTO a VALUES (1);",
    ),
    "incomplete statement": ("SELECT 1;\nCREATE TABLE a (", "2:1", "incomplete input", "CREATE TABLE a ("),
    "open string": ("SELECT 1;\nSELECT 'abc;\n", "2:8", 'unrecognized token: "\'abc;\n"', "SELECT 'abc;\n"),
    "misspelt name in double quotes": (
        'CREATE TABLE a (x);\nSELECT "nope" FROM a;',
        "2:8",
        'no such column: "nope" - should this be a string literal in single-quotes?',
        'SELECT "nope" FROM a;',
    ),
    "misspelt name in double quotes, DDL": (
        'CREATE TABLE a (x);\nCREATE INDEX i ON a ("nope");',
        "2:22",
        'no such column: "nope" - should this be a string literal in single-quotes?',
        'CREATE INDEX i ON a ("nope");',
    ),
}


@pytest.mark.parametrize(("script", "place", "message", "statement"), PLACES.values(), ids=PLACES.keys())
def test_error_is_placed_exactly(database: Path, script: str, place: str, message: str, statement: str) -> None:
    failure = failure_of(runner_for(database, script))

    line, column = (int(number) for number in place.split(":"))
    text = script.split("\n")[line - 1]
    under = "".join("\t" if character == "\t" else " " for character in text[: column - 1])
    assert str(failure) == f"{place}: {message}\n{line} | {text}\n{' ' * len(str(line))} | {under}^"
    assert (failure.line, failure.column, failure.statement) == (line, column, statement)
    assert everything(database) == []


def test_parameter_is_refused_at_its_statement(database: Path) -> None:
    failure = failure_of(runner_for(database, "CREATE TABLE a (x);\n INSERT INTO a VALUES (?);"))

    assert str(failure) == (
        "2:2: the statement has a parameter\n2 |  INSERT INTO a VALUES (?);\n  |  ^\n"
        "hint: write the value in the SQL: migrations run without parameters"
    )
    assert everything(database) == []


def test_long_line_is_cut_around_the_place(database: Path) -> None:
    script = f"SELECT '{'x' * 500}', nope, '{'y' * 500}';"

    failure = failure_of(runner_for(database, script))

    assert failure.column == script.index("nope") + 1
    assert failure.excerpt is not None
    line, under = failure.excerpt.split("\n")
    assert line[under.index("^") :].startswith("nope")
    assert len(line) < 130


FILE_CASES = {
    "below a marker": ("-- UP\n\nSELECT 1;\nSELECT nope;\n", "4:8", "4 | SELECT nope;\n  |        ^"),
    "below a header": (
        "-- Migration: one\n-- Version: 1\n\n  -- up  \n  SELECT nope;\n",
        "5:10",
        "5 | SELECT nope;\n  |        ^",
    ),
    "CRLF and a byte-order mark": (
        "\ufeff-- UP\r\nSELECT 1;\r\n  SELECT nope;\r\n",
        "3:10",
        "3 |   SELECT nope;\n  |          ^",
    ),
    "no marker": ("\n\n-- why\nSELECT nope", "4:8", "4 | SELECT nope\n  |        ^"),
    "line ten and more": (f"-- UP\n{'SELECT 1;' + chr(10)}{chr(10) * 9}SELECT nope", "12:8", None),
}


@pytest.mark.parametrize(("content", "place", "excerpt"), FILE_CASES.values(), ids=FILE_CASES.keys())
def test_places_are_those_of_the_file(
    database: Path, migrations: Path, content: str, place: str, excerpt: str | None
) -> None:
    file = put_file(migrations, "1_one.sql", content)
    runner = MigrationRunner(database)
    runner.add_migrations(read_migrations(migrations))

    failure = failure_of(runner)

    assert str(failure).startswith(f"{file}:{place}: no such column: nope\n")
    assert failure.place == f"{file}:{place}"
    assert excerpt is None or failure.excerpt == excerpt


def test_places_in_the_down_section_are_those_of_the_file(database: Path, migrations: Path) -> None:
    file = put_file(migrations, "1_one.sql", "-- UP\nSELECT 1;\n\n-- DOWN\n\nSELECT 2;\nDROP TABLE gone;\n")
    runner = MigrationRunner(database)
    runner.add_directory(migrations)
    runner.run()

    with pytest.raises(MigrationError) as failed:
        runner.roll_back()

    assert str(failed.value) == f"{file}:7:1: no such table: gone\n7 | DROP TABLE gone;\n  | ^"


# Foreign keys

FAMILY = (
    "CREATE TABLE parent (id INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1), (2);"
    "CREATE TABLE child (id INTEGER PRIMARY KEY, p REFERENCES parent); INSERT INTO child VALUES (10, 1), (20, 2);"
)


def test_new_foreign_key_violations_are_listed_and_fail_the_migration(database: Path) -> None:
    runner_for(database, FAMILY).run()
    before = everything(database)

    failure = failure_of(runner_for(database, FAMILY, "DELETE FROM parent"))

    assert str(failure) == (
        "2 new foreign-key violations: row 10 of child references a missing row of parent; "
        "row 20 of child references a missing row of parent\n"
        "hint: insert the parent rows, or delete the rows that reference them, in the same migration"
    )
    assert (failure.version, failure.code) == (2, "SQLITE_CONSTRAINT_FOREIGNKEY")
    assert everything(database) == before


def test_old_foreign_key_violations_do_not_block_and_new_ones_fail(database: Path) -> None:
    execute(database, f"{FAMILY} INSERT INTO child VALUES (30, 3)")

    runner_for(database, "CREATE TABLE other (x)").run()
    failure = failure_of(
        runner_for(database, "CREATE TABLE other (x)", "INSERT INTO child VALUES (40, 4), (50, 1)")
    )

    assert failure.message == "1 new foreign-key violation: row 40 of child references a missing row of parent"
    assert query(database, "SELECT id FROM child") == [(10,), (20,), (30,)]


def test_violation_fixed_within_the_migration_is_accepted(database: Path) -> None:
    runner_for(database, FAMILY, "INSERT INTO child VALUES (30, 3); INSERT INTO parent VALUES (3)").run()

    assert applied_versions(database) == [1, 2]


MISMATCHED = (
    "CREATE TABLE parent (a, b); CREATE TABLE child (p REFERENCES parent (a)); INSERT INTO child VALUES (1);"
    "CREATE TABLE good (id INTEGER PRIMARY KEY); CREATE TABLE kid (g REFERENCES good);"
)


def test_old_key_that_cannot_be_checked_does_not_block(database: Path) -> None:
    execute(database, MISMATCHED)

    assert [entry.version for entry in runner_for(database, "INSERT INTO child VALUES (2)").run()] == [1]


def test_new_violation_is_found_beside_a_key_that_cannot_be_checked(database: Path) -> None:
    execute(database, MISMATCHED)
    before = everything(database)

    failure = failure_of(runner_for(database, "INSERT INTO kid VALUES (7)"))

    assert failure.message == "1 new foreign-key violation: row 1 of kid references a missing row of good"
    assert everything(database) == before


def test_new_key_that_cannot_be_checked_is_reported_with_sqlites_error(database: Path) -> None:
    failure = failure_of(runner_for(database, MISMATCHED))

    assert 'foreign key mismatch - "child" referencing "parent"' in failure.message
    assert "references a missing row of foreign key mismatch" not in failure.message
    assert everything(database) == []


REBUILD = """
CREATE TABLE kid_new (p REFERENCES parent (id), more);
INSERT INTO kid_new (p) SELECT p FROM kid;
DROP TABLE kid;
ALTER TABLE kid_new RENAME TO kid;
"""


@pytest.fixture
def orphans(database: Path) -> Path:
    """Rows 2 and 3 of kid have no parent; a rebuild renumbers them to 1 and 2."""
    execute(
        database,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE kid (p REFERENCES parent (id));"
        "INSERT INTO parent VALUES (1); INSERT INTO kid VALUES (1), (8), (9); DELETE FROM kid WHERE p = 1;",
    )
    return database


def test_old_violations_are_not_new_when_a_rebuild_numbers_the_rows_anew(orphans: Path) -> None:
    assert [entry.version for entry in runner_for(orphans, REBUILD).run()] == [1]
    assert query(orphans, "SELECT rowid, p FROM kid") == [(1, 8), (2, 9)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("INSERT INTO kid VALUES (8)", id="another row with an old fault"),
        pytest.param("DELETE FROM kid WHERE p = 8; INSERT INTO kid VALUES (7)", id="one fixed, one added"),
        pytest.param(REBUILD + "INSERT INTO kid (p) VALUES (9)", id="in a rebuilt table"),
        pytest.param("ALTER TABLE kid RENAME TO child; INSERT INTO child VALUES (8)", id="in a renamed table"),
    ],
)
def test_new_violation_beside_old_ones_is_refused(orphans: Path, script: str) -> None:
    before = everything(orphans)

    assert failure_of(runner_for(orphans, script)).message.startswith("1 new foreign-key violation: row ")
    assert everything(orphans) == before


def test_old_violation_in_a_renamed_table_is_not_new(database: Path) -> None:
    execute(database, f"{FAMILY} INSERT INTO child VALUES (30, 3)")

    assert [entry.version for entry in runner_for(database, "ALTER TABLE child RENAME TO kid").run()] == [1]


# Isolation between migrations


def test_temporary_objects_are_not_visible_to_the_next_migration(database: Path) -> None:
    runner = runner_for(database, "CREATE TEMP TABLE scratch (x)", "CREATE TABLE scratch AS SELECT 7 AS x")

    runner.run()

    assert query(database, "SELECT x FROM scratch") == [(7,)]


def test_pragmas_do_not_affect_the_next_migration(database: Path) -> None:
    checked = "CREATE TABLE c (x CHECK (x > 0)); PRAGMA ignore_check_constraints = on; INSERT INTO c VALUES (-1)"

    failure = failure_of(runner_for(database, checked, "INSERT INTO c VALUES (-2)"))

    assert failure.message == "CHECK constraint failed: x > 0"
    assert query(database, "SELECT x FROM c") == [(-1,)]


# Files that are not databases


def test_missing_database_that_may_not_be_created_is_refused(database: Path) -> None:
    runner = MigrationRunner(database, create=False)
    runner.add_migration(Migration(1, "a", "SELECT 1"))

    with pytest.raises(DatabaseError) as refused:
        runner.run()

    assert refused.value.database == str(database)
    assert refused.value.transient
    assert refused.value.code == "SQLITE_CANTOPEN"
    assert list(database.parent.iterdir()) == []


def test_missing_directory_is_refused_even_where_the_database_may_be_created(tmp_path: Path) -> None:
    runner = runner_for(tmp_path / "gone" / "app.db", "SELECT 1")

    with pytest.raises(DatabaseError) as refused:
        runner.run()

    assert refused.value.code == "SQLITE_CANTOPEN"
    assert list(tmp_path.iterdir()) == []


def test_empty_file_is_a_database_only_where_one_may_be_created(database: Path) -> None:
    database.touch()
    refusing = MigrationRunner(database, create=False)
    refusing.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))

    with pytest.raises(DatabaseError) as refused:
        refusing.run()

    assert str(refused.value) == (
        "the database file is missing or empty, and may not be created\nhint: check the path, or set create = true"
    )
    assert database.stat().st_size == 0
    assert [entry.version for entry in runner_for(database, "CREATE TABLE a (x)").run()] == [1]


def test_directory_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.db").mkdir()

    with pytest.raises(DatabaseError) as refused:
        runner_for(tmp_path / "app.db", "SELECT 1").run()

    assert (refused.value.code, refused.value.transient) == ("NOT_A_FILE", False)
    assert list((tmp_path / "app.db").iterdir()) == []


def test_file_that_is_not_a_database_is_refused_and_unchanged(database: Path) -> None:
    content = b"not a database at all\n" * 100
    database.write_bytes(content)

    with pytest.raises(DatabaseError) as refused:
        runner_for(database, "SELECT 1").run()

    assert str(refused.value) == (
        "file is not a database\nhint: this is not a SQLite database, or it is encrypted; check the path"
    )
    assert (refused.value.code, refused.value.transient) == ("SQLITE_NOTADB", False)
    assert database.read_bytes() == content


def test_read_only_database_is_refused_and_unchanged(database: Path) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)
    database.chmod(0o444)
    script = (
        "import sys\n"
        "from migrated import DatabaseError, Migration, MigrationRunner\n"
        "runner = MigrationRunner(sys.argv[1])\n"
        "runner.add_migrations([Migration(1, 'm1', sys.argv[2]), Migration(2, 'm2', 'CREATE TABLE x (y)')])\n"
        "print([migration.version for migration in runner.pending()])\n"
        "try:\n    runner.run()\n"
        "except DatabaseError as error:\n    print(error.code, error.transient)\n"
    )

    done = run_script(script, database, GROUND, powerless=True)

    assert (done.stdout, done.stderr) == ("[2]\nREAD_ONLY True\n", "")
    assert everything(database) == before


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE _migrations (id TEXT, done INTEGER)",
        """
        CREATE TABLE _migrations (version TEXT, name TEXT, checksum TEXT, applied_at TEXT, execution_time_ms TEXT);
        INSERT INTO _migrations VALUES ('v1', 'a', 'b', 'c', 'd');
        """,
    ],
    ids=["other columns", "other values"],
)
def test_ledger_of_another_tool_is_refused_and_unchanged(database: Path, theirs: str) -> None:
    execute(database, theirs)
    before = everything(database)
    runner = runner_for(database, "CREATE TABLE a (x)")

    for act in (runner.run, runner.get_applied, runner.plan, runner.verify):
        with pytest.raises(DatabaseError) as refused:
            act()

        assert refused.value.message.startswith("unexpected columns in table _migrations: ")
        assert refused.value.hint == "the table may belong to another tool: rename it, or use another database"
        assert not refused.value.transient
    assert everything(database) == before


# Other connections


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_journal_mode_is_kept(database: Path, journal: str) -> None:
    execute(database, f"PRAGMA journal_mode = {journal}")

    runner_for(database, GROUND, "INSERT INTO t VALUES (2, 'two')").run()

    assert query(database, "PRAGMA journal_mode") == [(journal,)]
    assert query(database, "SELECT id FROM t") == [(1,), (2,)]
    assert sorted(path.name for path in database.parent.iterdir() if path.is_file()) == ["app.db"]


def _beginning_of_a_read(database: Path) -> apsw.Connection:
    reader = apsw.Connection(str(database))
    reader.execute("BEGIN; SELECT * FROM t").fetchall()
    return reader


def test_open_read_transaction_does_not_block_a_run_in_wal_mode(database: Path) -> None:
    execute(database, "PRAGMA journal_mode = wal")
    runner_for(database, GROUND).run()
    reader = _beginning_of_a_read(database)

    runner_for(database, GROUND, "INSERT INTO t VALUES (2, 'two')", busy_timeout=0).run()

    assert reader.execute("SELECT id FROM t").fetchall() == [(1,)]
    reader.close()
    assert query(database, "SELECT id FROM t") == [(1,), (2,)]


class _Waits(Observer, CancelToken):
    """Signals when a step has begun and the run waits for a lock."""

    def __init__(self, *, stops: bool = False) -> None:
        super().__init__()
        self.begun = False
        self.stops = stops
        self.waiting = threading.Event()

    def beginning(self, step: Step, *, late: bool) -> None:
        self.begun = True

    def stop_requested(self) -> bool:
        self.asked()
        return self.begun and self.stops

    def deadline_passed(self, now: float) -> bool:
        self.asked()
        return False

    def asked(self) -> None:
        if self.begun:
            self.waiting.set()


def _run_until_it_waits(database: Path, text: str) -> tuple[threading.Thread, list[object]]:
    waits = _Waits()
    runner = MigrationRunner(database, busy_timeout=600, observer=waits, supervision=waits)
    runner.add_migrations([Migration(1, "m1", GROUND), Migration(2, "m2", text)])
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.extend(entry.version for entry in runner.run()))
    thread.start()
    assert waits.waiting.wait(DEADLINE)
    return thread, results


@pytest.mark.parametrize("pragma", ["", "PRAGMA busy_timeout = 0;"], ids=["", "even with a timeout of its own"])
def test_commit_waits_for_a_reader_in_delete_mode_and_then_succeeds(database: Path, pragma: str) -> None:
    runner_for(database, GROUND).run()
    reader = _beginning_of_a_read(database)

    thread, results = _run_until_it_waits(database, f"{pragma} INSERT INTO t VALUES (2, 'two')")
    seen = reader.execute("SELECT id FROM t").fetchall()
    reader.close()
    thread.join(DEADLINE)

    assert seen == [(1,)]
    assert results == [2]
    assert query(database, "SELECT id FROM t") == [(1,), (2,)]


def test_run_waits_for_a_writer(database: Path) -> None:
    runner_for(database, GROUND).run()
    writer = apsw.Connection(str(database))
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (5, 'five')")

    thread, results = _run_until_it_waits(database, "UPDATE t SET a = a || id")
    writer.execute("COMMIT")
    writer.close()
    thread.join(DEADLINE)

    assert results == [2]
    assert query(database, "SELECT a FROM t") == [("one1",), ("five5",)]


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_writer_beyond_the_timeout_is_a_transient_failure_without_changes(database: Path, journal: str) -> None:
    execute(database, f"PRAGMA journal_mode = {journal}")
    runner_for(database, GROUND).run()
    before = everything(database)
    writer = apsw.Connection(str(database))
    writer.execute("BEGIN IMMEDIATE")
    runner = runner_for(database, GROUND, "CREATE TABLE a (x)", busy_timeout=0.05)

    with pytest.raises(DatabaseError) as refused:
        runner.run()

    assert str(refused.value) == "database is locked\nhint: another connection is using the database"
    assert (refused.value.code, refused.value.transient) == ("SQLITE_BUSY", True)
    assert refused.value.database == str(database)
    assert refused.value.completed == ()
    writer.execute("ROLLBACK")
    writer.close()
    assert everything(database) == before
    assert [entry.version for entry in runner.run()] == [2]


def test_reader_beyond_the_timeout_in_delete_mode_rolls_back_the_migration(database: Path) -> None:
    runner_for(database, GROUND).run()
    before = everything(database)
    reader = _beginning_of_a_read(database)
    runner = runner_for(database, GROUND, "INSERT INTO t VALUES (2, 'two')", busy_timeout=0.05)

    with pytest.raises(DatabaseError) as refused:
        runner.run()

    assert (refused.value.code, refused.value.transient) == ("SQLITE_BUSY", True)
    reader.close()
    assert everything(database) == before
    assert [entry.version for entry in runner.run()] == [2]


def test_waiting_for_a_writer_ends_when_cancelled(database: Path) -> None:
    runner_for(database, GROUND).run()
    writer = apsw.Connection(str(database))
    writer.execute("BEGIN IMMEDIATE")
    waits = _Waits(stops=True)
    runner = MigrationRunner(database, busy_timeout=600, observer=waits, supervision=waits)
    runner.add_migrations([Migration(1, "m1", GROUND), Migration(2, "m2", "CREATE TABLE a (x)")])

    with pytest.raises(DatabaseError) as refused:
        runner.run()

    assert refused.value.code == "SQLITE_BUSY"
    writer.close()
    assert applied_versions(database) == [1]


def _look_everywhere(runner: MigrationRunner) -> None:
    looks: list[Callable[[], object]] = [
        runner.get_applied,
        runner.current_version,
        runner.pending,
        runner.statuses,
        runner.plan,
        runner.verify,
    ]
    for look in looks:
        look()


@pytest.mark.parametrize("ledger", [True, False], ids=["with a ledger", "without"])
def test_reading_leaves_no_file_next_to_a_database_in_wal_mode(database: Path, ledger: bool) -> None:  # noqa: FBT001
    execute(database, "PRAGMA journal_mode = wal; CREATE TABLE theirs (x)")
    if ledger:
        runner_for(database, GROUND).run()
    shutil.rmtree(database.parent / ".migrated", ignore_errors=True)
    before = everything(database)

    _look_everywhere(runner_for(database, GROUND, "CREATE TABLE a (x)"))

    assert [path.name for path in database.parent.iterdir()] == ["app.db"]
    assert everything(database) == before


def test_reading_works_while_a_writer_is_active(database: Path) -> None:
    runner_for(database, GROUND).run()
    writer = apsw.Connection(str(database))
    writer.execute("BEGIN IMMEDIATE; INSERT INTO t VALUES (5, 'five')")

    assert [entry.version for entry in runner_for(database, GROUND).get_applied()] == [1]
    writer.close()


# Connections of the caller


def test_callers_connection_gets_all_its_settings_back(database: Path) -> None:
    connection = apsw.Connection(str(database))
    seen: list[object] = []

    def authorizer(*_: object) -> int:
        seen.append("asked")
        return apsw.SQLITE_OK

    connection.authorizer = authorizer
    connection.row_trace = lambda _cursor, row: (*row, "traced")
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 1)
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "a", "CREATE TABLE t (x)"))

    assert [entry.version for entry in runner.run()] == [1]
    assert seen == []
    assert connection.execute('SELECT "text"').fetchall() == [("text", "traced")]
    assert seen != []
    connection.close()


def test_migration_on_a_callers_connection_cannot_change_attached_databases(
    database: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    execute(other, "CREATE TABLE precious (x); INSERT INTO precious VALUES (1)")
    connection = apsw.Connection(str(database))
    connection.execute("ATTACH ? AS other", (str(other),))
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "a", "CREATE TABLE t AS SELECT * FROM other.precious;\nDROP TABLE precious"))
    before = everything(other)

    assert str(failure_of(runner)).splitlines()[0] == (
        "2:1: changing the attached database other is not allowed in a migration"
    )
    connection.close()
    assert everything(other) == before
    assert schema(database) == []


# Foreign tables with reserved names


@pytest.mark.parametrize(
    "taken",
    ["CREATE TABLE _migrations_history (id)", "CREATE VIEW _migrations AS SELECT 1 AS version"],
    ids=["history of another tool", "view"],
)
def test_foreign_object_with_a_reserved_name_is_refused_with_a_hint(database: Path, taken: str) -> None:
    execute(database, taken)
    before = everything(database)

    with pytest.raises(DatabaseError) as refused:
        runner_for(database, GROUND).run()

    assert refused.value.hint == "the table may belong to another tool: rename it, or use another database"
    assert not refused.value.transient
    assert everything(database) == before


def test_unknown_directive_in_the_history_prevents_a_rollback(database: Path) -> None:
    runner_for(database, GROUND).run()
    execute(database, "UPDATE _migrations_history SET directives = 'of-the-future', down_sql = 'DROP TABLE t'")
    before = everything(database)

    with pytest.raises(DatabaseError) as refused:
        MigrationRunner(database).roll_back()

    assert (
        refused.value.message
        == "cannot read the stored record of migration 1: 'of-the-future' is not a valid Directive"
    )
    assert everything(database) == before


def test_busy_database_error_names_the_waiting_migration(database: Path) -> None:
    execute(database, "CREATE TABLE t (x)")
    writer = apsw.Connection(str(database))
    writer.execute("BEGIN IMMEDIATE")

    with pytest.raises(DatabaseError) as busy:
        runner_for(database, "CREATE TABLE u (x)", busy_timeout=0.05).run()

    assert (busy.value.code, busy.value.version, busy.value.name) == ("SQLITE_BUSY", 1, "m1")
    writer.close()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t ADD COLUMN c",
        "ALTER TABLE t RENAME COLUMN b TO c",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE main.t DROP COLUMN b",
    ],
)
def test_every_alteration_of_a_table_is_allowed(database: Path, statement: str) -> None:
    runner = runner_for(database, "CREATE TABLE t (a, b)", statement)

    assert [entry.version for entry in runner.run()] == [1, 2]


def test_alteration_of_an_attached_table_is_refused(database: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    execute(other, "CREATE TABLE precious (x, y)")
    connection = apsw.Connection(str(database))
    connection.execute("ATTACH ? AS other", (str(other),))
    before = everything(other)
    for statement in ("DROP COLUMN x", "ADD COLUMN z", "RENAME TO gone"):
        runner = MigrationRunner(connection)
        runner.add_migration(Migration(1, "a", f"ALTER TABLE precious {statement}"))

        assert "the attached database other" in failure_of(runner).message
    connection.close()
    assert everything(other) == before


@pytest.mark.parametrize("body", ["DELETE FROM _migrations", 'UPDATE "_MIGRATIONS" SET version = 1'])
def test_trigger_that_writes_to_the_ledger_when_it_fires_is_refused(database: Path, body: str) -> None:
    """The trigger would fire in the application, without our authorizer."""
    runner_for(database, GROUND).run()
    before = everything(database)
    meddling = f"CREATE TRIGGER late AFTER INSERT ON t BEGIN {body}; END"

    assert failure_of(runner_for(database, GROUND, meddling)).message == (
        "the trigger late would write to the migrations table, which is not allowed"
    )
    assert everything(database) == before


def test_trigger_on_a_table_with_a_similar_name_is_allowed(database: Path) -> None:
    script = (
        "CREATE TABLE user_migrations (x); CREATE TRIGGER g AFTER INSERT ON user_migrations BEGIN SELECT 1; END"
    )

    assert [entry.version for entry in runner_for(database, script).run()] == [1]
