import pytest

from migrated.daemon.scheduler import QUICK_SECONDS, Debouncer


def debouncer(*changes: float) -> Debouncer:
    """Return a debouncer with 0.5 s of quiet time and a maximum of 2 s, after these events."""
    subject = Debouncer(0.5, 2.0)
    for now in changes:
        subject.event(now)
    return subject


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        pytest.param([], None, id="nothing changed"),
        pytest.param([10.0], 10.5, id="one change"),
        pytest.param([10.0, 10.25], 10.75, id="counts from the last one"),
        pytest.param([10.0, 10.25, 10.5, 10.75, 11.0], 11.5, id="a burst"),
        pytest.param([10.0, 10.5, 11.0, 11.5], 12.0, id="a burst as long as the maximum"),
        pytest.param([10.0, 10.5, 11.0, 11.5, 11.75], 12.0, id="at most two seconds after the first"),
        pytest.param([10.0, 13.0], 12.0, id="an event after the maximum"),
        pytest.param([0.0], 0.5, id="clock at zero"),
    ],
)
def test_due_after_quiet_but_not_later_than_the_maximum(changes: list[float], due: float | None) -> None:
    assert due == debouncer(*changes).due_at()


@pytest.mark.parametrize(
    ("now", "taken"),
    [
        pytest.param(10.0, False, id="at once"),
        pytest.param(10.25, False, id="too early"),
        pytest.param(10.5, True, id="in time"),
        pytest.param(99.0, True, id="long after"),
    ],
)
def test_fires_when_due(*, now: float, taken: bool) -> None:
    assert taken is debouncer(10.0).fire(now)


def test_does_not_fire_without_an_event() -> None:
    assert not debouncer().fire(10.0)


def test_burst_fires_once() -> None:
    subject = debouncer(10.0)

    assert [subject.fire(11.0), subject.fire(11.0)] == [True, False]
    assert subject.due_at() is None


def test_early_fire_changes_nothing() -> None:
    subject = debouncer(10.0)
    subject.fire(10.25)

    assert subject.due_at() == 10.5


def test_next_burst_starts_over() -> None:
    subject = debouncer(10.0)
    subject.fire(11.0)
    subject.event(13.0)

    assert subject.due_at() == 13.5


def test_many_changes_make_one_burst() -> None:
    subject = debouncer(*(10.0 + 0.25 * n for n in range(7)))

    assert [subject.fire(now) for now in (11.5, 11.75, 12.0, 12.25)] == [False, False, True, False]


class TestSingleFile:
    """A quiet time of half a second would never be shortened, so these tests use the default one."""

    def test_single_file_is_due_after_the_quick_delay(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "")
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.0 + QUICK_SECONDS
        assert subject.single_file(10.0) is None
        assert subject.single_file(10.0 + QUICK_SECONDS) == "7_users.sql"
        assert subject.fire(10.0 + QUICK_SECONDS)

    def test_full_delay_applies_if_the_file_cannot_be_applied_alone(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.use_full_delay()

        assert subject.due_at() == 10.05
        assert subject.single_file(11.0) is None

    def test_quick_delay_counts_from_the_last_event(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.event(10.002, "7_users.sql")

        assert subject.due_at() == 10.002 + QUICK_SECONDS

    @pytest.mark.parametrize("other", ["8_posts.sql", None], ids=["another file", "what is not known"])
    def test_second_file_needs_the_full_delay(self, other: str | None) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.event(10.001, other)

        assert subject.due_at() == 10.051
        assert subject.single_file(10.05) is None

    def test_next_burst_starts_over(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0)
        subject.fire(11.0)
        subject.event(12.0, "7_users.sql")

        assert subject.due_at() == 12.0 + QUICK_SECONDS

    def test_long_configured_delay_is_not_shortened(self) -> None:
        subject = Debouncer(0.5, 2.0)
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.5

    def test_shorter_configured_delay_is_kept(self) -> None:
        subject = Debouncer(0.001, 2.0)
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.001
