"""Find the UP and DOWN sections of a migration's text."""

import re
from typing import NamedTuple

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import MigrationDirection, Place
from migrated.core.sql import LineComment, continuation, first_token, line_comments

_MARKER = re.compile(r"--[ \t]*(?P<which>UP|DOWN)[ \t]*\Z", re.IGNORECASE)
_DIRECTIONS = {"UP": MigrationDirection.UP, "DOWN": MigrationDirection.DOWN}


class Marker(NamedTuple):
    """A `-- UP` or `-- DOWN` line: the start and end offsets of the comment."""

    direction: MigrationDirection
    start: int
    end: int


class Section(NamedTuple):
    """One section: the offset of its marker, and the start and end of its text."""

    direction: MigrationDirection
    marker: int
    start: int
    end: int


def read_comments(text: str) -> tuple[list[LineComment], list[Marker]]:
    """Return the line comments that may be directives or headers, and the section markers."""
    markers: list[Marker] = []
    goes_on_at = 0

    def is_marker(comment: LineComment) -> bool:
        nonlocal goes_on_at
        direction = _direction(text, comment)
        if direction is None or comment.start < goes_on_at:
            return False
        # The last semicolon of a section may be missing. But if the text after the comment can only continue the
        # same statement (UPDATE … -- DOWN … WHERE), a cut here would leave a different, more destructive
        # statement.
        if comment.after_open_statement and (goes_on := continuation(text, comment.start)) is not None:
            # No comment before that place can be a marker either. Searching again from each would take quadratic
            # time.
            goes_on_at = goes_on
            return False
        markers.append(Marker(direction, comment.start, comment.start + len(comment.text)))
        return True

    # Only comments with a colon: keeping all could take many times the memory of the text.
    return [comment for comment in line_comments(text, is_marker) if ":" in comment.text], markers


def cut_sections(text: str, markers: list[Marker]) -> list[Section]:
    """Return the sections that the markers start, in text order; none without markers.

    Raises `InvalidFormatError` for a duplicate section, and for a statement above the first marker.
    """
    sections: list[Section] = []
    ends = [*(marker.start for marker in markers[1:]), len(text)]
    for marker, end in zip(markers, ends, strict=False):
        if any(section.direction is marker.direction for section in sections):
            raise InvalidFormatError(
                f"a second `-- {marker.direction.name}` marker",
                line=line_of(text, marker.start),
                hint="a file has one UP and one DOWN section; make it two files",
            )
        sections.append(Section(marker.direction, marker.start, marker.end, end))
    if sections and (stray := first_token(text[: sections[0].marker])) is not None:
        raise InvalidFormatError(
            "a statement above the first marker",
            line=line_of(text, stray),
            hint="move it below `-- UP`; only comments may be above it",
        )
    return sections


def cut_text(text: str, start: int, end: int) -> tuple[str, Place]:
    """Return a part of the text stripped of outer white space, and the place where it begins."""
    section = text[start:end].lstrip()
    begin = end - len(section)
    column = begin - (text.rfind("\n", 0, begin) + 1) + 1
    return section.rstrip(), Place(line_of(text, begin), column)


def line_of(text: str, offset: int) -> int:
    """Return the line number of an offset, counted from 1."""
    return text.count("\n", 0, offset) + 1


def _direction(text: str, comment: LineComment) -> MigrationDirection | None:
    """Return the direction of the section that a comment starts; None if it is not a marker."""
    found = _MARKER.match(comment.text)
    if found is None or comment.inside_statement:
        return None
    line_start = text.rfind("\n", 0, comment.start) + 1
    if text[line_start : comment.start].strip(" \t"):
        return None
    return _DIRECTIONS[found["which"].upper()]
