"""The values that the rest of the package passes around."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import NamedTuple

from migrated.directives import Directive, directives_at_top
from migrated.errors import InvalidFormatError, label_of
from migrated.sqltext import has_statement, statements

_SURROGATE = re.compile("[\ud800-\udfff]")
HIGHEST_VERSION = 2**63 - 1
"""The largest number that SQLite keeps in an INTEGER PRIMARY KEY."""
REPEATABLE = "R__"
"""What the name of a repeatable migration's file begins with."""


class MigrationDirection(Enum):
    """Which way a plan goes."""

    UP = "up"
    DOWN = "down"


class Place(NamedTuple):
    """Where a section's text begins in its file; lines and columns count from 1."""

    line: int = 1
    column: int = 1


class Origin(NamedTuple):
    """Where a migration came from, for error messages alone."""

    file: str
    up: Place = Place()
    down: Place = Place()


@dataclass(frozen=True, slots=True)
class Migration:
    """What the directory, or the program, says: one change and how to undo it.

    `checksum` is the lower-case hex SHA-256 of `up_sql` in UTF-8: the text hashed is the text executed.
    It is computed unless given. `header` holds the directives that stand above both sections; those at the
    top of a section are read from its text. One that `is_repeatable` has no version (0 stands there) and no down
    text: it is applied after all others, whenever its text is new. Raises `InvalidFormatError` for a version
    outside 1 … 2^63-1, an empty name, an unknown directive, or text that SQLite could not take.
    """

    version: int
    name: str
    up_sql: str
    down_sql: str | None = None
    checksum: str = field(default="", kw_only=True)
    header: frozenset[Directive] = field(default=frozenset(), kw_only=True)
    origin: Origin | None = field(default=None, kw_only=True, compare=False, repr=False)
    is_repeatable: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._require_version()
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
    def repeatable(name: str, sql: str) -> "Migration":
        """One without a version: a view or a trigger, say, whose text drops and makes it."""
        return Migration(0, name, sql, is_repeatable=True)

    def _require_version(self) -> None:
        if isinstance(self.version, bool) or not isinstance(self.version, int):
            raise InvalidFormatError(f"version {self.version!r} is not a whole number")
        if self.is_repeatable:
            if self.version or self.down_sql is not None:
                raise InvalidFormatError("a repeatable migration has no version and no down text", name=self.name)
        elif not 1 <= self.version <= HIGHEST_VERSION:
            raise InvalidFormatError(
                f"version {self.version} is out of range: expected 1 to {HIGHEST_VERSION}",
                version=self.version,
                name=self.name,
            )

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
        """`<version>_<name>`, as people name it; `R__<name>` for a repeatable one."""
        return f"{REPEATABLE}{self.name}" if self.is_repeatable else f"{self.version}_{self.name}"

    @property
    def known_as(self) -> tuple[int | None, str]:
        """Version and name, as errors and the log have them; a repeatable one is known by its label alone."""
        return (None, self.label) if self.is_repeatable else (self.version, self.name)

    @property
    def file(self) -> str | None:
        """The file that it was read from, if it was."""
        return self.origin.file if self.origin else None

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
        return label_of(self.version, self.name)


def highest_version(applied: Iterable[AppliedMigration]) -> int | None:
    """That of the newest; None where nothing is applied."""
    return max((entry.version for entry in applied), default=None)


class AppliedRepeatable(NamedTuple):
    """What a database says of a repeatable migration: when it was applied last, with which text.

    `objects` are the views and triggers that it made then, each as its kind and its name.
    """

    name: str
    checksum: str
    applied_at: datetime
    execution_time_ms: int
    objects: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A migration without a transaction that stopped: `statement` of its `statements` are done, for good.

    `recorded` is the migration as it was when it began; `happened_at` is when the last statement was done.
    """

    recorded: Migration
    direction: MigrationDirection
    statement: int
    statements: int
    happened_at: datetime
    host: str
    pid: int

    @property
    def version(self) -> int:
        """That of the migration."""
        return self.recorded.version

    @property
    def text(self) -> str:
        """What was being run."""
        return Step(self.recorded, self.direction).sql

    @property
    def next_statement(self) -> str:
        """The first that is not done, as it was when the migration began."""
        spans = statements(self.text)
        start, end = spans[self.statement] if self.statement < len(spans) else (0, 0)
        return self.text[start:end]

    def __str__(self) -> str:
        going = "" if self.direction is MigrationDirection.UP else "the rollback of "
        return f"{going}{self.recorded.label} stopped after statement {self.statement} of {self.statements}"


class Record(NamedTuple):
    """What a database says of itself: what is applied, and what stopped half way, if anything did."""

    applied: list[AppliedMigration]
    unfinished: Unfinished | None = None
    repeatables: Sequence[AppliedRepeatable] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a database as it was at `taken_at` (aware, UTC); `version` was the highest applied, if any was.

    `size` is in bytes; `reason` is "before-run", "before-each", "before-restore" or "before-redo".
    """

    id: str
    database: str
    path: str
    taken_at: datetime
    version: int | None
    size: int
    reason: str


class Step(NamedTuple):
    """A migration on its way up or down; `is_redo` says that it was rolled back a moment ago."""

    migration: Migration
    direction: MigrationDirection
    is_redo: bool = False

    @property
    def directives(self) -> frozenset[Directive]:
        """Those in force for the section that runs."""
        up = self.direction is MigrationDirection.UP
        return self.migration.up_directives if up else self.migration.down_directives

    @property
    def sql(self) -> str:
        """The text that runs."""
        return self.migration.up_sql if self.direction is MigrationDirection.UP else self.migration.down_sql or ""

    @property
    def needs_own_transaction(self) -> bool:
        """Whether it cannot share one with any other step: it has none, or foreign keys are enforced in it."""
        return bool(self.directives & {Directive.NO_TRANSACTION, Directive.FOREIGN_KEYS_ON})

    @property
    def place(self) -> Place:
        """Where the text that runs begins in its file."""
        origin = self.migration.origin
        if origin is None:
            return Place()
        return origin.up if self.direction is MigrationDirection.UP else origin.down


class Repair(StrEnum):
    """How a person settles an unfinished migration."""

    RESUME = "resume"
    MARK_APPLIED = "mark-applied"
    FORGET = "forget"


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
