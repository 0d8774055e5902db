"""Where the sections of a migration's text begin and end."""

import re
from typing import NamedTuple

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import MigrationDirection, Place
from migrated.core.sql import LineComment, continuation, first_token, line_comments

_MARKER = re.compile(r"--[ \t]*(?P<which>UP|DOWN)[ \t]*\Z", re.IGNORECASE)
_DIRECTIONS = {"UP": MigrationDirection.UP, "DOWN": MigrationDirection.DOWN}


class Marker(NamedTuple):
    """A `-- UP` or `-- DOWN` line: the offsets at which its comment starts and ends."""

    direction: MigrationDirection
    start: int
    end: int


class Section(NamedTuple):
    """One section: the offsets of its marker, and of the text that belongs to it."""

    direction: MigrationDirection
    marker: int
    start: int
    end: int


def read_comments(text: str) -> tuple[list[LineComment], list[Marker]]:
    """The line comments that may say something, and those of all that are markers."""
    markers: list[Marker] = []
    goes_on_at = 0

    def is_marker(comment: LineComment) -> bool:
        nonlocal goes_on_at
        direction = _direction(text, comment)
        if direction is None or comment.start < goes_on_at:
            return False
        # The last semicolon of a section may be missing. But where the text goes on as only the same statement can
        # (UPDATE … -- DOWN … WHERE), cutting there would make another, worse one.
        if comment.after_open_statement and (goes_on := continuation(text, comment.start)) is not None:
            # Nor can any comment before that place: to look for it from each would be quadratic.
            goes_on_at = goes_on
            return False
        markers.append(Marker(direction, comment.start, comment.start + len(comment.text)))
        return True

    # All of them could take many times the memory of the text.
    return [comment for comment in line_comments(text, is_marker) if ":" in comment.text], markers


def cut_sections(text: str, markers: list[Marker]) -> list[Section]:
    """The sections that the markers begin, in the order of the text; none without markers.

    Raises `InvalidFormatError` for a section that is there twice, and for a statement above the first marker.
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
            hint="move it below `-- UP`; only comments may stand above",
        )
    return sections


def cut_text(text: str, start: int, end: int) -> tuple[str, Place]:
    """A part of the text without white space at its ends, and where it begins."""
    section = text[start:end].lstrip()
    begin = end - len(section)
    column = begin - (text.rfind("\n", 0, begin) + 1) + 1
    return section.rstrip(), Place(line_of(text, begin), column)


def line_of(text: str, offset: int) -> int:
    """The line that an offset lies in, from 1."""
    return text.count("\n", 0, offset) + 1


def _direction(text: str, comment: LineComment) -> MigrationDirection | None:
    """Which section a comment begins, if it stands where a marker may."""
    found = _MARKER.match(comment.text)
    if found is None or comment.inside_statement:
        return None
    line_start = text.rfind("\n", 0, comment.start) + 1
    if text[line_start : comment.start].strip(" \t"):
        return None
    return _DIRECTIONS[found["which"].upper()]
