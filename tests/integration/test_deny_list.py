"""Forbidden statements are refused on every path that runs SQL, and leave nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import everything

from migrated import Migration, MigrationError, MigrationRunner, OnChanged, Policy, SnapshotPolicy, SnapshotWhen

NO_TRANSACTION = "-- migrated: no-transaction\n"
FIRST = Migration(1, "first", "CREATE TABLE first (id INTEGER PRIMARY KEY)", "DROP TABLE first")
FORBIDDEN = {
    "BEGIN": "BEGIN",
    "COMMIT": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "SAVEPOINT s": "SAVEPOINT",
    "ATTACH 'other.db' AS other": "ATTACH",
    "DETACH main": "DETACH",
    "SELECT load_extension('x')": r"load_extension\(\)",
    "PRAGMA writable_schema = 1": "PRAGMA writable_schema",
    "PRAGMA schema_version = 9": "PRAGMA schema_version",
    "PRAGMA query_only = 1": "PRAGMA query_only",
    "PRAGMA hard_heap_limit = 1": "PRAGMA hard_heap_limit",
    "VACUUM INTO 'copy.db'": "VACUUM INTO",
    "DELETE FROM _migrations": "a write to _migrations",
    "UPDATE _migrations_history SET up_sql = ''": "a write to _migrations_history",
    "DROP TABLE _migrations": "dropping _migrations",
    "CREATE TRIGGER g AFTER INSERT ON _migrations BEGIN SELECT 1; END": "a trigger on _migrations",
}


def runner(database: Path, *migrations: Migration) -> MigrationRunner:
    snapshots = SnapshotPolicy(SnapshotWhen.BEFORE_EACH)
    made = MigrationRunner(database, policy=Policy(on_changed=OnChanged.REDO), snapshots=snapshots)
    made.add_migrations([FIRST, *migrations])
    return made


def _up(database: Path, text: str) -> Callable[[], object]:
    runner(database).run()
    return runner(database, Migration(2, "bad", text)).run


def _down(database: Path, text: str) -> Callable[[], object]:
    made = runner(database, Migration(2, "bad", "CREATE TABLE second (id)", text))
    made.run()
    return lambda: made.roll_back(1)


def _redo_in_place(database: Path, text: str) -> Callable[[], object]:
    good = Migration(2, "bad", "CREATE TABLE second (id)", "DROP TABLE second")
    runner(database, good).run()
    return runner(database, Migration(2, "bad", text, "DROP TABLE second")).run


def _redo_with_recorded_down_text(database: Path, text: str) -> Callable[[], object]:
    runner(database, Migration(2, "bad", "CREATE TABLE second (id)", text)).run()
    return runner(database, Migration(2, "bad", "CREATE TABLE third (id)", "DROP TABLE third")).run


def _redo_on_a_copy(database: Path, text: str) -> Callable[[], object]:
    """Without a DOWN section a snapshot is restored."""
    runner(database, Migration(2, "bad", "CREATE TABLE second (id)")).run()
    return runner(database, Migration(2, "bad", text)).run


def _redo_without_transaction_on_a_copy(database: Path, text: str) -> Callable[[], object]:
    good = Migration(2, "bad", f"{NO_TRANSACTION}CREATE TABLE second (id)", "DROP TABLE second")
    runner(database, good).run()
    return runner(database, Migration(2, "bad", NO_TRANSACTION + text, "SELECT 1")).run


def _without_transaction(database: Path, text: str) -> Callable[[], object]:
    runner(database).run()
    return runner(database, Migration(2, "bad", NO_TRANSACTION + text)).run


def _down_without_transaction(database: Path, text: str) -> Callable[[], object]:
    return _down(database, NO_TRANSACTION + text)


def _repeatable(database: Path, text: str) -> Callable[[], object]:
    runner(database).run()
    return runner(database, Migration.repeatable("bad", text)).run


WAYS = [
    *(_up, _down, _redo_in_place, _redo_with_recorded_down_text, _redo_on_a_copy),
    *(_redo_without_transaction_on_a_copy, _without_transaction, _down_without_transaction),
    _repeatable,
]


@pytest.mark.parametrize("way", [pytest.param(way, id=way.__name__.strip("_")) for way in WAYS])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_deny_list_applies_to_every_way_of_running_sql(
    tmp_path: Path,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Path, str], Callable[[], object]],
    statement: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    act = way(database, statement)
    before = everything(database)

    with pytest.raises(MigrationError) as caught:
        act()

    assert re.match(f"{FORBIDDEN[statement]}.* is not allowed in a migration", caught.value.message)
    assert (caught.value.name, caught.value.exit_code) in {("bad", 1), ("R__bad", 1)}
    assert everything(database) == before
    assert {path.name for path in tmp_path.iterdir()} <= {".migrated", "app.db"}
