"""An idle daemon: it does not grow, logs nothing and wakes up only for its timers."""

import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, poll, ticks
from support import put_file, write_migration


def reading(pid: int, name: str) -> int:
    """Return a number from /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def switches(pid: int) -> int:
    """Return how often the process's threads went to sleep, which is how often they woke up."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(reading(int(thread.name), "voluntary_ctxt_switches") for thread in threads)


def descriptors(pid: int) -> Counter[str]:
    """Count the open descriptors by target. Every socket has a unique name."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[str(path.readlink())] += 1
    return found


def kept_open(daemon: DaemonProcess) -> Counter[str]:
    """Return the descriptors that stay open, without those that are open for a part of a pass."""
    found = descriptors(daemon.pid)
    for _ in range(20):
        daemon.pass_over_notices()
        daemon.wait_for_notice("X_MIGRATED_PASS")
        found &= descriptors(daemon.pid)
    return found


def idle(daemon: DaemonProcess, seconds: float) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(seconds)


def passes(daemon: DaemonProcess, number: int) -> None:
    """Return when this many more passes have ended."""
    daemon.pass_over_notices()
    for _ in range(number):
        daemon.wait_for_notice("X_MIGRATED_PASS")


def test_many_passes_leave_memory_descriptors_and_log_unchanged(tmp_path: Path, migrations: Path) -> None:
    """About two thousand passes, as many as in sixteen hours, over healthy and unavailable databases."""
    text = 'resync_interval = "1ms"\n[[target]]\ndatabases = ["a.db", "b.db", "gone/c.db"]\n'
    (tmp_path / "migrated.toml").write_text(text)
    write_migration(migrations, 1)
    put_file(migrations, "R__one.sql", "DROP VIEW IF EXISTS one; CREATE VIEW one AS SELECT 1;")
    put_file(migrations, "misnamed.sql", "SELECT 1")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        # One-time allocations, half a megabyte after about a thousand passes, must not count as growth per pass.
        passes(daemon, 1200)
        lines, size = len(daemon.lines), reading(daemon.pid, "VmRSS")
        threads, before = reading(daemon.pid, "Threads"), kept_open(daemon)
        passes(daemon, 800)
        grown = reading(daemon.pid, "VmRSS") - size
        assert reading(daemon.pid, "Threads") == threads
        poll(lambda: descriptors(daemon.pid) <= before, "a moment at which nothing more is open than before")
        daemon.stop()

    assert grown <= 256, f"{grown} kB more after 800 passes"
    seen = [line["event"] for line in daemon.lines[lines:]]
    assert set(seen) <= {"database.unavailable", "daemon.stopping", "daemon.stopped"}
    # The missing database is retried after 1, 2, 4 … seconds, and logged once a minute at most.
    assert seen.count("database.unavailable") <= 1


def test_idle_daemon_wakes_only_for_its_timers(tmp_path: Path, migrations: Path) -> None:
    """Once a second the daemon checks its watches. A few threads wake up for that, and each does little."""
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready().look()
        before, used, began = switches(daemon.pid), ticks(daemon.pid), time.monotonic()
        idle(daemon, 3)
        woken, used = switches(daemon.pid) - before, ticks(daemon.pid) - used
        seconds = time.monotonic() - began
        seen = len(daemon.lines)
        daemon.stop()

    assert woken <= 4 * seconds, f"{woken} times in {seconds:.1f} seconds"
    assert used <= 2 * seconds, f"{used} hundredths of a second of work in {seconds:.1f} seconds"
    assert [line["event"] for line in daemon.lines[seen:]] == ["daemon.stopping", "daemon.stopped"]
