"""Foreign-key violations: every new one is found, old ones block nothing, few tables are scanned."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from support import execute, query

from migrated import ExecutionFailedError, Migration, MigrationError, MigrationRunner
from migrated.core.migration import Step
from migrated.engine.backend import Observer

# In memory: many commits would take long on a disk.
IN_MEMORY = next((place for place in ("/dev/shm",) if Path(place).is_dir()), None)  # noqa: S108 - the directories made there have names of their own
VIOLATION = "SQLITE_CONSTRAINT_FOREIGNKEY"


@pytest.fixture
def database() -> Iterator[Path]:
    """The path of a database that does not exist yet, on a RAM disk."""
    with TemporaryDirectory(dir=IN_MEMORY) as directory:
        yield Path(directory) / "app.db"


def everything(database: Path) -> list[tuple[object, ...]]:
    """Schema and rows of every table, whatever its name."""
    found = query(database, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    tables = [str(name).replace('"', '""') for kind, name, _ in found if kind == "table"]
    return found + [(table, *row) for table in tables for row in query(database, f'SELECT * FROM "{table}"')]


def migrate(database: Path, text: str) -> None:
    runner = MigrationRunner(database)
    runner.add_migration(Migration(1, "m", text))
    runner.run()


def require_refused(database: Path, text: str, message: str = "") -> None:
    """Require a refusal for foreign keys that changed nothing."""
    before = everything(database)
    with pytest.raises(ExecutionFailedError) as failed:
        migrate(database, text)

    assert failed.value.code == VIOLATION, failed.value
    assert re.search(message, failed.value.message), failed.value.message
    assert everything(database) == before


# What the tests begin with: every name says what it is for. Row 1 of c and all rows of the other
# children are good; each table that is called o… has an old violation of the same kind.
GROUND = """
CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT);
CREATE UNIQUE INDEX p_code ON p (code);
INSERT INTO p VALUES (1, 'one'), (2, 'two');
CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id));
INSERT INTO c VALUES (1, 1), (2, NULL);
CREATE TABLE by_code (id INTEGER PRIMARY KEY, code TEXT REFERENCES p (code));
INSERT INTO by_code VALUES (1, 'one');
CREATE TABLE lonely (id INTEGER PRIMARY KEY, x);
INSERT INTO lonely VALUES (1, 5);
CREATE TABLE pp (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
INSERT INTO pp VALUES (1, 'x'), (2, 'y');
CREATE TABLE cc (a, b, n, PRIMARY KEY (n), FOREIGN KEY (a, b) REFERENCES pp) WITHOUT ROWID;
INSERT INTO cc VALUES (1, 'x', 1), (NULL, 'z', 2);
CREATE TABLE tree (id INTEGER PRIMARY KEY, above REFERENCES tree);
INSERT INTO tree VALUES (1, NULL), (2, 1);
CREATE TABLE made (id INTEGER PRIMARY KEY, a, twice AS (a * 2) STORED REFERENCES p);
INSERT INTO made (a) VALUES (0.5);
CREATE TABLE fixed (k UNIQUE ON CONFLICT REPLACE, id INTEGER PRIMARY KEY);
INSERT INTO fixed VALUES ('k', 1);
CREATE TABLE of_fixed (id INTEGER PRIMARY KEY, f REFERENCES fixed (id));
INSERT INTO of_fixed VALUES (1, 1);
CREATE TABLE "Odd ""one"" ö" (id INTEGER PRIMARY KEY);
INSERT INTO "Odd ""one"" ö" VALUES (1);
CREATE TABLE [its child; --] (id INTEGER PRIMARY KEY, "the key" REFERENCES "Odd ""one"" ö");
INSERT INTO [its child; --] VALUES (1, 1);
CREATE VIRTUAL TABLE words USING fts5 (text);
INSERT INTO words VALUES ('old words');
"""
TRIGGERS = """
CREATE VIEW shown AS SELECT x AS p FROM lonely;
CREATE TRIGGER into_shown INSTEAD OF INSERT ON shown BEGIN INSERT INTO c (p) VALUES (new.p); END;
CREATE TRIGGER from_shown INSTEAD OF DELETE ON shown BEGIN DELETE FROM p WHERE id = old.p - 4; END;
CREATE TABLE start (x);
CREATE TRIGGER far AFTER INSERT ON start BEGIN UPDATE start SET x = x + 1 WHERE x < 9; END;
CREATE TRIGGER farther AFTER UPDATE ON start BEGIN DELETE FROM p WHERE id = new.x; END;
"""
OLD = """
INSERT INTO c VALUES (70, 700), (71, 700);
INSERT INTO by_code VALUES (70, 'old');
INSERT INTO cc VALUES (7, 'old', 70);
INSERT INTO tree VALUES (70, 700);
INSERT INTO made (a) VALUES (350);
INSERT INTO of_fixed VALUES (70, 700);
INSERT INTO [its child; --] VALUES (70, 700);
CREATE TABLE never (x REFERENCES nowhere); INSERT INTO never VALUES (1);
CREATE TABLE empty (id INTEGER PRIMARY KEY);
CREATE TABLE orphan (x REFERENCES empty); INSERT INTO orphan VALUES (1);
CREATE TABLE loose (x); CREATE TABLE unclear (x REFERENCES loose (x)); INSERT INTO unclear VALUES (1);
"""
# Scripts that break a key, and the expected message.
BREAKS = {
    "insert a child": ("INSERT INTO c VALUES (3, 9)", "row 3 of c references a missing row of p"),
    "insert many of which one is bad": (
        "INSERT INTO c (p) VALUES (1), (2), (9), (1)",
        "^1 new .* of c references",
    ),
    "insert from a query": ("INSERT INTO c (p) SELECT x FROM lonely", "of c references a missing row of p"),
    "update a child": ("UPDATE c SET p = 9 WHERE id = 2", "row 2 of c"),
    "update a child by a join": ("UPDATE c SET p = x FROM lonely WHERE c.id = 2", "row 2 of c"),
    "delete a parent": ("DELETE FROM p WHERE id = 1", "3 new .*row 1 of c"),
    "delete every parent": ("DELETE FROM p", "row 1 of c"),
    "update a parent's key": ("UPDATE p SET id = 9 WHERE id = 1", "row 1 of c"),
    "update a parent's other key": ("UPDATE p SET code = 'uno' WHERE id = 1", "row 1 of by_code"),
    "replace a parent": ("REPLACE INTO p VALUES (1, 'uno')", "row 1 of by_code"),
    "insert or replace a parent by another key": ("INSERT OR REPLACE INTO p VALUES (9, 'one')", "row 1 of c"),
    "update or replace a parent": ("UPDATE OR REPLACE p SET id = 1 WHERE id = 2", "row 1 of by_code"),
    "replace a parent as its schema says": ("INSERT INTO fixed VALUES ('k', 2)", "row 1 of of_fixed"),
    "upsert a parent": (
        "INSERT INTO p VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET code = excluded.code",
        "row 1 of by_code",
    ),
    "upsert a child": ("INSERT INTO c VALUES (1, 1) ON CONFLICT DO UPDATE SET p = 9", "row 1 of c"),
    "returning": ("UPDATE c SET p = 9 WHERE id = 2 RETURNING id", "row 2 of c"),
    "behind a CTE": ("WITH bad (n) AS (VALUES (9)) INSERT INTO c (p) SELECT n FROM bad", "of c"),
    "through a view's trigger": ("INSERT INTO shown VALUES (9)", "row 3 of c|row 72 of c"),
    "a parent through a view's trigger": ("DELETE FROM shown", "row 1 of c"),
    "through a trigger of a trigger": ("INSERT INTO start VALUES (0)", "row 1 of c"),
    "through a trigger of the migration's own": (
        "CREATE TRIGGER t AFTER INSERT ON lonely BEGIN DELETE FROM p; END; INSERT INTO lonely VALUES (2, 2)",
        "row 1 of c",
    ),
    "through a temporary trigger": (
        (
            "CREATE TEMP TRIGGER t AFTER INSERT ON lonely BEGIN INSERT INTO c VALUES (3, 9); END;"
            "INSERT INTO lonely VALUES (2, 2)"
        ),
        "row 3 of c",
    ),
    "drop a parent": ("DROP TABLE p", "row 1 of c references a missing row of p"),
    "drop a parent and make it anew, empty": (
        "DROP TABLE p; CREATE TABLE p (id INTEGER PRIMARY KEY, code UNIQUE)",
        "row 1 of c",
    ),
    "drop a parent, a view comes": ("DROP TABLE p; CREATE VIEW p AS SELECT 1 AS id, 'x' AS code", ""),
    "rename a parent away and drop it": (
        (
            "ALTER TABLE p RENAME TO was; CREATE TABLE p (id INTEGER PRIMARY KEY, code UNIQUE);"
            "INSERT INTO p SELECT * FROM was; DROP TABLE was"
        ),
        "row 1 of c references a missing row of was",
    ),
    "rename a parent away in the old manner": (
        "PRAGMA legacy_alter_table = ON; ALTER TABLE p RENAME TO was",
        "row 1 of c references a missing row of p",
    ),
    "rename a parent, then delete from it": ("ALTER TABLE p RENAME TO q; DELETE FROM q", "row 1 of c .* of q"),
    "rename a child, then insert": ("ALTER TABLE c RENAME TO d; INSERT INTO d VALUES (3, 9)", "row 3 of d"),
    "delete from a parent, then rename the child": (
        "DELETE FROM p; ALTER TABLE c RENAME TO d; ALTER TABLE d RENAME COLUMN p TO q",
        "row 1 of d",
    ),
    "rename two in a ring": (
        (
            "ALTER TABLE p RENAME TO x; ALTER TABLE lonely RENAME TO p; ALTER TABLE x RENAME TO lonely;"
            "DELETE FROM lonely"
        ),
        "row 1 of c .* of lonely",
    ),
    "drop a parent's unique index": ("DROP INDEX p_code", 'foreign key mismatch - "by_code" referencing "p"'),
    "make a parent's unique index another": (
        "DROP INDEX p_code; CREATE UNIQUE INDEX p_code ON p (code) WHERE id > 0",
        "foreign key mismatch",
    ),
    "rebuild a parent without its unique index": (
        (
            "CREATE TABLE n (id INTEGER PRIMARY KEY, code); INSERT INTO n SELECT * FROM p; DROP TABLE p;"
            "ALTER TABLE n RENAME TO p"
        ),
        "foreign key mismatch",
    ),
    "drop the parent's column": (
        "DROP INDEX p_code; ALTER TABLE p DROP COLUMN code",
        'foreign key mismatch - "by_code" referencing "p"',
    ),
    "add a column that points nowhere": (
        "ALTER TABLE lonely ADD COLUMN p REFERENCES p DEFAULT 5",
        "row 1 of lonely references a missing row of p",
    ),
    "add a column that points nowhere, in odd spelling": (
        "alter table LONELY add\ncolumn y int/* */references/**/P (ID) default 5",
        "row 1 of lonely",
    ),
    "add a column made of another": (
        "ALTER TABLE lonely ADD COLUMN y AS (x) REFERENCES p",
        "row 1 of lonely references a missing row of p",
    ),
    "create a child and fill it": (
        "CREATE TABLE d (p REFERENCES p); INSERT INTO d VALUES (9)",
        "row 1 of d references a missing row of p",
    ),
    "copy, then rebuild as a child": (
        (
            "CREATE TABLE d AS SELECT x FROM lonely; CREATE TABLE e (x REFERENCES p);"
            "INSERT INTO e SELECT x FROM d; DROP TABLE d; ALTER TABLE e RENAME TO d"
        ),
        "row 1 of d references a missing row of p",
    ),
    "rebuild a table with a key that it had not": (
        (
            "CREATE TABLE n (id INTEGER PRIMARY KEY, x REFERENCES p); "
            "INSERT INTO n SELECT * FROM lonely; DROP TABLE lonely; ALTER TABLE n RENAME TO lonely"
        ),
        "row 1 of lonely references a missing row of p",
    ),
    "rebuild a parent and lose a row": (
        (
            "CREATE TABLE n (id INTEGER PRIMARY KEY, code UNIQUE); INSERT INTO n SELECT * FROM p WHERE id > 1;"
            "DROP TABLE p; ALTER TABLE n RENAME TO p"
        ),
        "row 1 of c",
    ),
    "composite, child": ("INSERT INTO cc VALUES (1, 'y', 3)", "a row of cc references a missing row of pp"),
    "composite, half of a child": ("UPDATE cc SET a = 1 WHERE n = 2", "a row of cc"),
    "composite, parent": ("DELETE FROM pp WHERE a = 1", "a row of cc"),
    "composite, half of a parent": ("UPDATE pp SET b = 'q' WHERE a = 1", "a row of cc"),
    "self, child": ("INSERT INTO tree VALUES (3, 9)", "row 3 of tree references a missing row of tree"),
    "self, parent": ("DELETE FROM tree WHERE id = 1", "row 2 of tree references a missing row of tree"),
    "self, in a renamed table": (
        "ALTER TABLE tree RENAME TO wood; DELETE FROM wood WHERE id = 1",
        "row 2 of wood references a missing row of wood",
    ),
    "a generated key": ("INSERT INTO made (a) VALUES (8)", "row 2 of made|row 3 of made"),
    "a generated key's source": ("UPDATE made SET a = 8 WHERE a = 0.5", "row 1 of made"),
    "names in other letters, child": ('INSERT INTO "C" VALUES (3, 9)', "row 3 of c"),
    "names in other letters, parent": ("DELETE FROM [P] WHERE Id = 1", "row 1 of c"),
    "names in other letters, dropped": ("DROP TABLE `P`", "row 1 of c"),
    "odd names, child": (
        "INSERT INTO `ITS CHILD; --` VALUES (2, 9)",
        'row 2 of its child; -- references a missing row of Odd "one" ö',
    ),
    "odd names, parent": ('DELETE FROM main."ODD ""ONE"" ö"', "row 1 of its child; --"),
    "odd names, renamed": (
        'ALTER TABLE "Odd ""one"" ö" RENAME TO [x ""]; DELETE FROM [x ""]',
        "row 1 of its child; --",
    ),
    "beside words to be searched": (
        "INSERT INTO words VALUES ('new'); DELETE FROM words WHERE words MATCH 'old'; INSERT INTO c VALUES (3, 9)",
        "row 3 of c",
    ),
    "under a case-sensitive LIKE": ("PRAGMA case_sensitive_like = ON; DELETE FROM p WHERE id = 1", "row 1 of c"),
    "with the check deferred": ("PRAGMA defer_foreign_keys = ON; DELETE FROM p WHERE id = 1", "row 1 of c"),
    "mended and made": ("DELETE FROM p WHERE id = 1; INSERT INTO p VALUES (1, 'uno')", "row 1 of by_code"),
}
CASES = [
    pytest.param(GROUND + (TRIGGERS if "trigger" in name else ""), *case, id=name) for name, case in BREAKS.items()
]


@pytest.mark.parametrize("old", [pytest.param("", id=""), pytest.param(OLD, id="beside old ones")])
@pytest.mark.parametrize(("ground", "text", "message"), CASES)
def test_every_kind_of_key_violation_is_found(
    database: Path, ground: str, text: str, message: str, old: str
) -> None:
    execute(database, ground + old)

    require_refused(database, text, message)


@pytest.mark.parametrize(("ground", "text", "message"), CASES)
def test_violation_is_found_without_a_transaction(database: Path, ground: str, text: str, message: str) -> None:
    execute(database, ground)

    with pytest.raises(ExecutionFailedError) as failed:
        migrate(database, f"-- migrated: no-transaction\n{text}")
    assert failed.value.code == VIOLATION
    assert query(database, "SELECT * FROM _migrations") == []


PRELUDE = "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p);"


@pytest.mark.parametrize(
    ("there", "text"),
    [
        pytest.param(
            "CREATE TABLE c (x REFERENCES p (id)); INSERT INTO c VALUES (NULL)",
            "CREATE TABLE p (id)",
            id="created",
        ),
        pytest.param(
            "CREATE TABLE c (x REFERENCES p (id)); INSERT INTO c VALUES (NULL)",
            "CREATE TABLE p (id); INSERT INTO p VALUES (1)",
            id="created and filled",
        ),
        pytest.param(
            "CREATE TABLE c (x REFERENCES p (id)); INSERT INTO c VALUES (NULL); CREATE TABLE q (id)",
            "ALTER TABLE q RENAME TO p",
            id="renamed",
        ),
    ],
)
def test_created_parent_without_a_unique_column_is_reported(database: Path, there: str, text: str) -> None:
    """With enforced keys every later write to the child would fail."""
    execute(database, there)

    require_refused(database, text, 'foreign key mismatch - "c" referencing "p"')


def test_old_fault_in_another_key_of_the_child_is_ignored(database: Path) -> None:
    execute(database, 'CREATE TABLE c (u, own REFERENCES c (u), other REFERENCES "p "" p")')
    migrate(database, 'CREATE TABLE "p "" p" (id INTEGER PRIMARY KEY)')

    assert query(database, "SELECT version FROM _migrations") == [(1,)]


def test_tables_whose_names_differ_beyond_ascii_are_two(database: Path) -> None:
    """SQLite folds only ASCII letters."""
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY);"
        'CREATE TABLE "Ö" (p REFERENCES p); CREATE TABLE "ö" (p REFERENCES p)',
    )

    require_refused(database, 'INSERT INTO "Ö" VALUES (9)', "row 1 of Ö")
    require_refused(database, 'INSERT INTO "ö" VALUES (9)', "row 1 of ö")


# Old violations

HARMLESS = {
    "insert a child": "INSERT INTO c VALUES (3, 1)",
    "update a child": "UPDATE c SET p = 2 WHERE id = 1",
    "update beside the key": "UPDATE by_code SET id = id + 100",
    "mend an old one": "UPDATE c SET p = 1 WHERE id = 70",
    "delete an old one": "DELETE FROM c WHERE id = 71",
    "delete a parent without children": "DELETE FROM p WHERE id = 2",
    "delete a parent with its children": (
        "DELETE FROM p; DELETE FROM c WHERE p < 9; DELETE FROM by_code; DELETE FROM made"
    ),
    "move a parent with its children": (
        "UPDATE p SET id = 9 WHERE id = 1; UPDATE c SET p = 9 WHERE p = 1; UPDATE made SET a = 4.5 WHERE a = 0.5"
    ),
    "insert a parent": "INSERT INTO p VALUES (3, 'three')",
    "insert a parent that mends": "INSERT INTO p VALUES (700, 'old')",
    "replace a parent by itself": "REPLACE INTO p VALUES (1, 'one')",
    "truncate a child": "DELETE FROM c",
    "drop a child": "DROP TABLE c",
    "drop a parent that had no row": "DROP TABLE empty",
    "drop children and parent": "DROP TABLE p; DROP TABLE c; DROP TABLE by_code; DROP TABLE made",
    "rename a parent": "ALTER TABLE p RENAME TO q",
    "rename a child": "ALTER TABLE c RENAME TO d",
    "rename both": "ALTER TABLE c RENAME TO d; ALTER TABLE p RENAME TO q",
    "rename there and back": "ALTER TABLE c RENAME TO d; ALTER TABLE d RENAME TO c",
    "rename to other letters": "ALTER TABLE c RENAME TO d; ALTER TABLE d RENAME TO C",
    "rename a self reference": "ALTER TABLE tree RENAME TO wood",
    "rename two in a ring": (
        "ALTER TABLE c RENAME TO x; ALTER TABLE lonely RENAME TO c; ALTER TABLE x RENAME TO lonely"
    ),
    "rename a column of a key": (
        "ALTER TABLE c RENAME COLUMN p TO parent; ALTER TABLE p RENAME COLUMN id TO number"
    ),
    "put a child away and begin anew": "ALTER TABLE c RENAME TO c_2023; CREATE TABLE c (id, p REFERENCES p)",
    "put a parent away and begin anew": "ALTER TABLE p RENAME TO p_2023; CREATE TABLE p (id, code)",
    "add a column": "ALTER TABLE c ADD COLUMN more DEFAULT 5",
    "add a column with a key": "ALTER TABLE c ADD COLUMN more REFERENCES p",
    "drop a column of a child": "ALTER TABLE c ADD COLUMN more; ALTER TABLE c DROP COLUMN more",
    "make an index": "CREATE INDEX i ON c (p); CREATE UNIQUE INDEX j ON p (id, code)",
    "make an index anew": "DROP INDEX p_code; CREATE UNIQUE INDEX p_code_2 ON p (code)",
    "rebuild a child": (
        "CREATE TABLE n (id INTEGER PRIMARY KEY, p REFERENCES p (id), more); "
        "INSERT INTO n (id, p) SELECT * FROM c; DROP TABLE c; ALTER TABLE n RENAME TO c"
    ),
    "rebuild a child with other numbers": (
        "CREATE TABLE n (p REFERENCES p (id)); INSERT INTO n SELECT p FROM c ORDER BY id DESC; DROP TABLE c;"
        "ALTER TABLE n RENAME TO c"
    ),
    "rebuild a child that is renamed away": (
        "ALTER TABLE c RENAME TO was; CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id));"
        "INSERT INTO c SELECT * FROM was; DROP TABLE was"
    ),
    "rebuild a child under another name": (
        "CREATE TABLE d (id INTEGER PRIMARY KEY, p REFERENCES p (id)); INSERT INTO d SELECT * FROM c; DROP TABLE c"
    ),
    "rebuild a child, all in other letters": (
        "CREATE TABLE N (ID INTEGER PRIMARY KEY, P REFERENCES P (ID)); "
        "INSERT INTO N SELECT * FROM C; DROP TABLE C; ALTER TABLE N RENAME TO C"
    ),
    "rebuild a child with a type": (
        "CREATE TABLE n (id INTEGER PRIMARY KEY, p TEXT REFERENCES p); INSERT INTO n SELECT * FROM c;"
        "DROP TABLE c; ALTER TABLE n RENAME TO c"
    ),
    "rebuild a child without its key": (
        "CREATE TABLE n (id INTEGER PRIMARY KEY, p); INSERT INTO n SELECT * FROM c; DROP TABLE c;"
        "ALTER TABLE n RENAME TO c"
    ),
    "rebuild a child WITHOUT ROWID": (
        "CREATE TABLE n (a, b, n PRIMARY KEY, FOREIGN KEY (a, b) REFERENCES pp) WITHOUT ROWID;"
        "INSERT INTO n SELECT * FROM cc; DROP TABLE cc; ALTER TABLE n RENAME TO cc"
    ),
    "rebuild a parent": (
        "CREATE TABLE n (id INTEGER PRIMARY KEY, code TEXT UNIQUE, more);"
        "INSERT INTO n (id, code) SELECT * FROM p; DROP TABLE p; ALTER TABLE n RENAME TO p"
    ),
    "rebuild a self reference": (
        "CREATE TABLE n (id INTEGER PRIMARY KEY, above REFERENCES tree); INSERT INTO n SELECT * FROM tree;"
        "DROP TABLE tree; ALTER TABLE n RENAME TO tree"
    ),
    "composite": (
        "INSERT INTO cc VALUES (2, 'y', 3), (NULL, 'q', 4); DELETE FROM cc WHERE n = 1; DELETE FROM pp WHERE a = 1"
    ),
    "self": "INSERT INTO tree VALUES (3, 2), (4, 4); DELETE FROM tree WHERE id = 70",
    "generated": "INSERT INTO made (a) VALUES (1), (NULL)",
    "schema's replacement": "INSERT INTO fixed VALUES ('k', 2); UPDATE of_fixed SET f = 2 WHERE f = 1",
    "odd names": 'INSERT INTO [its child; --] VALUES (2, 1); INSERT INTO "Odd ""one"" ö" VALUES (2)',
    "words to be searched": "INSERT INTO words VALUES ('new'); DELETE FROM words; DROP TABLE words",
    "the parent that was nowhere comes": "CREATE TABLE nowhere (id INTEGER PRIMARY KEY)",
    "the parent that was nowhere comes and mends": (
        "CREATE TABLE nowhere (id INTEGER PRIMARY KEY); INSERT INTO nowhere VALUES (1)"
    ),
    "the parent that was none becomes one": "CREATE UNIQUE INDEX now ON loose (x); INSERT INTO loose VALUES (1)",
    "rows beside a key that cannot be checked": "INSERT INTO loose VALUES (5); INSERT INTO unclear VALUES (6)",
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in HARMLESS.items()])
def test_old_violations_do_not_block(database: Path, text: str) -> None:
    execute(database, GROUND + OLD)

    migrate(database, text)
    assert query(database, "SELECT version FROM _migrations") == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name)
        for name, text in HARMLESS.items()
        if "none" not in name and "empty" not in text and "nowhere" not in name and "cannot" not in name
    ],
)
def test_script_without_violations_is_accepted(database: Path, text: str) -> None:
    execute(database, GROUND + "CREATE TABLE none (x)")

    migrate(database, text)
    assert query(database, "SELECT version FROM _migrations") == [(1,)]


def test_violations_are_listed_up_to_twenty(database: Path) -> None:
    execute(database, PRELUDE)
    numbers = ", ".join(f"({number}, 9)" for number in range(1, 24))

    require_refused(
        database, f"INSERT INTO c VALUES {numbers}", r"^23 new foreign-key violations: .*; and 3 more$"
    )


def test_only_new_violations_are_reported(database: Path) -> None:
    execute(database, GROUND + OLD)

    require_refused(
        database,
        "DELETE FROM p WHERE id = 1",
        "^3 new foreign-key violations: (?=.*row 1 of c )(?=.*row 1 of by_code )(?=.*row 1 of made )(?!.*row 7)",
    )


def test_violations_are_reported_in_order(database: Path) -> None:
    """Equal failures need equal messages: the daemon logs a repeated failure only once."""
    names = [f"c{number}" for number in range(8)]
    tables = "".join(f"CREATE TABLE {name} (p REFERENCES p); INSERT INTO {name} VALUES (1);" for name in names)
    execute(database, f"CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1); {tables}")

    told = "; ".join(f"row 1 of {name} references a missing row of p" for name in names)
    require_refused(database, "DELETE FROM p", f"^8 new foreign-key violations: {told}$")


# Every migration in one transaction, as in a new database and with `transaction = "run"`


def test_each_migration_of_a_batch_is_checked_separately(database: Path) -> None:
    runner = MigrationRunner(database)
    texts = [GROUND, "DELETE FROM p WHERE id = 2", "DELETE FROM p", "INSERT INTO p VALUES (1, 'one')"]
    runner.add_migrations(Migration(number, "m", text) for number, text in enumerate(texts, 1))
    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert (failed.value.version, failed.value.code) == (3, VIOLATION)
    assert query(database, "SELECT version FROM _migrations") == [(1,), (2,)]
    assert query(database, "SELECT id FROM p") == [(1,)]


class _Application(Observer):
    """Runs a script on the database before the migration with this version begins."""

    def __init__(self, database: Path, before: int, script: str) -> None:
        self._database = database
        self._before = before
        self._script = script

    def beginning(self, step: Step, *, late: bool) -> None:
        if step.migration.version == self._before:
            execute(self._database, self._script)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("CREATE TABLE child (p REFERENCES parent); INSERT INTO child VALUES (1)", id="a new table"),
        pytest.param("ALTER TABLE lonely ADD COLUMN p REFERENCES parent; UPDATE lonely SET p = 1", id="a column"),
    ],
)
def test_key_that_another_connection_adds_between_two_migrations_is_checked(database: Path, script: str) -> None:
    execute(database, "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE lonely (x)")
    execute(database, "INSERT INTO parent VALUES (1); INSERT INTO lonely VALUES (5)")
    runner = MigrationRunner(database, observer=_Application(database, 2, script))
    texts = ["INSERT INTO parent VALUES (2)", "DELETE FROM parent WHERE id = 1"]
    runner.add_migrations(Migration(number, "m", text) for number, text in enumerate(texts, 1))

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert (failed.value.version, failed.value.code) == (2, VIOLATION)
    assert query(database, "SELECT id FROM parent") == [(1,), (2,)]


def test_key_that_a_migration_without_a_transaction_adds_is_checked_in_the_next(database: Path) -> None:
    execute(database, "CREATE TABLE parent (id INTEGER PRIMARY KEY); INSERT INTO parent VALUES (1)")
    runner = MigrationRunner(database)
    texts = [
        "INSERT INTO parent VALUES (2)",
        "-- migrated: no-transaction\nCREATE TABLE child (p REFERENCES parent); INSERT INTO child VALUES (1)",
        "DELETE FROM parent WHERE id = 1",
    ]
    runner.add_migrations(Migration(number, "m", text) for number, text in enumerate(texts, 1))

    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()

    assert (failed.value.version, failed.value.code) == (3, VIOLATION)
    assert query(database, "SELECT id FROM parent") == [(1,), (2,)]


def test_rollback_is_checked(database: Path) -> None:
    execute(database, GROUND)
    runner = MigrationRunner(database)
    runner.add_migration(
        Migration(1, "m", "INSERT INTO p VALUES (3, 'x')").with_down("DELETE FROM p WHERE id <> 2")
    )
    runner.run()
    before = everything(database)
    with pytest.raises(MigrationError) as failed:
        runner.roll_back()

    assert (failed.value.code, type(failed.value).__name__) == (VIOLATION, "RollbackFailedError")
    assert everything(database) == before


# The directive foreign-keys-on


ENFORCED = "-- migrated: foreign-keys=on\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("INSERT INTO c VALUES (3, 9)", id="child"),
        pytest.param("DELETE FROM p WHERE id = 1", id="parent"),
        pytest.param("INSERT INTO c VALUES (3, 9); INSERT INTO p VALUES (9, 'nine')", id="fixed later"),
    ],
)
def test_directive_enforces_keys_while_the_migration_runs(database: Path, text: str) -> None:
    execute(database, GROUND + OLD)
    before = everything(database)
    with pytest.raises(ExecutionFailedError) as failed:
        migrate(database, ENFORCED + text)

    assert failed.value.message == "FOREIGN KEY constraint failed"
    assert (failed.value.code, failed.value.line) == (VIOLATION, 2)
    assert everything(database) == before


def test_enforced_keys_cascade(database: Path) -> None:
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1), (2);"
        "CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);"
        "CREATE TABLE d (id INTEGER PRIMARY KEY, c REFERENCES c ON DELETE SET NULL);"
        "INSERT INTO c VALUES (1, 1), (2, 2); INSERT INTO d VALUES (1, 1), (2, 2)",
    )

    migrate(database, f"{ENFORCED}DELETE FROM p WHERE id = 1; UPDATE p SET id = 7")
    assert query(database, "SELECT * FROM c") == [(2, 7)]
    assert query(database, "SELECT * FROM d ORDER BY id") == [(1, None), (2, 2)]


def test_deferred_keys_are_checked_at_the_end(database: Path) -> None:
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY);"
        "CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES (1)",
    )

    migrate(database, f"{ENFORCED}INSERT INTO c VALUES (9); INSERT INTO p VALUES (9)")
    before = everything(database)
    runner = MigrationRunner(database)
    runner.add_migrations([Migration(1, "m", f"{ENFORCED}INSERT INTO c VALUES (9); INSERT INTO p VALUES (9)")])
    runner.add_migration(Migration(2, "m", f"{ENFORCED}DELETE FROM p WHERE id = 9"))
    with pytest.raises(ExecutionFailedError) as failed:
        runner.run()
    assert failed.value.code == VIOLATION
    assert everything(database) == before


def test_keys_are_not_enforced_for_the_next_migration(database: Path) -> None:
    execute(database, GROUND)
    runner = MigrationRunner(database)
    runner.add_migration(Migration(1, "m", f"{ENFORCED}INSERT INTO c VALUES (3, 2)"))
    runner.add_migration(Migration(2, "m", "INSERT INTO c VALUES (4, 9); INSERT INTO p VALUES (9, 'nine')"))
    runner.run()

    assert query(database, "SELECT p FROM c WHERE id > 2 ORDER BY id") == [(2,), (9,)]


# Untouched tables are not scanned


@pytest.fixture
def damaged(database: Path) -> Path:
    """A child, a grandchild and a table without a key, all damaged so that a scan fails."""
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);"
        "CREATE TABLE other (id INTEGER PRIMARY KEY, p REFERENCES p);"
        "CREATE TABLE free (id INTEGER PRIMARY KEY, x);"
        "CREATE TABLE middle (id INTEGER PRIMARY KEY, p REFERENCES p);"
        "CREATE TABLE leaf (id INTEGER PRIMARY KEY, m REFERENCES middle);"
        "CREATE TABLE big (id INTEGER PRIMARY KEY, l REFERENCES leaf, x);"
        "INSERT INTO leaf VALUES (1, NULL);"
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
        "INSERT INTO big SELECT i, 1, zeroblob(500) FROM n;",
    )
    ((page,),) = query(database, "SELECT rootpage FROM sqlite_schema WHERE name = 'big'")
    ((size,),) = query(database, "PRAGMA page_size")
    assert isinstance(page, int)
    assert isinstance(size, int)
    # No connection is open now. The first page of the table has other pages' numbers; it is made nonsense.
    with database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(apsw.CorruptError):
        query(database, "PRAGMA foreign_key_check(big)")
    return database


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("CREATE TABLE new (x); INSERT INTO new VALUES (1)", id="a new table"),
        pytest.param("CREATE TABLE new (x REFERENCES p); INSERT INTO new VALUES (1)", id="a new child of another"),
        pytest.param("INSERT INTO other VALUES (2, 1); DELETE FROM other", id="rows of another child"),
        pytest.param("INSERT INTO p VALUES (2); DELETE FROM p WHERE id = 2", id="rows of a grandparent's parent"),
        pytest.param("UPDATE middle SET p = 1", id="rows of a grandparent"),
        pytest.param("ALTER TABLE other ADD COLUMN y DEFAULT 7", id="a column elsewhere"),
        pytest.param("ALTER TABLE other ADD COLUMN y REFERENCES p", id="a key elsewhere"),
        pytest.param(
            "ALTER TABLE p RENAME TO q; ALTER TABLE q RENAME COLUMN id TO number", id="renamed elsewhere"
        ),
        pytest.param("ALTER TABLE big ADD COLUMN y NOT NULL DEFAULT 7", id="a column of its own"),
        pytest.param("ALTER TABLE leaf ADD COLUMN y", id="a column of its parent"),
        pytest.param("CREATE TRIGGER t AFTER INSERT ON big BEGIN DELETE FROM leaf; END", id="a trigger on it"),
        pytest.param("CREATE VIEW v AS SELECT * FROM big", id="a view of it"),
        pytest.param("CREATE UNIQUE INDEX i ON leaf (id, m); DROP TABLE free", id="an index of its parent"),
    ],
)
def test_untouched_tables_are_not_scanned(damaged: Path, text: str) -> None:
    """A scan of the big table would fail with SQLITE_CORRUPT."""
    migrate(damaged, text)

    assert query(damaged, "SELECT version FROM _migrations") == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("DELETE FROM leaf WHERE id = 5", id="its parent written"),
        pytest.param("INSERT INTO leaf VALUES (2, NULL)", id="its parent inserted to"),
        pytest.param("ALTER TABLE big ADD COLUMN y REFERENCES p DEFAULT 1", id="a key added to it"),
        pytest.param("ALTER TABLE leaf RENAME TO twig", id="its parent renamed"),
    ],
)
def test_touched_tables_are_scanned(damaged: Path, text: str) -> None:
    """Shows that the test above can fail."""
    with pytest.raises(MigrationError) as failed:
        migrate(damaged, text)

    assert failed.value.code == "SQLITE_CORRUPT"


class _Steps:
    """Counts the steps of SQLite's virtual machine on a connection that the runner borrows."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.taken = 0
        connection.set_progress_handler(self, 100, id=self)

    def __call__(self) -> bool:
        self.taken += 100
        return False


@pytest.mark.parametrize(
    ("text", "scans"),
    [
        pytest.param("ALTER TABLE big ADD COLUMN y", False, id="a column of its own"),
        pytest.param("ALTER TABLE elsewhere ADD COLUMN y", False, id="a column elsewhere"),
        pytest.param("INSERT INTO elsewhere VALUES (1)", False, id="a row elsewhere"),
        pytest.param("INSERT INTO big VALUES (0, 1)", True, id="a row of its own"),
    ],
)
def test_work_does_not_grow_with_untouched_tables(database: Path, text: str, scans: bool) -> None:  # noqa: FBT001 - a parameter
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);"
        "CREATE TABLE elsewhere (x REFERENCES p);"
        "CREATE TABLE big (id INTEGER PRIMARY KEY, p REFERENCES p);"
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        "INSERT INTO big SELECT i, 1 FROM n;",
    )
    connection = apsw.Connection(os.fspath(database))
    MigrationRunner(connection).init()
    steps = _Steps(connection)
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "m", text))
    runner.run()
    connection.close()

    assert (steps.taken > 100_000) == scans, steps.taken


def test_a_table_is_scanned_twice_at_most(database: Path) -> None:
    """Independent of the number of statements that write to it."""
    execute(
        database,
        f"{PRELUDE} INSERT INTO p VALUES (1);"
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        "INSERT INTO c SELECT i, 1 FROM n;",
    )
    taken: list[int] = []
    for count in (1, 50):
        connection = apsw.Connection(os.fspath(database))
        steps = _Steps(connection)
        runner = MigrationRunner(connection)
        text = "".join(f"INSERT INTO c VALUES ({-count * 100 - number}, 1);" for number in range(count))
        runner.add_migrations(Migration(number, "m", "SELECT 1") for number, _ in enumerate(taken, 1))
        runner.add_migration(Migration(len(taken) + 1, "m", text))
        if taken:
            connection.execute("DELETE FROM _migrations; DELETE FROM _migrations_history")
        runner.run()
        connection.close()
        taken.append(steps.taken)

    assert taken[1] < taken[0] * 1.5


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("CREATE TABLE new{n} (x); CREATE INDEX i{n} ON new{n} (x)", id="tables"),
        pytest.param("CREATE TABLE new{n} (x REFERENCES p)", id="children"),
        pytest.param("INSERT INTO p VALUES ({n})", id="rows"),
        pytest.param("ALTER TABLE old1 ADD COLUMN c{n} REFERENCES p", id="keys"),
    ],
)
def test_schema_is_not_read_in_full_for_every_migration(database: Path, text: str) -> None:
    """SQLite itself reads it once or twice for each schema change; the limit allows for that."""
    execute(
        database,
        "CREATE TABLE p (id INTEGER PRIMARY KEY);"
        + "".join(f"CREATE TABLE old{number} (x REFERENCES p);" for number in range(1000)),
    )
    texts = [text.format(n=number) for number in range(1, 21)]
    bare, ours = (apsw.Connection(os.fspath(database)) for _ in range(2))
    bare_steps = _Steps(bare)
    bare.execute(f"BEGIN; {';'.join(texts)}; ROLLBACK").fetchall()
    bare.close()
    steps = _Steps(ours)
    runner = MigrationRunner(ours)
    runner.add_migrations(Migration(number, "m", each) for number, each in enumerate(texts, 1))
    runner.run()
    ours.close()

    # One look at every table's keys takes 50 steps for each.
    assert steps.taken < bare_steps.taken + 5 * 50 * 1000


# Random schemas and migrations, compared with a full check


@dataclass
class Judgement:
    """All violations: by names and key, and by key alone."""

    named: Counter[tuple[object, ...]] = field(default_factory=Counter)
    nameless: Counter[tuple[object, ...]] = field(default_factory=Counter)

    def add(self, table: str, parent: str, key: tuple[object, ...]) -> None:
        self.named[table.lower(), parent.lower(), key] += 1
        self.nameless[key] += 1


def _key(connection: apsw.Connection, table: str, row: int | None, number: int) -> tuple[object, ...]:
    if row is None:
        return ()
    listed: list[Any] = connection.execute(f"PRAGMA foreign_key_list({table})").fetchall()
    columns = ", ".join(f'"{line[3]}"' for line in listed if line[0] == number)
    found: list[Any] = connection.execute(f"SELECT {columns} FROM {table} WHERE _rowid_ = ?", (row,)).fetchall()
    return tuple(found[0])


def judge(connection: apsw.Connection) -> Judgement:
    judgement = Judgement()
    tables: list[Any] = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in tables:
        try:
            rows: list[Any] = connection.execute(f"PRAGMA foreign_key_check({table})").fetchall()
        except apsw.SQLError:
            judgement.add(table, "", ("cannot be checked",))
            continue
        for _, row, parent, number in rows:
            judgement.add(table, parent, _key(connection, table, row, number))
    return judgement


NAMES = ("ta", "tb", "tc", "td")
VALUES = st.sampled_from([None, 1, 2, 3])


def _sql(value: int | None) -> str:
    return "NULL" if value is None else str(value)


@st.composite
def definitions(draw: st.DrawFn, name: str, *, parent_for_sure: bool) -> str:
    """A table with an id, a u that is unique most of the time, and columns j and k, keys or not."""
    keys = []
    for column in "jk":
        parent = draw(st.sampled_from((*NAMES, *map(str.upper, NAMES), None)))
        column_there = draw(st.sampled_from(("", "(id)", "(u)")))
        keys.append(f"{column} REFERENCES {parent} {column_there}" if parent else column)
    unique = "UNIQUE" if parent_for_sure or draw(st.integers(0, 4)) else ""
    kind = draw(st.sampled_from(("INTEGER PRIMARY KEY", "PRIMARY KEY")))
    end = draw(st.sampled_from(("", "WITHOUT ROWID"))) if kind == "PRIMARY KEY" else ""
    both = draw(st.sampled_from(("", "", ", FOREIGN KEY (j, k) REFERENCES pair")))
    return f"CREATE TABLE {name} (id {kind}, u {unique}, {', '.join(keys)}{both}) {end}"


ROWS = st.lists(st.tuples(st.integers(1, 3), VALUES, VALUES, VALUES), max_size=4)


@st.composite
def schemas(draw: st.DrawFn) -> str:
    script = ["CREATE TABLE pair (a, b, PRIMARY KEY (a, b))", "INSERT INTO pair VALUES (1, 1), (1, 2), (2, 1)"]
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        script.append(draw(definitions(name, parent_for_sure=False)))
        script += [f"INSERT OR IGNORE INTO {name} VALUES ({', '.join(map(_sql, row))})" for row in draw(ROWS)]
    if draw(st.booleans()):
        script.append("CREATE TRIGGER g AFTER DELETE ON pair BEGIN DELETE FROM ta WHERE id = old.a; END")
    return ";\n".join(script)


def _in_any_letters(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from((name, name.upper(), f'"{name.title()}"'))


@st.composite
def statements(draw: st.DrawFn, *, renames: bool) -> str:
    name = draw(st.sampled_from(NAMES))
    table = draw(_in_any_letters(name))
    column, number, value = draw(st.sampled_from("ujk")), draw(st.integers(1, 4)), _sql(draw(VALUES))
    other = _sql(draw(VALUES))
    choices = [
        f"INSERT INTO {table} (id, {column}) VALUES ({number}, {value})",
        f"INSERT OR IGNORE INTO {table} (id, u, j) VALUES ({number}, {value}, {other})",
        f"REPLACE INTO {table} (id, u, k) VALUES ({number}, {value}, {other})",
        f"INSERT INTO {table} (id) VALUES ({number}) ON CONFLICT DO UPDATE SET {column} = {value}",
        f"UPDATE {table} SET {column} = {value} WHERE id = {number}",
        f"UPDATE OR REPLACE {table} SET id = {number} WHERE u = {value}",
        f"UPDATE OR IGNORE {table} SET id = id + 1",
        f"DELETE FROM {table} WHERE {column} IS {value}",
        f"DELETE FROM {table}",
        f"DELETE FROM pair WHERE a = {number}",
        f"DROP TABLE {table}",
        f"ALTER TABLE {table} ADD COLUMN more{number} REFERENCES {draw(st.sampled_from(NAMES))} DEFAULT {value}",
        f"ALTER TABLE {table} DROP COLUMN {column}",
        draw(definitions(name, parent_for_sure=True)),
        (
            f"{draw(definitions('fresh', parent_for_sure=draw(st.booleans())))};"
            f"INSERT INTO fresh SELECT id, u, j, k FROM {table};"
            f"DROP TABLE {table}; ALTER TABLE fresh RENAME TO {name}"
        ),
    ]
    if renames:
        choices.append(f"ALTER TABLE {table} RENAME TO {draw(st.sampled_from((*NAMES, 'te')))}")
    return draw(st.sampled_from(choices))


def scripts(*, renames: bool) -> st.SearchStrategy[str]:
    return st.lists(statements(renames=renames), min_size=1, max_size=4).map(";\n".join)


def _changed(schema: str, text: str) -> tuple[Judgement, Judgement] | None:
    """The full checks before and after; None if the script cannot run."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema).fetchall()
        before = judge(connection)
        connection.execute(text).fetchall()
        return before, judge(connection)
    except (apsw.SQLError, apsw.ConstraintError):
        return None
    finally:
        connection.close()


def _verdict(schema: str, text: str) -> Counter[tuple[str, str]] | None:
    """The violations that the runner reports, by table and parent; None if there are none."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema).fetchall()
        runner = MigrationRunner(connection)
        runner.add_migration(Migration(1, "m", text))
        runner.run()
    except ExecutionFailedError as error:
        return _violations_of(error)
    else:
        return None
    finally:
        connection.close()


def _violations_of(error: ExecutionFailedError) -> Counter[tuple[str, str]]:
    assert error.code == VIOLATION, error
    (count,) = re.findall(r"^(\d+) new foreign-key violation", error.message)
    points = re.findall(r"row(?: \d+)? of (\w+) references a missing row of (\w+)", error.message.lower())
    faults = [(table, "") for table in re.findall(r'mismatch - "(\w+)"', error.message.lower())]
    assert len(points) + len(faults) == min(int(count), 20)
    return Counter(points + faults)


PROPERTY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@PROPERTY
@given(schemas(), scripts(renames=False))
@example(
    "CREATE TABLE ta (id INTEGER PRIMARY KEY); CREATE TABLE tb (j REFERENCES ta); INSERT INTO tb VALUES (1)",
    "DROP TABLE ta",
)
@example(
    "CREATE TABLE ta (id INTEGER PRIMARY KEY); CREATE TABLE tb (j REFERENCES ta); INSERT INTO tb VALUES (1), (1)",
    "INSERT INTO tb VALUES (1); INSERT INTO ta VALUES (2)",
)
def test_verdict_equals_a_check_of_all_tables(schema: str, text: str) -> None:
    judged = _changed(schema, text)
    if judged is None:
        event("cannot be run")
        return
    before, after = judged
    new = after.named - before.named
    expected = Counter((table, parent) for table, parent, _ in new.elements())
    event(f"new: {bool(expected)}, old: {bool(before.named)}")

    assert (_verdict(schema, text) or Counter()) == expected


@PROPERTY
@given(schemas(), scripts(renames=True))
def test_new_violations_are_found_despite_renamed_tables(schema: str, text: str) -> None:
    judged = _changed(schema, text)
    if judged is None:
        return
    before, after = judged
    found = _verdict(schema, text)
    if after.nameless - before.nameless:
        assert found
    if not after.named - before.named:
        assert found is None


def _applied(schema: str, texts: list[str], *, together: bool) -> tuple[int, str | None]:
    """The number of applied migrations and the failure of the next; in one run or in separate runs."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(schema).fetchall()
        migrations = [Migration(number, "m", text) for number, text in enumerate(texts, 1)]
        for count in (len(texts),) if together else range(1, len(texts) + 1):
            runner = MigrationRunner(connection)
            runner.add_migrations(migrations[:count])
            try:
                runner.run()
            except ExecutionFailedError as error:
                return (error.version or 0) - 1, error.message
        return len(texts), None
    finally:
        connection.close()


@PROPERTY
@given(schemas(), st.lists(scripts(renames=True), min_size=2, max_size=4))
@example(
    "CREATE TABLE ta (id INTEGER PRIMARY KEY); CREATE TABLE tb (j REFERENCES ta); INSERT INTO ta VALUES (1)",
    [
        "DELETE FROM ta WHERE id = 7",
        "CREATE TABLE tc (j REFERENCES ta); INSERT INTO tc VALUES (1)",
        "DELETE FROM ta",
    ],
)
@example(
    "CREATE TABLE ta (id INTEGER PRIMARY KEY); CREATE TABLE tb (j REFERENCES ta); INSERT INTO ta VALUES (1)",
    ["INSERT INTO tb VALUES (1)", "ALTER TABLE ta RENAME TO te", "DELETE FROM te"],
)
def test_migrations_in_one_run_are_checked_as_in_separate_runs(schema: str, texts: list[str]) -> None:
    """The foreign-key graph is cached from one migration to the next."""
    try:
        alone = _applied(schema, texts, together=False)
    except (apsw.SQLError, apsw.ConstraintError):
        return
    event(f"{alone[0]} applied, then {'no ' if alone[1] is None else ''}failure")

    assert _applied(schema, texts, together=True) == alone
