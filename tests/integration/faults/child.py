"""The processes that a fault hits, and the process that forks them.

Started as `child.py`, it reads requests, `DATABASE SCENARIO FAULT` separated by tabs, from its standard input and
forks a process for each, which acts the scenario. A line is written for everything that happens: `kept STEP`,
`struck OPERATION FILE`, `failed ERROR CODE MESSAGE`, `finished`, `operations N`, and at last `ended CODE`,
negative for a signal. With the fault `traced` nothing is done to SQLite: the process writes `ready PID` and begins
when it is sent a line.

By forking, hundreds of processes cost no more than a few starts of Python; and since the scenarios were rehearsed,
none of them has a module left to import when its system calls are made to fail.
"""

import ctypes
import os
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from integration.faults import faulty_vfs
from integration.faults.scenarios import SCENARIOS, Scenario

from migrated import MigrationError

TRACED = "traced"
_LONGEST_LINE = 4096
_PR_SET_PTRACER = 0x59616D61


def tell(line: str) -> None:
    """Write a line by a system call that no fault affects."""
    os.writev(1, [line.replace("\n", " ").encode() + b"\n"])


def main() -> None:
    """Serve until the standard input ends."""
    rehearse()
    tell("serving")
    while request := os.read(0, _LONGEST_LINE).decode():
        database, scenario, fault = request.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            be_struck(Path(database), SCENARIOS[scenario], fault)
        _, status = os.waitpid(pid, 0)
        tell(f"ended {os.waitstatus_to_exitcode(status)}")


def rehearse() -> None:
    """Run everything once, so that late imports are done; no connection stays open."""
    for scenario in SCENARIOS.values():
        with TemporaryDirectory() as directory:
            database = Path(directory, "app.db")
            scenario.prepare(database)
            scenario.act(database, lambda _step: None)


def be_struck(database: Path, scenario: Scenario, fault: str) -> None:
    """Run a scenario under a fault. Never returns."""
    try:
        if fault == TRACED:
            wait_for_tracer()
            act(database, scenario)
        else:
            parsed = faulty_vfs.Fault.parse(fault)
            disk, _vfs = faulty_vfs.install(parsed, tell)
            act(database, scenario)
            tell(f"operations {disk.operations}")
            if parsed.kind.cuts_power:
                disk.end()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nothing may return into the loop of the process that forked
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def wait_for_tracer() -> None:
    # Where only ancestors may trace (Yama), this allows everybody; elsewhere it fails, and is not needed.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    tell(f"ready {os.getpid()}")
    os.read(0, _LONGEST_LINE)


def act(database: Path, scenario: Scenario) -> None:
    try:
        scenario.act(database, lambda step: tell(f"kept {step}"))
    except MigrationError as error:
        tell(f"failed {type(error).__name__} {error.code} {error.message}")
    except SystemError as error:
        # A VFS that is written in Python raises where SQLite ends a backup, and apsw is not prepared for that.
        if "apsw.Backup" not in str(error):
            raise
        tell("failed SystemError APSW a file could not be read while a backup was given up")
    else:
        tell("finished")


if __name__ == "__main__":
    main()
