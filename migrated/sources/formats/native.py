"""The native file format: file names, sections, header and directives."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import (
    HIGHEST_VERSION,
    REPEATABLE,
    Directive,
    Migration,
    MigrationDirection,
    Origin,
    Place,
    directive_in,
    directives_at_top,
)
from migrated.core.sections import Section, cut_sections, cut_text, line_of, read_comments
from migrated.core.sql import LineComment, first_token

RULE = (
    "expected <version>_<name>.sql, such as 20240101120000_add_users.sql, or R__<name>.sql; the name may "
    "contain letters, digits, _ and -"
)
_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>[A-Za-z0-9_-]+)\.sql", re.ASCII)
_REPEATABLE = re.compile(rf"{REPEATABLE}(?P<name>[A-Za-z0-9_-]+)\.sql", re.ASCII)


class FileName(NamedTuple):
    """The name of a versioned migration's file."""

    version: int
    name: str


class RepeatableName(NamedTuple):
    """The name of a repeatable migration's file."""

    name: str
    version: None = None


class Misnamed(NamedTuple):
    """An SQL file whose name is invalid, and the reason."""

    reason: str


def read_name(file_name: str) -> FileName | RepeatableName | Misnamed | None:
    """Parse the name of a directory entry; None for hidden files and files that are not `*.sql`."""
    if file_name.startswith(".") or not file_name.lower().endswith(".sql"):
        return None
    fits = _NAME.fullmatch(file_name)
    if fits is None:
        if repeatable := _REPEATABLE.fullmatch(file_name):
            return RepeatableName(repeatable["name"])
        return Misnamed(f"the file name is invalid: {RULE}")
    # Checked by length first: int() raises ValueError for very long numbers.
    digits = fits["version"].lstrip("0")
    if len(digits) > len(str(HIGHEST_VERSION)) or not 1 <= int(digits or "0") <= HIGHEST_VERSION:
        return Misnamed(f"the version is out of range: expected 1 to {HIGHEST_VERSION}")
    return FileName(int(digits), fits["name"])


def file_name(version: int | str, name: str) -> str:
    """Return the file name of a migration. Raises `ValueError` for characters that are not allowed."""
    written = f"{version}_{name}.sql"
    if _NAME.fullmatch(written) is None:
        raise ValueError(f"{name!r} may only contain letters, digits, _ and -")
    return written


_HEADER = re.compile(r"--[ \t]*(?P<key>Migration|Version):[ \t]*(?P<value>.*?)[ \t]*\Z")


def decode(content: bytes) -> str:
    """Decode a file: UTF-8, byte-order mark removed, line ends converted to LF.

    Raises `InvalidFormatError` with the line of the first byte that is not UTF-8, or of a NUL.
    """
    # Normalised before hashing: a checkout with other line ends must have the same checksum.
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidFormatError(
            f"byte {content[error.start]:#04x} is not UTF-8",
            line=content.count(b"\n", 0, error.start) + 1,
            hint="save the file as UTF-8",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InvalidFormatError("a NUL character", line=line, hint="SQL text cannot contain one; remove it")
    return text


def parse_migration(named: FileName | RepeatableName, content: bytes, *, file: str) -> Migration:
    """Parse the content of a migration file. `file` is used only in errors and in the result's origin.

    Raises `InvalidFormatError` with the file, and the line if known, for any violation of the format.
    """
    try:
        text = decode(content)
        return _parse(named, text, file) if isinstance(named, FileName) else _parse_repeatable(named, text, file)
    except InvalidFormatError as error:
        error.file, error.version, error.name = file, named.version, named.name
        raise


def _parse(named: FileName, text: str, file: str) -> Migration:
    comments, markers = read_comments(text)
    sections = cut_sections(text, markers)
    directives = _checked_directives(text, comments, sections)
    top = sections[0].marker if sections else first_token(text)
    _check_header(named, text, comments, top)
    by_direction = {section.direction: section for section in sections}
    up = by_direction.get(MigrationDirection.UP)
    down = by_direction.get(MigrationDirection.DOWN)
    if sections and up is None:
        raise InvalidFormatError(
            "a DOWN section without an UP section",
            line=line_of(text, sections[0].marker),
            hint="put a line `-- UP` above the statements that make the change",
        )
    up_sql, up_place = cut_text(text, up.start, up.end) if up else cut_text(text, 0, len(text))
    down_sql, down_place = cut_text(text, down.start, down.end) if down else (None, Place())
    above = (directive for start, directive in directives if sections and start < sections[0].marker)
    migration = Migration(
        named.version,
        named.name,
        up_sql,
        down_sql,
        header=frozenset(above),
        origin=Origin(file, up_place, down_place),
    )
    # A DOWN section without a statement and without nothing-to-undo counts as none: the migration is irreversible.
    return migration if down_sql is None or migration.is_reversible else migration.with_down(None)


def _parse_repeatable(named: RepeatableName, text: str, file: str) -> Migration:
    """Parse a repeatable migration: the whole file is its text, without sections."""
    comments, markers = read_comments(text)
    if markers:
        raise InvalidFormatError(
            "a repeatable migration cannot have sections",
            line=line_of(text, markers[0].start),
            hint="remove the marker; the file itself must drop what it creates, with DROP ... IF EXISTS",
        )
    _checked_directives(text, comments, [])
    _check_header(named, text, comments, first_token(text))
    sql, place = cut_text(text, 0, len(text))
    if Directive.NO_TRANSACTION in directives_at_top(sql):
        raise InvalidFormatError(
            "a repeatable migration runs in a transaction",
            line=place.line,
            hint=f"remove `-- migrated: {Directive.NO_TRANSACTION}`, or make it a migration with a version",
        )
    return Migration(0, named.name, sql, is_repeatable=True, origin=Origin(file, place))


def _check_header(
    named: FileName | RepeatableName, text: str, comments: Iterable[LineComment], end: int | None
) -> None:
    for comment in comments:
        if end is not None and comment.start >= end:
            return
        found = _HEADER.match(comment.text)
        if found is None:
            continue
        key, value = found["key"], found["value"]
        if key == "Migration":
            expected, agrees = named.name, value == named.name
        else:
            expected, agrees = str(named.version or "none"), value.lstrip("0") == str(named.version)
        if not agrees:
            raise InvalidFormatError(
                f"the header says `{key}: {value}`, the file name says {expected}",
                line=line_of(text, comment.start),
                hint="make them agree, or remove the header line",
            )


def _checked_directives(
    text: str, comments: Iterable[LineComment], sections: Sequence[Section]
) -> list[tuple[int, Directive]]:
    """Return every directive with its offset.

    Raises `InvalidFormatError` for an unknown one, and for one that is not in the header or at the top of its
    section.
    """
    starts = [0, *(section.start for section in sections)]
    tops: dict[int, int | None] = {}
    found = []
    for comment in comments:
        try:
            directive = directive_in(comment.text)
        except InvalidFormatError as error:
            error.line = line_of(text, comment.start)
            raise
        if directive is None:
            continue
        section_start = max(start for start in starts if start <= comment.start)
        misplaced = _wrong_section(directive, section_start, sections)
        if misplaced:
            raise InvalidFormatError(
                f"the directive {directive.value!r} has no meaning in the {misplaced} section",
                line=line_of(text, comment.start),
                hint="move it to the other section, or remove it",
            )
        # Once for each section: it scans the text.
        if section_start not in tops:
            tops[section_start] = first_token(text, section_start)
        top = tops[section_start]
        if comment.inside_statement or (top is not None and top < comment.start):
            raise InvalidFormatError(
                f"the directive {directive.value!r} is below a statement",
                line=line_of(text, comment.start),
                hint="move it to the top of its section, or above the first marker",
            )
        found.append((comment.start, directive))
    return found


def _wrong_section(directive: Directive, start: int, sections: Sequence[Section]) -> str | None:
    """Return the name of the section if the directive does not belong there; otherwise None."""
    wrong = {Directive.NOTHING_TO_DO: MigrationDirection.DOWN, Directive.NOTHING_TO_UNDO: MigrationDirection.UP}
    here = next((section.direction for section in sections if section.start == start), None)
    return here.name if here is not None and here is wrong.get(directive) else None
