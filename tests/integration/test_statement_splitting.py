"""What is split is what SQLite runs, on valid texts and on mutated ones."""

import random
from collections.abc import Iterator

import apsw
import pytest
from integration.scripts import GROUND

from migrated.core.sql import has_statement, statements

TEXTS = 20_000
STATEMENTS = [
    *(
        "SELECT 1",
        "SELECT 'it''s; -- '",
        'SELECT "end" FROM "select"',
        "SELECT [a;b] FROM `select`",
        "VALUES (1, '/*')",
    ),
    *("INSERT INTO plain (a) VALUES (1 - -1), ('--'), (x'3b')", "UPDATE plain SET a = b /* ; */ WHERE id = 1"),
    *(
        "CREATE TABLE new (a DEFAULT ';', b CHECK (b <> ';'))",
        "CREATE VIEW seen AS SELECT ';' AS \"x;y\" FROM plain",
    ),
    *(
        "CREATE TEMP TABLE trigger (a)",
        "DROP TABLE IF EXISTS new",
        "EXPLAIN SELECT 2",
        "EXPLAIN QUERY PLAN SELECT 3",
    ),
    "CREATE TRIGGER t1 AFTER INSERT ON plain BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; SELECT ';'; END",
    "create temp trigger t2 after delete on plain begin select 1; end",
    "CREATE /* ; */ TEMPORARY -- ;\n TRIGGER t3 UPDATE ON plain BEGIN SELECT '; END;'; /* END; */ SELECT 2; END",
    "EXPLAIN CREATE TRIGGER t4 DELETE ON plain BEGIN SELECT 1; SELECT 2; END",
    "EXPLAIN QUERY PLAN CREATE TRIGGER t5 DELETE ON plain BEGIN SELECT 1; SELECT 2; END",
]
BETWEEN = ["", "", " ", "\n", "\n", ";", "\n-- ; it's\n", "/* ; ' */", "/**/", "/* a */ -- b\n", "\ufeff", "\r\n"]
MUTATIONS = [
    *(
        "",
        "",
        " ",
        "\n",
        "\t",
        ";",
        "'",
        "''",
        '"',
        "`",
        "[",
        "]",
        "(",
        ")",
        "--",
        "-- x\n",
        "/*",
        "*/",
        "/**/",
        "-",
    ),
    *(
        "\ufeff",
        "\u00a0",
        "\v",
        "é",
        "€",
        "END",
        "end;",
        "BEGIN",
        "CASE",
        "CREATE ",
        "TEMP ",
        "TRIGGER ",
        "EXPLAIN ",
    ),
    *("x'", "1e", "$a", "::", "@", "?1", "#", "\\"),
]


def texts(seed: int, count: int) -> Iterator[str]:
    """Half of them as they were put together, half with one to three places changed."""
    chance = random.Random(seed)  # noqa: S311 - the same texts each time
    for number in range(count):
        text = chance.choice(BETWEEN)
        for _ in range(chance.randint(1, 5)):
            text += f"{chance.choice(STATEMENTS)}{chance.choice(['', ' ', chance.choice(BETWEEN)])};"
            text += chance.choice(BETWEEN)
        for _ in range(number % 2 * chance.randint(1, 3)):
            at = chance.randint(0, len(text))
            text = text[:at] + chance.choice(MUTATIONS) + text[at + chance.choice([0, 0, 1, 4]) :]
        yield text


def run_by_sqlite(connection: apsw.Connection, text: str) -> tuple[list[str], bool]:
    """The text that SQLite took for each statement that it ran, and whether it ran the whole text."""
    ran: list[str] = []

    def trace(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        ran.append(statement)
        return True

    cursor = connection.cursor()
    cursor.exec_trace = trace
    try:
        for _ in cursor.execute(text, AnyParameter(), can_cache=False):
            pass
    except apsw.Error:
        return ran, False
    return ran, True


class AnyParameter(dict[str, object]):
    """A value for every parameter."""

    def __missing__(self, name: str) -> object:
        return None


def assert_split_as_sqlite_runs(text: str) -> int:
    """Compare one text, and return how many statements were compared."""
    cut = statements(text)
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(GROUND).fetchall()
        ran, is_whole = run_by_sqlite(connection, text)
    finally:
        connection.close()
    # SQLite takes what stands before a statement together with it, and a text of nothing but comments as one.
    at, found = 0, []
    for piece in ran:
        if has_statement(piece):
            found.append((at, at + len(piece)))
        at += len(piece)
    assert len(found) <= len(cut), text
    for (start, end), (piece_start, piece_end) in zip(cut, found, strict=False):
        assert piece_start <= start < end <= piece_end, text
        assert not has_statement(text[piece_start:start]), text
        assert not has_statement(text[end:piece_end]), text
    if is_whole:
        assert len(found) == len(cut), text
    return len(found)


def compare(seed: int, count: int) -> None:
    compared = sum(assert_split_as_sqlite_runs(text) for text in texts(seed, count))

    assert compared > count


def test_split_statements_are_those_that_sqlite_runs() -> None:
    compare(seed=1, count=1_000)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 4))
def test_split_statements_of_many_texts_are_those_that_sqlite_runs(seed: int) -> None:
    compare(seed, TEXTS)
