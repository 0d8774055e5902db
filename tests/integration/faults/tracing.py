"""System calls made to fail by strace: our own file operations as well as SQLite's.

strace is attached to a process that has loaded everything and waits. It counts the calls of each name by
themselves, also where several names are given in one `inject=`, so a point is a name and a number. What the
process reports it writes with `writev`, which is not among the calls that fail.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from integration.faults.serving import Outcome, Server, Servers
from integration.faults.torture import Setting

KILLED_AT = ("write", "pwrite64", "fsync", "fdatasync", "unlink", "unlinkat", "rename", "ftruncate", "mkdir")
FAILING = (*KILLED_AT, "openat")
KILL = "signal=KILL"


class Call(NamedTuple):
    """The `number`-th call of this name, from 1."""

    name: str
    number: int


class Injection(NamedTuple):
    """What strace does at a call: `signal=KILL` instead of it, or `error=…`; `lasts` for every later one too."""

    call: Call
    effect: str
    lasts: bool = False

    def __str__(self) -> str:
        return f"inject={self.call.name}:{self.effect}:when={self.call.number}{'+' * self.lasts}"


def traced(
    servers: Servers, setting: Setting, directory: Path, options: Sequence[str]
) -> tuple[Outcome, list[str]]:
    """Act a setting under strace with these options, judge what is left, and return strace's log by lines."""
    with TemporaryDirectory(dir=directory) as own:
        log = Path(own, "strace.log")
        database = setting.prepare(_made(Path(own, "data")))
        with servers.one() as server:
            server.say(database, setting.scenario, "traced")
            pid = int(server.line("ready ").split()[1])
            with _attached(pid, log, options, server):
                server.say("go")
                outcome = server.outcome()
        lines = log.read_text().splitlines()
        try:
            setting.judge(database, outcome)
        except Exception as error:
            struck = [line for line in lines if "(INJECTED)" in line or "killed" in line]
            raise AssertionError(f"{setting} {options}: {error!r}; {outcome}; {struck}") from error
        return outcome, lines


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@contextmanager
def _attached(pid: int, log: Path, options: Sequence[str], server: Server) -> Iterator[None]:
    command = ["strace", "-f", "-o", str(log), *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        # Written once the process was seized and told to stop: from then on no call escapes.
        said = strace.stderr.readline()
        if "attached" not in said:
            server.say("go")
            server.outcome()
            raise PermissionError(said.strip())
        try:
            yield
        except BaseException:
            strace.kill()
            raise
        # It ends with the last process that it traces.
        strace.communicate()


def calls_made(servers: Servers, setting: Setting, directory: Path, names: Sequence[str]) -> list[Call]:
    """Every call of these names, in order, that a setting makes when nothing fails. Skips where strace cannot."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    try:
        outcome, lines = traced(servers, setting, directory, ["-e", f"trace={','.join(names)}"])
    except PermissionError as error:
        pytest.skip(f"strace may not trace here: {error}")
    made: list[Call] = []
    for line in lines:
        name = line.partition(" ")[2].strip().partition("(")[0]
        if name in names:
            made.append(Call(name, 1 + sum(call.name == name for call in made)))

    assert outcome.told("finished"), outcome
    return made
