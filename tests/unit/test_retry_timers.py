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


def logged(complaint: RepeatTimer, cause: str, *times: float) -> list[float]:
    return [now for now in times if complaint.should_log(cause, now)]


def test_standing_cause_is_told_at_once_and_then_ever_more_rarely() -> None:
    tellings = logged(RepeatTimer(), "x", *range(1000, 5000))

    assert [at - 1000 for at in tellings] == [0, 60, 180, 420, 900, 1800, 2700, 3600]


def test_telling_late_puts_the_next_one_off() -> None:
    assert logged(RepeatTimer(), "x", 0, 100, 219, 220) == [0, 100, 220]


def test_another_cause_is_told_at_once_and_starts_over() -> None:
    complaint = RepeatTimer()
    logged(complaint, "x", *range(500))

    assert logged(complaint, "y", *range(500, 700)) == [500, 560, 680]


def test_cause_that_comes_back_is_told_again() -> None:
    complaint = RepeatTimer()

    assert [complaint.should_log(cause, 0) for cause in "xyx"] == [True, True, True]


def test_tellings_after_the_first_are_counted() -> None:
    complaint = RepeatTimer()
    counts = [complaint.repeated for now in range(200) if complaint.should_log("x", now)]

    assert counts == [0, 1, 2]


def test_another_cause_is_counted_from_nought() -> None:
    complaint = RepeatTimer()
    logged(complaint, "x", *range(200))
    complaint.should_log("y", 200)

    assert complaint.repeated == 0


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
def test_rest_is_over(
    *,
    permanent: bool,
    migrations: int,
    database: Fingerprint,
    now: float,
    over: bool,
) -> None:
    rest = BackOff(7, FILE, 10.0, permanent)

    assert over is rest.is_over(migrations, database, now)


def test_file_that_appears_ends_the_rest() -> None:
    rest = BackOff(7, GONE, 10.0, permanent=True)

    assert rest.is_over(7, FILE, 0.0)
