"""Child processes of the tests: started by a test, controlled through pipes, and ended with the test."""

import os
import shutil
import subprocess
import sys
from typing import Self

import pytest
from daemon_process import DEADLINE
from support import ROOT


class Children:
    """Python scripts as processes of their own; a `with` block that ends them all."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def start(self, script: str, *arguments: object, powerless: bool = False) -> subprocess.Popen[str]:
        """Start a script; it can be written to and read from."""
        process = subprocess.Popen(
            [*_prefix(powerless), sys.executable, "-c", script, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process


def run_script(script: str, *arguments: object, powerless: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. `powerless`: as an ordinary user, whom modes of files bind."""
    return subprocess.run(
        [*_prefix(powerless), sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )


def line_from(process: subprocess.Popen[str]) -> str:
    """The next line that a child prints."""
    assert process.stdout is not None
    line = process.stdout.readline().rstrip("\n")
    assert line or process.poll() is None, process.communicate()
    return line


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    """Write a line to a child."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _prefix(powerless: bool) -> list[str]:  # noqa: FBT001 - private
    if not powerless or os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("root needs setpriv to give up its privileges")
    return [program, "--bounding-set=-dac_override,-dac_read_search,-lease,-fowner"]
