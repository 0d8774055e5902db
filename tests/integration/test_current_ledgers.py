"""CurrentLedgers: a database with the ledger of a current one is current; no other is."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from support import execute

from migrated import Migration, MigrationRunner, OnChanged, Policy
from migrated.config.settings import Target
from migrated.engine.runner import MigrationSet
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.job import CurrentLedgers

MIGRATIONS = [
    Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY);"),
    Migration(2, "posts", "CREATE TABLE posts (id INTEGER PRIMARY KEY);"),
]


def bring_up(path: Path, migrations: list[Migration] = MIGRATIONS) -> None:
    # A read in progress may have the database open, but holds no lock that could be lost.
    runner = MigrationRunner(path, is_alone_in_process=True)
    runner.add_migrations(migrations)
    runner.run()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A database with every migration applied."""
    path = tmp_path / "model.db"
    bring_up(path)
    return path


def ledgers_of(*learned: Path, policy: Policy = Policy(), application_id: int = 0) -> CurrentLedgers:  # noqa: B008 - frozen
    target = Target("/", ("x",), "/m", policy=policy, application_id=application_id)
    known = CurrentLedgers(MigrationSet(MIGRATIONS), target)
    for path in learned:
        known.learn(DatabasePath(path.name, str(path)))
    return known


def is_current(known: CurrentLedgers, path: Path) -> bool:
    return known.is_current(DatabasePath(path.name, str(path)))


def test_no_ledger_is_known_at_first(model: Path) -> None:
    assert not is_current(ledgers_of(), model)


def test_database_with_a_known_ledger_is_current_whatever_its_rows(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copy(model, other)
    execute(other, "INSERT INTO users VALUES (7); CREATE TABLE theirs (x);")
    execute(other, "UPDATE _migrations SET applied_at = '2020-01-01 00:00:00', execution_time_ms = 9")

    assert is_current(ledgers_of(model), other)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM _migrations WHERE version = 2",
        "UPDATE _migrations SET checksum = 'x' WHERE version = 1",
        "UPDATE _migrations SET name = 'x' WHERE version = 1",
        "UPDATE _migrations SET version = 9 WHERE version = 1",
        "INSERT INTO _migrations (version, name, checksum) VALUES (3, 'more', 'x')",
        "UPDATE _migrations_history SET action = 'apply-statement' WHERE version = 2",
        "DELETE FROM _migrations_history",
        "DROP TABLE _migrations",
        "CREATE TABLE _migrations_repeatable (x)",
    ],
)
def test_database_with_another_ledger_is_not_current(model: Path, tmp_path: Path, change: str) -> None:
    other = tmp_path / "other.db"
    shutil.copy(model, other)
    execute(other, change)

    assert not is_current(ledgers_of(model), other)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: None, id="nothing"),
        pytest.param(Path.touch, id="an empty file"),
        pytest.param(Path.mkdir, id="a directory"),
        pytest.param(lambda path: path.write_text("no database" * 200), id="a text"),
    ],
)
def test_file_that_is_not_a_database_is_not_current(
    model: Path, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    other = tmp_path / "other.db"
    make(other)

    before = other.exists()

    assert not is_current(ledgers_of(model), other)
    assert other.exists() is before


def test_locked_database_is_not_current(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copy(model, other)
    writer = apsw.Connection(str(other))
    writer.execute("BEGIN EXCLUSIVE")

    assert not is_current(ledgers_of(model), other)
    writer.execute("ROLLBACK")
    assert is_current(ledgers_of(model), other)


def test_ledger_with_pending_migrations_is_not_remembered(tmp_path: Path) -> None:
    half, changed = tmp_path / "half.db", tmp_path / "changed.db"
    bring_up(half, MIGRATIONS[:1])
    bring_up(changed, [MIGRATIONS[0], Migration(2, "posts", "CREATE TABLE other (x);")])
    known = ledgers_of(half, changed)

    assert not is_current(known, half)
    assert not is_current(known, changed)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        pytest.param(1, bring_up, id="brought up"),
        pytest.param(2, lambda path: execute(path, "DELETE FROM _migrations WHERE version = 2"), id="row deleted"),
    ],
)
def test_ledger_that_changes_between_two_reads_is_not_remembered(
    tmp_path: Path, before: int, change: Callable[[Path], None]
) -> None:
    """One of the two reads sees the ledger of a database with pending migrations."""
    model, behind = tmp_path / "model.db", tmp_path / "behind.db"
    bring_up(model, MIGRATIONS[:before])
    bring_up(behind, MIGRATIONS[:1])

    with between_the_looks(model, lambda: change(model)):
        known = ledgers_of(model)

    assert not is_current(known, behind)
    assert not is_current(known, model)


@contextmanager
def between_the_looks(path: Path, action: Callable[[], None]) -> Iterator[None]:
    """Call a function at the second opening of a database."""
    opened: list[str] = []

    def count(connection: apsw.Connection) -> None:
        if connection.filename == str(path):
            opened.append(connection.filename)
            if len(opened) == 2:
                apsw.connection_hooks.remove(count)
                action()

    apsw.connection_hooks.append(count)
    yield
    assert len(opened) == 2


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(lambda path: ledgers_of(path, policy=Policy(on_changed=OnChanged.REDO)), id="redo policy"),
        pytest.param(lambda path: ledgers_of(path, application_id=7), id="other application_id"),
    ],
)
def test_no_ledger_is_remembered_if_its_summary_is_not_sufficient(
    model: Path, known: Callable[[Path], CurrentLedgers]
) -> None:
    assert not is_current(known(model), model)
