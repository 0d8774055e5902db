"""A private systemd in a namespace, with the program installed as an operator would do it."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Self

import pytest
from daemon_process import DEADLINE, children, poll, require
from support import ROOT

SERVICES = "/srv"
"""Where the directory shared by tests and services is mounted in the machine."""
PROGRAM = "/usr/local/bin/migrated"
USER = "app"
OTHER_USER = "blog"
FIRST_USER_ID = 4242

# Any Python that runs the tests must be readable by an ordinary user of the machine.
_PYTHON = "/opt/python"
_PACKAGES = "/opt/packages"
SOURCE = "/opt/source"
"""The parts of the checkout that the program needs."""
_LAUNCHER = f"""\
#!/bin/sh
export LD_LIBRARY_PATH={_PYTHON}/lib PYTHONPATH={SOURCE}:{_PACKAGES} PYTHONDONTWRITEBYTECODE=1
exec {_PYTHON}/bin/python{sys.version_info.major}.{sys.version_info.minor} -P -c '
import sys
sys.argv[0] = "{PROGRAM}"
from migrated.cli import run
run()' "$@"
"""
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid")


class Machine:
    """A running systemd. Use it as a context manager: at the end all of its processes are gone.

    `shared` is the directory that is /srv in there. Skips the test where none can be had.
    """

    def __init__(self, directory: Path) -> None:
        require(("unshare", *_NAMESPACES, "--fork"))
        require(("systemctl",), ("--version",))
        self.shared = directory / "srv"
        here = directory / "machine"
        for made in (self.shared, here):
            made.mkdir()
        self.shared.chmod(0o755)
        self._process = subprocess.Popen(
            [
                *("sh", str(Path(__file__).with_name("boot.sh")), str(here)),
                *(str(self.shared), SERVICES),
                *(sys.base_prefix, _PYTHON),
                *(sysconfig.get_path("platlib"), _PACKAGES),
                *(str(ROOT / "migrated"), f"{SOURCE}/migrated"),
                *(str(ROOT / "systemd"), f"{SOURCE}/systemd"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is meant for the tests; the machine ends when they do.
            start_new_session=True,
        )
        self._enter: list[str] = []

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        outside = self._process.stdout.readline().strip()
        try:
            poll(lambda: self._has_booted(int(outside)), "systemd is up")
        except (AssertionError, ValueError, OSError):
            pytest.skip(f"no systemd can be started here: {self._end()}")
        for number, user in enumerate((USER, OTHER_USER), FIRST_USER_ID):
            home = ("--no-create-home", "--home-dir", f"{SERVICES}/{user}")
            self.do("useradd", f"--uid={number}", "--user-group", *home, user)
        self.write(PROGRAM, _LAUNCHER)
        self.path(PROGRAM).chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        said = self._end()
        assert self._process.returncode == 0, said

    def run(self, *command: str, as_user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine and wait for its end."""
        switch = ["setpriv", f"--reuid={as_user}", f"--regid={as_user}", "--clear-groups"] if as_user else []
        return subprocess.run(
            [*self._enter, *switch, *command],
            env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
            check=False,
        )

    def do(self, *command: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.run(*command)
        assert done.returncode == 0, (
            f"{command}: {done.stdout}{done.stderr}{self.run('journalctl', '-n30').stdout}"
        )
        return done.stdout

    def path(self, path: str) -> Path:
        """Return the path by which the test process reaches a file in the machine. Not for databases."""
        return Path(f"/proc/{self._pid}/root{path}")

    def read(self, path: str) -> str:
        return self.path(path).read_text()

    def write(self, path: str, text: str) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def journal(self, *options: str) -> list[dict[str, Any]]:
        """Return the journal's entries, oldest first."""
        return [json.loads(line) for line in self.do("journalctl", "-a", "-o", "json", *options).splitlines()]

    def _has_booted(self, outside: int) -> bool:
        assert self._process.poll() is None
        inside = children(outside)
        if not inside:
            return False
        self._pid = inside[0]
        self._enter = ["nsenter", f"--target={self._pid}", *_NAMESPACES, "--"]
        return self.run("systemctl", "is-active", "test.target").stdout == "active\n"

    def _end(self) -> str:
        _, said = self._process.communicate(timeout=DEADLINE)
        return said
