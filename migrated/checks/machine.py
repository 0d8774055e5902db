"""Checks of the machine: versions, kernel limits, locks on its file systems, and the clock."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from migrated.checks.findings import Finding, ok, problem, warning
from migrated.engine.sqlite.connection import library_version
from migrated.system import file_locks, permissions

_SAFE_SQLITE = (3, 51, 3)
_INOTIFY = Path("/proc/sys/fs/inotify")
_WARN_FROM = 0.9
_TIMEOUT_SECONDS = 2.0
# From <sys/timex.h>; the whole structure is 208 bytes on 64-bit Linux.
_TIMEX_BYTES = 512
_TIME_ERROR = 5


def check_versions() -> Iterator[Finding]:
    """Report the versions of Python and of the SQLite that apsw contains."""
    yield ok("python.version", "Python", platform.python_version())
    yield judge_sqlite(library_version())


def judge_sqlite(version: str) -> Finding:
    """Check that this SQLite is not one with the WAL-reset bug, which can damage a database in WAL mode."""
    numbers = tuple(int(part) for part in version.split("."))
    if numbers >= _SAFE_SQLITE:
        return ok("sqlite.version", "SQLite", version)
    return problem(
        "sqlite.version",
        "SQLite",
        f"{version} has the WAL-reset bug, which can damage databases that several processes write",
        "`pip install -U 'apsw>=3.51.3'`",
    )


def check_systemd() -> Iterator[Finding]:
    """Report the version of systemd, if installed."""
    program = shutil.which("systemctl")
    if program is None:
        yield ok("systemd.version", "systemd", "not installed")
        return
    try:
        output = subprocess.run(  # noqa: S603 - the path of systemctl comes from PATH, as in a shell
            [program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        output = ""
    found = re.match(r"systemd (\d+)", output)
    runs = "" if os.path.isdir("/run/systemd/system") else ", not running"
    yield ok("systemd.version", "systemd", f"{found[1] if found else 'unknown version'}{runs}")


def check_user() -> Iterator[Finding]:
    """Report the user that runs this process."""
    yield ok("user", "user", f"running as {permissions.name_of(os.geteuid())}")


def check_inotify() -> Iterator[Finding]:
    """Check this user's limits for inotify watches and instances against the instances in use."""
    try:
        watches, instances = (
            int((_INOTIFY / name).read_text()) for name in ("max_user_watches", "max_user_instances")
        )
    except (OSError, ValueError):
        yield ok("inotify.limits", "inotify", "limits unknown")
        return
    yield judge_inotify(watches, instances, _instances_in_use())


def judge_inotify(watches: int, instances: int, in_use: int) -> Finding:
    """Return the finding for these limits. Each watched directory takes one instance and one watch."""
    text = f"{in_use} of {instances} instances in use by this user, at most {watches} watches"
    if in_use < instances * _WARN_FROM and watches > 0:
        return ok("inotify.limits", "inotify", text)
    hint = f'`sysctl fs.inotify.max_user_instances={2 * instances}`, or set watch = "polling"'
    return warning("inotify.limits", "inotify", f"{text}: directories may have to be polled", hint)


def _instances_in_use() -> int:
    """Count the inotify instances of this user's visible processes."""
    us, count = os.geteuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == us:
                count += sum(_leads_to_inotify(link) for link in (process / "fd").iterdir())
        except OSError:
            # The process has ended, or belongs to another user.
            continue
    return count


def _leads_to_inotify(link: Path) -> bool:
    try:
        return os.readlink(link) == "anon_inode:inotify"
    except OSError:
        return False


def check_time() -> Iterator[Finding]:
    """Check that the kernel considers its clock synchronised."""
    # Not every libc has adjtimex.
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    # With a structure of zeros (modes = 0) the call only reads (https://man7.org/linux/man-pages/man2/adjtimex.2.html).
    yield judge_time(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) if adjtimex else -1)


def judge_time(state: int) -> Finding:
    """Return the finding for this result of adjtimex()."""
    if state < 0:
        return ok("clock.synchronised", "clock", "unknown whether it is synchronised")
    if state == _TIME_ERROR:
        return warning(
            "clock.synchronised",
            "clock",
            "not synchronised: times in the migrations table and the log may be wrong",
            "`timedatectl set-ntp true`, or start another time service",
        )
    return ok("clock.synchronised", "clock", "synchronised")


_MAX_DIFFERENCE = 2.0
_FIELDS = 8


def check_locks(database: str) -> Iterator[Finding]:
    """Report whether a daemon or a run holds the locks, without taking them."""
    for which, held, free in (
        (file_locks.DAEMON, "a daemon is running", "no daemon is running"),
        (file_locks.APPLYING, "migrations are being applied", "nothing is being applied"),
    ):
        # A missing lock file is normal: no daemon or run has ever worked here.
        path = file_locks.lock_path(database, which)
        if not path.exists():
            yield ok(f"locks.{which.partition('.')[0]}", str(path), f"{free}: the lock was never taken")
        elif (found := _is_held(path)) is None:
            yield ok(f"locks.{which.partition('.')[0]}", str(path), "unknown whether it is held")
        else:
            text = f"{held}: {file_locks.ProcessLock(path).holder()}" if found else free
            yield ok(f"locks.{which.partition('.')[0]}", str(path), text)


def _is_held(path: Path) -> bool | None:
    """Return whether a process holds the lock; None if unknown.

    Read from /proc/locks: trying to take the lock could make a daemon that starts at this moment fail.
    """
    status = path.stat()
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF; one that is waited for has "->" second.
    held = [fields for line in lines if len(fields := line.split()) == _FIELDS and fields[1] == "FLOCK"]
    for fields in held:
        major, minor, inode = fields[5].split(":")
        device = int(major, 16), int(minor, 16)
        # On btrfs and overlayfs, stat() returns another device number than /proc/locks has.
        same = device == (os.major(status.st_dev), os.minor(status.st_dev)) or not device[0]
        if int(inode) == status.st_ino and same:
            return True
    return False


def check_clock(directory: str) -> Iterator[Finding]:
    """Check that the file system stamps a new file with the current time.

    The file has no name, so a killed process leaves nothing.
    """
    if not os.access(directory, os.W_OK | os.X_OK):
        return
    before = time.time()
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"now")
        file.flush()
        yield judge_clock(directory, os.fstat(file.fileno()).st_mtime - before)


def judge_clock(directory: str, difference: float) -> Finding:
    """Return the finding for a file stamped `difference` seconds after this machine's clock."""
    if abs(difference) <= _MAX_DIFFERENCE:
        return ok("clock.files", directory, "file times match the clock of this machine")
    return warning(
        "clock.files",
        directory,
        f"file times differ by {difference:+.0f} s from the clock of this machine",
        "synchronise both clocks: the time of a file tells that it is no longer being written",
    )
