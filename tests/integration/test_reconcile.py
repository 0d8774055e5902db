"""One pass of the daemon, on real files."""

import json
from pathlib import Path

import pytest
from support import execute, schema, write_migration

from migrated.config.load import Overrides, load_config
from migrated.daemon.directories import Directories
from migrated.daemon.holding import DaemonLocks
from migrated.daemon.messages import DatabaseDone, DirectoryScanned, Message
from migrated.daemon.reconcile import ReconcileCache, Reconciliation
from migrated.logs import logger
from migrated.sources.cache import DirectoryReader, Reading
from migrated.system.cancellation import CancelToken
from migrated.system.permissions import Trust


class _CheckoutWhileReading(DirectoryReader):
    """Lets git begin a checkout, which removes a file, after a pass has begun and before it reads."""

    def __init__(self, lock: Path, file: Path) -> None:
        super().__init__()
        self.lock = lock
        self.file = file

    def read(self, directory: str, trust: Trust | None = None) -> Reading:
        self.lock.touch()
        self.file.unlink()
        return super().read(directory, trust)


class _ReaderWithABug(DirectoryReader):
    def read(self, directory: str, trust: Trust | None = None) -> Reading:
        raise ZeroDivisionError(directory, trust)


def run_pass(cache: ReconcileCache, directory: Path) -> list[Message]:
    config = load_config(Overrides(), directory)
    locks = DaemonLocks()
    posted: list[Message] = []
    log = logger.configure("json", "error")
    try:
        locks.ensure_all(config)
        Reconciliation(config, "run", log, locks, posted.append, CancelToken(), 0.0, cache=cache).run()
    finally:
        locks.release()
    return posted


@pytest.mark.parametrize("is_stale", [False, True], ids=["checkout begins", "lock of a killed git"])
def test_file_removed_by_a_checkout_that_begins_during_the_pass_is_not_missing(
    tmp_path: Path, migrations: Path, *, is_stale: bool
) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["app.db"]\non_missing = "rollback"\n')
    file = write_migration(migrations, 1, "users", up="CREATE TABLE users (x)", down="DROP TABLE users")
    cache = ReconcileCache()
    run_pass(cache, tmp_path)
    # As if written by somebody else since: the database is visited again.
    execute(tmp_path / "app.db", "CREATE TABLE other (x)")
    lock = tmp_path / ".git" / "index.lock"
    lock.parent.mkdir()
    if is_stale:
        lock.touch()
    cache.reader = _CheckoutWhileReading(lock, file)

    posted = run_pass(cache, tmp_path)

    scans = [message for message in posted if isinstance(message, DirectoryScanned)]
    assert [bool(scan.listing and scan.listing.unfinished) for scan in scans] == [not is_stale]
    visits = [message for message in posted if isinstance(message, DatabaseDone)]
    assert len(visits) == is_stale
    assert ("users" in {row[1] for row in schema(tmp_path / "app.db")}) is not is_stale


def test_bug_met_while_reading_a_directory_is_an_internal_error_of_that_directory(
    tmp_path: Path, migrations: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["app.db"]\n')
    cache = ReconcileCache()
    cache.reader = _ReaderWithABug()
    config = load_config(Overrides(), tmp_path)
    log = logger.configure("json", "error")
    directories = Directories(log, lambda _path, _name: None)
    directories.watch(config)
    try:
        (scan,) = [message for message in run_pass(cache, tmp_path) if isinstance(message, DirectoryScanned)]
        directories.scanned(scan, 0.0)
    finally:
        directories.stop()
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    assert (line["event"], line["level"], line["file"]) == ("internal.error", "error", str(migrations))
    assert line["message"].startswith(f"{migrations}: internal error: ZeroDivisionError(")
    assert "ZeroDivisionError" in line["traceback"]
    assert "statement" not in line
