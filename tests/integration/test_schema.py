"""The schema script of a database: its content, and the result of running it."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from integration.children import run_script
from integration.scripts import GROUND, Script, scripts
from support import checksum, everything, execute, query

from migrated import DatabaseError, Migration, MigrationError, MigrationRunner
from migrated.engine.sqlite.connection import BusyHandler
from migrated.engine.sqlite.schema import read_schema
from migrated.system.cancellation import CancelToken

BY_PYTHON = """
import sqlite3, sys
with open(sys.argv[2], newline="") as file:
    connection = sqlite3.connect(sys.argv[1])
    connection.executescript(file.read())
    connection.close()
"""
EVERY_KIND = """
CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT UNIQUE, c AS (b || 'x') STORED);
CREATE TABLE "a table" ("the -- id" INTEGER PRIMARY KEY, t TEXT DEFAULT 'it''s; -- no', CHECK (t != ';')) STRICT;
CREATE TABLE child (p REFERENCES parent ON DELETE CASCADE, q, PRIMARY KEY (p, q)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(body);
CREATE VIRTUAL TABLE old_words USING fts4(body);
CREATE VIRTUAL TABLE boxes USING rtree(id, low, high);
CREATE INDEX z_index ON parent (b COLLATE NOCASE DESC) WHERE b IS NOT NULL;
CREATE UNIQUE INDEX a_index ON child (q, lower(p));
CREATE VIEW shown AS SELECT b FROM parent;
CREATE TRIGGER watch AFTER INSERT ON parent BEGIN
    UPDATE parent SET b = CASE WHEN new.b = 'x;' THEN 'y' ELSE new.b END; -- done;
END;
CREATE TRIGGER "instead; END;" INSTEAD OF INSERT ON shown BEGIN INSERT INTO parent (b) VALUES (new.b); END;
INSERT INTO parent (b) VALUES ('row');
INSERT INTO words VALUES ('some words');
PRAGMA user_version = 7;
PRAGMA application_id = -559038737;
ANALYZE;
"""
AS_WRITTEN = """\
-- Written by migrated after each change of the schema: what is edited here will be lost.

BEGIN;

PRAGMA application_id = -559038737;

PRAGMA user_version = 7;

CREATE TABLE "a table" ("the -- id" INTEGER PRIMARY KEY, t TEXT DEFAULT 'it''s; -- no', CHECK (t != ';')) STRICT;

CREATE TABLE child (p REFERENCES parent ON DELETE CASCADE, q, PRIMARY KEY (p, q)) WITHOUT ROWID;

CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT UNIQUE, c AS (b || 'x') STORED);

CREATE UNIQUE INDEX a_index ON child (q, lower(p));

CREATE INDEX z_index ON parent (b COLLATE NOCASE DESC) WHERE b IS NOT NULL;

CREATE VIEW shown AS SELECT b FROM parent;

CREATE VIRTUAL TABLE boxes USING rtree(id, low, high);

CREATE VIRTUAL TABLE old_words USING fts4(body);

CREATE VIRTUAL TABLE words USING fts5(body);

CREATE TRIGGER "instead; END;" INSTEAD OF INSERT ON shown BEGIN INSERT INTO parent (b) VALUES (new.b); END;

CREATE TRIGGER watch AFTER INSERT ON parent BEGIN
    UPDATE parent SET b = CASE WHEN new.b = 'x;' THEN 'y' ELSE new.b END; -- done;
END;

COMMIT;
"""


def dump(database: Path) -> bytes:
    text = read_schema(str(database), BusyHandler(5.0, CancelToken()))

    assert text is not None
    return text


def load(text: bytes, database: Path) -> Path:
    """Run the script in SQLite alone on a database that is not there yet."""
    execute(database, text.decode())
    return database


def load_by_program(script: Path, database: Path) -> None:
    """The same with the sqlite3 shell, which also accepts invalid UTF-8."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("no sqlite3 here")
    with script.open("rb") as file:
        done = subprocess.run([program, "-bail", database], stdin=file, capture_output=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def objects(database: Path) -> list[tuple[object, ...]]:
    """The whole schema with our own tables, without SQLite's internal ones."""
    return query(
        database,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " UNION ALL SELECT 'number', 'user_version', '', user_version FROM pragma_user_version"
        " UNION ALL SELECT 'number', 'application_id', '', application_id FROM pragma_application_id"
        " ORDER BY 1, 2",
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The path of another database that does not exist yet."""
    return tmp_path / "copy.db"


class TestText:
    def test_every_kind_of_object_in_a_fixed_order(self, database: Path) -> None:
        execute(database, EVERY_KIND)

        assert dump(database).decode() == AS_WRITTEN

    def test_output_does_not_depend_on_creation_order(self, database: Path, copy: Path) -> None:
        made = [
            "CREATE TABLE b (x)",
            "CREATE TABLE a (x)",
            "CREATE VIEW v AS SELECT 1",
            "CREATE VIEW u AS SELECT 1",
        ]
        execute(database, ";".join(made))
        execute(copy, ";".join(reversed(made)))

        assert dump(database) == dump(copy)

    def test_ledger_rows_have_no_time_and_no_host(self, database: Path, copy: Path) -> None:
        for path in (database, copy):
            runner = MigrationRunner(path)
            runner.add_migration(Migration(10, "it's; -- \n'odd'", "CREATE TABLE ten (id)"))
            runner.add_migration(Migration(9, "näme", "CREATE TABLE nine (id)"))
            runner.run()

        assert dump(database) == dump(copy)
        assert dump(database).decode().partition("program_version TEXT NOT NULL\n")[2] == (
            ");\n\n"
            "INSERT INTO _migrations (version, name, checksum) VALUES (9, 'näme', "
            f"'{checksum('CREATE TABLE nine (id)')}');\n"
            "INSERT INTO _migrations (version, name, checksum) VALUES (10, 'it''s; -- \n''odd''', "
            f"'{checksum('CREATE TABLE ten (id)')}');\n\n"
            "COMMIT;\n"
        )

    def test_our_tables_have_their_current_definition(self, database: Path, copy: Path) -> None:
        MigrationRunner(database).init()
        execute(database, "ALTER TABLE _migrations_history DROP COLUMN reason")
        execute(database, "ALTER TABLE _migrations_history ADD COLUMN reason TEXT")
        MigrationRunner(copy).init()

        assert dump(database) == dump(copy)

    def test_repeatable_migrations_are_included(self, database: Path, copy: Path) -> None:
        view = Migration.repeatable("seen", "DROP VIEW IF EXISTS seen;\nCREATE VIEW seen AS SELECT 1")
        runner = MigrationRunner(database)
        runner.add_migrations([Migration(1, "t", "CREATE TABLE t (x)"), view])
        runner.run()
        text = dump(database)
        loaded = MigrationRunner(load(text, copy))
        loaded.add_migrations([Migration(1, "t", "CREATE TABLE t (x)"), view])

        assert dump(copy) == text
        assert loaded.count_pending() == 0
        (status,) = loaded.repeatables()
        assert status.applied is not None
        assert status.applied.objects == (("view", "seen"),)

    def test_database_without_a_ledger_gets_none(self, database: Path) -> None:
        execute(database, "CREATE TABLE t (a)")

        assert b"_migrations" not in dump(database)

    def test_internal_tables_stay_out_after_a_vacuum(self, database: Path) -> None:
        """VACUUM changes the order in the schema; the tables of a virtual table then come before it."""
        execute(database, EVERY_KIND)
        execute(database, "VACUUM")

        assert dump(database).decode() == AS_WRITTEN

    def test_table_with_the_name_of_a_shadow_table_is_included(self, database: Path, copy: Path) -> None:
        execute(
            database,
            "CREATE TABLE docs_content (id INTEGER PRIMARY KEY, body);"
            "CREATE VIRTUAL TABLE docs USING fts5(body, content='docs_content');"
            "CREATE INDEX by_body ON docs_content (body);"
            "CREATE TRIGGER feed AFTER INSERT ON DOCS_CONTENT BEGIN INSERT INTO docs VALUES (new.body); END;",
        )

        assert objects(load(dump(database), copy)) == objects(database)

    def test_output_is_one_consistent_state(self, database: Path) -> None:
        MigrationRunner(database).init()
        execute(database, "PRAGMA journal_mode = WAL")

        def go_on() -> None:
            for number in range(1, 300):
                execute(
                    database,
                    f"BEGIN IMMEDIATE; CREATE TABLE t{number} (a);"
                    f" INSERT INTO _migrations (version, name, checksum) VALUES ({number}, 'n', 'c'); COMMIT",
                )

        other = threading.Thread(target=go_on)
        other.start()
        seen = []
        while other.is_alive():
            text = dump(database)
            seen.append((text.count(b"CREATE TABLE t"), text.count(b"INSERT INTO _migrations")))
        other.join()

        assert len(set(seen)) > 5
        assert [pair for pair in seen if pair[0] != pair[1]] == []

    def test_nothing_is_changed_and_nothing_left_behind(self, database: Path) -> None:
        execute(database, "PRAGMA journal_mode = WAL; " + EVERY_KIND)
        before = everything(database), sorted(database.parent.iterdir())
        dump(database)

        assert (everything(database), sorted(database.parent.iterdir())) == before


class TestLoading:
    @pytest.mark.parametrize("by", ["apsw", "sqlite3 of Python", "the sqlite3 program"])
    def test_script_recreates_schema_and_ledger(self, database: Path, copy: Path, tmp_path: Path, by: str) -> None:
        execute(database, EVERY_KIND)
        migration = Migration(1, "it's", "CREATE VIEW last AS SELECT 1 -- comment")
        runner = MigrationRunner(database)
        runner.add_migration(migration)
        runner.run()
        text = dump(database)
        script = tmp_path / "schema.sql"
        script.write_bytes(text)
        if by == "apsw":
            load(text, copy)
        elif by == "sqlite3 of Python":
            assert run_script(BY_PYTHON, copy, script).stderr == ""
        else:
            load_by_program(script, copy)

        loaded = MigrationRunner(copy)
        loaded.add_migration(migration)

        assert objects(copy) == objects(database)
        assert dump(copy) == text
        assert query(copy, "SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'") == []
        assert loaded.run() == []
        assert [(one.version, one.name, one.checksum) for one in loaded.get_applied()] == [
            (1, "it's", migration.checksum)
        ]
        assert query(copy, "SELECT count(*) FROM _migrations_history") == [(0,)]

    @pytest.mark.parametrize(
        "statement",
        [
            pytest.param("CREATE VIEW v AS SELECT 1 -- it's", id="view and line comment"),
            pytest.param("CREATE VIEW v AS SELECT '/*' -- */", id="view and what looks like a comment"),
            pytest.param("CREATE INDEX i ON t (a) -- comment\n \n ;", id="index and line comment, closed below"),
            pytest.param("CREATE INDEX i ON t (a)  \t", id="index and white space"),
            pytest.param("CREATE INDEX i ON t (a) /* -- */", id="index and block comment"),
            pytest.param("CREATE TABLE u (a, --\n b -- c\n)", id="table and line comments inside"),
            pytest.param("CREATE TABLE u (a DEFAULT '\r\n\x01\x7f\ufeff\u2028🙂')", id="any characters"),
            pytest.param('CREATE TABLE "say ""so"" [x] `y`; --\n" ("; END;", [a"b], `c``d`)', id="odd names"),
            pytest.param('CREATE TABLE u AS SELECT 1 AS "a b", 2 AS [select]', id="table of a query"),
        ],
    )
    def test_definitions_are_verbatim(self, database: Path, copy: Path, statement: str) -> None:
        execute(database, "CREATE TABLE t (a)")
        execute(database, statement)

        assert objects(load(dump(database), copy)) == objects(database)

    @pytest.mark.parametrize(
        ("statement", "kept"),
        [
            pytest.param(
                "CREATE INDEX i ON t (a) -- the end",
                "CREATE INDEX i ON t (a) -- the end\n",
                id="line comment of an index",
            ),
            pytest.param(
                "CREATE VIEW v AS SELECT 1 /* open", "CREATE VIEW v AS SELECT 1 /* open*/", id="open comment"
            ),
            pytest.param(
                "CREATE VIEW v AS SELECT 1 /*/", "CREATE VIEW v AS SELECT 1 /*/*/", id="barely open comment"
            ),
        ],
    )
    def test_open_comment_at_the_end_is_closed(
        self, database: Path, copy: Path, statement: str, kept: str
    ) -> None:
        """SQLite keeps it as it is where the text ends there, which no statement of a script can do."""
        execute(database, f"CREATE TABLE t (a); {statement}")

        assert dump(load(dump(database), copy)) == dump(database)
        assert query(copy, "SELECT sql FROM sqlite_schema WHERE name IN ('i', 'v')") == [(kept,)]
        assert query(database, "SELECT sql FROM sqlite_schema WHERE name IN ('i', 'v')") == [(statement,)]

    def test_definitions_that_are_not_utf8_are_preserved(self, database: Path, copy: Path, tmp_path: Path) -> None:
        execute(database, "CREATE TABLE n (a DEFAULT 'XXXXX'); CREATE INDEX iXXXXX ON n (a); CREATE TABLE iXX (b)")
        database.write_bytes(database.read_bytes().replace(b"XXXXX", b"\xff\xfe\xc3\xe9\xff"))
        (tmp_path / "schema.sql").write_bytes(text := dump(database))

        assert b"DEFAULT '\xff\xfe\xc3\xe9\xff');" in text
        load_by_program(tmp_path / "schema.sql", copy)
        assert dump(copy) == text

    @pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
    def test_script_sets_the_encoding(self, database: Path, copy: Path, encoding: str) -> None:
        execute(
            database, f"PRAGMA encoding = '{encoding}'; CREATE TABLE \"名\" (a DEFAULT '🙂'); CREATE TABLE u (b)"
        )
        MigrationRunner(database).init()
        text = dump(database)

        assert f"PRAGMA encoding = '{encoding}';\n\nBEGIN;" in text.decode()
        assert objects(load(text, copy)) == objects(database)
        assert query(copy, "PRAGMA encoding") == [(encoding,)]

    def test_objects_that_need_application_modules_are_written(self, database: Path, copy: Path) -> None:
        """Its functions, collations and modules are not here, and who runs the script must have them."""
        made = "CREATE TABLE t (a COLLATE theirs); CREATE INDEX i ON t (theirs(a)); CREATE TABLE v_of_t (b)"
        connection = apsw.Connection(str(database))
        give_theirs(connection)
        connection.execute(made).fetchall()
        connection.close()
        execute(database, "CREATE TABLE v (a)")
        text = dump(database)

        with pytest.raises(apsw.SQLError, match="no such"):
            load(text, copy)
        copy.unlink()
        connection = apsw.Connection(str(copy))
        give_theirs(connection)
        connection.execute(text.decode()).fetchall()
        connection.close()
        assert objects(copy) == objects(database)

    def test_shadow_tables_of_an_untestable_virtual_table_are_left_out(self, database: Path) -> None:
        execute(database, "CREATE VIRTUAL TABLE w USING fts5(a, tokenize = unicode61)")
        execute(database, "CREATE VIRTUAL TABLE x USING fts5(a)")
        database.write_bytes(database.read_bytes().replace(b"unicode61", b"unknown01"))

        assert [line for line in dump(database).decode().split("\n") if line.startswith("CREATE")] == [
            "CREATE VIRTUAL TABLE w USING fts5(a, tokenize = unknown01);",
            "CREATE VIRTUAL TABLE x USING fts5(a);",
        ]

    def test_virtual_table_of_an_unknown_module_is_written_with_other_tables(self, database: Path) -> None:
        execute(database, "CREATE TABLE v_data_of_mine (a); CREATE VIRTUAL TABLE v USING fts5(a)")
        database.write_bytes(database.read_bytes().replace(b"USING fts5", b"USING vecX"))

        lines = dump(database).decode().splitlines()

        assert "CREATE VIRTUAL TABLE v USING vecX(a);" in lines
        assert "CREATE TABLE v_data_of_mine (a);" in lines
        assert "CREATE TABLE 'v_data'(id INTEGER PRIMARY KEY, block BLOB);" in lines


def give_theirs(connection: apsw.Connection) -> None:
    connection.create_scalar_function("theirs", lambda *values: values[0], 1, deterministic=True)
    connection.create_collation("theirs", lambda one, other: (one > other) - (one < other))


class TestNothingToTell:
    @pytest.mark.parametrize("content", [None, b""], ids=["no file", "empty file"])
    def test_missing_database_gives_none(self, database: Path, content: bytes | None) -> None:
        if content is not None:
            database.write_bytes(content)

        assert read_schema(str(database), BusyHandler(1.0, CancelToken())) is None
        assert database.exists() is (content is not None)

    def test_unfinished_migration_gives_none(self, database: Path) -> None:
        runner = MigrationRunner(database)
        up = "-- migrated: no-transaction\nCREATE TABLE a (x); CREATE TABLE a (x);"
        runner.add_migration(Migration(1, "half", up))
        with pytest.raises(MigrationError):
            runner.run()

        assert query(database, "SELECT name FROM sqlite_schema WHERE name = 'a'") == [("a",)]
        assert read_schema(str(database), BusyHandler(1.0, CancelToken())) is None

    def test_unreadable_database_raises(self, database: Path) -> None:
        database.write_bytes(b"no database, and longer than the header of one" * 20)

        with pytest.raises(DatabaseError, match="not a database"):
            read_schema(str(database), BusyHandler(1.0, CancelToken()))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # In memory: hundreds of commits would take long on a disk.
    in_memory = Path("/dev/shm")  # noqa: S108 - the directory made there has a name of its own
    made = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(50, id="some"),
        pytest.param(3000, marks=[pytest.mark.long, pytest.mark.timeout(3600)], id="many"),
    ],
)
def test_random_schema_is_recreated(home: Path, examples: int) -> None:
    database, copy = home / "app.db", home / "copy.db"
    sizes = []

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(scripts())
    def check(script: Script) -> None:
        for path in (database, copy):
            path.unlink(missing_ok=True)
        execute(database, GROUND)
        runner = MigrationRunner(database)
        runner.add_migration(Migration(1, "change", script.text))
        runner.run()
        load(text := dump(database), copy)

        # Behind a comment the end of a line is needed, and SQLite keeps that of an index.
        stripped = [[(*row[:3], str(row[3]).rstrip()) for row in objects(path)] for path in (database, copy)]
        assert stripped[0] == stripped[1]
        assert dump(copy) == text
        sizes.append(len(stripped[0]))

    check()

    assert len(set(sizes)) > 3, "all are alike"
