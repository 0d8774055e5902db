"""The daemon's Prometheus file, parsed as the collector parses it."""

import os
import random
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from prometheus_client.parser import text_string_to_metric_families
from support import ROOT, write_migration

from migrated.config.load import Overrides, load_config
from migrated.config.settings import Config
from migrated.core import VERSION
from migrated.core.errors import ConfigError
from migrated.daemon.alerts import Alerts
from migrated.daemon.directories import Directories
from migrated.daemon.loop import ALIVE_SECONDS, Daemon
from migrated.daemon.metrics import Metrics
from migrated.logs import logger

BROKEN = "SELECT * FROM nowhere;"


def read(file: Path) -> dict[str, float]:
    """Return every sample by name and labels."""
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }


def configure(directory: Path, name: str) -> None:
    text = f'metrics_file = "{name}"\n[[target]]\ndatabases = ["a.db", "b.db"]\n'
    (directory / "migrated.toml").write_text(text)


def test_file_has_counts_of_work_and_states(tmp_path: Path, migrations: Path) -> None:
    place = tmp_path / "metrics"
    place.mkdir()
    file = place / "migrated.prom"
    configure(tmp_path, "metrics/migrated.prom")
    write_migration(migrations, 1)
    write_migration(migrations, 2)
    began = time.time()
    before = os.umask(0o077)
    try:
        daemon = DaemonProcess(tmp_path)
    finally:
        os.umask(before)
    with daemon:
        daemon.wait_until_ready()
        first = read(file)

        assert file.stat().st_mode & 0o777 == 0o644
        duration, succeeded = (
            first.pop(f"migrated_{name}") for name in ("pass_duration_seconds", "last_success_timestamp_seconds")
        )
        assert began - 1 <= succeeded <= time.time()
        assert 0 < duration <= time.time() - began
        assert first == {
            "migrated_databases current": 2,
            "migrated_databases blocked": 0,
            "migrated_databases unavailable": 0,
            "migrated_databases unknown": 0,
            "migrated_pending_migrations": 0,
            "migrated_applied_total": 4,
            "migrated_failures_total failed": 0,
            "migrated_failures_total unavailable": 0,
            "migrated_watch_restarts_total": 0,
            f"migrated_build_info {VERSION}": 1,
        }

        write_migration(migrations, 3, up=BROKEN)
        daemon.wait_for("database.blocked", database="b.db")
        daemon.look()
        # Do not remove it first: a new directory could get the same inode, and would not look replaced.
        (tmp_path / "a.db").rename(tmp_path / "a.old")
        (tmp_path / "a.db").mkdir()
        daemon.look()
        daemon.wait_for("database.unavailable", database="a.db")
        second = read(file)
        assert (second["migrated_databases blocked"], second["migrated_databases unavailable"]) == (1, 1)
        assert second["migrated_failures_total failed"] == 2
        assert second["migrated_failures_total unavailable"] >= 1
        assert second["migrated_pending_migrations"] == 1
        assert second["migrated_last_success_timestamp_seconds"] == succeeded

        (tmp_path / "a.db").rmdir()
        migrations.rename(tmp_path / "aside")
        shutil.copytree(tmp_path / "aside", migrations)
        (migrations / "3_change.sql").unlink()
        daemon.wait_for_all(
            {"event": "database.unblocked", "database": "b.db"},
            {"event": "database.recovered", "database": "a.db"},
            {"event": "watch.restored"},
        )
        daemon.look()
        third = read(file)
        assert third["migrated_watch_restarts_total"] >= 1
        assert third["migrated_databases current"] == 2
        assert third["migrated_last_success_timestamp_seconds"] > succeeded
        assert daemon.stop() == 0
    assert read(file)["migrated_applied_total"] == 6
    assert [path.name for path in place.iterdir()] == ["migrated.prom"]


def test_failed_write_is_logged_once_and_stops_nothing(tmp_path: Path, migrations: Path) -> None:
    place = tmp_path / "metrics"
    configure(tmp_path, "metrics/migrated.prom")
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        daemon.look()
        place.mkdir()
        daemon.look()
        assert read(place / "migrated.prom")["migrated_applied_total"] == 2
        shutil.rmtree(place)
        daemon.look()
        write_migration(migrations, 2)
        daemon.wait_for("migration.applied", database="b.db", version=2)
        daemon.stop()

    failures = daemon.logged("metrics.failed")
    assert [(line["level"], line["file"], line["reason"]) for line in failures] == 2 * [
        ("warning", str(place / "migrated.prom"), "No such file or directory")
    ]


def test_file_is_written_with_each_heartbeat(tmp_path: Path) -> None:
    file = tmp_path / "migrated.prom"
    config = Config("", (), metrics_file=str(file))
    daemon = Daemon(config, lambda: config, logger.configure("json", "critical"))
    daemon._tick(time.monotonic())
    assert not file.exists()

    daemon._tick(time.monotonic() + ALIVE_SECONDS + 1)

    assert read(file)["migrated_last_success_timestamp_seconds"] == 0


def test_metrics_table_of_the_manual_matches_the_code(tmp_path: Path) -> None:
    file = tmp_path / "migrated.prom"
    config = Config("", (), metrics_file=str(file))
    log = logger.configure("json", "critical")
    alerts = Alerts(log, random.random)
    Metrics(config.metrics_file, alerts, Directories(log, lambda _path, _name: None), log).write()
    topic = (ROOT / "migrated" / "docs" / "metrics.md").read_text()
    in_manual = re.findall(r"^\| `(migrated_\w+)", topic, re.MULTILINE)

    assert sorted(in_manual) == sorted({name.split()[0] for name in read(file)})


def test_no_file_is_written_unless_configured(tmp_path: Path) -> None:
    (tmp_path / "migrated.toml").write_text("")

    assert load_config(Overrides(), tmp_path).metrics_file is None


@pytest.mark.parametrize("installed", [True, False])
def test_unusable_metrics_file_is_a_configuration_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,  # noqa: FBT001 - a parameter
) -> None:
    configure(tmp_path, "metrics.txt" if installed else "metrics.prom")
    if not installed:
        # This makes Python raise ImportError for the module.
        monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ConfigError) as caught:
        load_config(Overrides(), tmp_path)

    reason = (
        "must end in .prom, because the collector ignores other files, got 'metrics.txt'"
        if installed
        else "needs the library prometheus_client: pip install 'migrated[metrics]'"
    )
    assert caught.value.faults == (f"{tmp_path / 'migrated.toml'}:1: metrics_file: {reason}",)
