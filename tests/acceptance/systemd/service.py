"""A service of the machine, set up as its unit's comments say, and an application's directory."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import apsw
from acceptance.systemd.machine import SERVICES, USER, Machine
from daemon_process import Line, poll
from support import ROOT, write_migration

UNITS = "/etc/systemd/system"
_PRIORITIES = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
_CALIBRATION = 200_000
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;"


class Application:
    """An application's directory /srv/NAME, owned by its user, with migrations and `app.db`."""

    def __init__(self, machine: Machine, name: str, user: str = USER) -> None:
        self.machine = machine
        self.name = name
        self.user = user
        self.directory = machine.shared / name
        self.inside = f"{SERVICES}/{name}"
        self.database = self.directory / "app.db"
        (self.directory / "migrations").mkdir(parents=True)
        self.own(self.directory, self.directory / "migrations")

    def migration(self, version: int, up: str | None = None) -> None:
        """Write a migration file atomically."""
        self.own(write_migration(self.directory / "migrations", version, up=up))

    def configure(self, *lines: str, name: str = "migrated") -> None:
        """Write /etc/migrated/NAME.toml. `lines` come first, before the target."""
        target = [
            "[[target]]",
            f'databases = ["{self.inside}/app.db"]',
            f'migrations = "{self.inside}/migrations"',
        ]
        self.machine.write(f"/etc/migrated/{name}.toml", "\n".join([*lines, *target]) + "\n")

    def own(self, *paths: Path) -> None:
        """Make the application's user the owner of files."""
        (number,) = (
            int(line.split(":")[2])
            for line in self.machine.read("/etc/passwd").splitlines()
            if line.startswith(f"{self.user}:")
        )
        for path in paths:
            os.chown(path, number, number)

    def remove(self) -> None:
        shutil.rmtree(self.directory)


class Service:
    """One of our units in the machine. Its log starts when this object is created."""

    def __init__(self, machine: Machine, unit: str = "migrated.service") -> None:
        self.machine = machine
        self.unit = unit
        self._since = time.time()

    def edit(self, *lines: str, section: str = "Service") -> None:
        """Write a drop-in file, as `systemctl edit` does."""
        self.machine.write(f"{UNITS}/{self.unit}.d/override.conf", "\n".join([f"[{section}]", *lines]) + "\n")
        self.machine.do("systemctl", "daemon-reload")

    def text(self) -> str:
        """Write the unit file itself."""
        return self.machine.read(f"{UNITS}/{self.unit}")

    def start(self) -> None:
        self.machine.do("systemctl", "start", self.unit)

    def show(self, *properties: str) -> dict[str, str]:
        """Return current properties as systemd reports them."""
        shown = self.machine.do("systemctl", "show", self.unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def state(self) -> tuple[str, str, str]:
        """Return whether it is active, its last result, and how often systemd restarted it."""
        shown = self.show("ActiveState", "Result", "NRestarts")
        return shown["ActiveState"], shown["Result"], shown["NRestarts"]

    def entries(self) -> list[dict[str, Any]]:
        """Return what its processes wrote to the journal."""
        self.machine.do("journalctl", "--sync")
        return self.machine.journal(f"_SYSTEMD_UNIT={self.unit}", f"--since=@{self._since:.6f}")

    def lines(self) -> list[Line]:
        """Return its log. Every line must be JSON, with the journal priority that matches its level."""
        lines = []
        for entry in self.entries():
            line = json.loads(entry["MESSAGE"])
            assert entry["PRIORITY"] == _PRIORITIES[line["level"]]
            lines.append(line)
        return lines

    def logged(self, event: str) -> list[Line]:
        return [line for line in self.lines() if line["event"] == event]

    def wait_for(self, event: str, times: int = 1) -> Line:
        poll(lambda: len(self.logged(event)) >= times, f"{event}, {times} times in {self.entries()}")
        return self.logged(event)[-1]

    def remove(self) -> None:
        """Stop the unit and reset its state."""
        self.machine.run("systemctl", "kill", "--signal=KILL", self.unit)
        self.machine.run("systemctl", "stop", self.unit)
        self.machine.run("systemctl", "reset-failed", self.unit)
        shutil.rmtree(self.machine.path(f"{UNITS}/{self.unit}.d"), ignore_errors=True)


def install(machine: Machine, *units: str) -> None:
    """Copy units of the project to systemd's directory."""
    for unit in units:
        machine.write(f"{UNITS}/{unit}", (ROOT / "systemd" / unit).read_text())
    machine.do("systemctl", "daemon-reload")


def lasting(seconds: float) -> str:
    """Return a statement that takes about this long on this machine."""
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) SELECT count(*) FROM n;"
    before = time.monotonic()
    apsw.Connection(":memory:").execute(counted.format(_CALIBRATION)).fetchall()
    return counted.format(int(_CALIBRATION * seconds / (time.monotonic() - before)))
