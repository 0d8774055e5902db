"""The setting application_id of a target."""

from pathlib import Path

import apsw
import pytest
from daemon_process import migrated
from support import everything, execute, query, write_migration

from migrated import DatabaseError, Migration, MigrationRunner, TransactionMode

OURS, THEIRS = 0x6D696772, 0x0F055112


def runner_for(
    database: Path, *texts: str, transaction: TransactionMode = TransactionMode.EACH
) -> MigrationRunner:
    runner = MigrationRunner(database, application_id=OURS, transaction=transaction)
    runner.add_migrations(Migration(number, f"m{number}", text) for number, text in enumerate(texts, 1))
    return runner


@pytest.mark.parametrize("transaction", TransactionMode)
def test_new_database_gets_the_application_id(database: Path, transaction: TransactionMode) -> None:
    runner_for(database, "CREATE TABLE a (x)", "CREATE TABLE b (x)", transaction=transaction).run()

    assert query(database, "PRAGMA application_id") == [(OURS,)]


def test_failing_first_migration_sets_no_application_id(database: Path) -> None:
    with pytest.raises(Exception, match="no such table"):
        runner_for(database, "INSERT INTO nowhere VALUES (1)").run()

    assert query(database, "PRAGMA application_id") == [(0,)]


def test_database_with_the_id_is_migrated_and_keeps_it(database: Path) -> None:
    execute(database, f"CREATE TABLE t (x); PRAGMA application_id = {OURS}")

    assert [entry.version for entry in runner_for(database, "CREATE TABLE a (x)").run()] == [1]
    assert query(database, "PRAGMA application_id") == [(OURS,)]


@pytest.mark.parametrize("found", [0, THEIRS])
def test_database_of_another_application_is_refused_and_unchanged(database: Path, found: int) -> None:
    execute(database, f"CREATE TABLE t (x); PRAGMA application_id = {found}")
    before = everything(database)

    with pytest.raises(DatabaseError) as refused:
        runner_for(database, "CREATE TABLE a (x)").run()

    assert (refused.value.code, refused.value.transient, refused.value.exit_code) == ("APPLICATION_ID", False, 6)
    assert f"0x{found:08x}" in refused.value.message
    assert f"0x{OURS:08x}" in refused.value.message
    assert everything(database) == before


def test_application_id_is_checked_on_a_callers_connection(database: Path) -> None:
    execute(database, f"CREATE TABLE t (x); PRAGMA application_id = {THEIRS}")
    before = everything(database)
    connection = apsw.Connection(str(database))
    runner = MigrationRunner(connection, application_id=OURS)
    runner.add_migration(Migration(1, "m1", "CREATE TABLE a (x)"))

    with pytest.raises(DatabaseError) as refused:
        runner.run()
    connection.close()

    assert refused.value.code == "APPLICATION_ID"
    assert everything(database) == before


def test_application_id_is_configured_per_target(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    execute(tmp_path / "theirs.db", f"CREATE TABLE t (x); PRAGMA application_id = {THEIRS}")
    before = everything(tmp_path / "theirs.db")
    (tmp_path / "migrated.toml").write_text(
        f'[[target]]\ndatabases = ["theirs.db", "ours.db"]\napplication_id = {OURS:#x}\n'
    )

    done = migrated(tmp_path, "up")

    assert done.returncode == 6
    assert query(tmp_path / "ours.db", "PRAGMA application_id") == [(OURS,)]
    assert everything(tmp_path / "theirs.db") == before
    assert migrated(tmp_path, "status").returncode == 6
