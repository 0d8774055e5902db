"""Helpers for the tests: migrations as values and files, a look into a database, programs that may be missing."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import apsw
import pytest

PROGRAM = [sys.executable, "-m", "migrated"]
ROOT = Path(__file__).parent.parent


def needs(program: str) -> pytest.MarkDecorator:
    """Mark a test that is skipped where this program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


needs_git = needs("git")


def write_migration(
    directory: Path, version: int | str, name: str = "change", *, up: str | None = None, down: str | None = None
) -> Path:
    """Put a migration file into a directory whole: written beside it, then renamed in."""
    up = f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY);" if up is None else up
    text = f"-- UP\n{up}\n" + ("" if down is None else f"\n-- DOWN\n{down}\n")
    return put_file(directory, f"{version}_{name}.sql", text)


def put_file(directory: Path, name: str, text: str | bytes) -> Path:
    """Put a file into a directory whole."""
    beside = directory.parent / f".{name}.part"
    beside.write_bytes(text if isinstance(text, bytes) else text.encode())
    path = directory / name
    beside.rename(path)
    return path


def checksum(sql: str) -> str:
    """What the contract says a checksum is, computed here by itself."""
    return hashlib.sha256(sql.encode()).hexdigest()


def query(database: str | os.PathLike[str], sql: str, *parameters: object) -> list[tuple[object, ...]]:
    """Rows of a database, read through a connection of its own that may not create the file."""
    connection = apsw.Connection(os.fspath(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(10_000)
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def execute(database: str | os.PathLike[str], sql: str) -> None:
    """Run a script on a database, creating the file if need be."""
    connection = apsw.Connection(os.fspath(database))
    try:
        connection.set_busy_timeout(10_000)
        for _ in connection.execute(sql):
            pass
    finally:
        connection.close()


def schema(database: str | os.PathLike[str]) -> list[tuple[object, ...]]:
    """Everything that the application would see of the schema, without the ledger."""
    return query(
        database,
        "SELECT type, name, sql FROM sqlite_schema WHERE substr(tbl_name, 1, 11) != '_migrations' ORDER BY 1, 2",
    )


def applied_versions(database: str | os.PathLike[str]) -> list[object]:
    """The versions in the ledger, ascending; none where there is no database or no ledger."""
    if not Path(database).exists():
        return []
    if not query(database, "SELECT 1 FROM sqlite_schema WHERE name = '_migrations'"):
        return []
    return [row[0] for row in query(database, "SELECT version FROM _migrations ORDER BY version")]


def everything(database: str | os.PathLike[str]) -> list[tuple[object, ...]]:
    """Schema and rows of every table, the ledger and the history too: equal before and after a refusal."""
    if not Path(database).exists():
        return []
    found = query(database, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    tables = [str(row[1]) for row in found if row[0] == "table"]
    rows = [(table, *row) for table in tables for row in query(database, f'SELECT * FROM "{table}"')]
    return found + rows
