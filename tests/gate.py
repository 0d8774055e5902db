"""The tools that find fault with the code itself, run beside the tests: they need a processor, and no clock."""

import subprocess
import sys
from dataclasses import dataclass, field

from support import ROOT

COMMANDS = {"lint": ["ruff", "check", "."], "format": ["ruff", "format", "--check", "."], "types": ["mypy"]}


@dataclass
class Gate:
    """Started once the tests are known, and asked for its findings by the tests of the gate."""

    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Begin, unless it is begun already."""
        if name not in self.running:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[name]],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def findings(self, name: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        self.start(name)
        process = self.running.pop(name)
        said, _ = process.communicate()
        return process.returncode, said

    def stop(self) -> None:
        """End what nobody asked for."""
        for process in self.running.values():
            process.kill()
            process.communicate()


GATE = Gate()
