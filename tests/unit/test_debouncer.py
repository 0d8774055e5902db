import pytest

from migrated.daemon.scheduler import QUICK_SECONDS, Debouncer


def settle(*changes: float) -> Debouncer:
    """One that waits for half a second of quiet, and two seconds at most."""
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
        pytest.param([10.0, 10.5, 11.0, 11.5], 12.0, id="just not for ever"),
        pytest.param([10.0, 10.5, 11.0, 11.5, 11.75], 12.0, id="at most two seconds after the first"),
        pytest.param([10.0, 13.0], 12.0, id="however late the last one is"),
        pytest.param([0.0], 0.5, id="at nought of the clock"),
    ],
)
def test_due_after_quiet_but_not_later_than_the_maximum(changes: list[float], due: float | None) -> None:
    assert due == settle(*changes).due_at()


@pytest.mark.parametrize(
    ("now", "taken"),
    [
        pytest.param(10.0, False, id="at once"),
        pytest.param(10.25, False, id="too early"),
        pytest.param(10.5, True, id="in time"),
        pytest.param(99.0, True, id="long after"),
    ],
)
def test_taken_when_due(*, now: float, taken: bool) -> None:
    assert taken is settle(10.0).fire(now)


def test_nothing_to_take_while_nothing_changed() -> None:
    assert not settle().fire(10.0)


def test_burst_is_taken_once() -> None:
    subject = settle(10.0)

    assert [subject.fire(11.0), subject.fire(11.0)] == [True, False]
    assert subject.due_at() is None


def test_asking_too_early_changes_nothing() -> None:
    subject = settle(10.0)
    subject.fire(10.25)

    assert subject.due_at() == 10.5


def test_next_burst_begins_anew() -> None:
    subject = settle(10.0)
    subject.fire(11.0)
    subject.event(13.0)

    assert subject.due_at() == 13.5


def test_many_changes_make_one_burst() -> None:
    subject = settle(*(10.0 + 0.25 * n for n in range(7)))

    assert [subject.fire(now) for now in (11.5, 11.75, 12.0, 12.25)] == [False, False, True, False]


class TestOneFile:
    """Half a second is more than anybody who is asked for less waits; so these wait for the usual time."""

    def test_is_due_soon(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "")
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.0 + QUICK_SECONDS
        assert subject.single_file(10.0) is None
        assert subject.single_file(10.0 + QUICK_SECONDS) == "7_users.sql"
        assert subject.fire(10.0 + QUICK_SECONDS)

    def test_is_waited_for_as_any_where_it_is_not_to_be_taken_by_itself(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.use_full_delay()

        assert subject.due_at() == 10.05
        assert subject.single_file(11.0) is None

    def test_counts_from_the_last_time_that_it_changed(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.event(10.002, "7_users.sql")

        assert subject.due_at() == 10.002 + QUICK_SECONDS

    @pytest.mark.parametrize("other", ["8_posts.sql", None], ids=["another file", "what is not known"])
    def test_is_not_alone(self, other: str | None) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0, "7_users.sql")
        subject.event(10.001, other)

        assert subject.due_at() == 10.051
        assert subject.single_file(10.05) is None

    def test_next_burst_begins_anew(self) -> None:
        subject = Debouncer(0.05, 2.0)
        subject.event(10.0)
        subject.fire(11.0)
        subject.event(12.0, "7_users.sql")

        assert subject.due_at() == 12.0 + QUICK_SECONDS

    def test_who_asks_for_more_quiet_gets_it(self) -> None:
        subject = Debouncer(0.5, 2.0)
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.5

    def test_who_asks_for_less_gets_that(self) -> None:
        subject = Debouncer(0.001, 2.0)
        subject.event(10.0, "7_users.sql")

        assert subject.due_at() == 10.001
