"""A migration as a value: its SQL texts, checksum, directives and place in a file."""

import hashlib
import re
from enum import Enum, StrEnum
from typing import Final, NamedTuple

from migrated.core.errors import InvalidFormatError, label_of
from migrated.core.sql import first_token, line_comments

# UTF-8 cannot encode lone surrogates, so neither the checksum nor SQLite could take such a text.
_SURROGATE = re.compile("[\ud800-\udfff]")
HIGHEST_VERSION = 2**63 - 1
"""The largest value of an SQLite INTEGER PRIMARY KEY."""
REPEATABLE = "R__"
"""Prefix of the file names of repeatable migrations."""


class MigrationDirection(Enum):
    """Direction of a plan or a step."""

    UP = "up"
    DOWN = "down"


class Place(NamedTuple):
    """Start of a section's text in its file; lines and columns count from 1."""

    line: int = 1
    column: int = 1


class Origin(NamedTuple):
    """The file of a migration and the places of its sections, for error messages only."""

    file: str
    up: Place = Place()
    down: Place = Place()


class Directive(StrEnum):
    """Values of a `-- migrated:` comment."""

    NO_TRANSACTION = "no-transaction"
    FOREIGN_KEYS_ON = "foreign-keys=on"
    NOTHING_TO_DO = "nothing-to-do"
    NOTHING_TO_UNDO = "nothing-to-undo"


class _Section(NamedTuple):
    """Facts about a section: its own directives, and whether it contains a statement."""

    directives: frozenset[Directive]
    has_statement: bool


class Migration:
    """One schema change and its rollback, immutable.

    `checksum` is the lower-case hex SHA-256 of `up_sql` in UTF-8: the text hashed is the text executed. It is
    computed unless given. `header` holds the directives above both sections; directives at the top of a section
    are read from its text. A repeatable migration (`is_repeatable`) has version 0 and no down text; it is applied
    after all others, whenever its text is new. `origin` is ignored in comparisons. Raises `InvalidFormatError` for
    a version outside 1 … 2^63-1, an empty name, an unknown directive, or text that SQLite cannot store.
    """

    # Written by hand: importing `dataclasses` takes a sixth of the run time of `migrated status`.
    __slots__ = (
        *("version", "name", "up_sql", "down_sql", "checksum", "header", "is_repeatable", "origin"),
        *("_checksum_is_given", "_up", "_down"),
    )

    def __init__(
        self,
        version: int,
        name: str,
        up_sql: str,
        down_sql: str | None = None,
        *,
        checksum: str = "",
        header: frozenset[Directive] = frozenset(),
        origin: Origin | None = None,
        is_repeatable: bool = False,
    ) -> None:
        self.version: Final = version
        self.name: Final = name
        self.up_sql: Final = up_sql
        self.down_sql: Final = down_sql
        self.header: Final = header
        self.origin: Final = origin
        self.is_repeatable: Final = is_repeatable
        self._require_version()
        if not name:
            raise InvalidFormatError(f"migration {version} has no name", version=version)
        self._up: Final = _section(up_sql)
        self._down: Final = _section(down_sql or "")
        if not all(map(_is_text, (name, up_sql, down_sql or ""))):
            raise InvalidFormatError(
                f"migration {version} contains a NUL character or a lone surrogate, which SQL text cannot",
                version=version,
            )
        self._checksum_is_given: Final = bool(checksum)
        self.checksum: Final = checksum or self.compute_checksum(up_sql)

    def __setattr__(self, name: str, value: object) -> None:
        # Each slot is set once, in __init__. Imported here: dataclasses is slow to import and this error is rare.
        if hasattr(self, name):
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Migration) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        version, name, up_sql, down_sql, checksum, header, is_repeatable = self._key
        return (
            f"Migration({version!r}, {name!r}, {up_sql!r}, {down_sql!r}, {checksum=!r}, {header=!r}, "
            f"{is_repeatable=!r})"
        )

    @property
    def _key(self) -> tuple[int, str, str, str | None, str, frozenset[Directive], bool]:
        texts = self.up_sql, self.down_sql, self.checksum
        return (self.version, self.name, *texts, self.header, self.is_repeatable)

    @staticmethod
    def repeatable(name: str, sql: str) -> "Migration":
        """Return a repeatable migration, such as a view or trigger that its own text drops and creates."""
        return Migration(0, name, sql, is_repeatable=True)

    def _require_version(self) -> None:
        # bool is a subclass of int: True would pass as version 1.
        if isinstance(self.version, bool) or not isinstance(self.version, int):
            raise InvalidFormatError(f"version {self.version!r} is not a whole number")
        if self.is_repeatable:
            if self.version or self.down_sql is not None:
                raise InvalidFormatError(
                    "a repeatable migration must not have a version or a down text", name=self.name
                )
        elif not 1 <= self.version <= HIGHEST_VERSION:
            raise InvalidFormatError(
                f"version {self.version} is out of range: expected 1 to {HIGHEST_VERSION}",
                version=self.version,
                name=self.name,
            )

    @staticmethod
    def compute_checksum(sql: str) -> str:
        """Return the lower-case hex SHA-256 of `sql` encoded as UTF-8."""
        return hashlib.sha256(sql.encode()).hexdigest()

    def with_down(self, sql: str | None) -> "Migration":
        """Return a copy with `sql` as its down text; None removes the down text."""
        return Migration(
            self.version,
            self.name,
            self.up_sql,
            sql,
            checksum=self.checksum,
            header=self.header,
            origin=self.origin,
            is_repeatable=self.is_repeatable,
        )

    def verify_checksum(self) -> bool:
        """Return False if a checksum was given that is not the checksum of `up_sql`."""
        return not self._checksum_is_given or self.checksum == self.compute_checksum(self.up_sql)

    @property
    def label(self) -> str:
        """`<version>_<name>`, or `R__<name>` for a repeatable migration."""
        return f"{REPEATABLE}{self.name}" if self.is_repeatable else f"{self.version}_{self.name}"

    @property
    def known_as(self) -> tuple[int | None, str]:
        """Version and name for errors and the log; None and the label for a repeatable migration."""
        return (None, self.label) if self.is_repeatable else (self.version, self.name)

    @property
    def file(self) -> str | None:
        """The file that the migration was read from; None if it was made by a program."""
        return self.origin.file if self.origin else None

    @property
    def up_directives(self) -> frozenset[Directive]:
        """Directives in force for the UP section."""
        return self.header | self._up.directives

    @property
    def down_directives(self) -> frozenset[Directive]:
        """Directives in force for the DOWN section."""
        return self.header | self._down.directives

    @property
    def is_draft(self) -> bool:
        """True if the up text has no statement and no `nothing-to-do`. Drafts are never applied."""
        return not self._up.has_statement and Directive.NOTHING_TO_DO not in self.up_directives

    @property
    def is_reversible(self) -> bool:
        """True if the down text has a statement or the directive `nothing-to-undo`."""
        if self.down_sql is None:
            return False
        return self._down.has_statement or Directive.NOTHING_TO_UNDO in self.down_directives


def _section(sql: str) -> _Section:
    start = first_token(sql)
    return _Section(directives_above(sql, start), start is not None)


def _is_text(text: str) -> bool:
    # isascii() only reads a flag, which saves the search in nearly all texts.
    return "\0" not in text and (text.isascii() or _SURROGATE.search(text) is None)


class ChecksumMismatch(NamedTuple):
    """An applied migration whose up text has changed.

    `expected` is the checksum in the ledger, `found` the checksum of the current text.
    """

    version: int
    name: str
    expected: str
    found: str

    def __str__(self) -> str:
        label = label_of(self.version, self.name)
        return f"{label} was changed after it was applied: expected checksum {self.expected}, found {self.found}"


class Step(NamedTuple):
    """One migration in one direction; `is_redo` if the same run rolled it back before."""

    migration: Migration
    direction: MigrationDirection
    is_redo: bool = False

    @property
    def directives(self) -> frozenset[Directive]:
        """Directives in force for the section that is executed."""
        up = self.direction is MigrationDirection.UP
        return self.migration.up_directives if up else self.migration.down_directives

    @property
    def sql(self) -> str:
        """The text that is executed."""
        return self.migration.up_sql if self.direction is MigrationDirection.UP else self.migration.down_sql or ""

    @property
    def needs_own_transaction(self) -> bool:
        """True if the step runs without a transaction, or with foreign keys enforced.

        Such a step cannot share a transaction with any other.
        """
        return bool(self.directives & {Directive.NO_TRANSACTION, Directive.FOREIGN_KEYS_ON})

    @property
    def place(self) -> Place:
        """Start of the executed text in its file."""
        origin = self.migration.origin
        if origin is None:
            return Place()
        return origin.up if self.direction is MigrationDirection.UP else origin.down


_DIRECTIVE = re.compile(r"--[ \t]*migrated:[ \t]*(?P<value>.*?)[ \t]*\Z", re.IGNORECASE)


def directive_in(comment: str) -> Directive | None:
    """Return the directive in a `--` comment, or None for an ordinary comment.

    Raises `InvalidFormatError` for an unknown directive: a misspelt one must not be ignored.
    """
    found = _DIRECTIVE.match(comment)
    if found is None:
        return None
    value = found["value"]
    try:
        return Directive(value)
    except ValueError:
        known = ", ".join(Directive)
        raise InvalidFormatError(
            f"unknown directive {value!r}", hint=f"use one of: {known}; or remove the line"
        ) from None


def directives_at_top(sql: str) -> frozenset[Directive]:
    """Return the directives above the first statement of a section."""
    return directives_above(sql, first_token(sql))


def directives_above(sql: str, end: int | None) -> frozenset[Directive]:
    """Return the directives above an offset; None means the end of the text."""
    if end == 0:
        return frozenset()
    found = (directive_in(comment.text) for comment in line_comments(sql[:end]))
    return frozenset(directive for directive in found if directive)
