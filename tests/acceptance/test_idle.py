"""A daemon that has nothing to do for long: it does not grow, says nothing and wakes up for its timers alone."""

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from daemon_process import DaemonProcess
from support import put_file, write_migration


def reading(pid: int, name: str) -> int:
    """A number from the kernel's account of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def switches(pid: int) -> int:
    """How often a thread of the process went to sleep, which is how often it was woken up."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(reading(int(thread.name), "voluntary_ctxt_switches") for thread in threads)


def descriptors(pid: int) -> list[str]:
    """What it has open, but for what a pass opens and closes again."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return sorted(path for path in found if not path.endswith((".db", ".sql", "/migrations", "/lock")))


def idle(daemon: DaemonProcess, seconds: float) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(seconds)


def test_passes_without_end_leave_no_trace(tmp_path: Path, migrations: Path) -> None:
    """Some two thousand passes, as many as come in sixteen hours, over what is well and what is not."""
    text = 'resync_interval = "1ms"\n[[target]]\ndatabases = ["a.db", "b.db", "gone/c.db"]\n'
    (tmp_path / "migrated.toml").write_text(text)
    write_migration(migrations, 1)
    put_file(migrations, "R__one.sql", "DROP VIEW IF EXISTS one; CREATE VIEW one AS SELECT 1;")
    put_file(migrations, "misnamed.sql", "SELECT 1")
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        # What is taken once, half a megabyte after some thousand passes, is no trace of each.
        idle(daemon, 7)
        daemon.pass_over_notices()
        passes = len(daemon.notices)
        lines, size = len(daemon.lines), reading(daemon.pid, "VmRSS")
        threads, open_files = reading(daemon.pid, "Threads"), descriptors(daemon.pid)
        idle(daemon, 5)
        grown = reading(daemon.pid, "VmRSS") - size
        daemon.pass_over_notices()
        passes = len(daemon.notices) - passes
        assert reading(daemon.pid, "Threads") == threads
        assert descriptors(daemon.pid) == open_files
        daemon.stop()

    assert passes > 200
    assert grown <= 256, f"{grown} kB more after {passes} passes"
    said = [line["event"] for line in daemon.lines[lines:]]
    assert set(said) <= {"database.unavailable", "daemon.stopping", "daemon.stopped"}
    # The one that is missing is tried again after 1, 2, 4 … seconds, and spoken of once a minute at most.
    assert said.count("database.unavailable") <= 1


def test_it_wakes_up_for_its_timers_alone(tmp_path: Path, migrations: Path) -> None:
    """Once a second it looks at its watches; a few threads of it may wake up for that."""
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready().look()
        before = switches(daemon.pid)
        idle(daemon, 4)
        woken = switches(daemon.pid) - before
        said = len(daemon.lines)
        daemon.stop()

    assert woken <= 16, f"{woken} times in 4 seconds"
    assert [line["event"] for line in daemon.lines[said:]] == ["daemon.stopping", "daemon.stopped"]
