"""From the rename of a file into the directory to the committed change, for several settle times.

    python tests/benchmarks/save_to_commit.py [SAVES]

For each settle time `migrated dev` runs on a database of its own. The times are medians and the longest of what
passes between the rename and the log line that follows the commit; "added" is what is left of it without the
settle time. The floor, in the same run, is the same statements by plain apsw, as safely committed. An "edit"
redoes the newest migration, which includes keeping a snapshot. The last column is how many passes a `git switch`
of 200 files takes, in the worst of five: one is what is wanted.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import apsw

SETTLES = ["1ms", "2ms", "5ms", "10ms", "20ms", "50ms", "100ms"]
FILES = 200


class Daemon:
    """`migrated dev` in a directory, and its log."""

    def __init__(self, home: Path, process: "subprocess.Popen[str]") -> None:
        self.home = home
        self.lines: SimpleQueue[dict[str, object]] = SimpleQueue()
        self._process = process
        Thread(target=self._read, daemon=True).start()

    def wait_for(self, event: str) -> dict[str, object]:
        while (line := self.lines.get(timeout=30))["event"] != event:
            pass
        return line

    def passes_until_quiet(self) -> int:
        count = 0
        try:
            while True:
                count += self.lines.get(timeout=0.7)["event"] == "run.finished"
        except Empty:
            return count

    def _read(self) -> None:
        # The pipe is closed at the end, most often while a line is waited for.
        with suppress(ValueError):
            for line in self._process.stderr or ():
                self.lines.put(json.loads(line))


@contextmanager
def daemon(settle: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        (home / "migrations").mkdir()
        (home / "migrated.toml").write_text(f'settle = "{settle}"\nlog_format = "json"\n')
        command = [sys.executable, "-m", "migrated", "dev"]
        with subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, text=True) as process:
            try:
                running = Daemon(home, process)
                running.wait_for("daemon.ready")
                yield running
            finally:
                process.terminate()


def up(version: int) -> str:
    return f"CREATE TABLE t{version} (id INTEGER PRIMARY KEY, name TEXT);"


def text(version: int) -> str:
    return f"-- UP\n{up(version)}\n-- DOWN\nDROP TABLE t{version};\n"


def measure_saves(running: Daemon, saves: int) -> list[float]:
    taken = []
    for version in range(1, saves + 1):
        part = running.home / "part"
        part.write_text(text(version))
        began = time.time()
        part.rename(running.home / "migrations" / f"{version}_change.sql")
        ended = datetime.fromisoformat(str(running.wait_for("migration.applied")["timestamp"])).timestamp()
        taken.append((ended - began) * 1000)
        running.wait_for("run.finished")
    return taken


def measure_edits(running: Daemon, saves: int) -> list[float]:
    """The newest migration again and again, each time another."""
    taken = []
    for number in range(saves):
        part = running.home / "part"
        part.write_text(text(10_000).replace("name", f"name{number}"))
        began = time.time()
        part.rename(running.home / "migrations" / "10000_edited.sql")
        ended = datetime.fromisoformat(str(running.wait_for("migration.applied")["timestamp"])).timestamp()
        taken.append((ended - began) * 1000)
        running.wait_for("run.finished")
    return taken[1:]


def floor(saves: int) -> list[float]:
    """The same by plain apsw, with as safe a commit."""
    taken = []
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/app.db"
        apsw.Connection(path).execute("CREATE TABLE ledger (version INTEGER PRIMARY KEY, text)").fetchall()
        for version in range(1, saves + 1):
            began = time.time()
            connection = apsw.Connection(path)
            connection.execute("PRAGMA synchronous = extra; BEGIN IMMEDIATE").fetchall()
            connection.execute(up(version)).fetchall()
            connection.execute("INSERT INTO ledger VALUES (?, ?)", (version, text(version)))
            connection.execute("COMMIT").fetchall()
            connection.close()
            taken.append((time.time() - began) * 1000)
    return taken


def git(home: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=home, check=True, capture_output=True)


def measure_switches(settle: str) -> int:
    with daemon(settle) as running:
        home = running.home
        git(home, "init", "-q", "-b", "few")
        (home / "migrations" / "keep").touch()
        git(home, "add", "migrations")
        git(home, "commit", "-qm", "few")
        git(home, "switch", "-qc", "many")
        for version in range(1, FILES + 1):
            (home / "migrations" / f"{version}_change.sql").write_text(text(version))
        git(home, "add", "migrations")
        git(home, "commit", "-qm", "many")
        running.passes_until_quiet()
        worst = 0
        for branch in ("few", "many", "few", "many", "few"):
            git(home, "switch", "-q", branch)
            worst = max(worst, running.passes_until_quiet())
    return worst


def say(row: str) -> None:
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()


def main() -> None:
    saves = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    bare = statistics.median(floor(saves))
    say(f"floor, plain apsw: {bare:.1f} ms")
    say(f"{'settle':>8} {'save':>8} {'longest':>8} {'added':>8} {'edit':>8} {'longest':>8} {'passes':>8}")
    for settle in SETTLES:
        with daemon(settle) as running:
            taken, edits = measure_saves(running, saves), measure_edits(running, saves)
        save, edit = statistics.median(taken), statistics.median(edits)
        added = save - float(settle.removesuffix("ms"))
        say(
            f"{settle:>8} {save:8.1f} {max(taken):8.1f} {added:8.1f} {edit:8.1f} {max(edits):8.1f} "
            f"{measure_switches(settle):8}"
        )


if __name__ == "__main__":
    main()
