"""The manual on a terminal: its topics, and a page as text of a given width."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from migrated.cli.markdown import (
    Block,
    Code,
    Heading,
    Item,
    Link,
    Paragraph,
    Refer,
    Style,
    Table,
    Text,
    anchor,
    bare,
    parse,
    spans,
)

DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(__file__)), "docs")
_SUFFIX = ".md"
_CODE_MARGIN = "    "
_GAP = "  "
_NARROWEST_COLUMN = 20
_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_UNDERLINED = "\x1b[4m"
_HEADINGS = {1: f"{_BOLD}{_UNDERLINED}", 2: _BOLD, 3: _UNDERLINED}
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def topics() -> list[str]:
    """The names of all topics, in alphabetical order."""
    return sorted(name.removesuffix(_SUFFIX) for name in os.listdir(DIRECTORY) if name.endswith(_SUFFIX))


def read(topic: str) -> list[Block]:
    """The page of a topic. Raises `FileNotFoundError` if there is no such topic."""
    with open(os.path.join(DIRECTORY, topic + _SUFFIX), encoding="utf-8") as file:
        return list(parse(file.read()))


def summary(page: Sequence[Block]) -> str:
    """The sentence that a page begins with, with its inline Markdown."""
    return next(block.text for block in page if isinstance(block, Paragraph))


def references(page: Iterable[Block], elsewhere: Mapping[str, str]) -> Refer:
    """How links of a page are named: within the page by the heading, to another topic by `elsewhere`.

    A link to a file that is not part of the manual is named by its path in the project.
    """
    titles = {anchor(block.text): bare(block.text) for block in page if isinstance(block, Heading)}

    def refer(link: Link) -> str:
        path, _, place = link.target.partition("#")
        if not path:
            title = titles[place]
            return "" if title.casefold() == bare(link.text).casefold() else f'see "{title}"'
        if path.endswith(_SUFFIX) and "/" not in path:
            return elsewhere[path.removesuffix(_SUFFIX)]
        named = path if "://" in path else path.replace("../", "")
        return "" if named == bare(link.text) else named

    return refer


def render(page: Sequence[Block], width: int, *, styled: bool) -> str:
    """A page as lines of at most `width` columns, where words and code allow.

    With `styled` headings, code and emphasis have terminal escapes. Without, there are no escapes: code keeps its
    backticks, and headings are underlined with a line of their own.
    """
    renderer = _Renderer(references(page, {topic: f"migrated help {topic}" for topic in topics()}), width, styled)
    return "\n".join(renderer.lines(page)) + "\n"


def fill(text: str, width: int) -> list[str]:
    """A paragraph in lines of at most `width` columns, without escapes and without the targets of links."""
    return _wrap(spans(text, lambda _: ""), width, "", "", styled=False)


class _Renderer(NamedTuple):
    refer: Refer
    width: int
    styled: bool

    def lines(self, page: Iterable[Block]) -> Iterator[str]:
        before: Block | None = None
        for block in page:
            # The items of a list stand close together.
            if before is not None and not (isinstance(before, Item) and isinstance(block, Item)):
                yield ""
            yield from self.block(block)
            before = block

    def block(self, block: Block) -> Iterable[str]:
        match block:
            case Heading(level, text):
                return self.heading(level, bare(text))
            case Paragraph(text):
                return self.wrap(text)
            case Item(marker, text):
                return self.wrap(text, f"{marker} ", " " * (len(marker) + 1))
            case Code(lines):
                return [f"{_CODE_MARGIN}{line}".rstrip() for line in lines]
            case Table():
                return self.table(block)

    def heading(self, level: int, text: str) -> list[str]:
        if self.styled:
            return [f"{_HEADINGS[level]}{text}{_RESET}"]
        return [text, {1: "=", 2: "-"}[level] * len(text)] if level in {1, 2} else [text]

    def wrap(self, text: str, first: str = "", margin: str = "", width: int | None = None) -> list[str]:
        pieces = spans(text, self.refer)
        return _wrap(pieces, self.width if width is None else width, first, margin, styled=self.styled)

    def table(self, table: Table) -> Iterator[str]:
        widths = self.widths(table)
        if widths is None:
            yield from self.stacked(table)
            return
        if any(table.header):
            titles = [bare(cell) for cell in table.header]
            yield from self.row(titles, widths)
            yield _GAP.join("-" * width for width in widths)
        for row in table.rows:
            yield from self.row(row, widths)

    def row(self, cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        columns = [self.wrap(cell, width=width) for cell, width in zip(cells, widths, strict=True)]
        for number in range(max(map(len, columns))):
            parts = [column[number] if number < len(column) else "" for column in columns]
            padded = (part + " " * (width - _length(part)) for part, width in zip(parts, widths, strict=True))
            yield _GAP.join(padded).rstrip()

    def widths(self, table: Table) -> list[int] | None:
        """The width of each column; none if the words are too long for columns beside each other."""
        columns = list(zip(table.header, *table.rows, strict=True))
        natural = [max(self.longest(cell, by_word=False) for cell in column) for column in columns]
        least = [
            min(wanted, max(_NARROWEST_COLUMN, *(self.longest(cell, by_word=True) for cell in column)))
            for column, wanted in zip(columns, natural, strict=True)
        ]
        room = self.width - len(_GAP) * (len(columns) - 1)
        if sum(least) > room:
            return None
        widths = list(natural)
        while sum(widths) > room:
            # The widest column that can be narrower gives way.
            widest = max(range(len(widths)), key=lambda each: (widths[each] > least[each], widths[each]))
            widths[widest] -= 1
        return widths

    def longest(self, cell: str, *, by_word: bool) -> int:
        # A line for each word, or one for all of them.
        return max(map(_length, self.wrap(cell, width=1 if by_word else 1_000_000)))

    def stacked(self, table: Table) -> Iterator[str]:
        """Each row as its first cell, and the others below it behind a margin, with their headers if several."""
        is_labelled = len(table.header) > 2  # noqa: PLR2004 - beside the first there is more than one
        for row in table.rows:
            yield from self.wrap(row[0])
            for title, cell in zip(table.header[1:], row[1:], strict=True):
                if cell:
                    label = f"{bare(title)}: " if is_labelled and title else ""
                    yield from self.wrap(cell, _CODE_MARGIN + label, _CODE_MARGIN)


def _length(text: str) -> int:
    return len(_ESCAPE.sub("", text))


def _wrap(text: Text, width: int, first: str, margin: str, *, styled: bool) -> list[str]:
    """Lines of whole words. A word that is longer than the line is not broken."""
    lines = [first]
    is_empty = True
    for word in _words(text, styled=styled):
        if not is_empty and _length(lines[-1]) + 1 + _length(word) > width:
            lines.append(margin)
            is_empty = True
        lines[-1] += word if is_empty else f" {word}"
        is_empty = False
    return lines


def _words(text: Text, *, styled: bool) -> list[str]:
    words = [""]
    for span in text:
        shown = span.text if styled or span.style is not Style.CODE else f"`{span.text}`"
        is_marked = styled and span.style is not Style.PLAIN
        # Blanks within a span separate words; where two spans touch, the word goes on.
        for number, part in enumerate(shown.split(" ")):
            if number:
                words.append("")
            words[-1] += f"{_BOLD}{part}{_RESET}" if is_marked and part else part
    return [word for word in words if word]
