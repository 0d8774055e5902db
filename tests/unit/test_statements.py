"""`statements` cuts a script exactly where SQLite does."""

import time

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integration.scripts import GROUND, Script, scripts

from migrated.core.sql import has_statement, statements

TRIGGER = "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; SELECT ';'; END;"


def pieces(sql: str) -> list[str]:
    return [sql[start:end] for start, end in statements(sql)]


def traced(sql: str) -> list[str]:
    """Return the text that SQLite consumes for each statement, including the gaps around it."""
    connection = apsw.Connection(":memory:")
    texts: list[str] = []

    def trace(_cursor: apsw.Cursor, text: str, _bindings: object) -> bool:
        texts.append(text)
        return True

    try:
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        connection.execute(GROUND).fetchall()
        cursor = connection.cursor()
        cursor.exec_trace = trace
        for _ in cursor.execute(sql, can_cache=False):
            pass
    finally:
        connection.close()
    return texts


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param(" \t\r\n\f;;-- SELECT 1;\n/* SELECT 2; */;", [], id="nothing but blanks and comments"),
        pytest.param("SELECT 1", ["SELECT 1"], id="one, open"),
        pytest.param("SELECT 1;", ["SELECT 1;"], id="one, closed"),
        pytest.param("SELECT 1;SELECT 2", ["SELECT 1;", "SELECT 2"], id="side by side"),
        pytest.param("\n-- a;\nSELECT 1; -- b;\n", ["SELECT 1;"], id="comments around"),
        pytest.param(";; SELECT 1;; ;SELECT 2;;", ["SELECT 1;", "SELECT 2;"], id="stray semicolons"),
        pytest.param("SELECT 1 -- a;\n;", ["SELECT 1 -- a;\n;"], id="comment before the semicolon"),
        pytest.param("SELECT 1 -- a", ["SELECT 1 -- a"], id="open, with a comment at the end"),
        pytest.param("SELECT 1 \n", ["SELECT 1 \n"], id="open, with blanks at the end"),
        pytest.param("SELECT ';', 'it''s;';", ["SELECT ';', 'it''s;';"], id="strings"),
        pytest.param('SELECT ";", `;`, [;];x', ['SELECT ";", `;`, [;];', "x"], id="quoted names"),
        pytest.param("SELECT ';", ["SELECT ';"], id="string left open"),
        pytest.param("SELECT 1; /* SELECT 2;", ["SELECT 1;"], id="comment left open"),
        pytest.param(f"{TRIGGER}{TRIGGER}", [TRIGGER, TRIGGER], id="triggers"),
        pytest.param(f"-- a\n{TRIGGER[:-1]}\n", [f"{TRIGGER[:-1]}\n"], id="trigger without its last semicolon"),
        pytest.param("BEGIN; SELECT 1; END;", ["BEGIN;", "SELECT 1;", "END;"], id="transaction"),
        pytest.param("SELECT 'é'; SELECT '🙂';", ["SELECT 'é';", "SELECT '🙂';"], id="offsets count characters"),
        pytest.param("SELECT 1;\r\n\r\nSELECT 2;\r\n", ["SELECT 1;", "SELECT 2;"], id="line ends of Windows"),
        pytest.param("SELECT (1;SELECT 2)", ["SELECT (1;", "SELECT 2)"], id="parenthesis left open"),
    ],
)
def test_statements_are_cut_out(sql: str, expected: list[str]) -> None:
    assert pieces(sql) == expected


@given(scripts())
def test_statements_are_those_that_sqlite_finds(script: Script) -> None:
    found = statements(script.text)
    texts = traced(script.text)
    at = 0
    for (start, end), text in zip(found, texts, strict=False):
        assert at <= start < end <= at + len(text)
        assert not has_statement(script.text[at:start])
        assert script.text[end : at + len(text)].strip(" \t\r\n;") == ""
        at += len(text)

    assert script.text.startswith("".join(texts))
    # A comment at the very end SQLite takes in as a statement of nothing.
    assert [text for text in texts[len(found) :] if has_statement(text)] == []
    assert len(texts) >= len(found)
    assert found == script.statements


@given(st.text(alphabet=";'\"`[]()-/* \nx", max_size=40))
def test_between_statements_there_are_none(sql: str) -> None:
    at = 0
    for start, end in statements(sql):
        assert at <= start < end
        assert not has_statement(sql[at:start])
        assert has_statement(sql[start:end])
        assert sql[end - 1] == ";" or end == len(sql)
        at = end

    assert not has_statement(sql[at:])


@pytest.mark.parametrize(
    "part",
    ["SELECT 1;", f"{TRIGGER}\n", ";", " ", "-- a\n", "/* a */", "SELECT 1 ", "CREATE /* a */ ", "'", "("],
)
def test_time_is_in_proportion_to_the_text(part: str) -> None:
    """If the scan were quadratic, eight times the text would take 64 times as long.

    What counts is the time of the processor, from a length on that takes it long enough to be measured.
    """

    def seconds(length: int) -> float:
        sql = part * (length // len(part))
        begun = time.thread_time()
        statements(sql)
        return time.thread_time() - begun

    length = 50_000
    while (short := seconds(length)) < 0.005:
        length *= 2

    assert any(seconds(8 * length) < 24 * short for _ in range(3))
