"""Who is worked on when, and by how many at once; the work itself is another matter."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from daemon_process import DEADLINE

from migrated import DatabaseError, ExecutionFailedError, LockHeldError
from migrated.config.settings import WavePolicy
from migrated.core.errors import MigrationError
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.locks import SharedLocks
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.rollout import Halt, Rollout, Visit
from migrated.fleet.waves import Waves
from migrated.system.cancellation import CancelToken
from migrated.system.file_locks import APPLYING, holding

Work = Callable[[Visit], Outcome]
BUSY = DatabaseError("database is locked", transient=True, code="SQLITE_BUSY")
BROKEN = ExecutionFailedError("no such table: x", version=7, name="seven")


def fleet(size: int) -> list[DatabasePath]:
    return [DatabasePath(f"{number}.db", f"/srv/{number}.db") for number in range(size)]


def names(databases: Sequence[DatabasePath]) -> list[int]:
    return [int(database.name.removesuffix(".db")) for database in databases]


def ended(turn: Visit, result: OutcomeKind = OutcomeKind.APPLIED, error: MigrationError | None = None) -> Outcome:
    return Outcome(turn.database, result, applied=result is OutcomeKind.APPLIED, error=error)


class Told:
    """What a roll-out came to: who was told of in which order, and why it was broken off."""

    def __init__(
        self,
        visit: Work,
        size: int,
        *,
        workers: int = 4,
        policy: WavePolicy = WavePolicy(),  # noqa: B008 - frozen
        retry_busy: bool = False,
        is_known: Callable[[Outcome], bool] = lambda _outcome: False,
        supervision: CancelToken | None = None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.threads: set[int] = set()

        def tell(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            self.threads.add(threading.get_ident())

        rollout = Rollout(
            visit,
            tell,
            Waves(size, policy),
            workers,
            supervision or CancelToken(),
            retry_busy=retry_busy,
            is_known=is_known,
        )
        self.halt: Halt | None = rollout.run(fleet(size))

    @property
    def order(self) -> list[int]:
        return names([outcome.database for outcome in self.outcomes])


def test_every_one_has_its_turn_once_and_is_told_of_in_the_caller_s_thread() -> None:
    told = Told(ended, 500)

    assert (sorted(told.order), told.halt) == (list(range(500)), None)
    assert told.threads == {threading.get_ident()}


def test_several_are_worked_on_at_once_and_no_more_than_that() -> None:
    """Each of four waits until all four are at it; a fifth would be one too many."""
    barrier = threading.Barrier(4, timeout=DEADLINE)
    running: set[str] = set()
    most = 0

    def visit(turn: Visit) -> Outcome:
        nonlocal most
        number = int(turn.database.name.removesuffix(".db"))
        running.add(turn.database.name)
        most = max(most, len(running))
        # The first one comes alone; the others four by four.
        if number:
            barrier.wait()
        running.discard(turn.database.name)
        return ended(turn)

    Told(visit, 9, policy=WavePolicy(()))

    assert most == 4


def test_what_has_nothing_to_do_needs_no_other_thread() -> None:
    threads: set[int] = set()

    def visit(turn: Visit) -> Outcome:
        threads.add(threading.get_ident())
        return ended(turn, OutcomeKind.CURRENT)

    Told(visit, 100)

    assert threads == {threading.get_ident()}


def test_canary_fails_and_nobody_else_is_touched() -> None:
    told = Told(lambda turn: ended(turn, OutcomeKind.FAILED, BROKEN), 200)

    assert told.order == [0]
    assert told.halt is not None
    assert (told.halt.error, told.halt.failures, told.halt.changed) == (BROKEN, 1, 0)
    assert names(told.halt.untouched) == list(range(1, 200))


def test_those_that_have_it_already_are_no_canaries() -> None:
    def visit(turn: Visit) -> Outcome:
        is_current = turn.database.name in {"0.db", "1.db", "2.db"}
        return ended(turn, OutcomeKind.CURRENT) if is_current else ended(turn, OutcomeKind.FAILED, BROKEN)

    told = Told(visit, 200)

    assert told.order == [0, 1, 2, 3]
    assert told.halt is not None


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(BUSY, OutcomeKind.UNAVAILABLE, id="busy"),
        pytest.param(DatabaseError("damaged", code="SQLITE_CORRUPT"), OutcomeKind.UNAVAILABLE, id="damaged"),
        pytest.param(ExecutionFailedError("told to stop", transient=True), OutcomeKind.FAILED, id="interrupted"),
        pytest.param(LockHeldError("held"), OutcomeKind.UNAVAILABLE, id="locked"),
    ],
)
def test_what_is_not_the_migration_s_fault_breaks_nothing_off(error: MigrationError, result: OutcomeKind) -> None:
    told = Told(lambda turn: ended(turn, result, error), 100)

    assert (len(told.outcomes), told.halt) == (100, None)


def test_old_failure_is_no_sign_that_what_is_new_is_at_fault() -> None:
    def visit(turn: Visit) -> Outcome:
        return ended(turn, OutcomeKind.FAILED, BROKEN) if turn.database.name == "0.db" else ended(turn)

    told = Told(visit, 100, is_known=lambda outcome: outcome.database.name == "0.db")

    assert (len(told.outcomes), told.halt) == (100, None)


def test_busy_one_has_another_turn_after_all_others() -> None:
    seen: list[tuple[str, bool]] = []

    def visit(turn: Visit) -> Outcome:
        seen.append((turn.database.name, turn.is_last))
        is_busy = turn.database.name in {"0.db", "3.db"} and not turn.is_last
        return ended(turn, OutcomeKind.UNAVAILABLE, BUSY) if is_busy else ended(turn)

    told = Told(visit, 6, workers=1, retry_busy=True)

    assert told.order == [1, 2, 4, 5, 0, 3]
    assert [name for name, is_last in seen if is_last] == ["0.db", "3.db"]


def test_one_that_stays_busy_is_told_of_once() -> None:
    told = Told(lambda turn: ended(turn, OutcomeKind.UNAVAILABLE, BUSY), 3, retry_busy=True)

    assert sorted(told.order) == [0, 1, 2]


def test_only_the_first_wave_is_told_in_full() -> None:
    in_full: list[str] = []

    def visit(turn: Visit) -> Outcome:
        if turn.verbose:
            in_full.append(turn.database.name)
        return ended(turn)

    Told(visit, 100)

    assert in_full == ["0.db"]


def test_when_told_to_stop_nothing_more_begins() -> None:
    supervision = CancelToken()

    def visit(turn: Visit) -> Outcome:
        supervision.stop("SIGTERM", 0)
        return ended(turn)

    told = Told(visit, 100, supervision=supervision)

    assert (told.order, told.halt) == ([0], None)


def test_surprise_in_another_thread_is_raised_here() -> None:
    def visit(turn: Visit) -> Outcome:
        if turn.database.name == "7.db":
            raise ZeroDivisionError
        return ended(turn)

    with pytest.raises(ZeroDivisionError):
        Told(visit, 50, policy=WavePolicy(()))


class TestSharedLocks:
    def test_one_lock_serves_several_threads_and_is_given_back_in_the_end(self, tmp_path: Path) -> None:
        barrier = threading.Barrier(3, timeout=DEADLINE)
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                with locks.acquire(str(tmp_path / name), 0, cancelled=lambda: False, waiting=lambda _holder: None):
                    barrier.wait()
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)

        with SharedLocks() as locks:
            threads = [threading.Thread(target=work, args=(f"{number}.db",)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with pytest.raises(LockHeldError), holding(str(tmp_path / "x.db"), APPLYING, 0):
                pass
        assert failures == []
        with holding(str(tmp_path / "x.db"), APPLYING, 0) as lock:
            assert lock.is_intact()

    def test_lock_of_a_link_is_that_of_what_it_leads_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link.db").symlink_to(tmp_path / "real" / "app.db")

        def take(name: str) -> None:
            with locks.acquire(str(tmp_path / name), 0, cancelled=lambda: False, waiting=lambda _holder: None):
                pass

        with holding(str(tmp_path / "real" / "app.db"), APPLYING, 0), SharedLocks() as locks:
            take("beside.db")
            with pytest.raises(LockHeldError):
                take("link.db")

    def test_lock_of_another_is_waited_for_once(self, tmp_path: Path) -> None:
        waits: list[str] = []

        def take() -> None:
            with locks.acquire(str(tmp_path / "a.db"), 0.05, cancelled=lambda: False, waiting=waits.append):
                pass

        with holding(str(tmp_path / "x.db"), APPLYING, 0), SharedLocks() as locks:
            for _ in range(3):
                with pytest.raises(LockHeldError):
                    take()

        assert len(waits) == 1
