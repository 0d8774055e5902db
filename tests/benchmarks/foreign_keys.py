"""What a migration costs on a big database that it does not touch, against SQLite alone doing the same.

    python tests/benchmarks/foreign_keys.py [--size 1GB] [--directory DIR] [--rounds 5]

In each round the runner and plain apsw add one column, to a small table and to the big child table, with the
same rows written into a ledger; plain apsw then checks every foreign key, as a runner would that looked at
everything. They take turns in one process on one file. The table has the median of each and its ratio.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import apsw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from migrated import Migration, MigrationRunner
from migrated.config.settings import parse_size

_SCHEMA = """
PRAGMA journal_mode = wal;
CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE child (
    id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES parent (id), payload BLOB NOT NULL
);
CREATE TABLE elsewhere (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent (id));
INSERT INTO elsewhere VALUES (1, 1);
CREATE TABLE plain_ledger (version INTEGER PRIMARY KEY, name TEXT, checksum TEXT, applied_at TEXT, time INTEGER);
CREATE TABLE plain_history (id INTEGER PRIMARY KEY, happened_at TEXT, action TEXT, version INTEGER, text TEXT);
"""
_FILL = """
WITH RECURSIVE n (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last}) INSERT INTO {rows};
"""
_ROWS_A_PARENT = 20
_BYTES_A_ROW = 520
_PAYLOAD = 500
_ROWS_A_TRANSACTION = 100_000


def build(path: Path, size: int) -> int:
    """Make the database and return how many rows the child table has."""
    connection = apsw.Connection(os.fspath(path))
    connection.execute(_SCHEMA).fetchall()
    rows = size // _BYTES_A_ROW
    parents = "parent SELECT i, 'parent ' || i FROM n"
    connection.execute(_FILL.format(first=1, last=rows // _ROWS_A_PARENT + 1, rows=parents)).fetchall()
    for first in range(1, rows, _ROWS_A_TRANSACTION):
        children = f"child SELECT i, i / {_ROWS_A_PARENT} + 1, randomblob({_PAYLOAD}) FROM n"
        last = min(rows, first + _ROWS_A_TRANSACTION - 1)
        connection.execute(_FILL.format(first=first, last=last, rows=children)).fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    return rows


def by_runner(path: Path, version: int, statement: str) -> None:
    """As the program does it, from looking at the ledger to closing the database."""
    runner = MigrationRunner(path)
    # What is applied must be known, or the run is refused.
    _KNOWN.append(Migration(version, "add_column", statement))
    runner.add_migrations(_KNOWN)
    runner.run()


_KNOWN: list[Migration] = []


def plainly(path: Path, version: int, statement: str) -> None:
    """The least that has to be done: one transaction with the statement and two rows."""
    connection = apsw.Connection(os.fspath(path))
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(statement).fetchall()
    checksum = Migration.compute_checksum(statement)
    connection.execute(
        "INSERT INTO plain_ledger VALUES (?, 'add_column', ?, datetime('now'), 0)", (version, checksum)
    )
    connection.execute(
        "INSERT INTO plain_history VALUES (NULL, datetime('now'), 'apply', ?, ?)", (version, statement)
    )
    connection.execute("COMMIT")
    connection.close()


def checking_everything(path: Path) -> None:
    connection = apsw.Connection(os.fspath(path))
    connection.execute("PRAGMA foreign_key_check").fetchall()
    connection.close()


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """The times of everything, in turns."""
    MigrationRunner(path).init()
    found: dict[str, list[float]] = {}
    version = 0
    for _ in range(rounds):
        for table in ("elsewhere", "child"):
            for name, way in (("plain apsw", plainly), ("migrated", by_runner)):
                version += 1
                statement = f"ALTER TABLE {table} ADD COLUMN c{version}"
                took = timed(lambda: way(path, version, statement))  # noqa: B023 - called before they change
                found.setdefault(f"ADD COLUMN to {table}: {name}", []).append(took)
        found.setdefault("foreign_key_check of everything", []).append(timed(lambda: checking_everything(path)))
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def show(found: dict[str, list[float]]) -> None:
    """One line for each, with its ratio to plain apsw doing the same."""
    say(f"{'':44}{'median ms':>10}{'best ms':>10}{'ratio':>8}")
    base = statistics.median(next(iter(found.values())))
    for name, times in found.items():
        middle = statistics.median(times)
        if name.endswith("plain apsw"):
            base = middle
        say(f"{name:44}{middle:10.2f}{min(times):10.2f}{middle / base:8.1f}")


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", type=parse_size, default="200MB", help="of the database (default: 200MB)")
    parser.add_argument("--directory", type=Path, help="where to make it (default: that for temporary files)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        path = Path(directory) / "big.db"
        rows = build(path, arguments.size)
        say(f"{path.stat().st_size / 1e6:.0f} MB, {rows} rows in child; SQLite {apsw.sqlite_lib_version()}")
        show(measure(path, arguments.rounds))


if __name__ == "__main__":
    main()
