import pytest

from migrated.daemon.settle import Settle


def settle(*changes: float) -> Settle:
    """One that waits for half a second of quiet, and two seconds at most."""
    subject = Settle(0.5, 2.0)
    for now in changes:
        subject.notice(now)
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
    assert taken is settle(10.0).take(now)


def test_nothing_to_take_while_nothing_changed() -> None:
    assert not settle().take(10.0)


def test_burst_is_taken_once() -> None:
    subject = settle(10.0)

    assert [subject.take(11.0), subject.take(11.0)] == [True, False]
    assert subject.due_at() is None


def test_asking_too_early_changes_nothing() -> None:
    subject = settle(10.0)
    subject.take(10.25)

    assert subject.due_at() == 10.5


def test_next_burst_begins_anew() -> None:
    subject = settle(10.0)
    subject.take(11.0)
    subject.notice(13.0)

    assert subject.due_at() == 13.5


def test_many_changes_make_one_burst() -> None:
    subject = settle(*(10.0 + 0.25 * n for n in range(7)))

    assert [subject.take(now) for now in (11.5, 11.75, 12.0, 12.25)] == [False, False, True, False]
