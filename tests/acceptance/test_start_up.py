"""Reading commands start quickly: what is slow to import is imported by what needs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, bring_up, environment
from support import write_migration

CHILD = """
import json, sys
from migrated.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print()
print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def modules_after(directory: Path, *arguments: str) -> set[str]:
    """The top-level modules that a command had loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    "arguments", [["status"], ["plan"], ["verify"], ["diff"], ["--help"], ["status", "--help"]], ids=str
)
def test_a_reading_command_loads_little(tmp_path: Path, migrations: Path, arguments: list[str]) -> None:
    write_migration(migrations, 1)
    bring_up(tmp_path)
    write_migration(migrations, 2)
    loaded = modules_after(tmp_path, *arguments)

    assert "migrated" in loaded
    assert loaded.isdisjoint({"watchdog", "filelock", "structlog", "rich", "msgspec"})


def test_asking_a_daemon_loads_little(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        loaded = modules_after(tmp_path, "status")

    assert "socket" in loaded
    assert loaded.isdisjoint({"watchdog", "filelock", "structlog", "rich", "msgspec"})


def test_json_and_a_file_load_only_what_they_need(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "migrated.toml").write_text("")
    write_migration(migrations, 1)
    loaded = modules_after(tmp_path, "status", "--json")

    assert loaded.isdisjoint({"watchdog", "filelock", "structlog", "rich"})


def test_applying_loads_no_more_than_it_needs(tmp_path: Path, migrations: Path) -> None:
    """Structlog would load rich, which only the progress bar needs."""
    write_migration(migrations, 1)
    loaded = modules_after(tmp_path, "up")

    assert "structlog" in loaded
    assert loaded.isdisjoint({"watchdog", "rich"})
