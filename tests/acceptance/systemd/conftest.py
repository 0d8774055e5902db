"""Fixtures of the tests under systemd."""

from collections.abc import Iterator

import pytest
from acceptance.systemd.machine import USER, Machine
from acceptance.systemd.service import Application, Service, install


@pytest.fixture(scope="package")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Start one systemd for all tests, with the units installed."""
    with Machine(tmp_path_factory.mktemp("machine")) as booted:
        install(booted, "migrated.service", "migrated@.service", "example-application.service")
        yield booted


@pytest.fixture
def application(machine: Machine) -> Iterator[Application]:
    """Return the application that the units name: user app, and /srv/app with one migration."""
    made = Application(machine, USER)
    made.configure()
    made.migration(1)
    yield made
    made.remove()


@pytest.fixture
def service(application: Application) -> Iterator[Service]:
    """Return migrated.service as it is in the repository."""
    made = Service(application.machine)
    yield made
    made.remove()
