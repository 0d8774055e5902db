"""The progress bar of `up` on a terminal."""

import os
import pty
import re
import subprocess
from pathlib import Path

from daemon_process import environment
from support import PROGRAM, applied_versions, write_migration

# Two seconds or so; the bar is drawn after one.
LONG = "WITH RECURSIVE c (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {})\nSELECT max(n) FROM c;"
DRAWN = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"


def on_a_terminal(directory: Path, *arguments: str) -> str:
    """What a person sees, without the colours and movements of the cursor."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=directory,
        env=environment(TERM="xterm", COLUMNS="100", NO_COLOR="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                # How a terminal says that nobody holds its other end.
                break
            if not part:
                break
            seen += part
        os.close(ours)
        assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_long_work_is_shown_below_the_log(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1, up="CREATE TABLE a (x);")
    assert on_a_terminal(tmp_path, "up").count(DRAWN) == 0
    write_migration(migrations, 2, "long", up=LONG.format(25_000_000))
    write_migration(migrations, 3, "short", up="CREATE TABLE b (x);")

    seen = on_a_terminal(tmp_path, "up")

    assert re.search(rf"3_short {DRAWN}+ 2/2 ", seen)
    # Each line of the log has a line of its own, also while the bar is there.
    lines = [line.strip() for line in re.split(r"[\r\n]+", seen)]
    assert [
        line for line in lines if re.fullmatch(r"\d\d:\d\d:\d\d info    applied 3_short to app.db in \d+ ms", line)
    ]
    assert applied_versions(tmp_path / "app.db") == [1, 2, 3]
