"""What the tests of snapshots and of restoring share: databases, an application beside, looks into a copy."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw
from integration.children import Children, line_from, tell
from support import execute

from migrated.core.records import Snapshot
from migrated.engine.sqlite.snapshots.snapshots import take

JOURNALS = ["delete", "wal"]
# A standard sqlite3 plays the application: it runs each line that it is given.
APPLICATION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)
for line in sys.stdin:
    try:
        print(connection.execute(line).fetchall(), flush=True)
    except sqlite3.Error as error:
        print(type(error).__name__, error, flush=True)
"""
# How a script begins whose second argument says in which step of a copy it is killed.
KILLED_IN_STEP = """
import os, signal, sys
steps = []
def step():
    steps.append(1)
    if len(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""
REFUSED = "OperationalError database is locked"


class Application:
    """Another process that has the database open."""

    def __init__(self, children: Children, database: Path, timeout: float = 0) -> None:
        self._process: subprocess.Popen[str] = children.start(APPLICATION, database, timeout)

    def runs(self, sql: str) -> str:
        """Run a statement there; its rows, or what was wrong."""
        tell(self._process, sql)
        return line_from(self._process)

    def counts(self) -> str:
        return self.runs("SELECT count(*) FROM t").strip("[(,)]")

    def writes(self) -> bool:
        """Write a row; false where the database is locked."""
        answer = self.runs("INSERT INTO t (x) VALUES ('theirs')")
        assert answer in {"[]", REFUSED}
        return answer == "[]"


def fill(database: Path, journal: str = "delete", megabytes: float = 0.1, *, page_size: int = 4096) -> None:
    """Make a database with a table t of ten rows to the megabyte."""
    execute(
        database,
        f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = {journal};"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x);"
        f"{add(round(10 * megabytes))}",
    )


def add(rows: int) -> str:
    return (
        f"WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {rows})"
        " INSERT INTO t (x) SELECT randomblob(100000) FROM c;"
    )


def spoil(database: Path) -> None:
    """Overwrite the second page from the end; nobody has the file open."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(size - 2 * 4096)
        file.write(b"\xff" * 4096)


@contextmanager
def write_lock(database: Path) -> Iterator[apsw.Connection]:
    """Hold the write lock of a database, as the caller of `take` does."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
    finally:
        connection.close()


def taken(
    database: Path, reason: str = "before-run", version: int | None = 1, keep: int = 5, **rest: object
) -> Snapshot:
    """Take a snapshot as a runner does."""
    with write_lock(database):
        return take(str(database), reason=reason, version=version, keep=keep, **rest)  # type: ignore[arg-type] # passed on


def names(database: Path) -> list[str]:
    """Every file in the folder of a database's snapshots."""
    folder = folder_of(database)
    return sorted(os.listdir(folder)) if folder.exists() else []


def folder_of(database: Path) -> Path:
    """Where the snapshots of a database lie, and nobody else's."""
    return database.parent / ".migrated" / "snapshots" / database.name


def rows_of_copy(path: str, sql: str) -> list[tuple[object, ...]]:
    """Rows of a snapshot, whose folder is left as it is."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(path)}?immutable=1", flags=flags)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
