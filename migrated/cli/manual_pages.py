"""The man pages, in roff, from the manual and the parser of the command line.

`python -m migrated.cli.manual_pages DIRECTORY` writes them. Those in `migrated/docs/man` are installed with the
package, and a test compares them with what this module returns.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from migrated.cli import COMMANDS, build_parser
from migrated.cli.manual import read, references, summary, topics
from migrated.cli.markdown import (
    Block,
    Code,
    Heading,
    Item,
    Paragraph,
    Refer,
    Style,
    Table,
    bare,
    spans,
)
from migrated.core import VERSION

# Lines of the source, not of the page that is shown: short enough for a diff.
_SOURCE_WIDTH = 100
_WIDE_COLUMN = 24
_SECTION = 2
_GENERATED = {"command", "option"}
"""Headers of tables in the manual, in whose place a page has what the parser says."""
_ESCAPES = {
    "\\": r"\e",
    # A plain hyphen could be shown as a typographic one, which a shell does not understand when it is copied.
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    '"': r"\(dq",
}


class Page(NamedTuple):
    """A man page, and the topic of the manual that it shows."""

    name: str
    section: int
    topic: str

    @property
    def file_name(self) -> str:
        """`migrated.1`, for example."""
        return f"{self.name}.{self.section}"


PAGES = [
    Page("migrated", 1, "commands"),
    Page("migrated.toml", 5, "configuration"),
    Page("migrated-file", 5, "files"),
    Page("migrated-events", 7, "logs"),
    Page("migrated-service", 8, "service"),
]


def pages() -> dict[str, str]:
    """The text of every man page, by its file name."""
    return {page.file_name: "\n".join(_lines(page)) + "\n" for page in PAGES}


def _lines(page: Page) -> Iterator[str]:
    blocks = read(page.topic)
    elsewhere = {topic: f"migrated help {topic}" for topic in topics()}
    elsewhere |= {other.topic: f"{other.name}({other.section})" for other in PAGES}
    refer = references(blocks, elsewhere)
    yield r"""'\" t"""
    yield r".\" From migrated/docs and the options, by `python -m migrated.cli.manual_pages`: do not edit."
    yield f'.TH {page.name.upper()} {page.section} "" "migrated {VERSION}" "migrated manual"'
    # No hyphenation, no stretched blanks, one blank between sentences: what is typed stands here as it is typed.
    # Groff's macros set hyphenation again at each paragraph, from this register.
    yield from (".nh", ".nr HY 0", ".ad l", ".ss 12 0")
    about = bare(summary(blocks))
    commands: Iterable[str] = ()
    options: Iterable[str] = ()
    if page.topic == "commands":
        parser = build_parser()
        about = parser.description or about
        commands, options = _commands(parser), _options(_actions(parser))
    yield ".SH NAME"
    yield rf"{_escaped(page.name)} \- {_escaped(about[0].lower() + about[1:].rstrip('.'))}"
    if commands:
        yield ".SH SYNOPSIS"
        yield r"\fBmigrated\fR [\fIOPTION\fR]... \fICOMMAND\fR [\fIOPTION\fR]... [\fIARGUMENT\fR]"
    yield ".SH DESCRIPTION"
    for block in blocks[1:]:
        if isinstance(block, Heading) and block.level == _SECTION:
            # After all of the description: the first section follows it.
            yield from commands
            commands = ()
        if not isinstance(block, Table) or block.header[0] not in _GENERATED:
            yield from _block(block, refer)
        elif block.header[0] == "option":
            yield from options
    yield ".SH SEE ALSO"
    others = ", ".join(f"**{other.name}**({other.section})" for other in PAGES if other != page)
    yield from _filled(f"{others}; `migrated help` lists every topic of the manual.", refer)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - argparse shows its options nowhere else


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    commands = next(action.choices for action in _actions(parser) if isinstance(action.choices, dict))
    yield ".SH COMMANDS"
    shared = {tuple(action.option_strings) for action in _actions(parser) if action.option_strings}
    for name, (_, about) in COMMANDS.items():
        commands[name].load()
        own = [action for action in _actions(commands[name]) if tuple(action.option_strings) not in shared]
        arguments = [
            f"[{_invocation(action)}]" if action.nargs == "?" else _invocation(action)
            for action in own
            if not action.option_strings
        ]
        yield " ".join([rf".SS migrated {_escaped(name)}", *arguments])
        yield from _filled(f"{about[0].upper()}{about[1:]}.")
        yield from _options(own)


def _options(actions: Iterable[argparse.Action]) -> Iterator[str]:
    """Every option and argument with its help; the argument COMMAND of the program has its own sections."""
    for action in actions:
        if action.help not in {None, argparse.SUPPRESS}:
            yield ".TP"
            yield _invocation(action)
            yield from _filled(str(action.help) % vars(action))


def _invocation(action: argparse.Action) -> str:
    """`-c, --config FILE`, for example, or the name of an argument."""
    value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else action.dest.upper())
    words = [", ".join(rf"\fB{_escaped(option)}\fR" for option in action.option_strings)]
    if action.nargs != 0:
        words.append(rf"\fI{_escaped(str(value))}\fR")
    return " ".join(filter(None, words))


def _block(block: Block, refer: Refer) -> Iterator[str]:
    match block:
        case Heading(level, text) if level == _SECTION:
            yield f".SH {_escaped(bare(text).upper())}"
        case Heading(_, text):
            yield f".SS {_escaped(bare(text))}"
        case Paragraph(text):
            yield ".PP"
            yield from _filled(text, refer)
        case Item(marker, text):
            yield r".IP \(bu 2" if marker == "-" else f".IP {marker} 4"
            yield from _filled(text, refer)
        case Code(lines):
            yield from (".PP", ".RS 4", ".EX")
            yield from (_guarded(_escaped(line)) for line in lines)
            yield from (".EE", ".RE")
        case Table():
            yield from _table(block, refer)


def _table(table: Table, refer: Refer) -> Iterator[str]:
    """Of two columns, the first as the tags of paragraphs; of more, a table for tbl."""
    if len(table.header) == 2:  # noqa: PLR2004 - a tag and its paragraph
        for tag, text in table.rows:
            yield ".TP"
            yield _guarded(_formatted(tag, refer))
            yield from _filled(text, refer)
        return
    columns = zip(table.header, *table.rows, strict=True)
    is_wide = [any(len(bare(cell)) > _WIDE_COLUMN for cell in column) for column in columns]
    yield from (".PP", ".TS")
    yield " ".join("lb" for _ in is_wide)
    yield " ".join("lx" if wide else "l" for wide in is_wide) + "."
    for row in (table.header, *table.rows):
        cells = []
        for cell, wide in zip(row, is_wide, strict=True):
            cells.append("\n".join(["T{", *_filled(cell, refer), "T}"]) if wide else _formatted(cell, refer))
        yield "\t".join(cells)
    yield ".TE"


def _filled(text: str, refer: Refer = lambda _: "") -> Iterator[str]:
    """A paragraph in lines of the source. No line begins as a request does."""
    line = ""
    for word in _formatted(text, refer).split():
        if line and len(line) + len(word) >= _SOURCE_WIDTH:
            yield _guarded(line)
            line = ""
        line = f"{line} {word}" if line else word
    if line:
        yield _guarded(line)


def _formatted(text: str, refer: Refer) -> str:
    return "".join(
        _escaped(span.text) if span.style is Style.PLAIN else rf"\fB{_escaped(span.text)}\fR"
        for span in spans(text, refer)
    )


def _guarded(line: str) -> str:
    return rf"\&{line}" if line.startswith(".") else line


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(each) or (each if each.isascii() else rf"\[u{ord(each):04X}]") for each in text)


def main(arguments: Sequence[str]) -> int:
    """Write every page into the directory that is named."""
    (directory,) = arguments
    for name, text in pages().items():
        Path(directory, name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
