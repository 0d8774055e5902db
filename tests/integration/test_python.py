"""A Python that cannot run the program is refused before anything is read."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT, write_migration

from migrated import UnsupportedPythonError
from migrated.core import MINIMUM_PYTHON, sql
from migrated.system.interpreter import require_supported_python

# A line comment then reaches over the end of its line, as the faulty `re` of Python 3.11.2 made one do.
FAULTY = r"""
import re, sys
compiled = re.compile
re.compile = lambda pattern, *flags: compiled(pattern.replace(r"--[^\n]*", r"--[^;]*"), *flags)
"""
TOO_OLD = "import sys; sys.version_info = (3, 11, 1, 'final', 0)\n"
COMMAND = "from migrated.cli import run; run()"


def run_python(program: str, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        pytest.param(TOO_OLD, "migrated needs Python 3.11.2 or newer, this is 3.11.1", id="too old"),
        pytest.param(FAULTY, "this Python reads the SQL text", id="faulty regular expressions"),
    ],
)
@pytest.mark.parametrize("command", ["up", "run", "status"])
def test_unsupported_python_is_refused(
    tmp_path: Path, migrations: Path, command: str, before: str, said: str
) -> None:
    write_migration(migrations, 1)

    done = run_python(f"{before}{COMMAND}", command, directory=tmp_path)

    assert done.returncode == 78
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["migrations"]


@pytest.mark.parametrize("before", [TOO_OLD, FAULTY], ids=["too old", "faulty regular expressions"])
def test_library_refuses_an_unsupported_python(tmp_path: Path, before: str) -> None:
    done = run_python(f"{before}import migrated; migrated.MigrationRunner", directory=tmp_path)

    assert "UnsupportedPythonError" in done.stderr


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        pytest.param("_LANDMARK", ";", id="strings"),
        pytest.param("_GAP", "[ ;]", id="gaps"),
        pytest.param("_TOKEN", r"(?P<word>\w+)|(?P<semicolon>;)", id="tokens"),
        pytest.param("_TRIGGER", "never", id="triggers"),
    ],
)
def test_self_check_notices_a_pattern_that_matches_wrongly(
    monkeypatch: pytest.MonkeyPatch, pattern: str, replacement: str
) -> None:
    require_supported_python()
    monkeypatch.setattr(sql, pattern, re.compile(replacement))

    with pytest.raises(UnsupportedPythonError):
        require_supported_python()


def test_oldest_supported_python_is_the_one_that_the_package_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["requires-python"] == ">=" + ".".join(str(part) for part in MINIMUM_PYTHON)
