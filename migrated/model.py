"""The values that the rest of the package passes around."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from migrated.directives import Directive, directives_at_top
from migrated.errors import InvalidFormatError
from migrated.sqltext import has_statement

_SURROGATE = re.compile("[\ud800-\udfff]")
HIGHEST_VERSION = 2**63 - 1
"""The largest number that SQLite keeps in an INTEGER PRIMARY KEY."""


class MigrationDirection(Enum):
    """Which way a plan goes."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a section's text begins in its file; lines and columns count from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a migration came from, for error messages alone."""

    file: str
    up: Place = Place()
    down: Place = Place()


@dataclass(frozen=True, slots=True)
class Migration:
    """What the directory, or the program, says: one change and how to undo it.

    `checksum` is the lower-case hex SHA-256 of `up_sql` in UTF-8: the text hashed is the text executed.
    It is computed unless given. `header` holds the directives that stand above both sections; those at the
    top of a section are read from its text. Raises `InvalidFormatError` for a version outside 1 … 2^63-1,
    an empty name, an unknown directive, or text that SQLite could not take.
    """

    version: int
    name: str
    up_sql: str
    down_sql: str | None = None
    checksum: str = field(default="", kw_only=True)
    header: frozenset[Directive] = field(default=frozenset(), kw_only=True)
    origin: Origin | None = field(default=None, kw_only=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.version, bool) or not isinstance(self.version, int):
            raise InvalidFormatError(f"version {self.version!r} is not a whole number")
        if not 1 <= self.version <= HIGHEST_VERSION:
            raise InvalidFormatError(
                f"version {self.version} is out of range: expected 1 to {HIGHEST_VERSION}",
                version=self.version,
                name=self.name,
            )
        if not self.name:
            raise InvalidFormatError(f"migration {self.version} has no name", version=self.version)
        directives_at_top(self.up_sql)
        directives_at_top(self.down_sql or "")
        for text in (self.name, self.up_sql, self.down_sql or ""):
            if "\0" in text or _SURROGATE.search(text):
                raise InvalidFormatError(
                    f"migration {self.version} holds a NUL or half a character, which no SQL text can",
                    version=self.version,
                )
        if not self.checksum:
            object.__setattr__(self, "checksum", self.compute_checksum(self.up_sql))

    @staticmethod
    def compute_checksum(sql: str) -> str:
        """Lower-case hex SHA-256 of `sql` encoded as UTF-8, byte for byte."""
        return hashlib.sha256(sql.encode()).hexdigest()

    def with_down(self, sql: str) -> "Migration":
        """Return the same migration with `sql` as its down text."""
        return replace(self, down_sql=sql)

    def verify_checksum(self) -> bool:
        """Whether `checksum` is that of `up_sql`; false only where a checksum was given that does not fit."""
        return self.checksum == self.compute_checksum(self.up_sql)

    @property
    def label(self) -> str:
        """`<version>_<name>`, as people name it."""
        return f"{self.version}_{self.name}"

    @property
    def up_directives(self) -> frozenset[Directive]:
        """Those in force for the up section."""
        return self.header | directives_at_top(self.up_sql)

    @property
    def down_directives(self) -> frozenset[Directive]:
        """Those in force for the down section."""
        return self.header | directives_at_top(self.down_sql or "")

    @property
    def is_draft(self) -> bool:
        """Whether the up text holds no statement and does not say so on purpose; a draft is never applied."""
        return Directive.NOTHING_TO_DO not in self.up_directives and not has_statement(self.up_sql)

    @property
    def is_reversible(self) -> bool:
        """Whether there is something to run, or nothing to undo by the author's word."""
        if self.down_sql is None:
            return False
        return Directive.NOTHING_TO_UNDO in self.down_directives or has_statement(self.down_sql)


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """What the ledger of one database says. `applied_at` is aware and in UTC."""

    version: int
    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int

    @property
    def label(self) -> str:
        """`<version>_<name>`, as people name it."""
        return f"{self.version}_{self.name}"


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What will happen, in this order. True while there is something to do."""

    direction: MigrationDirection
    migrations: Sequence[Migration] = ()

    def __post_init__(self) -> None:
        # Two plans of the same steps are equal, whatever the steps came in.
        object.__setattr__(self, "migrations", list(self.migrations))

    def __iter__(self) -> Iterator[Migration]:
        return iter(self.migrations)

    def __len__(self) -> int:
        return len(self.migrations)

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.migrations
