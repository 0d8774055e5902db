"""The manual on a terminal: what is read from Markdown, and how a page is laid out."""

import re
from collections import Counter

import pytest
from support import ROOT

from migrated.cli import COMMANDS, manual
from migrated.cli.markdown import (
    Block,
    Code,
    Heading,
    Item,
    Link,
    Paragraph,
    Span,
    Style,
    Table,
    anchor,
    parse,
    spans,
)

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
SOURCES = {path.stem: path.read_text() for path in sorted((ROOT / "migrated" / "docs").glob("*.md"))}


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        pytest.param("# Title\n\n## Part\n", [Heading(1, "Title"), Heading(2, "Part")], id="headings"),
        pytest.param("one\ntwo\n\nthree\n", [Paragraph("one two"), Paragraph("three")], id="paragraphs"),
        pytest.param("- one\n  more\n- two\n", [Item("-", "one more"), Item("-", "two")], id="list"),
        pytest.param("1. one\n2. two\n", [Item("1.", "one"), Item("2.", "two")], id="numbered list"),
        pytest.param("text:\n- one\n", [Paragraph("text:"), Item("-", "one")], id="list right below a paragraph"),
        pytest.param("```sh\n# a\n\n  b\n```\n", [Code(("# a", "", "  b"))], id="fenced code"),
        pytest.param("```\n| a |\n```\ntext\n", [Code(("| a |",)), Paragraph("text")], id="code that is no table"),
        pytest.param(
            "    a\n\n      b\n\ntext\n", [Code(("a", "", "  b")), Paragraph("text")], id="indented code"
        ),
        pytest.param(
            "| a | b |\n|---|---|\n| 1 | |\n| | 2 |\n",
            [Table(("a", "b"), (("1", ""), ("", "2")))],
            id="table with empty cells",
        ),
        pytest.param("| a | |\n|---|---|\n| 1 | 2 |\n", [Table(("a", ""), (("1", "2"),))], id="empty header"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_blocks_are_read(text: str, blocks: list[Block]) -> None:
    assert list(parse(text)) == blocks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain", (Span("plain"),), id="plain"),
        pytest.param("a `b c` d", (Span("a "), Span("b c", Style.CODE), Span(" d")), id="code"),
        pytest.param(
            "`**` and `_x_`", (Span("**", Style.CODE), Span(" and "), Span("_x_", Style.CODE)), id="marks"
        ),
        pytest.param(
            "**a `b`:** c",
            (Span("a ", Style.BOLD), Span("b", Style.CODE), Span(":", Style.BOLD), Span(" c")),
            id="code in bold",
        ),
        pytest.param("see [x](y.md#z).", (Span("see "), Span("x"), Span(" (y.md#z)"), Span(".")), id="link"),
        pytest.param("[`x`](y.md)", (Span("x", Style.CODE), Span(" (y.md)")), id="code in a link"),
        pytest.param("([x](y.md))", (Span("("), Span("x"), Span(": y.md"), Span(")")), id="link in parentheses"),
        pytest.param(
            "([x](y.md) z)", (Span("("), Span("x"), Span(" (y.md)"), Span(" z)")), id="link and more in them"
        ),
        pytest.param("a[0] (b)", (Span("a[0] (b)"),), id="brackets that are no link"),
    ],
)
def test_inline_text_is_read(text: str, expected: tuple[Span, ...]) -> None:
    assert spans(text, lambda link: link.target) == expected


@pytest.mark.parametrize(
    ("link", "named"),
    [
        pytest.param(Link("x", "y.md"), "help y", id="another topic"),
        pytest.param(Link("x", "y.md#z"), "help y", id="a heading of another topic"),
        pytest.param(Link("x", "#changed-files"), 'see "Changed files"', id="a heading"),
        pytest.param(Link("changed files", "#changed-files"), "", id="a heading by its own title"),
        pytest.param(Link("x", "https://a.example/b.md"), "https://a.example/b.md", id="the web"),
        pytest.param(Link("x", "../../tests/a.md"), "tests/a.md", id="a file of the project"),
    ],
)
def test_target_of_a_link_is_named(link: Link, named: str) -> None:
    assert manual.references([Heading(2, "Changed files")], {"y": "help y"})(link) == named


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("# Title", ["Title", "====="], id="title"),
        pytest.param("## Part", ["Part", "----"], id="heading"),
        pytest.param("### Added", ["Added"], id="lowest heading"),
        pytest.param(
            "one two three four five six se", ["one two three four five", "six se"], id="filled to the width"
        ),
        pytest.param("a" * 40, ["a" * 40], id="a word is never broken"),
        pytest.param("a `b` **c**", ["a `b` c"], id="code and emphasis"),
        pytest.param("see [x](safety.md#security)", ["see x (migrated help", "safety)"], id="link"),
        pytest.param(
            "- one\n- two two two two two two two", ["- one", "- two two two two two two", "  two"], id="list"
        ),
        pytest.param("1. one\n\ntext", ["1. one", "", "text"], id="blank line after a list"),
        pytest.param(
            "```\na b c d e f g h i j k l m n o p q r s\n```",
            ["    a b c d e f g h i j k l m n o p q r s"],
            id="code is not filled",
        ),
        pytest.param("| a | b |\n|---|---|\n| `x` | yy |", ["a    b", "---  --", "`x`  yy"], id="aligned"),
        pytest.param("| a | |\n|---|---|\n| xx | y |", ["a", "--  -", "xx  y"], id="empty header"),
        pytest.param(
            "| a | b |\n|---|---|\n| x | one two three four five six |",
            ["a  b", "-  -----------------------", "x  one two three four five", "   six"],
            id="cell filled to what is left",
        ),
        pytest.param(
            "| a | b |\n|---|---|\n| one two three four | one two three four five six |",
            ["one two three four", "    one two three four", "    five six"],
            id="narrow: cells below each other",
        ),
        pytest.param(
            "| a | b | c |\n|---|---|---|\n| one two three | x | one two three four five |",
            ["one two three", "    b: x", "    c: one two three four", "    five"],
            id="narrow: with headers",
        ),
    ],
)
def test_layout_without_escapes(text: str, lines: list[str]) -> None:
    assert manual.render(list(parse(text)), 26, styled=False).splitlines() == lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("# Title", "\x1b[1m\x1b[4mTitle\x1b[0m", id="title"),
        pytest.param("## Part", "\x1b[1mPart\x1b[0m", id="heading"),
        pytest.param("### Added", "\x1b[4mAdded\x1b[0m", id="lowest heading"),
        pytest.param("a `b`, **c**", "a \x1b[1mb\x1b[0m, \x1b[1mc\x1b[0m", id="code and emphasis"),
        # What follows a line break must not depend on an escape before it: pagers draw lines one by one.
        pytest.param("`b c`", "\x1b[1mb\x1b[0m \x1b[1mc\x1b[0m", id="each word by itself"),
    ],
)
def test_layout_with_escapes(text: str, expected: str) -> None:
    assert manual.render(list(parse(text)), 80, styled=True) == f"{expected}\n"


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


@pytest.mark.parametrize("styled", [True, False], ids=["styled", "plain"])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("topic", SOURCES)
def test_no_word_of_a_topic_is_lost(topic: str, width: int, styled: bool) -> None:  # noqa: FBT001 - a parameter
    # Without the targets of links, the languages of code, and the headers that a narrow table does not show.
    source = re.sub(r"\]\([^)\s]+\)", "]", SOURCES[topic])
    source = re.sub(r"^```\w+$|^\|.*\|\n(?=\|---)", "", source, flags=re.MULTILINE)
    shown = ESCAPE.sub("", manual.render(manual.read(topic), width, styled=styled))

    assert _words(source) - _words(shown) == Counter()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("topic", SOURCES)
def test_lines_of_a_topic_are_no_wider_than_the_terminal(topic: str, width: int) -> None:
    page = [block for block in manual.read(topic) if not isinstance(block, Code)]
    shown = manual.render(page, width, styled=True).splitlines()

    assert [line for line in shown if len(ESCAPE.sub("", line)) > width and " " in line.strip()] == []


@pytest.mark.parametrize("topic", SOURCES)
def test_topics_use_only_the_markdown_that_is_read(topic: str) -> None:
    prose = re.sub(
        r"`[^`]+`", "", re.sub(r"^```.*?^```$|^    .*$", "", SOURCES[topic], flags=re.MULTILINE | re.DOTALL)
    )
    unknown = r"!\[|<\w|^>|^ +(?:[-*+]|\d+\.) |^[*+] |\]\[|(?<!\*)\*(?!\*)|\b__?\w|\\|^-{3,}$|`"

    assert re.findall(unknown, prose, re.MULTILINE) == []
    assert {block.level for block in manual.read(topic) if isinstance(block, Heading)} <= {1, 2, 3}


def test_topics_are_the_files_of_the_manual() -> None:
    assert manual.topics() == list(SOURCES)


def test_anchor_is_that_of_a_heading() -> None:
    assert anchor("Is everything healthy?") == "is-everything-healthy"


def test_hints_name_topics_and_commands_that_are_there() -> None:
    package = ROOT / "migrated"
    paths = [*package.rglob("*.py"), *package.rglob("*.md"), ROOT / "README.md"]
    named = {name for path in paths for name in re.findall(r"migrated help ([a-z][\w-]*)", path.read_text())}

    assert named >= {"configuration", "control", "repair", "service", "snapshots"}
    assert named - SOURCES.keys() - COMMANDS.keys() == set()
