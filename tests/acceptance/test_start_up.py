"""Reading commands start quickly: slow modules are imported only by code that needs them."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, bring_up, environment
from support import write_migration

from migrated.cli import COMMANDS

CHILD = """
import sys
from migrated.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print()
print(code or 0, *sys.modules)
"""
HEAVY = {"watchdog", "filelock", "structlog", "rich", "msgspec"}
# Modules of the standard library that take a millisecond or more to import, with their own imports.
SLOW = {
    *("dataclasses", "inspect", "pathlib", "urllib", "json", "tomllib", "subprocess", "socket", "uuid", "logging"),
    *("asyncio", "shutil", "traceback", "email", "http", "ssl", "difflib", "tempfile", "threading"),
}


@functools.cache
def modules_of_argparse() -> frozenset[str]:
    """Return what argparse itself imports: from Python 3.14 on also dataclasses."""
    program = "import argparse, sys; argparse.ArgumentParser().format_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return frozenset(name.partition(".")[0] for name in done.stdout.split())


def modules_after(directory: Path, *arguments: str) -> set[str]:
    """Return the modules loaded at the end of a command: ours in full, others by top-level name."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return {name if name.startswith("migrated") else name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "arguments",
    [
        *(["status"], ["plan"], ["verify"], ["diff"]),
        *(["--help"], ["status", "--help"], ["help"], ["help", "files"], ["help", "status"]),
    ],
    ids=str,
)
def test_reading_command_imports_little(tmp_path: Path, migrations: Path, arguments: list[str]) -> None:
    write_migration(migrations, 1)
    bring_up(tmp_path)
    write_migration(migrations, 2)
    loaded = modules_after(tmp_path, *arguments)

    assert "migrated" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("command", ["status", "plan", "verify"])
def test_inspecting_imports_nothing_slow(tmp_path: Path, migrations: Path, command: str) -> None:
    write_migration(migrations, 1)
    bring_up(tmp_path)
    loaded = modules_after(tmp_path, command)

    assert loaded & (HEAVY | SLOW) - modules_of_argparse() == set()
    assert {"migrated.engine.backend", "migrated.engine.sqlite.session", "migrated.logs.logger"} & loaded == set()


@pytest.mark.parametrize("command", ["verify", "status"])
def test_command_imports_no_other_family(tmp_path: Path, migrations: Path, command: str) -> None:
    write_migration(migrations, 1)
    loaded = modules_after(tmp_path, command)
    families = {f"migrated.cli.commands.{family}" for family, _ in COMMANDS.values()}

    assert families & loaded == {f"migrated.cli.commands.{command}"}


def test_up_with_nothing_to_do_imports_neither_log_nor_lock(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    bring_up(tmp_path)
    loaded = modules_after(tmp_path, "up")

    assert "migrated.fleet.job" in loaded
    # Imported by the worker thread and its signal handling.
    assert loaded & (HEAVY | SLOW - {"threading"}) - modules_of_argparse() == set()


def test_asking_a_daemon_imports_little(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        loaded = modules_after(tmp_path, "status")

    assert "socket" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_json_and_a_configuration_file_import_only_what_they_need(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "migrated.toml").write_text("")
    write_migration(migrations, 1)
    loaded = modules_after(tmp_path, "status", "--json")

    assert loaded.isdisjoint({"watchdog", "filelock", "structlog", "rich"})


def test_applying_imports_only_what_it_needs(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    loaded = modules_after(tmp_path, "up")

    assert "structlog" in loaded
    assert "watchdog" not in loaded
