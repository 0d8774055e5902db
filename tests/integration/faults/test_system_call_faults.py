"""Failing system calls and kills at one call after another: migrations stay atomic."""

from collections.abc import Callable
from pathlib import Path

import pytest
from integration.faults.serving import KILLED, Servers
from integration.faults.torture import SETTINGS, SOME_SETTINGS, Setting, bound, spread
from integration.faults.tracing import FAILING, KILL, KILLED_AT, Call, Injection, calls_made, traced

EFFECTS = [(KILL, False), ("error=EIO", False), ("error=ENOSPC", False), ("error=EIO", True)]
# Calls that each scenario must make; without them no fault would be injected.
NEEDS = {
    "apply-delete": ("fdatasync", "unlink"),
    "snapshots-wal": ("fsync", "rename", "mkdir"),
    "restore-delete": ("fsync", "rename", "unlink"),
}
Record = Callable[[str, object], None]


def sweep(
    servers: Servers, setting: Setting, directory: Path, calls: list[Call], *, effect: int, wanted: int | None
) -> int:
    """Strike at about `wanted` of the calls, and return at how many."""
    what, lasts = EFFECTS[effect]
    names = KILLED_AT if what == KILL else FAILING
    chosen = spread([call for call in calls if call.name in names], wanted, shift=effect)

    def strike(call: Call) -> None:
        options = ["-e", f"trace={call.name}", "-e", str(Injection(call, what, lasts))]
        outcome, log = traced(servers, setting, directory, options)

        if what == KILL:
            assert outcome.code == KILLED, f"not killed at {call}: {outcome}"
        else:
            assert any("(INJECTED)" in line for line in log), f"nothing happened at {call}: {outcome}"

    servers.for_each(strike, chosen)
    return len(chosen)


@pytest.mark.parametrize("setting", SOME_SETTINGS, ids=str)
def test_a_failing_system_call_leaves_every_migration_whole(
    servers: Servers, setting: Setting, tmp_path: Path, record_testsuite_property: Record
) -> None:
    calls = calls_made(servers, setting, tmp_path, FAILING)

    points = [sweep(servers, setting, tmp_path, calls, effect=effect, wanted=4) for effect in range(len(EFFECTS))]

    record_testsuite_property(f"points of system calls, {setting}", sum(points))
    assert {"pwrite64", "openat", *NEEDS.get(str(setting), ())} <= {call.name for call in calls}
    assert sum(points) >= 3 * len(EFFECTS)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("effect", range(len(EFFECTS)), ids=[f"{what}{'+' * lasts}" for what, lasts in EFFECTS])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_any_failing_system_call_leaves_every_migration_whole(
    servers: Servers, setting: Setting, effect: int, tmp_path: Path, record_testsuite_property: Record
) -> None:
    calls = calls_made(servers, setting, tmp_path, FAILING)

    points = sweep(servers, setting, tmp_path, calls, effect=effect, wanted=bound())

    record_testsuite_property(f"points of system calls, {setting}, {EFFECTS[effect]}", points)
    # Where the ends and what lies between meet, there are fewer than asked for.
    assert points >= min(50, bound() or 50) - 2
