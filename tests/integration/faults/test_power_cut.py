"""A file system that loses its power: ext4 on a loop device, shut down without writing its journal.

This is what the faulty VFS imitates, done by the kernel; it needs root and loop devices.
"""

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_process import poll
from integration.faults.faulty_vfs import Fault, Kind
from integration.faults.serving import Outcome, Servers
from integration.faults.torture import SETTINGS, SOME_SETTINGS, Setting, bound, count_operations, spread

Record = Callable[[str, object], None]
# EXT4_IOC_SHUTDOWN, and the flag for dropping what the journal has not written yet.
SHUTDOWN = 0x8004587D
WITHOUT_JOURNAL = 2


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A loop device, one for all: attached anew each time, it now and then showed what had been on it before."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    path = tmp_path_factory.mktemp("device") / "image"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    try:
        device = run("losetup", "--find", "--show", path)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device to be had: {error}")
    try:
        try_out(Path(device), path.parent)
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


def try_out(device: Path, directory: Path) -> None:
    try:
        run("mkfs.ext4", "-q", "-F", device)
        with mounted(device, directory):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"ext4 cannot be mounted here: {error}")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_file_system(device: Path) -> None:
    def is_made() -> bool:
        return subprocess.run(["mkfs.ext4", "-q", "-F", device], capture_output=True, check=False).returncode == 0

    # A process that took its own copy of the mounts while ours was there keeps the device busy until it ends.
    poll(is_made, f"mkfs.ext4 {device}")


@contextmanager
def mounted(device: Path, directory: Path) -> Iterator[Path]:
    place = directory / "mounted"
    place.mkdir(exist_ok=True)
    run("mount", "-t", "ext4", device, place)
    try:
        yield place
    finally:
        run("umount", place)
        # As above: it would be mounted once more as it is there, shut down, not as it is on the device.
        poll(lambda: is_free(device), f"{device} is used by nobody")


def is_free(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


def shut_down(place: Path) -> None:
    directory = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
    finally:
        os.close(directory)


def act_until(servers: Servers, setting: Setting, place: Path, number: int) -> Outcome:
    """Act on the file system, and cut its power before the `number`-th operation, or at the end."""
    data = place / "data"
    data.mkdir()
    database = setting.prepare(data)
    # What lay there before was there for long.
    run("sync", "-f", place)
    with servers.one() as server:
        server.say(database, setting.scenario, Fault(Kind.PAUSE, number))
        before = server.until("struck ", "ended ")
        shut_down(place)
        if before[-1].startswith("ended "):
            return Outcome(int(before[-1].removeprefix("ended ")), before[:-1])
        server.say("go")
        outcome = server.outcome()
    outcome.lines[:0] = before
    return outcome


def sweep(servers: Servers, setting: Setting, device: Path, directory: Path, wanted: int | None) -> int:
    """Cut the power at about `wanted` of the operations, and return at how many."""
    operations = count_operations(servers, setting, directory)
    numbers = spread(range(1, operations + 2), wanted, shift=SETTINGS.index(setting))
    for number in numbers:
        make_file_system(device)
        with mounted(device, directory) as place:
            outcome = act_until(servers, setting, place, number)
        with mounted(device, directory) as place:
            try:
                setting.judge(place / "data" / "app.db", outcome)
            except Exception as error:
                raise AssertionError(f"{setting}, cut at {number}: {error!r}; {outcome}") from error
    return len(numbers)


@pytest.mark.parametrize("setting", SOME_SETTINGS, ids=str)
def test_a_power_cut_leaves_every_migration_whole(
    servers: Servers, setting: Setting, device: Path, tmp_path: Path, record_testsuite_property: Record
) -> None:
    points = sweep(servers, setting, device, tmp_path, 4)

    record_testsuite_property(f"power cuts, {setting}", points)
    assert points >= 3


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_power_cut_at_any_time_leaves_every_migration_whole(
    servers: Servers, setting: Setting, device: Path, tmp_path: Path, record_testsuite_property: Record
) -> None:
    points = sweep(servers, setting, device, tmp_path, bound())

    record_testsuite_property(f"power cuts at any time, {setting}", points)
    assert points >= min(50, bound() or 50) - 2
