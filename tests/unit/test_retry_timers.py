import pytest

from migrated.daemon.scheduler import BackOff, Fingerprint, RepeatTimer, retry_delay


@pytest.mark.parametrize(
    ("failures", "longest"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (8, 128.0), (9, 256.0), (10, 300.0), (33, 300.0), (10_000, 300.0)],
)
def test_delay_doubles_up_to_five_minutes_and_half_of_it_is_random(failures: int, longest: float) -> None:
    delays = [
        retry_delay(failures, lambda: 0.0),
        retry_delay(failures, lambda: 0.5),
        retry_delay(failures, lambda: 1.0),
    ]

    assert [longest / 2, longest * 3 / 4, longest] == delays


def logged(timer: RepeatTimer, cause: str, *times: float) -> list[float]:
    return [now for now in times if timer.should_log(cause, now)]


def test_lasting_cause_is_logged_at_once_and_then_at_growing_intervals() -> None:
    tellings = logged(RepeatTimer(), "x", *range(1000, 5000))

    assert [at - 1000 for at in tellings] == [0, 60, 180, 420, 900, 1800, 2700, 3600]


def test_late_repetition_postpones_the_next_one() -> None:
    assert logged(RepeatTimer(), "x", 0, 100, 219, 220) == [0, 100, 220]


def test_new_cause_is_logged_at_once_and_starts_over() -> None:
    timer = RepeatTimer()
    logged(timer, "x", *range(500))

    assert logged(timer, "y", *range(500, 700)) == [500, 560, 680]


def test_cause_that_returns_is_logged_again() -> None:
    timer = RepeatTimer()

    assert [timer.should_log(cause, 0) for cause in "xyx"] == [True, True, True]


def test_repetitions_are_counted() -> None:
    timer = RepeatTimer()
    counts = [timer.repeated for now in range(200) if timer.should_log("x", now)]

    assert counts == [0, 1, 2]


def test_new_cause_resets_the_count() -> None:
    timer = RepeatTimer()
    logged(timer, "x", *range(200))
    timer.should_log("y", 200)

    assert timer.repeated == 0


FILE = Fingerprint((1, 2), (100, 5))
WRITTEN = Fingerprint((1, 2), (200, 6))
REPLACED = Fingerprint((1, 3), (100, 5))
GONE = Fingerprint(None, ())


@pytest.mark.parametrize(
    ("permanent", "migrations", "database", "now", "over"),
    [
        pytest.param(False, 7, FILE, 9.0, False, id="passing: too early"),
        pytest.param(False, 7, FILE, 10.0, True, id="passing: in time"),
        pytest.param(False, 7, WRITTEN, 9.0, False, id="passing: somebody wrote, too early"),
        pytest.param(False, 8, FILE, 0.0, True, id="passing: other migrations"),
        pytest.param(False, 7, REPLACED, 0.0, True, id="passing: another file"),
        pytest.param(False, 7, GONE, 0.0, True, id="passing: no file"),
        pytest.param(True, 7, FILE, 9.0, False, id="permanent: too early"),
        pytest.param(True, 7, FILE, 99999.0, False, id="permanent: time alone heals nothing"),
        pytest.param(True, 7, WRITTEN, 9.0, False, id="permanent: somebody wrote, too early"),
        pytest.param(True, 7, WRITTEN, 10.0, True, id="permanent: somebody wrote, in time"),
        pytest.param(True, 8, FILE, 0.0, True, id="permanent: other migrations"),
        pytest.param(True, 7, REPLACED, 0.0, True, id="permanent: another file"),
    ],
)
def test_back_off_is_over(
    *,
    permanent: bool,
    migrations: int,
    database: Fingerprint,
    now: float,
    over: bool,
) -> None:
    back_off = BackOff(7, FILE, 10.0, permanent)

    assert over is back_off.is_over(migrations, database, now)


def test_file_that_appears_ends_the_back_off() -> None:
    back_off = BackOff(7, GONE, 10.0, permanent=True)

    assert back_off.is_over(7, FILE, 0.0)
