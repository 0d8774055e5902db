"""The manual's commands, executed; the resulting journal; the unit that the program writes."""

import json
import re
from collections.abc import Iterator

import pytest
from acceptance.systemd.machine import FIRST_USER_ID, OTHER_USER, SOURCE, USER, Machine
from acceptance.systemd.service import UNITS, Application, Service, install
from support import ROOT, applied_versions

pytestmark = pytest.mark.long

_SECTION = (ROOT / "migrated" / "docs" / "service.md").read_text()
_RUNTIME = f"/run/user/{FIRST_USER_ID}"


def commands(containing: str) -> str:
    """Return the only block of commands with this text in the topic."""
    (found,) = [block for block in re.findall(r"```sh\n(.*?)```", _SECTION, re.DOTALL) if containing in block]
    return f"set -e\ncd {SOURCE}\n{found}"


@pytest.fixture
def bare(machine: Machine) -> Iterator[None]:
    """Remove all units again."""
    units = ("migrated.service", "migrated@.service")
    for path in (*(f"{UNITS}/{unit}" for unit in units), "/etc/migrated/migrated.toml"):
        machine.path(path).unlink(missing_ok=True)
    machine.do("systemctl", "daemon-reload")
    yield
    machine.run("systemctl", "disable", "migrated.service")
    install(machine, *units)


@pytest.fixture
def other_application(machine: Machine) -> Iterator[Application]:
    made = Application(machine, OTHER_USER, OTHER_USER)
    made.migration(5)
    yield made
    made.remove()


def test_commands_for_the_system_service_work(
    application: Application, service: Service, bare: None, machine: Machine
) -> None:
    machine.do("sh", "-c", commands("/etc/migrated/migrated.toml"))

    assert service.state() == ("active", "success", "0")
    assert machine.run("systemctl", "is-enabled", "migrated").stdout == "enabled\n"
    assert applied_versions(application.database) == [1]
    # What the manual says about status and journal.
    (status,) = re.findall(r'`(Status: "[^`]*")`', _SECTION)
    assert status in machine.do("systemctl", "status", "migrated")
    machine.do("journalctl", "--sync")
    *_, events = commands("journalctl").splitlines()
    shown = [json.loads(line) for line in machine.do("sh", "-c", events).splitlines()]
    assert (shown[-1]["event"], shown[-1]["version"]) == ("migration.applied", 1)
    assert {line["event"] for line in shown} == {"migration.applied"}


def test_commands_for_template_instances_work(
    application: Application, other_application: Application, bare: None, machine: Machine
) -> None:
    for each in (application, other_application):
        each.configure(name=each.name)
    instances = [Service(machine, f"migrated@{name}.service") for name in (USER, OTHER_USER)]
    try:
        machine.do("sh", "-c", commands("migrated@.service"))

        assert [each.state()[0] for each in instances] == ["active", "active"]
        assert applied_versions(other_application.database) == [5]
    finally:
        for instance in instances:
            instance.remove()


@pytest.fixture
def session(machine: Machine) -> Iterator[None]:
    """Start a systemd of the user, as a login does."""
    # Normally logind creates the runtime directory, but that needs the system bus.
    make = f"/usr/bin/install -d -m 700 -o {USER} -g {USER} {_RUNTIME}"
    unit = f"user@{FIRST_USER_ID}.service"
    once = "Type=oneshot\nRemainAfterExit=yes"
    machine.write(f"{UNITS}/user-runtime-dir@.service", f"[Service]\n{once}\nExecStart={make}\n")
    machine.write(f"{UNITS}/{unit}.d/override.conf", f"[Service]\nEnvironment=XDG_RUNTIME_DIR={_RUNTIME}\n")
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "start", unit)
    yield
    machine.do("systemctl", "stop", unit)


def test_commands_for_a_user_service_work(application: Application, session: None, machine: Machine) -> None:
    surroundings = ("env", f"XDG_RUNTIME_DIR={_RUNTIME}", f"HOME={application.inside}")
    typed = commands("--user").replace(f"cd {SOURCE}", f"cd {application.inside}")

    done = machine.run(*surroundings, "sh", "-c", typed, as_user=USER)
    shown = machine.run(
        *(*surroundings, "systemctl", "--user", "show", "migrated", "--property=ActiveState,StatusText"),
        as_user=USER,
    )

    assert done.returncode == 0, done.stderr
    assert shown.stdout.splitlines() == ["StatusText=1 of 1 databases current", "ActiveState=active"]
    assert applied_versions(application.database) == [1]


def test_generated_unit_runs_and_is_not_overwritten_after_an_edit(
    application: Application, service: Service, bare: None, machine: Machine
) -> None:
    application.configure(name="shop")
    unit = f"{UNITS}/migrated.service"
    write = ("migrated", "install-service", "-c", "/etc/migrated/shop.toml")

    said = machine.do(*write)
    for command in said.splitlines()[1:]:
        machine.do(*command.split())

    assert service.state() == ("active", "success", "0")
    assert service.show("User", "UID") == {"User": USER, "UID": str(FIRST_USER_ID)}
    assert applied_versions(application.database) == [1]

    changed = machine.read(unit) + "# changed\n"
    machine.write(unit, changed)
    assert machine.run(*write).returncode == 4
    assert machine.read(unit) == changed
