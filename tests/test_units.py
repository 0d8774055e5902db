"""The unit files, as systemd itself reads them."""

import shutil
import subprocess
from pathlib import Path

import pytest
from support import ROOT

UNITS = ["systemd/migrated.service", "systemd/user/migrated.service"]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_no_fault_in_the_unit(unit: str, tmp_path: Path) -> None:
    """The program is not installed where the unit says, which would be a fault too; so it is replaced."""
    lines = (ROOT / unit).read_text().splitlines()
    checked = ["ExecStart=/bin/true" if line.startswith("ExecStart=") else line for line in lines]
    path = tmp_path / "migrated.service"
    path.write_text("\n".join(checked) + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=one", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_unit_waits_for_readiness_and_does_not_restart_what_cannot_get_better(unit: str) -> None:
    lines = (ROOT / unit).read_text().splitlines()

    assert "Type=notify" in lines
    # SIGTERM to the daemon alone, which gives its hooks time.
    assert "KillMode=mixed" in lines
    assert "RestartPreventExitStatus=2 78" in lines
    assert [line for line in lines if line.startswith("ExecStart=") and " run" in line] != []
