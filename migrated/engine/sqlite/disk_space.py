"""Free disk space, and the space that a migration which rewrites whole tables needs."""

import os
import re
from collections import Counter
from itertools import islice

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.migration import Step
from migrated.core.sql import folded, statements, words
from migrated.engine.sqlite.connection import content_size

WHOLE_DATABASE = ""
_FEW_WORDS = 8
_SHORT = 10_000
_COPIES_OF_ALL = 3
# Bytes for the journal and the temporary files of SQLite.
_MARGIN = 1_000_000
_SIZE = "SELECT coalesce(sum(pgsize), 0) FROM dbstat('main', 1) WHERE name = ?"
_OBJECTS = "SELECT name FROM main.sqlite_schema WHERE lower(tbl_name) = lower(?) AND type IN ('table', 'index')"
_TOUCHES_TABLES = re.compile(r"\b(?:DROP|VACUUM)\b", re.IGNORECASE)


def require_room(connection: apsw.Connection, step: Step, database: str) -> None:
    """Raise `DatabaseError` (code DISK_SPACE) if the disk cannot hold the tables that a step rewrites.

    Dropping a column writes the table once, into the journal. A rebuild writes a second table and the journal.
    VACUUM writes the database twice. Tables that only lose or gain rows are not counted.
    """
    # Searching a short text is faster than statvfs(); searching a long one takes seconds.
    if len(step.sql) < _SHORT and not _TOUCHES_TABLES.search(step.sql):
        return
    directory = os.path.dirname(os.path.realpath(connection.filename))
    free = free_space(directory)
    size = content_size(connection)
    # Room for three copies of the database is always enough; the text need not be analysed.
    if free is None or free >= _COPIES_OF_ALL * size + _MARGIN or not _TOUCHES_TABLES.search(step.sql):
        return
    copies = rewritten(step.sql)
    needed = sum(
        count * (size if table == WHOLE_DATABASE else _size_of(connection, table))
        for table, count in copies.items()
    )
    if needed:
        require_free(
            directory, needed + _MARGIN, f"{step.migration.label}, which rewrites whole tables,", database
        )


def rewritten(sql: str) -> dict[str, int]:
    """Count the rewrites of each table (folded name) in a text; VACUUM counts as `WHOLE_DATABASE`."""
    found: Counter[str] = Counter()
    originals: dict[str, str] = {}
    dropped: set[str] = set()
    for start, end in statements(sql):
        # The first words decide, and a statement may be many megabytes long.
        few = [folded(word) for word in islice(words(sql[start : min(end, start + 1000)]), _FEW_WORDS)]
        match _without_schema(few):
            case ["vacuum", *_]:
                found[WHOLE_DATABASE] = 2
            case ["alter", "table", table, "drop", second, *_] if second != "constraint":
                found[table] += 1
            case ["alter", "table", table, "rename", "to", name, *_]:
                originals[name] = table
                # A rebuild: the new table gets the name of the dropped one.
                found[name] += 2 * (name in dropped)
            case ["drop", "table", table, *_]:
                dropped.add(table)
                # Or a rebuild that first renamed the old table away.
                found[originals.get(table, table)] += 2 * (table in originals)
            case _:
                pass
    return {table: copies for table, copies in found.items() if copies}


def _without_schema(few: list[str]) -> list[str]:
    """Return the words of a statement without IF EXISTS and the schema's name."""
    rest = [word for word in few if word not in {"if", "exists"}]
    schema_follows = rest[:2] in (["alter", "table"], ["drop", "table"]) and rest[2:3] in (["main"], ["temp"])
    return rest[:2] + rest[3:] if schema_follows else rest


def _size_of(connection: apsw.Connection, table: str) -> int:
    names = [str(name) for (name,) in connection.execute(_OBJECTS, (table,))]
    return sum(int(size) for name in names for (size,) in connection.execute(_SIZE, (name,)))


_UNITS = ("kB", "MB", "GB", "TB")
_STEP = 1000


def free_space(directory: str) -> int | None:
    """Return the free bytes for this user; None if unknown. Quotas are not considered."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    # Some file systems do not know their size and report 0 of 0 blocks.
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def require_free(directory: str, needed: int, purpose: str, database: str, topic: str = "") -> None:
    """Raise `DatabaseError` (code DISK_SPACE) if a directory's disk has fewer than `needed` bytes free.

    `purpose` begins the message: "a snapshot", "restoring a snapshot". The hint names `topic` of the
    manual, if given. Quotas are not considered.
    """
    free = free_space(directory)
    if free is not None and free < needed:
        raise DatabaseError(
            f"{purpose} needs {readable_size(needed)}, but {directory} has only {readable_size(free)} free",
            database=database,
            transient=True,
            code="DISK_SPACE",
            hint="free some space on the disk; nothing was changed"
            + (f"; see `migrated help {topic}`" if topic else ""),
        )


def readable_size(size: int) -> str:
    """Format a number of bytes in powers of 1000: `12.3 MB`."""
    if size < _STEP:
        return "1 byte" if size == 1 else f"{size} bytes"
    value, units = size / _STEP, iter(_UNITS)
    unit = next(units)
    # Compared after rounding: 999.96 kB is shown as 1.0 MB.
    while round(value, 1) >= _STEP and (larger := next(units, None)):
        value, unit = value / _STEP, larger
    return f"{value:.1f} {unit}"
