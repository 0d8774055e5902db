"""What the service cannot do, tried by a hook, which runs under the same restrictions as the daemon."""

import pytest
from acceptance.systemd.machine import Machine
from acceptance.systemd.service import Application, Service

pytestmark = pytest.mark.long

# Each gets a subdirectory with mode 0777, so that only the unit can deny access.
PLACES = ["/etc", "/home", "/mnt", "/opt", "/root", "/run", "/srv", "/usr", "/usr/local", "/var", "/var/lib"]
OWN = ["/run/migrated", "/srv/app", "/srv/app/migrations", "/srv/app/.migrated"]
PRIVATE = ["/tmp", "/var/tmp"]  # noqa: S108 - the service has private ones
_PROBE = """\
#!/bin/sh
find / -maxdepth 3 -path /proc -prune -o -type d -writable -print 2> /dev/null | while read -r directory; do
    ( : > "$directory/written" ) 2> /dev/null && echo "wrote to $directory"
done
cat /home/open/secret /root/open/secret 2> /dev/null && echo "read a secret"
unshare --user true 2> /dev/null && echo "made a namespace"
grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status
echo "interfaces: $(tail -n +3 /proc/net/dev | wc -l)"
id -un
"""


@pytest.fixture
def opened(machine: Machine) -> None:
    for place in PLACES:
        machine.do("mkdir", "-p", f"{place}/open")
        machine.do("chmod", "1777", f"{place}/open")
    for home in ("/home", "/root"):
        machine.do("chmod", "755", home)
        machine.write(f"{home}/open/secret", "secret\n")


def _found_out(service: Service, application: Application) -> list[str]:
    probe = application.directory / "probe.sh"
    probe.write_text(_PROBE)
    probe.chmod(0o755)
    application.configure("[hooks]", f'after_apply = ["{application.inside}/probe.sh"]')
    service.start()
    return [" ".join(line.split()) for line in service.wait_for("hook.finished")["output"].splitlines()]


def _written(found: list[str]) -> set[str]:
    return {line.removeprefix("wrote to ") for line in found if line.startswith("wrote to ")}


def test_service_can_write_only_to_the_directory_of_the_databases(
    service: Service, application: Application, opened: None
) -> None:
    found = _found_out(service, application)

    assert _written(found) == {*OWN, *PRIVATE}
    assert [line for line in found if not line.startswith("wrote")] == [
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "interfaces: 1",
        "app",
    ]
    assert [path for path in PRIVATE if service.machine.path(f"{path}/written").exists()] == []


def test_probe_succeeds_without_the_restrictions_of_the_unit(
    service: Service, application: Application, opened: None
) -> None:
    """Proves that the unit denies access in the test above."""
    service.edit(
        *("ProtectSystem=no", "ProtectHome=no", "PrivateTmp=no", "ReadOnlyPaths=", "InaccessiblePaths="),
        *("RestrictNamespaces=no", "SystemCallFilter=", "CapabilityBoundingSet=~"),
    )

    found = _found_out(service, application)

    assert {f"{place}/open" for place in PLACES} | {*OWN, *PRIVATE, "/dev/shm"} <= _written(found)  # noqa: S108
    assert "read a secret" in found
    assert "made a namespace" in found
    assert [path for path in PRIVATE if service.machine.path(f"{path}/written").exists()] == PRIVATE
