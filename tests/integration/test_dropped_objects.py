"""Indexes and triggers lost in a table rebuild are reported; intended drops are not."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from daemon_process import log_lines, migrated
from support import execute, query, write_migration

from migrated import Migration, MigrationRunner
from migrated.core.migration import MigrationDirection
from migrated.engine.backend import Observer, StepResult


class Witness(Observer):
    """Records the result of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, MigrationDirection, Sequence[str]]] = []

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        self.seen.append((done.entry.version, direction, done.dropped))


def dropped_by(database: Path, text: str) -> list[str]:
    """Apply the script to an existing database and return the reported losses."""
    witness = Witness()
    runner = MigrationRunner(database, observer=witness)
    runner.add_migration(Migration(1, "rebuild", text))
    runner.run()
    ((_, _, dropped),) = witness.seen
    return list(dropped)


GROUND = """
CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b);
CREATE INDEX by_b ON t (b);
CREATE TABLE log (x);
CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;
CREATE VIEW seen AS SELECT x FROM log;
INSERT INTO t VALUES (1, 'one', 2);
"""
INDEX = "CREATE INDEX by_b ON t (b);\n"
TRIGGER = "CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;\n"
TEXTBOOK = """
CREATE TABLE t_new (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b, c);
INSERT INTO t_new (id, a, b) SELECT id, a, b FROM t;
DROP TABLE t;
ALTER TABLE t_new RENAME TO t;
"""
RENAME_AWAY = """
ALTER TABLE t RENAME TO t_old;
CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b, c);
INSERT INTO t (id, a, b) SELECT id, a, b FROM t_old;
DROP TABLE t_old;
"""
ORDERS = [pytest.param(TEXTBOOK, id="textbook"), pytest.param(RENAME_AWAY, id="renamed away")]


@pytest.fixture
def ground(database: Path) -> Path:
    """A table with an index and a trigger, and a view beside it."""
    execute(database, GROUND)
    return database


@pytest.mark.parametrize("rebuild", ORDERS)
@pytest.mark.parametrize(
    ("again", "lost"),
    [
        pytest.param("", ["index by_b", "trigger noted"], id="both lost"),
        pytest.param(TRIGGER, ["index by_b"], id="the index lost"),
        pytest.param(INDEX, ["trigger noted"], id="the trigger lost"),
        pytest.param(INDEX + TRIGGER, [], id="nothing lost"),
    ],
)
def test_rebuild_reports_lost_objects(ground: Path, rebuild: str, again: str, lost: list[str]) -> None:
    assert dropped_by(ground, rebuild + again) == lost
    there = {row[0] for row in query(ground, "SELECT name FROM sqlite_schema WHERE name IN ('by_b', 'noted')")}
    assert {f"index {name}" if name == "by_b" else f"trigger {name}" for name in {"by_b", "noted"} - there} == set(
        lost
    )


@pytest.mark.parametrize("rebuild", ORDERS)
@pytest.mark.parametrize(
    "again",
    [
        pytest.param(
            "CREATE INDEX other ON t (b);\n"
            "CREATE TRIGGER another AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;",
            id="under other names",
        ),
        pytest.param(
            "create  index OTHER\n  on T (B);\n"
            "create trigger ANOTHER after insert ON T begin insert into LOG values (NEW.id); end;",
            id="in other letters",
        ),
        pytest.param(
            "CREATE INDEX By_B ON t (b, id);\n"
            "CREATE TRIGGER NOTED AFTER UPDATE ON t BEGIN INSERT INTO log VALUES (1); END;",
            id="under the same names, as something else",
        ),
        pytest.param(
            'CREATE INDEX "the ON one" ON t (b);\n'
            'CREATE TRIGGER "do it ON insert" AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END;',
            id="under names with a keyword in them",
        ),
    ],
)
def test_recreated_objects_are_not_reported(ground: Path, rebuild: str, again: str) -> None:
    assert dropped_by(ground, rebuild + again) == []


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        pytest.param(f"DROP INDEX by_b; DROP TRIGGER noted; {TEXTBOOK}", [], id="before the rebuild"),
        pytest.param(f"DROP INDEX BY_B; {TEXTBOOK}", ["trigger noted"], id="one of two"),
        pytest.param(
            "ALTER TABLE t RENAME TO t_old; DROP INDEX by_b; DROP TRIGGER noted;"
            "CREATE TABLE t (id); DROP TABLE t_old",
            [],
            id="in the middle of the rebuild",
        ),
        pytest.param(
            f"{TEXTBOOK} {INDEX} {TRIGGER} DROP INDEX by_b; DROP TRIGGER noted", [], id="after the rebuild"
        ),
        pytest.param("DROP INDEX by_b; DROP TRIGGER noted", [], id="without a rebuild"),
    ],
)
def test_objects_dropped_by_name_are_not_reported(ground: Path, text: str, lost: list[str]) -> None:
    assert dropped_by(ground, text) == lost


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("DROP TABLE t", id="a table dropped for good"),
        pytest.param("DROP TABLE t; CREATE TABLE other (x)", id="another table comes"),
        pytest.param("DROP TABLE t; CREATE VIEW t AS SELECT 1 AS x", id="a view comes in its place"),
        pytest.param("DROP VIEW seen; CREATE VIEW seen AS SELECT 1 AS id", id="a view rebuilt"),
        pytest.param("ALTER TABLE t RENAME TO other", id="a table renamed"),
        pytest.param("ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t", id="renamed there and back"),
        pytest.param("ALTER TABLE t ADD COLUMN c DEFAULT 7", id="a column added"),
        pytest.param("ALTER TABLE t RENAME COLUMN b TO bb", id="a column renamed"),
        pytest.param("ALTER TABLE t RENAME COLUMN id TO number", id="a column renamed that a trigger uses"),
        pytest.param("ALTER TABLE t ADD COLUMN c; ALTER TABLE t DROP COLUMN c", id="a column dropped"),
        pytest.param("DELETE FROM t; REINDEX; ANALYZE", id="nothing of the kind"),
        pytest.param("CREATE TABLE u (x UNIQUE); DROP TABLE u; CREATE TABLE u (x)", id="a table of its own"),
    ],
)
def test_nothing_is_reported_without_a_loss(ground: Path, text: str) -> None:
    assert dropped_by(ground, text) == []


def test_constraints_own_indexes_are_part_of_the_table(database: Path) -> None:
    execute(database, "CREATE TABLE t (a PRIMARY KEY, b UNIQUE, UNIQUE (b, a))")

    assert dropped_by(database, "DROP TABLE t; CREATE TABLE t (a, b)") == []


def test_losses_of_several_tables_are_reported_together(ground: Path) -> None:
    execute(ground, "CREATE TABLE u (x, y); CREATE INDEX by_x ON u (x); CREATE UNIQUE INDEX by_y ON u (y)")

    lost = dropped_by(
        ground,
        "CREATE TABLE new (x, y); DROP TABLE u; ALTER TABLE new RENAME TO u; CREATE INDEX by_x ON u (x);"
        f"{TEXTBOOK} {TRIGGER}",
    )
    assert sorted(lost) == ["index by_b", "index by_y"]


def test_same_definition_made_only_once_of_two_is_one_lost(database: Path) -> None:
    """Two equal triggers are two: a row is written twice."""
    body = "AFTER INSERT ON t BEGIN INSERT INTO log VALUES (1); END;"
    execute(
        database,
        f"CREATE TABLE t (x); CREATE TABLE log (x); CREATE TRIGGER one {body} CREATE TRIGGER two {body}",
    )

    lost = dropped_by(database, f"DROP TABLE t; CREATE TABLE t (x); CREATE TRIGGER three {body}")
    assert len(lost) == 1


def test_index_that_is_no_longer_unique_is_reported(database: Path) -> None:
    execute(database, "CREATE TABLE t (x); CREATE UNIQUE INDEX one_each ON t (x)")

    assert dropped_by(database, "DROP TABLE t; CREATE TABLE t (x); CREATE INDEX by_x ON t (x)") == [
        "index one_each"
    ]


def test_trigger_for_another_event_is_reported_as_lost(database: Path) -> None:
    """They differ only before the word ON."""
    body = "ON t BEGIN INSERT INTO log VALUES (1); END;"
    execute(database, f"CREATE TABLE t (x); CREATE TABLE log (x); CREATE TRIGGER one AFTER DELETE {body}")

    lost = dropped_by(database, f"DROP TABLE t; CREATE TABLE t (x); CREATE TRIGGER two AFTER INSERT {body}")
    assert lost == ["trigger one"]


@pytest.mark.parametrize(
    "name", ["odd name", "Größe", "ÄRGER", 'qu"ote', "it's", "select", "日本", "a;b", "T_1", "100%"]
)
def test_unusual_names_are_reported(database: Path, name: str) -> None:
    quoted, index = ('"' + text.replace('"', '""') + '"' for text in (name, f"by {name}"))
    execute(database, f"CREATE TABLE {quoted} (x); CREATE INDEX {index} ON {quoted} (x)")

    lost = dropped_by(database, f"DROP TABLE {quoted}; CREATE TABLE {quoted} (x)")
    assert lost == [f"index by {name}"]


def test_tables_whose_names_differ_beyond_ascii_are_two(database: Path) -> None:
    """SQLite folds only ASCII letters."""
    execute(
        database,
        'CREATE TABLE "Ö" (x); CREATE TABLE "ö" (x); CREATE INDEX great ON "Ö" (x); CREATE INDEX small ON "ö" (x)',
    )

    lost = dropped_by(database, 'DROP TABLE "Ö"; DROP TABLE "ö"; CREATE TABLE "Ö" (x); CREATE TABLE "ö" (x)')
    assert sorted(lost) == ["index great", "index small"]


def test_index_created_before_the_rename_is_not_reported(ground: Path) -> None:
    """SQLite then rewrites the definition, with the table's name in quotes."""
    rebuild = TEXTBOOK.replace("DROP TABLE t;", "CREATE INDEX by_b_2 ON t_new(b); DROP TABLE t;")

    assert dropped_by(ground, rebuild + TRIGGER) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("b + 1", "b - 1", id="another expression"),
        pytest.param("b) WHERE a = 'x'", "b) WHERE a = 'y'", id="another condition"),
        pytest.param("b) WHERE a = 'x'", "b) WHERE a = 'X'", id="another letter in a text"),
        pytest.param("b", "b, id", id="more columns"),
        pytest.param("b", "b DESC", id="another order"),
    ],
)
def test_another_index_does_not_stand_for_a_lost_one(database: Path, old: str, new: str) -> None:
    made, again = (f"CREATE INDEX {{}} ON t ({text}{')' * (text.count(')') == 0)}" for text in (old, new))
    execute(database, f"CREATE TABLE t (id, a, b); {made.format('one')}")

    assert dropped_by(database, f"DROP TABLE t; CREATE TABLE t (id, a, b); {again.format('two')}") == ["index one"]


@pytest.mark.parametrize("rebuild", ORDERS)
def test_name_in_other_letters_is_the_same_table(ground: Path, rebuild: str) -> None:
    assert dropped_by(ground, rebuild.replace(" t ", " T ").replace(" t;", " T;")) == [
        "index by_b",
        "trigger noted",
    ]


def test_temporary_objects_are_not_reported(ground: Path) -> None:
    text = f"CREATE TEMP TRIGGER tt AFTER INSERT ON t BEGIN SELECT 1; END; {TEXTBOOK} {INDEX} {TRIGGER}"

    assert dropped_by(ground, text) == []


def test_temporary_table_of_the_same_name_is_a_different_table(ground: Path) -> None:
    assert dropped_by(ground, "CREATE TEMP TABLE t (x); DROP TABLE temp.t") == []


@pytest.mark.parametrize("rebuild", ORDERS)
def test_losses_are_reported_without_a_transaction(ground: Path, rebuild: str) -> None:
    text = f"-- migrated: no-transaction\n{rebuild}{INDEX}"

    assert dropped_by(ground, text) == ["trigger noted"]


def test_losses_are_reported_in_the_first_run(database: Path) -> None:
    """On a new database several migrations share a transaction."""
    witness = Witness()
    runner = MigrationRunner(database, observer=witness)
    runner.add_migrations(
        [Migration(1, "ground", GROUND), Migration(2, "rebuild", TEXTBOOK), Migration(3, "m", INDEX)]
    )
    runner.run()

    assert [list(dropped) for _, _, dropped in witness.seen] == [[], ["index by_b", "trigger noted"], []]


def test_losses_are_reported_in_a_rollback(ground: Path) -> None:
    witness = Witness()
    runner = MigrationRunner(ground, observer=witness)
    runner.add_migration(Migration(1, "noop", "SELECT 1").with_down(TEXTBOOK + INDEX))
    runner.run()
    runner.roll_back()

    assert [(version, way, list(dropped)) for version, way, dropped in witness.seen] == [
        (1, MigrationDirection.UP, []),
        (1, MigrationDirection.DOWN, ["trigger noted"]),
    ]


def test_event_is_a_warning_before_the_end_of_the_migration(ground: Path, migrations: Path) -> None:
    write_migration(migrations, 5, "rebuild", up=TEXTBOOK)
    write_migration(migrations, 6, "again", up=INDEX + TRIGGER + TEXTBOOK + INDEX + TRIGGER)

    lines = log_lines(migrated(ground.parent, "up").stderr)
    told = [line["event"] for line in lines]
    (line,) = [line for line in lines if line["event"] == "schema.objects_dropped"]
    assert (line["level"], line["version"], line["name"], line["direction"]) == ("warning", 5, "rebuild", "up")
    assert (line["database"], line["reason"]) == ("app.db", "index by_b, trigger noted")
    assert "index by_b, trigger noted" in line["message"]
    assert told.index("schema.objects_dropped") < told.index("migration.applied")
