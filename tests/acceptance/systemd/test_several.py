"""Several units together: template instances, and an application that needs a current database."""

from collections.abc import Iterator

import pytest
from acceptance.systemd.machine import FIRST_USER_ID, OTHER_USER, USER, Machine
from acceptance.systemd.service import Application, Service
from daemon_process import poll
from support import applied_versions

pytestmark = pytest.mark.long


@pytest.fixture
def other_application(machine: Machine) -> Iterator[Application]:
    made = Application(machine, OTHER_USER, OTHER_USER)
    yield made
    made.remove()


@pytest.fixture
def instances(application: Application, other_application: Application) -> Iterator[list[Service]]:
    made = [Service(application.machine, f"migrated@{name}.service") for name in (USER, OTHER_USER)]
    yield made
    for service in made:
        service.remove()


@pytest.fixture
def dependent(application: Application) -> Iterator[Service]:
    """Install the unit of the example application. The application itself only sleeps."""
    program = application.directory / "bin/application"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep infinity\n")
    program.chmod(0o755)
    made = Service(application.machine, "example-application.service")
    (wait,) = [line for line in made.text().splitlines() if line.startswith("ExecStartPre=")]
    assert wait.endswith(" 60s")
    made.edit("ExecStartPre=", wait.replace(" 60s", " 1s"), "RestartSec=100ms")
    yield made
    made.remove()


def test_template_instances_have_separate_users_and_databases(
    instances: list[Service], application: Application, other_application: Application
) -> None:
    both = (application, other_application)
    for each in both:
        each.configure(name=each.name)
        each.migration(7)

    for service in instances:
        service.start()

    assert [applied_versions(each.database) for each in both] == [[1, 7], [7]]
    assert [each.database.stat().st_uid for each in both] == [FIRST_USER_ID, FIRST_USER_ID + 1]
    instances[0].machine.do("systemctl", "stop", instances[0].unit)
    other_application.migration(8)
    poll(lambda: applied_versions(other_application.database) == [7, 8], "the other one goes on")


def test_application_starts_once_all_migrations_are_applied_and_restarts_with_the_daemon(
    dependent: Service, service: Service, application: Application
) -> None:
    dependent.start()

    assert [each.state()[0] for each in (dependent, service)] == ["active", "active"]
    assert applied_versions(application.database) == [1]
    ready, began = "ActiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic"
    assert int(service.show(ready)[ready]) <= int(dependent.show(began)[began])

    before = dependent.show("InvocationID")
    service.machine.do("systemctl", "restart", service.unit)
    poll(lambda: dependent.state()[0] == "active", "it is started again")
    assert dependent.show("InvocationID") != before


def test_application_starts_only_on_a_current_schema(
    dependent: Service, service: Service, application: Application
) -> None:
    application.migration(2, up="CREATE TABLE broken (")

    assert dependent.machine.run("systemctl", "start", dependent.unit).returncode == 1

    assert service.state() == ("active", "success", "0")
    said = dependent.machine.journal("-u", dependent.unit)
    assert any("app.db" in entry["MESSAGE"] for entry in said if entry["_PID"] != "1"), said
    assert dependent.show("ExecMainPID")["ExecMainPID"] == "0"

    application.migration(2)
    poll(lambda: dependent.state()[0] == "active", "it is tried again, and starts")
    assert applied_versions(application.database) == [1, 2]


def test_application_does_not_start_without_the_daemon(
    dependent: Service, service: Service, application: Application
) -> None:
    application.configure("nonsense = true")

    failed = dependent.machine.run("systemctl", "start", dependent.unit)

    assert "A dependency job for example-application.service failed" in failed.stderr
    assert service.state()[0] == "failed"
    assert dependent.state()[0] == "inactive"
