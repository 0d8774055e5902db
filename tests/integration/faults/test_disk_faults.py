"""Disk errors, a full disk and power cuts at one operation after another: migrations stay atomic."""

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.faults.faulty_vfs import Fault, Kind
from integration.faults.serving import KILLED, Servers
from integration.faults.torture import SETTINGS, SOME_SETTINGS, Setting, bound, count_operations, spread, struck

KINDS: list[Kind] = [kind for kind in Kind if kind not in {Kind.COUNT, Kind.PAUSE}]
# Only what needs space fails on a full disk.
PARTIAL = {Kind.FULL, Kind.FULL_FROM_THEN}
Record = Callable[[str, object], None]


def sweep(
    servers: Servers, setting: Setting, kind: Kind, directory: Path, *, operations: int, wanted: int | None
) -> int:
    """Strike at about `wanted` of the operations, and return at how many."""
    # A power cut may come after the last operation too.
    last = operations + int(kind.cuts_power)
    numbers = spread(range(1, last + 1), wanted, shift=KINDS.index(kind))

    def strike(number: int) -> bool:
        outcome = struck(servers, setting, directory, Fault(kind, number))
        happened = bool(outcome.told("struck"))

        assert happened or number > operations or kind in PARTIAL, f"nothing happened at {number}: {outcome}"
        assert (outcome.code == KILLED) is kind.ends_the_process, outcome
        return happened

    happened = servers.for_each(strike, numbers)

    assert sum(happened) >= len(numbers) / 3
    return len(numbers)


@pytest.mark.parametrize("setting", SOME_SETTINGS, ids=str)
def test_a_failing_disk_leaves_every_migration_whole(
    servers: Servers, setting: Setting, tmp_path: Path, record_testsuite_property: Record
) -> None:
    operations = count_operations(servers, setting, tmp_path)

    points = [sweep(servers, setting, kind, tmp_path, operations=operations, wanted=3) for kind in KINDS]

    record_testsuite_property(f"points of the disk, {setting}", sum(points))
    assert operations > 50
    assert sum(points) >= 3 * len(KINDS)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_disk_that_fails_anywhere_leaves_every_migration_whole(
    servers: Servers, setting: Setting, kind: Kind, tmp_path: Path, record_testsuite_property: Record
) -> None:
    operations = count_operations(servers, setting, tmp_path)

    points = sweep(servers, setting, kind, tmp_path, operations=operations, wanted=bound())

    record_testsuite_property(f"points of the disk, {setting}, {kind}", points)
    # Where the ends and what lies between meet, there are fewer than asked for.
    assert points >= min(operations, bound() or operations) - 2
