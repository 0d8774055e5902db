"""A run that is asked to begin nothing more: what it says is left."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import applied_versions, execute

from migrated import Migration, Supervision
from migrated.config.settings import Target
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.job import DatabaseJob
from migrated.fleet.outcome import OutcomeKind
from migrated.logs import logger
from migrated.logs.logger import Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    yield logger.configure("json", "debug", descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("is_new", [True, False])
def test_what_did_not_begin_is_pending(tmp_path: Path, database: Path, log: Log, is_new: bool) -> None:  # noqa: FBT001
    if not is_new:
        execute(database, "CREATE TABLE theirs (id)")
    supervision = Supervision()
    supervision.pause()
    target = Target(str(tmp_path), ("app.db",), str(tmp_path / "migrations"))
    outcomes = []
    for _ in range(2):
        outcomes.append(
            DatabaseJob(
                target,
                [Migration(1, "one", "CREATE TABLE t1 (id)"), Migration(2, "two", "CREATE TABLE t2 (id)")],
                lambda runner: runner.run(),
                log,
                lock_timeout=0,
                cancel_token=supervision,
            ).run(DatabasePath("app.db", str(database)))
        )
        if len(outcomes) == 1:
            assert applied_versions(database) == []
        supervision.resume()

    assert [(outcome.result, outcome.pending) for outcome in outcomes] == [
        (OutcomeKind.CURRENT, 2),
        (OutcomeKind.APPLIED, 0),
    ]
    assert applied_versions(database) == [1, 2]
