"""A new database with everything applied, kept in memory, from which others are made as copies.

A copy takes one write of the pages where the migrations would have run one by one. It is only right where running
them again would give the same.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apsw

from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration
from migrated.core.sql import folded, quoted, words
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX
from migrated.engine.sqlite.connection import Patience

LARGEST = 64_000_000
"""In bytes; each thread that copies it needs as much memory."""
_UNLIKE_A_FILE = frozenset({"page_size", "auto_vacuum", "encoding"})
_NEVER_THE_SAME = frozenset(
    {
        *("random", "randomblob", "now", "current_date", "current_time", "current_timestamp"),
        *("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"),
    }
)
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"


@dataclass(frozen=True, slots=True)
class Copyable:
    """Content of a database, and what its ledger says. Many threads may copy it at once."""

    content: bytes
    entries: Sequence[AppliedMigration]

    def copy_into(self, path: str, connection: apsw.Connection, patience: Patience) -> bool:
        """Make this the content of an empty file; whether that was done: not where somebody wrote to it before us.

        `connection` is open on the file at `path`. All is committed at once, or nothing. Raises `apsw.Error`.
        """
        with contextlib.closing(apsw.Connection(":memory:")) as source:
            source.deserialize("main", self.content)
            backup = connection.backup("main", source, "main")
            try:
                # Copies nothing, and locks the file for us alone: what is empty now stays so.
                patience.retry(lambda: backup.step(0))
                if os.stat(path).st_size:
                    return False
                patience.retry(lambda: backup.step(-1))
            finally:
                # Else what was raised above is raised once more.
                backup.close(force=True)
        return True


def template_of(
    connection: apsw.Connection, migrations: Iterable[Migration], entries: Sequence[AppliedMigration]
) -> Copyable | None:
    """What was made in memory by applying the migrations, if a copy is as good as applying them again."""
    texts = [migration.up_sql for migration in migrations]
    said = {folded(word) for text in texts for word in words(text)}
    if said & _UNLIKE_A_FILE or (said & _NEVER_THE_SAME and _has_rows(connection)):
        return None
    content = connection.serialize("main")
    return Copyable(content, entries) if len(content) <= LARGEST else None


def _has_rows(connection: apsw.Connection) -> bool:
    tables = [str(name) for (name,) in connection.execute(_TABLES)]
    theirs = [name for name in tables if not name.startswith(LEDGER_PREFIX)]
    return any(connection.execute(f"SELECT 1 FROM main.{quoted(name)} LIMIT 1").fetchall() for name in theirs)
