"""The unit files, as systemd itself reads them."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from support import ROOT, needs

DAEMONS = ["migrated.service", "migrated@.service", "user/migrated.service"]
SYSTEM = DAEMONS[:2]
EXPOSURE_TIMES_TEN = 8

needs_systemd = needs("systemd-analyze")


def _lines(unit: str) -> list[str]:
    return (ROOT / "systemd" / unit).read_text().splitlines()


def _analyse(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("unit", [*DAEMONS, "example-application.service"])
@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(unit: str, tmp_path: Path) -> None:
    """The programs are not installed where the unit says, which would be a fault too; so they are replaced."""
    for each in {unit, "migrated.service"}:
        checked = [
            f"{key}=/bin/true"
            if (key := line.partition("=")[0]) in {"ExecStart", "ExecStartPre", "ExecReload"}
            else line
            for line in _lines(each)
        ]
        (tmp_path / Path(each).name).write_text("\n".join(checked) + "\n")

    done = _analyse("verify", "--man=no", "--recursive-errors=one", Path(unit).name, directory=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SYSTEM)
@needs_systemd
def test_service_of_the_system_is_exposed_to_little(unit: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "systemd" / unit, tmp_path)

    done = _analyse("security", "--offline=yes", f"--threshold={EXPOSURE_TIMES_TEN}", unit, directory=tmp_path)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", DAEMONS)
def test_unit_waits_for_readiness_and_does_not_restart_what_cannot_get_better(unit: str) -> None:
    lines = _lines(unit)

    assert "Type=notify" in lines
    # SIGTERM to the daemon alone, which gives its hooks time.
    assert "KillMode=mixed" in lines
    assert "Restart=on-failure" in lines
    assert "RestartPreventExitStatus=2 5 78" in lines
    assert "WatchdogSec=30s" in lines
    # What ends only when the new configuration is in force, and fails when it is not.
    (reload,) = [line for line in lines if line.startswith("ExecReload=")]
    assert "/bin/migrated reload --wait" in reload


def test_units_of_the_daemon_differ_only_in_what_they_are_for() -> None:
    """A correction in one unit must be made in all of them."""
    one, instance, user = ({line for line in _lines(unit) if not line.startswith("#")} for unit in DAEMONS)
    own = (
        "Description=",
        "ExecStart=",
        "ExecReload=",
        "User=",
        "ReadWritePaths=",
        "WorkingDirectory=",
        "WantedBy=",
        "RuntimeDirectory=",
    )

    assert {line for line in one ^ instance if not line.startswith(own)} == set()
    assert {line for line in user - one if not line.startswith(own)} == set()


@pytest.mark.parametrize("unit", DAEMONS)
def test_lines_that_an_operator_must_edit_are_marked(unit: str) -> None:
    lines = _lines(unit)
    marked = {after.partition("=")[0] for line, after in pairwise(lines) if "# EDIT:" in line}

    assert marked == ({"User", "ReadWritePaths"} if unit in SYSTEM else {"WorkingDirectory"})


@pytest.mark.parametrize("unit", DAEMONS)
def test_systemd_waits_longer_for_the_end_than_a_migration_may_take_then(unit: str) -> None:
    from migrated.config.settings import Config, parse_duration

    (limit,) = [line.partition("=")[2] for line in _lines(unit) if line.startswith("TimeoutStopSec=")]

    assert parse_duration(limit) >= 2 * Config("", ()).stop_grace
