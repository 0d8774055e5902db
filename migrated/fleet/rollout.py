"""Run an operation on many databases: in waves, several databases at the same time.

The caller's thread hands out the databases and receives every outcome. A database with nothing to do is quick and
needs the interpreter more than the disk, so worker threads are used only after something was changed.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from migrated.core.errors import MigrationError
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.fleet.waves import Waves
from migrated.system.cancellation import CancelToken

if TYPE_CHECKING:
    from concurrent.futures import Executor


BUSY_SECONDS = 1.0
"""How long a busy database may delay the others; it is visited again at the end."""
_BUSY = ("SQLITE_BUSY", "SQLITE_PROTOCOL", "SQLITE_LOCKED")


class Visit(NamedTuple):
    """One visit to a database: `verbose` logs every step; after `is_last` there is no other visit."""

    database: DatabasePath
    verbose: bool
    is_last: bool


class Halt(NamedTuple):
    """A halted rollout: the first error, how many databases failed, and those it did not reach."""

    error: MigrationError
    failures: int
    changed: int
    untouched: tuple[DatabasePath, ...]


class Rollout:
    """Calls `visit` for each database, in at most `workers` threads, and passes its outcome to `report`.

    A database whose file disappeared meanwhile is not reported. `visit` must return errors of one database in its
    outcome, not raise them. With `retry_busy` a busy database is visited once more, after all others, before it is
    reported. `is_known` is true for a failure that occurred before: it is no evidence against the new migration
    and does not halt the rollout.
    """

    def __init__(
        self,
        visit: Callable[[Visit], Outcome],
        report: Callable[[Outcome], None],
        waves: Waves,
        workers: int,
        cancel_token: CancelToken,
        *,
        retry_busy: bool = False,
        is_known: Callable[[Outcome], bool] = lambda _outcome: False,
    ) -> None:
        self._visit = visit
        self._report = report
        self._waves = waves
        self._workers = workers
        self._cancel_token = cancel_token
        self._retry_busy = retry_busy
        self._is_known = is_known
        self._waiting: deque[Visit] = deque()
        self._running = 0
        self._results: SimpleQueue[tuple[Visit, Outcome | BaseException]] = SimpleQueue()
        self._failure: MigrationError | None = None

    def run(self, databases: Iterable[DatabasePath]) -> Halt | None:
        """Visit all databases. Return a `Halt` if failures stopped the rollout before the last one."""
        self._waiting.extend(Visit(database, verbose=True, is_last=not self._retry_busy) for database in databases)
        with ExitStack() as stack:
            pool: Executor | None = None
            while self._waiting or self._running:
                while room := self._room():
                    visit = self._next()
                    if self._needs_no_other_thread(room):
                        self._record(visit, self._visit(visit))
                        continue
                    if pool is None:
                        # Imported here: usually nothing is pending, no thread is needed, and start-up stays short.
                        from concurrent.futures import ThreadPoolExecutor

                        pool = stack.enter_context(ThreadPoolExecutor(self._workers, "migrated-worker"))
                    self._running += 1
                    pool.submit(self._work, visit)
                if not self._running:
                    break
                self._collect()
        return self._halt()

    def _room(self) -> float:
        """Return how many more visits may begin now."""
        if not self._waiting or self._running >= self._workers or self._cancel_token.stop_requested():
            return 0
        return max(0.0, self._waves.room(self._running))

    def _needs_no_other_thread(self, room: float) -> bool:
        # Until something was changed or failed, threads would only compete for the interpreter.
        if self._running:
            return False
        nothing_happened = not self._waves.changed and not self._waves.failures
        return self._workers == 1 or room == 1 or not self._waiting or nothing_happened

    def _next(self) -> Visit:
        visit = self._waiting.popleft()
        return visit if self._waves.number == 1 else visit._replace(verbose=False)

    def _work(self, visit: Visit) -> None:
        try:
            self._results.put((visit, self._visit(visit)))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._results.put((visit, error))

    def _collect(self) -> None:
        visit, result = self._results.get()
        self._running -= 1
        if isinstance(result, BaseException):
            raise result
        self._record(visit, result)

    def _record(self, visit: Visit, outcome: Outcome) -> None:
        error = outcome.error
        # A tenant deleted during the rollout is not a failure.
        if outcome.is_gone:
            return
        if outcome.result is OutcomeKind.FAILED and error is not None:
            # A temporary error, such as a full disk or an interruption, says nothing about the migration.
            if not error.transient and not self._is_known(outcome):
                self._failure = self._failure or error
                self._waves.count_failure()
        elif outcome.result is OutcomeKind.APPLIED:
            self._waves.count_change()
        elif outcome.result is OutcomeKind.UNAVAILABLE and _is_busy(error) and not visit.is_last:
            self._waiting.append(visit._replace(is_last=True))
            return
        self._report(outcome)

    def _halt(self) -> Halt | None:
        if not self._waves.is_halted or self._failure is None or not self._waiting:
            return None
        untouched = tuple(visit.database for visit in self._waiting)
        return Halt(self._failure, self._waves.failures, self._waves.changed, untouched)


def _is_busy(error: MigrationError | None) -> bool:
    return error is not None and error.transient and (error.code or "").startswith(_BUSY)
