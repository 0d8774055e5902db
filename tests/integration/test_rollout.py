"""Rollout: the order of visits, concurrency, and when a rollout halts."""

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
from migrated.system.file_locks import APPLYING, file_lock

Work = Callable[[Visit], Outcome]
BUSY = DatabaseError("database is locked", transient=True, code="SQLITE_BUSY")
BROKEN = ExecutionFailedError("no such table: x", version=7, name="seven")


def fleet(size: int) -> list[DatabasePath]:
    return [DatabasePath(f"{number}.db", f"/srv/{number}.db") for number in range(size)]


def names(databases: Sequence[DatabasePath]) -> list[int]:
    return [int(database.name.removesuffix(".db")) for database in databases]


def ended(
    visited: Visit, result: OutcomeKind = OutcomeKind.APPLIED, error: MigrationError | None = None
) -> Outcome:
    return Outcome(visited.database, result, applied=result is OutcomeKind.APPLIED, error=error)


class Result:
    """The result of a rollout: the reported outcomes in order, and why it halted."""

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

        def report(outcome: Outcome) -> None:
            self.outcomes.append(outcome)
            self.threads.add(threading.get_ident())

        rollout = Rollout(
            visit,
            report,
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


def test_every_database_is_visited_once_and_reported_in_the_caller_s_thread() -> None:
    result = Result(ended, 500)

    assert (sorted(result.order), result.halt) == (list(range(500)), None)
    assert result.threads == {threading.get_ident()}


def test_at_most_workers_databases_are_visited_concurrently() -> None:
    """Each of four visits waits until all four run; a fifth would break the barrier."""
    barrier = threading.Barrier(4, timeout=DEADLINE)
    running: set[str] = set()
    most = 0

    def visit(visited: Visit) -> Outcome:
        nonlocal most
        number = int(visited.database.name.removesuffix(".db"))
        running.add(visited.database.name)
        most = max(most, len(running))
        # The first database is visited alone, the others four at a time.
        if number:
            barrier.wait()
        running.discard(visited.database.name)
        return ended(visited)

    Result(visit, 9, policy=WavePolicy(()))

    assert most == 4


def test_databases_with_nothing_to_do_use_no_worker_thread() -> None:
    threads: set[int] = set()

    def visit(visited: Visit) -> Outcome:
        threads.add(threading.get_ident())
        return ended(visited, OutcomeKind.CURRENT)

    Result(visit, 100)

    assert threads == {threading.get_ident()}


def test_failed_canary_halts_the_rollout() -> None:
    result = Result(lambda visited: ended(visited, OutcomeKind.FAILED, BROKEN), 200)

    assert result.order == [0]
    assert result.halt is not None
    assert (result.halt.error, result.halt.failures, result.halt.changed) == (BROKEN, 1, 0)
    assert names(result.halt.untouched) == list(range(1, 200))


def test_current_databases_do_not_count_as_canaries() -> None:
    def visit(visited: Visit) -> Outcome:
        is_current = visited.database.name in {"0.db", "1.db", "2.db"}
        return ended(visited, OutcomeKind.CURRENT) if is_current else ended(visited, OutcomeKind.FAILED, BROKEN)

    result = Result(visit, 200)

    assert result.order == [0, 1, 2, 3]
    assert result.halt is not None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(BUSY, OutcomeKind.UNAVAILABLE, id="busy"),
        pytest.param(DatabaseError("damaged", code="SQLITE_CORRUPT"), OutcomeKind.UNAVAILABLE, id="damaged"),
        pytest.param(ExecutionFailedError("told to stop", transient=True), OutcomeKind.FAILED, id="interrupted"),
        pytest.param(LockHeldError("held"), OutcomeKind.UNAVAILABLE, id="locked"),
    ],
)
def test_failure_not_caused_by_the_migration_does_not_halt(error: MigrationError, kind: OutcomeKind) -> None:
    result = Result(lambda visited: ended(visited, kind, error), 100)

    assert (len(result.outcomes), result.halt) == (100, None)


def test_known_failure_does_not_halt() -> None:
    def visit(visited: Visit) -> Outcome:
        return ended(visited, OutcomeKind.FAILED, BROKEN) if visited.database.name == "0.db" else ended(visited)

    result = Result(visit, 100, is_known=lambda outcome: outcome.database.name == "0.db")

    assert (len(result.outcomes), result.halt) == (100, None)


def test_busy_database_is_visited_again_after_all_others() -> None:
    seen: list[tuple[str, bool]] = []

    def visit(visited: Visit) -> Outcome:
        seen.append((visited.database.name, visited.is_last))
        is_busy = visited.database.name in {"0.db", "3.db"} and not visited.is_last
        return ended(visited, OutcomeKind.UNAVAILABLE, BUSY) if is_busy else ended(visited)

    result = Result(visit, 6, workers=1, retry_busy=True)

    assert result.order == [1, 2, 4, 5, 0, 3]
    assert [name for name, is_last in seen if is_last] == ["0.db", "3.db"]


def test_database_that_stays_busy_is_reported_once() -> None:
    result = Result(lambda visited: ended(visited, OutcomeKind.UNAVAILABLE, BUSY), 3, retry_busy=True)

    assert sorted(result.order) == [0, 1, 2]


def test_only_the_first_wave_is_verbose() -> None:
    verbose: list[str] = []

    def visit(visited: Visit) -> Outcome:
        if visited.verbose:
            verbose.append(visited.database.name)
        return ended(visited)

    Result(visit, 100)

    assert verbose == ["0.db"]


def test_no_visit_begins_after_a_stop_request() -> None:
    supervision = CancelToken()

    def visit(visited: Visit) -> Outcome:
        supervision.stop("SIGTERM", 0)
        return ended(visited)

    result = Result(visit, 100, supervision=supervision)

    assert (result.order, result.halt) == ([0], None)


def test_exception_in_a_worker_is_raised_in_the_caller_s_thread() -> None:
    def visit(visited: Visit) -> Outcome:
        if visited.database.name == "7.db":
            raise ZeroDivisionError
        return ended(visited)

    with pytest.raises(ZeroDivisionError):
        Result(visit, 50, policy=WavePolicy(()))


class TestSharedLocks:
    def test_lock_is_shared_by_threads_and_released_at_the_end(self, tmp_path: Path) -> None:
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
            with pytest.raises(LockHeldError), file_lock(str(tmp_path / "x.db"), APPLYING, 0):
                pass
        assert failures == []
        with file_lock(str(tmp_path / "x.db"), APPLYING, 0) as lock:
            assert lock.is_intact()

    def test_lock_of_a_link_is_that_of_what_it_leads_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link.db").symlink_to(tmp_path / "real" / "app.db")

        def take(name: str) -> None:
            with locks.acquire(str(tmp_path / name), 0, cancelled=lambda: False, waiting=lambda _holder: None):
                pass

        with file_lock(str(tmp_path / "real" / "app.db"), APPLYING, 0), SharedLocks() as locks:
            take("beside.db")
            with pytest.raises(LockHeldError):
                take("link.db")

    def test_lock_of_another_process_is_waited_for_once(self, tmp_path: Path) -> None:
        waits: list[str] = []

        def take() -> None:
            with locks.acquire(str(tmp_path / "a.db"), 0.05, cancelled=lambda: False, waiting=waits.append):
                pass

        with file_lock(str(tmp_path / "x.db"), APPLYING, 0), SharedLocks() as locks:
            for _ in range(3):
                with pytest.raises(LockHeldError):
                    take()

        assert len(waits) == 1
