"""The service from start to stop under a real systemd."""

import os
import shutil
import time

import pytest
from acceptance.systemd.machine import FIRST_USER_ID, Machine
from acceptance.systemd.service import ENDLESS, Application, Service, lasting
from daemon_process import DaemonProcess, poll
from support import applied_versions

pytestmark = pytest.mark.long


def start_migration(service: Service, application: Application, version: int, up: str) -> None:
    """Return when the running service has started this migration."""
    application.migration(version, up=up)
    poll(lambda: any(line["version"] == version for line in service.logged("migration.applying")), "it runs")


def test_service_is_started_once_all_migrations_are_applied(service: Service, application: Application) -> None:
    application.migration(2, up=lasting(4.0))
    service.edit("TimeoutStartSec=2s")

    service.start()

    assert applied_versions(application.database) == [1, 2]
    (applied,) = [line for line in service.logged("migration.applied") if line["version"] == 2]
    assert applied["execution_time_ms"] > 2000
    shown = service.show("ActiveState", "StatusText", "UID")
    assert shown == {"ActiveState": "active", "StatusText": "1 of 1 databases current", "UID": str(FIRST_USER_ID)}
    assert {os.stat(path).st_uid for path in application.directory.rglob("*")} == {FIRST_USER_ID}


def test_service_stays_up_with_a_failing_migration_and_shows_it_until_fixed(
    service: Service, application: Application
) -> None:
    application.migration(2, up="CREATE TABLE broken (")

    service.start()

    assert service.state() == ("active", "success", "0")
    (failed,) = service.logged("migration.failed")
    assert failed["level"] == "error"
    said = service.show("StatusText")["StatusText"]
    assert said.startswith("0 of 1 databases current; 1 blocked")
    assert said in service.machine.run("systemctl", "status", service.unit).stdout

    application.migration(2)
    service.wait_for("database.unblocked")
    assert applied_versions(application.database) == [1, 2]
    poll(lambda: service.show("StatusText")["StatusText"] == "1 of 1 databases current", "the status is good")


def test_reload_applies_a_valid_configuration_and_keeps_it_when_the_next_is_invalid(
    service: Service, application: Application
) -> None:
    service.start()
    more = application.directory / "more"
    shutil.copytree(application.directory / "migrations", more)
    (more / "1_change.sql").rename(more / "1_other.sql")
    application.own(more, *more.iterdir())
    database = application.directory / "other.db"
    target = [
        "[[target]]",
        f'databases = ["{application.inside}/other.db"]',
        f'migrations = "{application.inside}/more"',
    ]
    application.configure(*target)

    service.machine.do("systemctl", "reload", service.unit)
    assert len(service.logged("daemon.reloaded")) == 1
    poll(lambda: applied_versions(database) == [1], "the new database is made")

    application.configure("nonsense = true")
    assert service.machine.run("systemctl", "reload", service.unit).returncode == 1
    service.machine.do("journalctl", "--sync")
    said = [entry["MESSAGE"] for entry in service.machine.journal("-u", service.unit)]
    assert any("/etc/migrated/migrated.toml:1: nonsense" in text for text in said), said
    assert service.state() == ("active", "success", "0")
    shutil.copy(more / "1_other.sql", more / "2_other.sql")
    (more / "2_other.sql").write_text("CREATE TABLE second (id INTEGER PRIMARY KEY);")
    application.own(more / "2_other.sql")
    poll(lambda: applied_versions(database) == [1, 2], "the old configuration is in force")


def test_stop_lets_a_running_migration_finish_beyond_the_stop_timeout(
    service: Service, application: Application
) -> None:
    service.edit("TimeoutStopSec=1s")
    service.start()
    start_migration(service, application, 2, lasting(3.0))
    application.migration(3)

    before = time.monotonic()
    service.machine.do("systemctl", "stop", service.unit)

    assert time.monotonic() - before > 1.0
    assert service.state() == ("inactive", "success", "0")
    assert applied_versions(application.database) == [1, 2]
    assert [line["event"] for line in service.lines()][-1] == "daemon.stopped"


def test_stop_undoes_a_migration_that_takes_longer_than_its_grace(
    service: Service, application: Application
) -> None:
    application.configure('stop_grace = "500ms"')
    service.start()
    start_migration(service, application, 2, ENDLESS)

    service.machine.do("systemctl", "stop", service.unit)

    assert service.state() == ("inactive", "success", "0")
    assert applied_versions(application.database) == [1]
    assert service.logged("migration.failed") != []


def test_service_killed_in_a_migration_is_restarted_and_finishes(
    service: Service, application: Application
) -> None:
    service.edit("RestartSec=0")
    service.start()
    start_migration(service, application, 2, f"CREATE TABLE t2 (i); INSERT INTO t2 {lasting(1.0)}")

    service.machine.do("systemctl", "kill", "--kill-whom=main", "--signal=KILL", service.unit)

    service.wait_for("daemon.ready", times=2)
    assert service.state() == ("active", "success", "1")
    assert applied_versions(application.database) == [1, 2]
    assert len([line for line in service.logged("migration.applying") if line["version"] == 2]) == 2


def test_invalid_configuration_prevents_a_restart(service: Service, application: Application) -> None:
    application.configure("nonsense = true")
    _ends_for_good(service, 78)


def test_wrong_usage_prevents_a_restart(service: Service) -> None:
    service.edit("ExecStart=", "ExecStart=/usr/local/bin/migrated run --nonsense")
    _ends_for_good(service, 2)


def test_second_daemon_is_not_restarted(service: Service, application: Application, machine: Machine) -> None:
    with DaemonProcess(application.directory, "-d", "app.db").wait_until_ready():
        # The lock belongs to root in this test, and the service must be able to read it.
        application.own(*(application.directory / ".migrated").iterdir())
        _ends_for_good(service, 5)
    assert service.logged("lock.held") != []


def _ends_for_good(service: Service, code: int) -> None:
    assert service.machine.run("systemctl", "start", service.unit).returncode == 1
    shown = service.show("ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts")
    assert shown == {
        "ActiveState": "failed",
        "SubState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": str(code),
        "NRestarts": "0",
    }


def test_hung_service_is_killed_and_restarted_and_finishes(service: Service, application: Application) -> None:
    service.edit("WatchdogSec=2s", "RestartSec=0")
    service.start()
    # Progress is logged after 3 seconds. The length was measured, perhaps on a machine that was busier then.
    start_migration(service, application, 2, lasting(8.0))
    service.wait_for("migration.progress")
    # While the daemon made progress, a pass longer than the watchdog interval was no problem.
    assert service.state() == ("active", "success", "0")

    service.machine.do("systemctl", "kill", "--kill-whom=main", "--signal=STOP", service.unit)

    service.wait_for("daemon.ready", times=2)
    assert service.state() == ("active", "success", "1")
    assert applied_versions(application.database) == [1, 2]
    said = service.machine.journal("-u", service.unit)
    assert any("Watchdog timeout" in entry["MESSAGE"] for entry in said if entry["_PID"] == "1")
