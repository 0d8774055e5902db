import tracemalloc

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.core.sql import (
    LineComment,
    exact_tokens,
    first_token,
    has_statement,
    line_comments,
    statement_end,
    terminated,
)

TRIGGER = "CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET a = 1; SELECT 2; END;"
OPENINGS = [
    "SELECT 1",
    "CREATE TABLE t (a)",
    "CREATE /* c */ TABLE t (a)",
    "CREATE -- c\n TABLE t (a)",
    "CREATE TRIGGER g",
    "create temp trigger g",
    "CREATE TEMPORARY TRIGGER g",
    "CREATE /* ; */ TRIGGER g",
    "CREATE -- ;\n TRIGGER g",
    "EXPLAIN CREATE TRIGGER g",
    "EXPLAIN QUERY PLAN CREATE TRIGGER g",
]
FRAGMENTS = [
    *(";", ";", ";", "END", "end", "BEGIN", "CASE", "WHEN", "ENDS", "x", "1", "TRIGGER", "CREATE", "é", "€"),
    *("'", '"', "`", "[", "]", "''", "'a;b'", '"c;d"', "`e;f`", "[g;h]", "'END'", "(", ")", ",", "-", "/", "*"),
    *("--", "-- x ; y\n", "/*", "*/", "/* ; */", "/**/", " ", "\n", "\t", "->", "$", "_"),
]


def split(sql: str) -> list[str]:
    """Return the statements of a text, cut by `statement_end`."""
    pieces = []
    start = first_token(sql)
    while start is not None:
        end = statement_end(sql, start)
        pieces.append(sql[start:end])
        start = first_token(sql, end)
    return pieces


def ends_according_to_sqlite(sql: str) -> int:
    """Return the end of the first statement: the first semicolon that completes it."""
    ends = (at + 1 for at, character in enumerate(sql) if character == ";")
    return next((end for end in ends if apsw.complete(sql[:end])), len(sql))


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("", id="nothing"),
        pytest.param(" \t\n\f\r", id="white space"),
        pytest.param("-- SELECT 1;", id="line comment"),
        pytest.param("--", id="dashes alone"),
        pytest.param("-- one\n-- two\n", id="two line comments"),
        pytest.param("/* SELECT 1; */", id="block comment"),
        pytest.param("/* SELECT 1;", id="block comment left open"),
        pytest.param("/* /* */", id="block comments do not nest"),
        pytest.param("/*/ SELECT 1;", id="slash star slash does not close"),
        pytest.param(" ; ;; /* a */ ; -- b", id="semicolons"),
    ],
)
def test_text_without_a_statement(sql: str) -> None:
    assert not has_statement(sql)
    assert first_token(sql) is None


@pytest.mark.parametrize(
    ("sql", "offset"),
    [
        pytest.param("SELECT 1", 0, id="at once"),
        pytest.param("  SELECT 1", 2, id="after white space"),
        pytest.param("-- a\nSELECT 1", 5, id="after a line comment"),
        pytest.param("/* a */SELECT 1", 7, id="after a block comment"),
        pytest.param("/**/SELECT 1", 4, id="after an empty block comment"),
        pytest.param("/* a */ b */", 8, id="a block comment ends at the first closing"),
        pytest.param(";;SELECT 1", 2, id="after stray semicolons"),
        pytest.param("- 1", 0, id="one dash is no comment"),
        pytest.param("/ 1", 0, id="one slash is no comment"),
        pytest.param("'-- a'", 0, id="a string"),
        pytest.param("\v", 0, id="a vertical tab is no white space to SQLite"),
        pytest.param("\u00a0", 0, id="nor is a no-break space"),
    ],
)
def test_first_token_is_past_white_space_comments_and_semicolons(sql: str, offset: int) -> None:
    assert first_token(sql) == offset


def test_first_token_counts_from_the_start_of_the_text() -> None:
    assert first_token("SELECT 1;  SELECT 2", 9) == 11


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT 1;", id="plain"),
        pytest.param("SELECT ';';", id="semicolon in a string"),
        pytest.param("SELECT 'it''s;';", id="doubled quote"),
        pytest.param('SELECT ";";', id="semicolon in a double-quoted name"),
        pytest.param("SELECT `;`;", id="semicolon in a backquoted name"),
        pytest.param("SELECT [;];", id="semicolon in a bracketed name"),
        pytest.param("SELECT 1 -- ;\n;", id="semicolon in a line comment"),
        pytest.param("SELECT 1 /* ; */;", id="semicolon in a block comment"),
        pytest.param("SELECT '--';", id="dashes in a string"),
        pytest.param("SELECT '/*';", id="comment's opening in a string"),
        pytest.param("SELECT 1 - -1;", id="two minus signs apart"),
        pytest.param("SELECT CASE 1 WHEN 1 THEN 2 END;", id="CASE outside a trigger"),
        pytest.param("BEGIN;", id="BEGIN outside a trigger"),
        pytest.param("END;", id="END outside a trigger"),
        pytest.param(TRIGGER, id="trigger"),
        pytest.param(TRIGGER.replace("CREATE", "create temp"), id="temp trigger, lower case"),
        pytest.param(TRIGGER.replace("CREATE", "CREATE TEMPORARY"), id="temporary trigger"),
        pytest.param(TRIGGER.replace("CREATE", "EXPLAIN CREATE"), id="explained trigger"),
        pytest.param(TRIGGER.replace("CREATE", "EXPLAIN QUERY PLAN CREATE"), id="planned trigger"),
        pytest.param(TRIGGER.replace("CREATE", "CREATE /* ; */ -- ;\n"), id="comments before TRIGGER"),
        pytest.param(TRIGGER.replace("END;", "/* ; */ END -- ;\n ;"), id="comments around END"),
        pytest.param(TRIGGER.replace("2;", "CASE a WHEN 1 THEN 2 END;"), id="CASE in a trigger"),
        pytest.param(TRIGGER.replace("2;", "'; END;';"), id="the end in a string of a trigger"),
        pytest.param(TRIGGER.replace("2;", '2 AS "; END;";'), id="the end in a name of a trigger"),
        pytest.param(TRIGGER.replace("2;", "2; /* END; */ -- END;\n"), id="the end in comments of a trigger"),
        pytest.param(TRIGGER.replace("2;", "2; ENDS;"), id="a word that begins with END"),
        pytest.param(TRIGGER.replace("END;", "; END;"), id="empty statement in a trigger"),
        pytest.param("CREATE TABLE trigger (a);", id="table called trigger"),
        pytest.param("CREATE TRIGGERS g;", id="a word that begins with TRIGGER"),
        pytest.param("CREATE TABLE t (/* which */ trigger TEXT);", id="column called trigger"),
        pytest.param("CREATE /* a */ TABLE t (/* which */ trigger TEXT);", id="and comments on both sides"),
        pytest.param("DROP TRIGGER g;", id="DROP TRIGGER"),
    ],
)
def test_statement_ends_at_its_own_semicolon(statement: str) -> None:
    assert apsw.complete(statement)
    assert statement_end(f"{statement} SELECT 2; SELECT 3;", 0) == len(statement)


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT 1", id="no semicolon"),
        pytest.param("SELECT ';", id="string left open"),
        pytest.param('SELECT ";', id="name left open"),
        pytest.param("SELECT [;", id="bracket left open"),
        pytest.param("SELECT 1 /* ;", id="block comment left open"),
        pytest.param("SELECT 1 -- ;", id="line comment to the end"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END", id="trigger without the last one"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; SELECT 2;", id="trigger without END"),
    ],
)
def test_open_statement_ends_with_the_text(sql: str) -> None:
    assert statement_end(sql, 0) == len(sql)


def test_every_line_comment_is_found_with_its_surroundings() -> None:
    sql = "-- a\nSELECT 1, -- b\n (2 -- c\n); -- d\nSELECT 3 -- e"

    found = list(line_comments(sql))

    assert [
        LineComment(0, "-- a", inside_statement=False, after_open_statement=False),
        LineComment(sql.index("-- b"), "-- b", inside_statement=False, after_open_statement=True),
        LineComment(sql.index("-- c"), "-- c", inside_statement=True, after_open_statement=False),
        LineComment(sql.index("-- d"), "-- d", inside_statement=False, after_open_statement=False),
        LineComment(sql.index("-- e"), "-- e", inside_statement=False, after_open_statement=True),
    ] == found


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT '-- a';", id="in a string"),
        pytest.param("SELECT '\n-- a\n';", id="on a line of its own in a string"),
        pytest.param('SELECT "\n-- a\n";', id="in a double-quoted name"),
        pytest.param("SELECT `\n-- a\n`;", id="in a backquoted name"),
        pytest.param("SELECT [\n-- a\n];", id="in a bracketed name"),
        pytest.param("/*\n-- a\n*/", id="in a block comment"),
        pytest.param("SELECT 'it''s\n-- a\n';", id="after a doubled quote"),
        pytest.param("SELECT '\n-- a\n", id="in a string left open"),
        pytest.param("SELECT 1 - - 1", id="minus minus apart"),
    ],
)
def test_dashes_that_are_no_comment(sql: str) -> None:
    assert list(line_comments(sql)) == []


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        pytest.param("", False, id="at the top"),
        pytest.param("SELECT 1;", False, id="after a whole statement"),
        pytest.param("SELECT 1", False, id="after a statement that lacks only its semicolon"),
        pytest.param("SELECT (1)", False, id="after a closed parenthesis"),
        pytest.param("SELECT (1", True, id="in parentheses"),
        pytest.param("SELECT ((1)", True, id="in the outer of two parentheses"),
        pytest.param("SELECT '('", False, id="after a parenthesis in a string"),
        pytest.param("SELECT 1 /* ( */", False, id="after a parenthesis in a comment"),
        pytest.param("SELECT (1;", False, id="a semicolon ends a statement in any case"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t", True, id="before the body of a trigger"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1;", True, id="in the body of a trigger"),
        pytest.param(TRIGGER.removesuffix(";"), False, id="after a trigger that lacks only its semicolon"),
        pytest.param(TRIGGER, False, id="after a trigger"),
        pytest.param(
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END",
            True,
            id="after the END of a CASE in a trigger",
        ),
        pytest.param(
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END;",
            True,
            id="after the END of a CASE and a semicolon in a trigger",
        ),
    ],
)
def test_comment_knows_whether_a_statement_is_open_around_it(*, before: str, inside: bool) -> None:
    found = list(line_comments(f"{before}\n-- here\n"))

    assert [inside] == [comment.inside_statement for comment in found]


@pytest.mark.parametrize("first", ["-- (", "-- )", "-- '", "-- ;", "-- /*"])
def test_comment_text_does_not_affect_the_next_comment(first: str) -> None:
    found = list(line_comments(f"SELECT 1 {first}\n-- here\n, (2 {first}\n-- there\n) -- end\n;"))

    assert [first, "-- here", first, "-- there", "-- end"] == [comment.text for comment in found]
    assert [comment.inside_statement for comment in found] == [False, False, True, True, False]


HOW_OFTEN = 5_000
LARGE = {
    "one statement of many values": "INSERT INTO t VALUES " + "(1, 'it''s'), " * HOW_OFTEN + "(2, 'b');",
    "many statements": "INSERT INTO t VALUES (1, 'it''s');\n" * HOW_OFTEN,
    "one statement of many comments": "SELECT 1" + " -- (\n, 2" * HOW_OFTEN + ";",
    "many comments": "-- a\n" * HOW_OFTEN + "SELECT 1;",
    "many block comments": "/* * */ " * HOW_OFTEN + "SELECT 1;",
    "a block comment of many stars": "/* " + "* " * HOW_OFTEN + "*/ SELECT 1;",
    "many semicolons": "; " * HOW_OFTEN + "SELECT 1;",
    "a trigger of many statements": "CREATE TRIGGER g AFTER INSERT ON t BEGIN "
    + "SELECT 1; " * HOW_OFTEN
    + "END;",
}


@pytest.mark.parametrize("sql", [pytest.param(sql, id=name) for name, sql in LARGE.items()])
def test_large_text_takes_no_extra_memory(sql: str) -> None:
    """A repetition that can backtrack would store every iteration."""
    tracemalloc.start()
    try:
        start = first_token(sql)
        assert start is not None
        statement_end(sql, start)
        for _ in line_comments(sql):
            pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most < len(sql) / 4


@given(st.sampled_from(OPENINGS), st.lists(st.sampled_from(FRAGMENTS), max_size=25))
def test_statement_ends_where_sqlite_says(opening: str, rest: list[str]) -> None:
    sql = " ".join([opening, *rest])

    assert ends_according_to_sqlite(sql) == statement_end(sql, 0)


@given(st.lists(st.sampled_from([*FRAGMENTS, *OPENINGS, TRIGGER])))
def test_splitting_drops_only_text_between_statements(fragments: list[str]) -> None:
    """The gaps between the pieces contain no statement, and the pieces are in order."""
    sql = "\n".join(fragments)
    at = 0
    while (start := first_token(sql, at)) is not None:
        assert not has_statement(sql[at:start])
        at = statement_end(sql, start)

    assert not has_statement(sql[at:])


@given(st.lists(st.sampled_from([*FRAGMENTS, "(", ")", "-- UP", "\n"])))
def test_line_comment_is_the_rest_of_its_line(fragments: list[str]) -> None:
    sql = "".join(fragments)

    for comment in line_comments(sql):
        assert sql[comment.start :].partition("\n")[0] == comment.text


# Tokens


class Nulls(dict[str, object]):
    """Return a value for every parameter."""

    def __missing__(self, name: str) -> object:
        return None


def outcome(sql: str) -> object:
    """Run a text in SQLite; return the rows, or an error that names the offending token."""
    connection = apsw.Connection(":memory:")
    try:
        return connection.execute(sql, Nulls()).fetchall()
    except apsw.Error as error:
        return str(error)
    finally:
        connection.close()


PIECES = [
    *(
        "'",
        '"',
        "`",
        "[",
        "]",
        "(",
        ")",
        ";",
        ",",
        ".",
        "-",
        "+",
        "*",
        "/",
        "%",
        "=",
        "<",
        ">",
        "!",
        "|",
        "&",
        "~",
    ),
    *(
        "?",
        "@",
        ":",
        "#",
        "$",
        "\\",
        "^",
        "_",
        " ",
        "\n",
        "\t",
        "\f",
        "--",
        "-- c\n",
        "/*",
        "*/",
        "/* c */",
        "->>",
    ),
    *("x'41'", "x'4", "X''", "''", "it", "1", "0x1F", "1e5", "1e", "1.", "e-5", ".5", "1_0", "_1", "0x", "1.5e+3"),
    *("||", "<>", "::", "a", "x", "é", "€", "\u00a0", "\ufeff", "SELECT", "AS", "$a", "::b", "(c)"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
def test_tokens_are_those_of_sqlite(pieces: str) -> None:
    """Separated tokens mean the same as the original: none was split and no two were joined."""
    sql = f"SELECT {pieces}"

    assert outcome("\n".join(exact_tokens(sql))) == outcome(sql)


@given(st.text())
def test_tokens_and_what_stands_between_are_the_whole_text(text: str) -> None:
    rest = text
    for token in exact_tokens(text):
        _, found, rest = rest.partition(token)
        assert found


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param("CREATE TABLE t (a)", "CREATE TABLE t (a);", id="plain"),
        pytest.param("CREATE TABLE t (a) \n", "CREATE TABLE t (a) \n;", id="white space stays"),
        pytest.param("SELECT 1 -- it's ", "SELECT 1 -- it's\n;", id="line comment"),
        pytest.param("SELECT 1 -- a\n", "SELECT 1 -- a\n;", id="line comment that is ended"),
        pytest.param("SELECT '-- a'", "SELECT '-- a';", id="no comment"),
        pytest.param("SELECT 1 /* -- */", "SELECT 1 /* -- */;", id="block comment"),
        pytest.param("SELECT 1 /* a", "SELECT 1 /* a*/;", id="open block comment"),
        pytest.param("SELECT 1 /*/", "SELECT 1 /*/*/;", id="block comment that looks ended"),
        pytest.param("SELECT '/* a'", "SELECT '/* a';", id="no block comment"),
    ],
)
def test_statement_is_terminated_behind_its_comment(sql: str, expected: str) -> None:
    assert expected == terminated(sql)
    assert statement_end(expected, 0) == len(expected)
