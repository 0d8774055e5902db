"""Read the Markdown of the manual: headings, paragraphs, lists, tables, code, links.

Only what the manual uses is understood. A list has one level, and its items have one paragraph each.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple, TypeAlias


class Style(Enum):
    """How a piece of text stands out."""

    PLAIN = "plain"
    BOLD = "bold"
    CODE = "code"


class Span(NamedTuple):
    """A piece of text in one style."""

    text: str
    style: Style = Style.PLAIN


class Link(NamedTuple):
    """A link, before it is known how its target is named to the reader."""

    text: str
    target: str


Text: TypeAlias = tuple[Span, ...]
Refer: TypeAlias = Callable[[Link], str]
"""Names the target of a link, to stand in parentheses after its text. An empty string: the text is enough."""


class Heading(NamedTuple):
    """A heading. The title of the page has level 1."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """Text that is filled to the width."""

    text: str


class Code(NamedTuple):
    """Lines that are shown as they are."""

    lines: tuple[str, ...]


class Item(NamedTuple):
    """An item of a list. `marker` is `-`, or a number with its full stop."""

    marker: str
    text: str


class Table(NamedTuple):
    """Cells by row. Each row has as many cells as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block: TypeAlias = Heading | Paragraph | Code | Item | Table

_HEADING = re.compile(r"(#+) (.*)")
_ITEM = re.compile(r"(-|\d+\.) +(.*)")
_INLINE = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|(\()?\[([^\]]*)\]\(([^)\s]+)\)")
_CODE_INDENT = "    "


def parse(text: str) -> Iterator[Block]:
    """The blocks of a page, in their order. Their text still has its inline Markdown: see `spans`."""
    lines = text.splitlines()
    start = 0
    while start < len(lines):
        line = lines[start]
        end = start + 1
        if line.startswith("```"):
            end = lines.index("```", end) + 1
            yield Code(tuple(lines[start + 1 : end - 1]))
        elif line.startswith(_CODE_INDENT):
            while end < len(lines) and (not lines[end] or lines[end].startswith(_CODE_INDENT)):
                end += 1
            block = "\n".join(each.removeprefix(_CODE_INDENT) for each in lines[start:end])
            yield Code(tuple(block.rstrip().split("\n")))
        elif line.startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield _table(lines[start:end])
        elif heading := _HEADING.fullmatch(line):
            yield Heading(len(heading[1]), heading[2])
        elif line:
            while end < len(lines) and _continues(lines[end]):
                end += 1
            joined = " ".join(each.strip() for each in lines[start:end])
            item = _ITEM.fullmatch(joined)
            yield Item(item[1], item[2]) if item else Paragraph(joined)
        start = end


def _continues(line: str) -> bool:
    """True if a line belongs to the paragraph or the item before it."""
    return bool(line) and not line.startswith(("|", "```")) and not _HEADING.match(line) and not _ITEM.match(line)


def _table(lines: Iterable[str]) -> Table:
    header, _, *rows = (line.strip().removeprefix("|").removesuffix("|").split("|") for line in lines)
    return Table(_stripped(header), tuple(map(_stripped, rows)))


def _stripped(cells: Iterable[str]) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in cells)


def spans(text: str, refer: Refer) -> Text:
    """The pieces of a block's text. A link becomes its text, and what `refer` says, in parentheses.

    In a link that already stands in parentheses a colon separates the two.
    """
    return tuple(span for span in _spans(text, Style.PLAIN, refer) if span.text)


def _spans(text: str, style: Style, refer: Refer) -> Iterator[Span]:
    position = 0
    for found in _INLINE.finditer(text):
        yield Span(text[position : found.start()], style)
        position = found.end()
        code, bold, parenthesis, label, target = found.groups()
        if code:
            yield Span(code, Style.CODE)
        elif bold:
            yield from _spans(bold, Style.BOLD, refer)
        else:
            yield Span(parenthesis or "", style)
            yield from _spans(label, style, refer)
            if reference := refer(Link(label, target)):
                is_enclosed = parenthesis and text.startswith(")", position)
                yield Span(f": {reference}" if is_enclosed else f" ({reference})", style)
    yield Span(text[position:], style)


def anchor(heading: str) -> str:
    """The part of a link after `#` that leads to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def bare(text: str) -> str:
    """A text without its inline Markdown, and without the targets of its links."""
    return "".join(span.text for span in spans(text, lambda _: ""))
