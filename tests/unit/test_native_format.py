import hashlib
import re

import apsw
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import Directive, Migration, Place
from migrated.core.sql import continuation, first_token, statement_end
from migrated.sources.formats.native import FileName, decode, parse_migration

NAMED = FileName(7, "add_users")
FILE = "migrations/7_add_users.sql"
BOM = b"\xef\xbb\xbf"

TRIGGERS = [
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN\n-- DOWN\nSELECT 1;\n-- UP\nSELECT 2;\nEND;",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT CASE a WHEN 1 THEN 2 END;\n-- DOWN\nEND;",
    "CREATE TRIGGER g AFTER INSERT ON t\n-- DOWN\nWHEN new.a BEGIN SELECT 1; END;",
    "CREATE TEMP TRIGGER g AFTER INSERT ON t BEGIN SELECT 1;\n-- DOWN\nEND;",
    "create temporary trigger g after insert on t begin select 1;\n-- DOWN\nend;",
    "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT '; END;';\n-- DOWN\nEND;",
    "EXPLAIN CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1;\n-- DOWN\nEND;",
    "EXPLAIN QUERY PLAN CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1;\n-- DOWN\nEND;",
]
HARMLESS = [
    "SELECT '\n-- DOWN\n';",
    "SELECT 'it''s\n-- DOWN\n';",
    'SELECT 1 AS "\n-- DOWN\n";',
    "SELECT 1 AS `\n-- DOWN\n`;",
    "SELECT 1 AS [\n-- DOWN\n];",
    "/*\n-- DOWN\n*/\nSELECT 1;",
    "SELECT /*\n-- DOWN\n*/ 1;",
    "CREATE TABLE t (\n-- UP\na,\n-- DOWN\nb);",
    "INSERT INTO t VALUES (1, (\n-- DOWN\n2));",
]
STATEMENTS = [
    *TRIGGERS,
    *HARMLESS,
    "SELECT ';', '--', '/*', ';--';",
    "SELECT 1 -- ; DOWN\n;",
    "SELECT 1 /* ; */;",
    "CREATE TABLE t (a TEXT DEFAULT '-- UP');",
    "-- a comment; with 'one quote\nSELECT 1;",
    '/* a comment; with "one quote */ SELECT 1;',
    "SELECT CASE 1 WHEN 1 THEN 2 END;",
    "SELECT 'é€😀';",
]


def parse(text: str | bytes, named: FileName = NAMED) -> Migration:
    return parse_migration(named, text if isinstance(text, bytes) else text.encode(), file=FILE)


def refusal(text: str | bytes, named: FileName = NAMED) -> InvalidFormatError:
    with pytest.raises(InvalidFormatError) as caught:
        parse(text, named)
    return caught.value


def sections(text: str | bytes) -> tuple[str, str | None]:
    migration = parse(text)
    return migration.up_sql, migration.down_sql


def test_file_is_parsed_into_a_migration() -> None:
    migration = parse("-- UP\nCREATE TABLE t (a);\n\n-- DOWN\nDROP TABLE t;\n")

    assert migration == Migration(7, "add_users", "CREATE TABLE t (a);", "DROP TABLE t;")
    assert migration.origin is not None
    assert migration.origin.file == FILE


# Markers


@pytest.mark.parametrize("up", ["-- UP", "--UP", "-- up", "--Up", "--\t UP", "  -- UP", "\t-- UP \t", "--   uP  "])
@pytest.mark.parametrize("down", ["-- DOWN", "--DOWN", "-- down", " --\tDown "])
def test_marker_in_any_case_and_with_any_spaces(up: str, down: str) -> None:
    assert sections(f"{up}\nSELECT 1;\n{down}\nSELECT 2;\n") == ("SELECT 1;", "SELECT 2;")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("--- DOWN", id="three dashes"),
        pytest.param("-- DOWN:", id="colon"),
        pytest.param("-- DOWN;", id="semicolon"),
        pytest.param("-- DOWN the hill", id="a sentence"),
        pytest.param("-- go DOWN", id="a word before"),
        pytest.param("-- DOWNS", id="a longer word"),
        pytest.param("-- DOW", id="a shorter word"),
        pytest.param("-- DOWN --", id="dashes behind"),
        pytest.param("-- D OWN", id="a space inside"),
        pytest.param("-- +goose Down", id="another tool's marker"),
        pytest.param("-- migrate:down", id="a third tool's marker"),
        pytest.param("/* x */ -- DOWN", id="behind a block comment"),
        pytest.param("SELECT 3; -- DOWN", id="behind a statement"),
        pytest.param("; -- DOWN", id="behind a semicolon"),
        pytest.param("/* DOWN */", id="in a block comment"),
        pytest.param("-- \u00a0DOWN", id="a no-break space"),
    ],
)
def test_lookalike_of_a_marker_is_text(line: str) -> None:
    assert sections(f"-- UP\nSELECT 1;\n{line}\nSELECT 2;") == (f"SELECT 1;\n{line}\nSELECT 2;", None)


@pytest.mark.parametrize("statement", [*HARMLESS, *TRIGGERS])
def test_marker_inside_a_statement_is_text(statement: str) -> None:
    up = f"{statement}\nSELECT 1;"

    assert sections(f"-- UP\n{up}\n-- DOWN\nSELECT 2;") == (up, "SELECT 2;")


@pytest.mark.parametrize(
    "last",
    [
        pytest.param("SELECT 1", id="plain"),
        pytest.param("SELECT (1)", id="parentheses closed"),
        pytest.param("SELECT '('", id="parenthesis in a string"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END", id="trigger"),
        pytest.param("SELECT 1 -- no semicolon", id="comment behind"),
    ],
)
def test_marker_counts_after_a_last_statement_without_its_semicolon(last: str) -> None:
    assert sections(f"-- UP\n{last}\n-- DOWN\nSELECT 2") == (last, "SELECT 2")


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_statement_without_its_semicolon_ends_at_the_marker(trigger: str) -> None:
    """Text after the marker is parsed as a section, not as the rest of the statement."""
    migration = parse(f"-- UP\nCREATE TABLE a (x)\n-- DOWN\n{trigger}")

    assert (migration.up_sql, migration.down_sql) == ("CREATE TABLE a (x)", trigger)


def test_unterminated_string_extends_to_the_end_of_the_file() -> None:
    assert sections("-- UP\nSELECT 'a\n-- DOWN\nSELECT 2;") == ("SELECT 'a\n-- DOWN\nSELECT 2;", None)


def test_column_called_trigger_does_not_hide_the_down_section() -> None:
    up = "CREATE /* a */ TABLE t (/* which */ trigger TEXT);"

    assert sections(f"-- UP\n{up}\n-- DOWN\nDROP TABLE t;") == (up, "DROP TABLE t;")


def test_file_without_markers_is_all_up() -> None:
    assert sections("\n-- about users\nCREATE TABLE t (a);\n") == ("-- about users\nCREATE TABLE t (a);", None)


def test_sections_may_come_in_either_order() -> None:
    assert sections("-- DOWN\nSELECT 2;\n-- UP\nSELECT 1;") == ("SELECT 1;", "SELECT 2;")


def test_white_space_around_a_section_is_dropped_and_inside_it_kept() -> None:
    assert sections("-- UP\n\n \tSELECT  1;\n\n\nSELECT 2; \n\n-- DOWN\n\n\n") == (
        "SELECT  1;\n\n\nSELECT 2;",
        None,
    )


def test_second_marker_is_refused() -> None:
    error = refusal("-- UP\nSELECT 1;\n-- DOWN\nSELECT 2;\n-- up\nSELECT 3;")

    assert str(error) == (
        f"{FILE}:5: a second `-- UP` marker\nhint: a file has one UP and one DOWN section; make it two files"
    )


def test_down_without_up_is_refused() -> None:
    error = refusal("-- about users\n-- DOWN\nDROP TABLE t;")

    assert str(error) == (
        f"{FILE}:2: a DOWN section without an UP section\n"
        "hint: put a line `-- UP` above the statements that make the change"
    )


def test_statement_above_the_first_marker_is_refused() -> None:
    error = refusal("-- about users\n\nSELECT 0;\n-- UP\nSELECT 1;")

    assert str(error) == (
        f"{FILE}:3: a statement above the first marker\nhint: move it below `-- UP`; only comments may be above it"
    )


def test_refusal_names_the_migration() -> None:
    error = refusal("-- DOWN")

    assert (error.version, error.name, error.file, error.line) == (7, "add_users", FILE, 1)


# Bytes


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"-- UP\nSELECT '\n';\n-- DOWN\nSELECT 2;\n", id="LF"),
        pytest.param(b"-- UP\r\nSELECT '\r\n';\r\n-- DOWN\r\nSELECT 2;\r\n", id="CRLF"),
        pytest.param(b"-- UP\rSELECT '\r';\r-- DOWN\rSELECT 2;\r", id="CR"),
        pytest.param(b"-- UP\r\nSELECT '\n';\r-- DOWN\nSELECT 2;", id="all three"),
        pytest.param(BOM + b"-- UP\nSELECT '\n';\n-- DOWN\nSELECT 2;\n", id="byte-order mark"),
        pytest.param(BOM + b"-- UP\r\nSELECT '\r\n';\r\n-- DOWN\r\nSELECT 2;\r\n", id="byte-order mark and CRLF"),
    ],
)
def test_line_ends_and_byte_order_mark_are_normalised(content: bytes) -> None:
    migration = parse(content)

    assert migration == Migration(7, "add_users", "SELECT '\n';", "SELECT 2;")
    assert migration.checksum == hashlib.sha256(b"SELECT '\n';").hexdigest()


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "byte-order mark"])
def test_byte_that_is_not_utf8_is_reported_with_its_line(mark: bytes, ends: bytes) -> None:
    error = refusal(mark + ends.join([b"-- UP", b"SELECT 'caf\xc3\xa9';", b"SELECT 'caf\xe9';"]))

    assert str(error) == f"{FILE}:3: byte 0xe9 is not UTF-8\nhint: save the file as UTF-8"


def test_utf16_is_refused() -> None:
    error = refusal("-- UP\nSELECT 1;".encode("utf-16"))

    assert str(error) == f"{FILE}:1: byte 0xff is not UTF-8\nhint: save the file as UTF-8"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_nul_is_reported_with_its_line(ends: str) -> None:
    error = refusal(ends.join(["-- UP", "SELECT 1;", "SELECT '\0';"]))

    assert str(error) == f"{FILE}:3: a NUL character\nhint: SQL text cannot contain one; remove it"


def test_only_the_first_byte_order_mark_is_dropped() -> None:
    assert decode(BOM + BOM + b"SELECT 1;") == "\ufeffSELECT 1;"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"\n-- a\n\n  SELECT 1;\n\n", b"-- a\n\n  SELECT 1;", id="no markers: comments count"),
        pytest.param(b"-- a\n-- UP\n-- b\nSELECT 1;\n", b"-- b\nSELECT 1;", id="the header does not count"),
        pytest.param(b"-- UP\nSELECT 1;\n-- DOWN\nSELECT 2;", b"SELECT 1;", id="nor does the down section"),
        pytest.param(b"-- UP\nSELECT 1; -- c\n", b"SELECT 1; -- c", id="a comment behind the last statement"),
        pytest.param(b"-- UP\n", b"", id="nothing"),
    ],
)
def test_checksum_is_that_of_the_stripped_up_section(content: bytes, text: bytes) -> None:
    assert parse(content).checksum == hashlib.sha256(text).hexdigest()


# Where a section begins


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        pytest.param("SELECT 1;", Place(1, 1), Place(1, 1), id="at once"),
        pytest.param("\n\n  SELECT 1;", Place(3, 3), Place(1, 1), id="without markers"),
        pytest.param("-- a\n-- UP\n\n\tSELECT 1;", Place(4, 2), Place(1, 1), id="below a marker"),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN\n\n SELECT 2;", Place(2, 1), Place(5, 2), id="both"),
        pytest.param("-- UP\r\n\r\nSELECT 1;", Place(3, 1), Place(1, 1), id="CRLF counts once"),
        pytest.param("\ufeffSELECT 1;", Place(1, 1), Place(1, 1), id="a byte-order mark does not count"),
        pytest.param("-- UP\n-- b\nSELECT 1;", Place(2, 1), Place(1, 1), id="a comment belongs to the section"),
    ],
)
def test_origin_says_where_each_section_begins(text: str, up: Place, down: Place) -> None:
    origin = parse(text).origin

    assert origin is not None
    assert (up, down) == (origin.up, origin.down)


# The header


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("-- Migration: add_users\n-- Version: 7", id="both"),
        pytest.param("-- Version: 7", id="the version alone"),
        pytest.param("-- Version: 007", id="leading zeros"),
        pytest.param("--Version:7", id="without spaces"),
        pytest.param("--  Migration: \tadd_users \t", id="with many"),
        pytest.param("-- by: somebody\n\n/* and */\n-- Version: 7", id="among other comments"),
        pytest.param("-- Versions: 8", id="another word"),
        pytest.param("-- of Version: 8", id="in a sentence"),
        pytest.param("/*\n-- Version: 8\n*/", id="in a block comment"),
    ],
)
@pytest.mark.parametrize("marker", ["-- UP\n", ""], ids=["with marker", "without"])
def test_header_that_agrees_is_accepted(header: str, marker: str) -> None:
    assert parse(f"{header}\n{marker}SELECT 1;").version == 7


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("Migration: add_user", "add_users", id="another name"),
        pytest.param("Migration: Add_Users", "add_users", id="another case"),
        pytest.param("Migration: 7_add_users", "add_users", id="the file's name"),
        pytest.param("Migration: ", "add_users", id="no name"),
        pytest.param("Version: 8", "7", id="another version"),
        pytest.param("Version: 70", "7", id="a longer version"),
        pytest.param("Version: -7", "7", id="a negative version"),
        pytest.param("Version: 7.0", "7", id="a fraction"),
        pytest.param("Version: \u0667", "7", id="a digit of another script"),
        pytest.param("Version: 7 or so", "7", id="a remark behind"),
        pytest.param("Version: ", "7", id="no version"),
        pytest.param("Version: 0", "7", id="zero"),
    ],
)
@pytest.mark.parametrize("marker", ["-- UP\n", ""], ids=["with marker", "without"])
def test_header_that_disagrees_is_refused(header: str, expected: str, marker: str) -> None:
    error = refusal(f"-- about users\n-- {header}\n{marker}SELECT 1;")

    assert str(error) == (
        f"{FILE}:2: the header says `{header}`, the file name says {expected}\n"
        "hint: make them agree, or remove the header line"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("-- UP\n-- Version: 8\nSELECT 1;", id="below a marker"),
        pytest.param("\nSELECT 1;\n-- Version: 8", id="below a statement"),
        pytest.param("SELECT 1;\n-- Version: 8", id="below a statement at the very top"),
        pytest.param("SELECT 1;\n-- Migration: of the old users\nSELECT 2;", id="between statements"),
    ],
)
def test_header_is_read_only_at_the_top(text: str) -> None:
    assert parse(text).version == 7


# Directives


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        pytest.param(
            "-- migrated: no-transaction\n-- UP\nVACUUM;\n-- DOWN\nVACUUM;",
            {Directive.NO_TRANSACTION},
            {Directive.NO_TRANSACTION},
            id="in the header, for both",
        ),
        pytest.param(
            "-- UP\n-- migrated: no-transaction\nVACUUM;\n-- DOWN\nSELECT 2;",
            {Directive.NO_TRANSACTION},
            set(),
            id="for up",
        ),
        pytest.param(
            "-- UP\nSELECT 1;\n-- DOWN\n-- migrated: foreign-keys=on\nSELECT 2;",
            set(),
            {Directive.FOREIGN_KEYS_ON},
            id="for down",
        ),
        pytest.param(
            "-- migrated: no-transaction\n-- UP\n-- migrated: foreign-keys=on\nSELECT 1;",
            {Directive.NO_TRANSACTION, Directive.FOREIGN_KEYS_ON},
            {Directive.NO_TRANSACTION},
            id="in both places",
        ),
        pytest.param(
            "-- migrated: no-transaction\nVACUUM;", {Directive.NO_TRANSACTION}, set(), id="without markers"
        ),
        pytest.param("SELECT '\n-- migrated: what\n';", set(), set(), id="not in a string"),
        pytest.param("/*\n-- migrated: what\n*/ SELECT 1;", set(), set(), id="not in a block comment"),
    ],
)
def test_directive_applies_to_its_section(text: str, up: set[Directive], down: set[Directive]) -> None:
    migration = parse(text)

    assert (frozenset(up), frozenset(down)) == (migration.up_directives, migration.down_directives)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("-- migrated: no-transactions\n-- UP\nSELECT 1;", 1, id="in the header"),
        pytest.param("-- UP\n-- migrated: no-transactions\nSELECT 1;", 2, id="in the up section"),
        pytest.param("-- UP\n-- DOWN\n\n-- migrated: no-transactions", 4, id="in the down section"),
        pytest.param("SELECT 1;\n-- migrated: no-transactions\n", 2, id="below a statement"),
        pytest.param("SELECT 1, (\n-- migrated: no-transactions\n2);", 2, id="in a statement"),
        pytest.param(
            "CREATE TRIGGER g AFTER INSERT ON t BEGIN\n-- migrated: no-transactions\nSELECT 1; END;",
            2,
            id="in a trigger",
        ),
    ],
)
def test_unknown_directive_is_refused_wherever_it_stands(text: str, line: int) -> None:
    error = refusal(text)

    assert str(error) == (
        f"{FILE}:{line}: unknown directive 'no-transactions'\n"
        "hint: use one of: no-transaction, foreign-keys=on, nothing-to-do, nothing-to-undo; or remove the line"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("SELECT 1;\n-- migrated: no-transaction", 2, id="without markers"),
        pytest.param("-- UP\nSELECT 1;\n-- migrated: no-transaction\nSELECT 2;", 3, id="between statements"),
        pytest.param("-- UP\nSELECT 1; -- migrated: no-transaction", 2, id="behind a statement"),
        pytest.param("-- UP\nSELECT 1\n-- migrated: no-transaction\n;", 3, id="in a statement"),
        pytest.param("-- UP\nSELECT (\n-- migrated: no-transaction\n1);", 3, id="in parentheses"),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN\nSELECT 2;\n-- migrated: no-transaction", 5, id="in down"),
    ],
)
def test_directive_below_a_statement_is_refused(text: str, line: int) -> None:
    error = refusal(text)

    assert str(error) == (
        f"{FILE}:{line}: the directive 'no-transaction' is below a statement\n"
        "hint: move it to the top of its section, or above the first marker"
    )


# Drafts, and rollbacks that there are not


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        pytest.param("", True, id="empty file"),
        pytest.param("\ufeff\r\n", True, id="empty but for its encoding"),
        pytest.param("-- to do", True, id="comment"),
        pytest.param("-- UP\n-- DOWN\n", True, id="markers alone"),
        pytest.param("-- UP\n/* to do */ ;\n-- DOWN\nDROP TABLE t;", True, id="down section alone"),
        pytest.param("-- UP\nSELECT 1", False, id="statement"),
        pytest.param("-- UP\n-- migrated: nothing-to-do\n", False, id="on purpose"),
        pytest.param("-- migrated: nothing-to-do\n-- UP\n", False, id="on purpose, in the header"),
        pytest.param("-- migrated: nothing-to-do", False, id="on purpose, without markers"),
    ],
)
def test_draft_is_an_up_section_without_a_statement(*, text: str, draft: bool) -> None:
    assert draft is parse(text).is_draft


@pytest.mark.parametrize(
    ("text", "down"),
    [
        pytest.param("SELECT 1;", None, id="no section"),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN", None, id="empty section"),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN\n-- cannot be undone\n;", None, id="comment"),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN\n-- migrated: no-transaction", None, id="other directive"),
        pytest.param(
            "-- UP\nSELECT 1;\n-- DOWN\n-- migrated: nothing-to-undo",
            "-- migrated: nothing-to-undo",
            id="on purpose",
        ),
        pytest.param("-- UP\nSELECT 1;\n-- DOWN\nSELECT 2;", "SELECT 2;", id="statement"),
    ],
)
def test_down_section_without_effect_counts_as_none(text: str, down: str | None) -> None:
    migration = parse(text)

    assert down == migration.down_sql
    assert migration.is_reversible is (down is not None)


@pytest.mark.parametrize(
    ("text", "directive", "section"),
    [
        ("-- UP\n-- migrated: nothing-to-undo\nSELECT 1;\n-- DOWN", "nothing-to-undo", "UP"),
        ("-- DOWN\n\n-- UP\n-- migrated: nothing-to-undo\nSELECT 1;", "nothing-to-undo", "UP"),
    ],
)
def test_directive_of_the_other_section_is_an_error(text: str, directive: str, section: str) -> None:
    with pytest.raises(InvalidFormatError) as caught:
        parse(text)

    assert caught.value.message == f"the directive '{directive}' has no meaning in the {section} section"
    assert caught.value.line == text[: text.index("-- migrated")].count("\n") + 1


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        pytest.param(
            "-- UP\nCREATE TABLE t (x)\n-- DOWN\nDROP TABLE t", "CREATE TABLE t (x)", "DROP TABLE t", id="DROP"
        ),
        pytest.param("-- UP\nSELECT 1\n-- DOWN\n\n/* c */ with x", "SELECT 1", "/* c */ with x", id="any case"),
        pytest.param("-- UP\nSELECT 1\n-- DOWN\n-- nothing\n", "SELECT 1", None, id="nothing at all"),
        pytest.param(
            "-- UP\nUPDATE t SET a = 1\n-- DOWN\nWHERE id = 2;",
            "UPDATE t SET a = 1\n-- DOWN\nWHERE id = 2;",
            None,
            id="the same statement goes on",
        ),
        pytest.param(
            "-- UP\nSELECT CASE WHEN 1 THEN 2\n-- DOWN\nEND;",
            "SELECT CASE WHEN 1 THEN 2\n-- DOWN\nEND;",
            None,
            id="CASE",
        ),
        pytest.param("-- UP\nSELECT a\n-- DOWN\n, b;", "SELECT a\n-- DOWN\n, b;", None, id="a comma"),
        pytest.param("-- UP\nSELECT a;\n-- DOWN\nWHERE 1;", "SELECT a;", "WHERE 1;", id="after a semicolon"),
        pytest.param("-- UP\nSELECT a\n-- DOWN\nselected;", "SELECT a\n-- DOWN\nselected;", None, id="lookalike"),
    ],
)
def test_marker_after_a_missing_semicolon_counts_where_a_statement_may_begin(
    text: str, up: str, down: str | None
) -> None:
    migration = parse(text)

    assert (up, down) == (migration.up_sql, migration.down_sql)


# Laws


def pieces(sql: str) -> list[str]:
    found = []
    start = first_token(sql)
    while start is not None:
        end = statement_end(sql, start)
        found.append(sql[start:end])
        start = first_token(sql, end)
    return found


@given(
    st.lists(st.sampled_from(STATEMENTS)),
    st.lists(st.sampled_from(STATEMENTS)),
    st.sampled_from(["\n", "\n\n", " ", "\n-- between\n", "\n/* between; */\n"]),
)
def test_sections_round_trip(ups: list[str], downs: list[str], between: str) -> None:
    up, down = between.join(ups), between.join(downs)

    assert sections(f"-- about users\n-- UP\n{up}\n\n-- DOWN\n{down}\n") == (up, down or None)


@given(st.lists(st.sampled_from(STATEMENTS), min_size=1))
def test_statements_of_a_section_are_whole_to_sqlite(statements: list[str]) -> None:
    found = pieces("\n".join(statements))

    assert len(statements) == len(found)
    assert [piece for piece in found if not apsw.complete(piece)] == []


@given(
    st.lists(st.sampled_from(STATEMENTS), min_size=1), st.sampled_from(["\r\n", "\r"]), st.sampled_from([b"", BOM])
)
def test_line_ends_and_byte_order_mark_do_not_change_the_migration(
    statements: list[str], ends: str, mark: bytes
) -> None:
    text = "-- UP\n" + "\n".join(statements)

    assert parse(text) == parse(mark + text.replace("\n", ends).encode())


SOUP = [
    *("-- UP", "-- DOWN", "-- migrated: no-transaction", "-- migrated: x", "-- Version: 7", "-- Version: x"),
    *("\n", "\r\n", "\r", ";", "'", '"', "`", "[", "]", "(", ")", "--", "/*", "*/", "\ufeff", "\0", "é", "\u2028"),
    *("CREATE", "TRIGGER", "TEMP", "EXPLAIN", "BEGIN", "END", " ", "SELECT 1"),
]


@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(st.sampled_from(SOUP)).map(lambda parts: "".join(parts).encode())
)
@example(b"\xef\xbb\xbf\xff")
@example(b"\xef\xbb\xbf\n\xc3")
def test_any_content_is_a_migration_or_an_invalid_file(content: bytes) -> None:
    try:
        migration = parse(content)
    except InvalidFormatError:
        return

    assert migration.up_sql == migration.up_sql.strip()
    assert migration.checksum == hashlib.sha256(migration.up_sql.encode()).hexdigest()
    assert re.sub(r"\r\n?", "\n", content.decode("utf-8-sig")).find(migration.up_sql) >= 0


def test_markers_in_a_continued_statement_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counting(sql: str, start: int) -> int | None:
        looks.append(start)
        return continuation(sql, start)

    monkeypatch.setattr("migrated.core.sections.continuation", counting)
    text = "-- UP\nDELETE FROM t\n" + "-- DOWN\n" * 1000 + "WHERE a = 1;\n"

    assert parse_migration(NAMED, text.encode(), file=FILE).down_sql is None
    assert len(looks) == 1
