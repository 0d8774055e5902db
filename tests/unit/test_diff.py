"""Differences between an applied text and the present one: diff and verdict."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.core.diff import LONGEST_EXCERPT, UNRECORDED, Change, Difference, Verdict, change, excerpt
from migrated.core.migration import Directive, Migration, Origin, Place
from migrated.core.records import AppliedMigration

WHEN = datetime(2024, 1, 1, 12, tzinfo=UTC)
NO_TRANSACTION = "-- migrated: no-transaction\n"
TOKENS = [
    *(
        "SELECT",
        "select",
        "a",
        "A",
        "_x1",
        "é",
        "1",
        "1.5e-3",
        ".5",
        "0x1F",
        "x'41'",
        "'it''s'",
        "'-- no comment'",
    ),
    *(
        '"a b"',
        "`c`",
        "[d]",
        "(",
        ")",
        ",",
        "*",
        "+",
        "=",
        "==",
        "<",
        "<=",
        "||",
        "->",
        "->>",
        ".",
        ";",
        ":p",
        "?1",
    ),
]
BLANKS = [" ", "\n", "\t", "\r\n", "-- c\n", "--\n", "/* c */", "/* ' ; */ ", " -- 'a\n"]
SQL = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12)
LINES = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=30)


def compared(
    old: Migration | None, new: Migration, *, checksum: str | None = None, applied_at: datetime = WHEN
) -> Change:
    """Compare `new` with a database that has `old`; the ledger entry may have another checksum."""
    checksum = checksum or (old.checksum if old else "0" * 64)
    return change(AppliedMigration(new.version, new.name, checksum, applied_at, 0), new, old)


def up(old: str, new: str, origin: Origin | None = None) -> Difference:
    found = compared(Migration(1, "m", old), Migration(1, "m", new, origin=origin)).up
    assert found is not None
    return found


def undone(difference: Difference, new: list[str]) -> list[str]:
    """Apply the diff in reverse, as `patch -R` does, and return the old lines."""
    old: list[str] = []
    at = 0
    for line in difference.hunks:
        if begins := re.fullmatch(r"@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@", line):
            start = int(begins[1]) - (begins[2] != "0")
            old += new[at:start]
            at = start
        elif line[0] == "-":
            old.append(line[1:])
        else:
            assert new[at] == line[1:]
            old += new[at : at + 1] if line[0] == " " else []
            at += 1
    return old + new[at:]


# The verdict


@given(st.data())
def test_white_space_and_comments_between_tokens_are_cosmetic(data: st.DataObject) -> None:
    tokens = data.draw(SQL)
    blanks = st.lists(st.sampled_from(BLANKS), min_size=1, max_size=3).map("".join)
    old, new = ("".join(part for token in tokens for part in (token, data.draw(blanks))) for _ in "on")
    if old == new:
        assert compared(Migration(1, "m", old), Migration(1, "m", new)).up is None
        return

    found = up(old, new)

    assert (found.verdict, found.reason) == (Verdict.COSMETIC, "only comments and white space differ")


@given(SQL, st.data())
def test_changed_token_is_a_real_difference(tokens: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(tokens) - 1))
    other = data.draw(st.sampled_from([token for token in TOKENS if token != tokens[place]]))
    changed = [*tokens[:place], other, *tokens[place + 1 :]]

    found = up(" ".join(tokens), "\n".join(changed))

    assert (found.verdict, found.reason) == (Verdict.REAL, "statements differ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("SELECT x'41' FROM t", "SELECT x '41' FROM t", id="a blob, and a column with a name"),
        pytest.param("SELECT 'it''s'", "SELECT 'it' 's'", id="a quote in a text, and a text with a name"),
        pytest.param("SELECT 'a b'", "SELECT 'a  b'", id="white space in a text"),
        pytest.param("SELECT '-- a'", "SELECT '-- b'", id="what looks like a comment in a text"),
        pytest.param("SELECT 'a'", "SELECT 'A'", id="letter case of a text"),
        pytest.param("CREATE TABLE t (a)", "CREATE TABLE t (A)", id="letter case of a name"),
        pytest.param("SELECT 1", "select 1", id="letter case of a keyword"),
        pytest.param("SELECT a", 'SELECT "a"', id="quotes around a name"),
        pytest.param("SELECT a<=b", "SELECT a< =b", id="an operator in two"),
        pytest.param("SELECT 1.5", "SELECT 1. 5", id="a number in two"),
        pytest.param("SELECT 1", "SELECT 1;", id="a semicolon"),
        pytest.param("SELECT 1", "", id="nothing"),
        pytest.param("SELECT 1", "SELECT 1 /*", id="a comment that SQLite does not take for one"),
    ],
)
def test_possible_change_of_meaning_is_a_real_difference(old: str, new: str) -> None:
    assert up(old, new).verdict is up(new, old).verdict is Verdict.REAL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("SELECT a,*FROM t", "SELECT a , * FROM t", id="punctuation"),
        pytest.param("SELECT(1)", "SELECT ( 1 )", id="parentheses"),
        pytest.param("SELECT 1-1", "SELECT 1 - 1", id="minus"),
        pytest.param("SELECT 1", "-- why\nSELECT 1", id="a comment above"),
        pytest.param("SELECT 1 -- a", "SELECT 1 /* ; */", id="another comment"),
        pytest.param("SELECT\t1", "SELECT\r\n\f1", id="every white space"),
    ],
)
def test_equal_tokens_for_sqlite_are_cosmetic(old: str, new: str) -> None:
    assert up(old, new).verdict is up(new, old).verdict is Verdict.COSMETIC


def test_changed_directive_is_a_real_difference() -> None:
    found = up("SELECT 1", f"{NO_TRANSACTION}SELECT 1")

    assert (found.verdict, found.reason) == (Verdict.REAL, "directives differ")


def test_directive_that_moves_between_header_and_section_is_cosmetic() -> None:
    header = frozenset({Directive.NO_TRANSACTION})
    old, new = Migration(1, "m", "SELECT 1", header=header), Migration(1, "m", f"{NO_TRANSACTION}SELECT 1")
    found = compared(old, new)

    assert found.up is not None
    assert found.up.verdict is Verdict.COSMETIC


# The sections


def test_same_text_is_no_change() -> None:
    found = compared(Migration(1, "m", "SELECT 1", "SELECT 2"), Migration(1, "renamed", "SELECT 1", "SELECT 2"))

    assert (found.up, found.down, found.is_mismatch) == (None, None, False)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("SELECT 2", "SELECT 3", Verdict.REAL),
        (None, "SELECT 3", Verdict.REAL),
        ("SELECT 2", None, Verdict.REAL),
        ("SELECT 2", "SELECT 2 -- two", Verdict.COSMETIC),
    ],
)
def test_changed_down_section_is_reported_with_an_equal_checksum(
    old: str | None, new: str | None, verdict: Verdict
) -> None:
    found = compared(Migration(1, "m", "SELECT 1", old), Migration(1, "m", "SELECT 1", new))

    assert (found.up, found.is_mismatch) == (None, False)
    assert found.down is not None
    assert found.down.verdict is verdict


@pytest.mark.parametrize("recorded", [None, Migration(1, "m", "SELECT 7", "SELECT 8")], ids=["none", "another"])
def test_recorded_text_with_another_checksum_is_not_compared(recorded: Migration | None) -> None:
    """Ledger entries made by hand, or by another program."""
    found = compared(recorded, Migration(1, "m", "SELECT 1", "SELECT 2"), checksum="f" * 64)

    assert (found.up, found.down) == (None, None)
    assert (found.is_mismatch, found.reason) == (True, UNRECORDED)


# The diff


def test_diff_has_labels_and_the_lines_of_the_file() -> None:
    old = Migration(7, "m", "CREATE TABLE t (\n  a,\n  b\n);\nSELECT 1;\nSELECT 2;\nSELECT 3;")
    origin = Origin("dir/7_m.sql", Place(line=4), Place(line=20))
    found = compared(old, Migration(7, "m", old.up_sql.replace("  b\n", "  b,\n  c\n"), origin=origin))

    assert found.up is not None
    assert found.diff(found.up) == [
        "--- as applied 2024-01-01 12:00:00 UTC",
        "+++ dir/7_m.sql",
        "@@ -4,6 +4,7 @@",
        " CREATE TABLE t (",
        "   a,",
        "-  b",
        "+  b,",
        "+  c",
        " );",
        " SELECT 1;",
        " SELECT 2;",
    ]


def test_down_section_has_its_own_lines() -> None:
    origin = Origin("7_m.sql", Place(line=4), Place(line=20))
    old, new = (Migration(7, "m", "SELECT 1", down, origin=origin) for down in ("a\nb", "a\nc"))
    found = compared(old, new).down

    assert found is not None
    assert found.hunks == ("@@ -20,2 +20,2 @@", " a", "-b", "+c")


def test_without_a_file_the_migration_is_named() -> None:
    found = compared(Migration(7, "m", "SELECT 1"), Migration(7, "m", "SELECT 2"))

    assert found.up is not None
    assert found.diff(found.up)[1:3] == ["+++ 7_m as it is now", "@@ -1 +1 @@"]


def test_label_of_several_databases_has_the_first_and_the_last_time() -> None:
    found = compared(Migration(7, "m", "SELECT 1"), Migration(7, "m", "SELECT 2"))
    times = [datetime(2024, 1, day, tzinfo=UTC) for day in (2, 1, 3)]

    assert found.up is not None
    assert found.diff(found.up, times)[0] == "--- as applied 2024-01-01 00:00:00 to 2024-01-03 00:00:00 UTC"


def test_empty_side_has_no_lines() -> None:
    assert up("SELECT 1", "").hunks == ("@@ -1 +0,0 @@", "-SELECT 1")
    assert up("", "SELECT 1").hunks == ("@@ -0,0 +1 @@", "+SELECT 1")


def test_only_a_line_feed_ends_a_line() -> None:
    assert up("a\u2028b\x0bc\rd", "a").hunks == ("@@ -1 +1 @@", "-a\u2028b\x0bc\rd", "+a")


@given(LINES, LINES)
def test_undoing_the_diff_gives_the_text_that_was_applied(old: list[str], new: list[str]) -> None:
    old, new = [*old, "end"], [*new, "end"]
    found = compared(Migration(1, "m", "\n".join(old)), Migration(1, "m", "\n".join(new))).up

    assert (old if found is None else undone(found, new)) == old


@pytest.mark.timeout(10)
def test_huge_texts_are_not_compared_line_by_line() -> None:
    """Comparing 100,000 lines would take a minute: they are shown as one replaced block."""
    old = [f"SELECT {number % 150};" for number in range(12_000)]
    new = [f"SELECT {number % 149};" for number in range(12_000)]
    found = up("\n".join(["same", *old, "same"]), "\n".join(["same", *new, "same"]))
    signs = "".join(line[0] for line in found.hunks)

    assert re.fullmatch(r"@-+\++", signs)
    assert undone(found, ["same", *new, "same"]) == ["same", *old, "same"]


# The excerpt


@pytest.mark.parametrize("more", [0, 1, 2])
def test_long_diff_is_cut_and_says_how_to_see_the_rest(more: int) -> None:
    lines = [str(number) for number in range(LONGEST_EXCERPT + more)]
    rest = {0: [], 1: ["… 1 more line: migrated diff 7"], 2: ["… 2 more lines: migrated diff 7"]}

    assert excerpt(lines, 7).split("\n") == lines[:LONGEST_EXCERPT] + rest[more]


def test_long_line_is_cut() -> None:
    assert excerpt(["+" + "x" * 1000], 7) == "+" + "x" * 199 + " …"
