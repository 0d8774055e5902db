import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.config.settings import Share, WavePolicy, parse_share
from migrated.fleet.waves import Waves

TEN_PERCENT = Share(10, is_percent=True)


def sizes(total: int, policy: WavePolicy = WavePolicy()) -> list[int]:  # noqa: B008 - frozen
    """Return how many databases each wave changes if none fails."""
    waves = Waves(total, policy)
    found = [0] * 20
    for _ in range(total):
        assert waves.room(0) > 0
        waves.count_change()
        found[waves.number - 1] += 1
    return [size for size in found if size]


@pytest.mark.parametrize(
    ("total", "waves", "expected"),
    [
        pytest.param(1, None, [1], id="one database"),
        pytest.param(10, None, [10], id="too few for waves"),
        pytest.param(11, None, [1, 10], id="the smallest fleet"),
        pytest.param(15, None, [1, 10, 1, 3], id="ten percent of few is one"),
        pytest.param(200, None, [1, 10, 20, 169], id="200"),
        pytest.param(10_000, None, [1, 10, 1000, 8989], id="10,000"),
        pytest.param(200, (), [200], id="no waves"),
        pytest.param(5, (Share(2),), [2, 3], id="configured, whatever the size"),
        pytest.param(9, (Share(0), Share(4)), [4, 5], id="wave of size 0"),
        pytest.param(4, (Share(1), Share(100, is_percent=True)), [1, 3], id="all of them"),
    ],
)
def test_wave_sizes(total: int, waves: tuple[Share, ...] | None, expected: list[int]) -> None:
    assert sizes(total, WavePolicy(waves)) == expected


def test_next_wave_begins_only_when_nothing_is_running() -> None:
    waves = Waves(200, WavePolicy())

    assert (waves.room(0), waves.room(1)) == (1, 0)
    waves.count_change()
    assert waves.room(1) < 1
    assert waves.room(0) == 10
    assert waves.room(4) == 6


def test_failed_canary_halts() -> None:
    waves = Waves(10_000, WavePolicy())
    waves.count_failure()

    assert waves.room(0) == 0
    assert (waves.is_halted, waves.failures) == (True, 1)


def test_no_wave_follows_one_with_a_failure() -> None:
    waves = Waves(200, WavePolicy())
    waves.count_change()
    assert waves.room(0) == 10
    for _ in range(9):
        waves.count_change()
    waves.count_failure()

    assert not waves.is_halted
    assert waves.room(0) == 0
    assert waves.is_halted


def in_last_wave(total: int, policy: WavePolicy = WavePolicy()) -> Waves:  # noqa: B008 - frozen
    waves = Waves(total, policy)
    while waves.room(0) != float("inf"):
        waves.count_change()
    return waves


@pytest.mark.parametrize(
    ("total", "limit", "tolerated"),
    [
        pytest.param(50, None, 1, id="one percent of few is one"),
        pytest.param(10_000, None, 100, id="one percent"),
        pytest.param(10_000, Share(3), 3, id="a number"),
        pytest.param(10_000, Share(0), 0, id="none"),
        pytest.param(1000, TEN_PERCENT, 100, id="ten percent"),
    ],
)
def test_wave_halts_beyond_max_failures(total: int, limit: Share | None, tolerated: int) -> None:
    waves = in_last_wave(total, WavePolicy(max_failures=limit))
    for _ in range(tolerated):
        waves.count_failure()

    assert waves.room(0) == float("inf")
    waves.count_failure()
    assert (waves.room(0), waves.is_halted) == (0, True)


@pytest.mark.parametrize("waves", [Waves(10, WavePolicy()), Waves(500, WavePolicy(()))], ids=["few", "no waves"])
def test_every_database_is_tried_without_waves(waves: Waves) -> None:
    for _ in range(500):
        assert waves.room(0) > 0
        waves.count_failure()
    assert not waves.is_halted


@given(st.integers(11, 5000), st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_migration_that_fails_everywhere_reaches_few_databases(
    total: int, nothing_to_do: list[bool], workers: int
) -> None:
    """Databases with nothing to do in between must not begin the next wave."""
    waves = Waves(total, WavePolicy())
    running = failed = 0
    for nothing in [*nothing_to_do, *[False] * total]:
        while waves.room(running) < 1 or running == workers:
            if not running:
                break
            running -= 1
            waves.count_failure()
            failed += 1
        if waves.is_halted:
            break
        running += not nothing

    assert waves.is_halted
    assert failed + running <= 1


@pytest.mark.parametrize(
    ("written", "share"),
    [
        (0, Share(0)),
        (7, Share(7)),
        ("10%", Share(10, is_percent=True)),
        ("2.5%", Share(2.5, is_percent=True)),
        ("100 %", Share(100, is_percent=True)),
    ],
)
def test_share_is_parsed(written: int | str, share: Share) -> None:
    assert parse_share(written) == share


@pytest.mark.parametrize("written", [-1, True, 1.5, "", "%", "10", "101%", "-1%", "x%", "1e1%", None, [1]])
def test_invalid_share_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"expected a number or a percentage such as .10%., got"):
        parse_share(written)


@pytest.mark.parametrize(
    ("share", "total", "number"),
    [(Share(5), 3, 5), (TEN_PERCENT, 99, 9), (TEN_PERCENT, 5, 1), (Share(0), 100, 0)],
)
def test_share_of_a_total(share: Share, total: int, number: int) -> None:
    assert share.of(total) == number
