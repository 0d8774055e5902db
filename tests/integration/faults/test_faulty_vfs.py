"""The faulty disk itself: what it takes at a power cut, and what it leaves."""

import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import DEADLINE
from integration.faults.faulty_vfs import Unsynced
from integration.faults.serving import KILLED, environment
from support import execute, query

WRITE = """
import os, sys
import apsw
from integration.faults.faulty_vfs import Fault, Kind, install
database, synchronous = sys.argv[1:]
disk, vfs = install(Fault(Kind.CUT, 10_000), print)
connection = apsw.Connection(database)
connection.pragma("synchronous", synchronous)
connection.execute("INSERT INTO t VALUES (2)")
assert disk.operations > 1
disk.end()
"""


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize(("synchronous", "rows"), [("OFF", [(1,)]), ("FULL", [(1,), (2,)])])
def test_a_power_cut_takes_what_was_not_synced(
    database: Path, journal: str, synchronous: str, rows: list[tuple[int]]
) -> None:
    execute(database, f"PRAGMA journal_mode = {journal}; CREATE TABLE t (n); INSERT INTO t VALUES (1);")

    done = subprocess.run(
        [sys.executable, "-c", WRITE, database, synchronous],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == KILLED, done.stderr
    assert query(database, "SELECT n FROM t") == rows
    assert query(database, "PRAGMA journal_mode") == [(journal,)]


def test_changes_are_undone_in_reverse_and_the_growth_with_them() -> None:
    unsynced = Unsynced(6, [(2, b"cd", b"XY"), (4, b"ef", b"12345"), (3, b"Y12345", None), (5, b"", b"w")])

    assert unsynced.after_cut(b"abX\0\0w", lambda: False) == b"abcdef"


def test_the_changes_that_survive_are_done_again_in_their_order() -> None:
    unsynced = Unsynced(3, [(0, b"a", b"x"), (2, b"c", b"yz"), (1, b"byz", None)])

    def keep(survivors: str) -> bytes:
        turns = iter(survivors)
        return unsynced.after_cut(b"x", lambda: next(turns) == "+")

    assert keep("+--") == b"xbc"
    assert keep("-+-") == b"abyz"
    assert keep("+++") == b"x"
