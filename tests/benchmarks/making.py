"""What is worked on: migration files, fleets of databases, a big one; and whether the work was really done."""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import apsw

BASE = 20_240_101_000_000
OURS = ("-- UP", "-- DOWN")
DBMATE = ("-- migrate:up", "-- migrate:down")
LEDGER = "_migrations"
DBMATE_LEDGER = "schema_migrations"
_ROW_BYTES = 1_030
_PAYLOAD = 1_000
_FILL = """
PRAGMA journal_mode = off;
CREATE TABLE big (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
INSERT INTO big SELECT i, randomblob({payload}) FROM n;
PRAGMA journal_mode = delete;
"""


class NothingDoneError(Exception):
    """A database has not what a benchmark should have put there: its figures are worth nothing."""


def file_name(number: int) -> str:
    return f"{BASE + number}_change.sql"


def statements(number: int) -> tuple[str, str]:
    """A small migration, up and down: a table with an index."""
    up = (
        f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, name TEXT NOT NULL, created_at TEXT);\n"
        f"CREATE INDEX t{number}_name ON t{number} (name);"
    )
    return up, f"DROP TABLE t{number};"


def migration_text(number: int, marks: tuple[str, str] = OURS, sql: tuple[str, str] | None = None) -> str:
    up, down = sql or statements(number)
    return f"{marks[0]}\n{up}\n\n{marks[1]}\n{down}\n"


def write_migrations(
    directory: Path,
    numbers: Iterable[int],
    marks: tuple[str, str] = OURS,
    sql: tuple[str, str] | None = None,
) -> None:
    """Put migration files into a directory, each whole at once; `sql` is up and down for other than a table."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        part = directory.parent / f".{number}.part"
        part.write_text(migration_text(number, marks, sql))
        part.rename(directory / file_name(number))


def make_fleet(directory: Path, count: int, like: Path | None = None) -> list[Path]:
    """Databases that are all as the one given, or empty files. What was there before is removed."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    paths = [directory / f"tenant{number:05}.db" for number in range(count)]
    for path in paths:
        if like is None:
            path.touch()
        else:
            shutil.copyfile(like, path)
    settle_disk()
    return paths


def make_big(path: Path, size: int) -> None:
    """A database of about `size` bytes, all of them in one table."""
    execute(path, _FILL.format(rows=max(1, size // _ROW_BYTES), payload=_PAYLOAD))
    settle_disk()


def execute(path: Path, script: str) -> None:
    connection = apsw.Connection(os.fspath(path))
    try:
        for _ in connection.execute(script):
            pass
    finally:
        connection.close()


def remove_database(path: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


def settle_disk() -> None:
    """Write out what the preparations left: the first commit that is measured would pay for it otherwise."""
    os.sync()


def require_applied(paths: Sequence[Path], count: int, ledger: str = LEDGER) -> None:
    """Raise `NothingDoneError` unless each database has `count` migrations in its ledger."""
    if not paths:
        raise NothingDoneError("there is no database to look at")
    for path in paths:
        if (found := applied(path, ledger)) != count:
            raise NothingDoneError(f"{path}: {found} migrations are applied, expected {count}")


def applied(path: Path, ledger: str = LEDGER) -> int:
    """How many migrations are in the ledger; 0 where there is none."""
    if not path.exists():
        return 0
    connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(10_000)
        return int(next(connection.execute(f"SELECT count(*) FROM {ledger}"))[0])
    except apsw.SQLError:
        return 0
    finally:
        connection.close()
