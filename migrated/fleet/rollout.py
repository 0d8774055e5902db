"""Bringing a piece of work to many databases: in waves, several at once, each on its own.

One thread, the caller's, hands out the databases and is told what came of each. What has nothing to do is soon
over and asks for Python more than for the disk, so that other threads only come in once something was changed.
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
"""How long a database that is busy may keep others waiting; then its turn comes again later."""
_BUSY = ("SQLITE_BUSY", "SQLITE_PROTOCOL", "SQLITE_LOCKED")


class Visit(NamedTuple):
    """A database's turn: whether it is told of `in_full`, and whether it is the last one it gets."""

    database: DatabasePath
    verbose: bool
    is_last: bool


class Halt(NamedTuple):
    """A roll-out that does not go on: what `failures` of the databases failed with, and those it did not reach."""

    error: MigrationError
    failures: int
    changed: int
    untouched: tuple[DatabasePath, ...]


class Rollout:
    """Does `visit` on each database, in at most `workers` threads, and tells `tell` what came of it.

    Of one that went away meanwhile nothing is told.

    `visit` must not raise for what befalls one database. With `may_wait` a database that was busy gets another
    turn after all the others before it is told of. `is_known` says which failures are old ones and no sign that
    what is new is at fault.
    """

    def __init__(
        self,
        visit: Callable[[Visit], Outcome],
        tell: Callable[[Outcome], None],
        waves: Waves,
        workers: int,
        supervision: CancelToken,
        *,
        may_wait: bool = False,
        is_known: Callable[[Outcome], bool] = lambda _outcome: False,
    ) -> None:
        self._visit = visit
        self._tell = tell
        self._waves = waves
        self._workers = workers
        self._supervision = supervision
        self._may_wait = may_wait
        self._is_known = is_known
        self._waiting: deque[Visit] = deque()
        self._running = 0
        self._results: SimpleQueue[tuple[Visit, Outcome | BaseException]] = SimpleQueue()
        self._failure: MigrationError | None = None

    def run(self, databases: Iterable[DatabasePath]) -> Halt | None:
        """Do it; return why it was not done on all of them, if it was broken off for failures."""
        self._waiting.extend(Visit(database, verbose=True, is_last=not self._may_wait) for database in databases)
        with ExitStack() as stack:
            pool: Executor | None = None
            while self._waiting or self._running:
                while room := self._room():
                    turn = self._next()
                    if self._needs_no_other_thread(room):
                        self._take(turn, self._visit(turn))
                        continue
                    if pool is None:
                        # Imported here: most often there is nothing to do, and that should cost little.
                        from concurrent.futures import ThreadPoolExecutor

                        pool = stack.enter_context(ThreadPoolExecutor(self._workers, "migrated-worker"))
                    self._running += 1
                    pool.submit(self._work, turn)
                if not self._running:
                    break
                self._collect()
        return self._halt()

    def _room(self) -> float:
        """How many more may be begun at this moment."""
        if not self._waiting or self._running >= self._workers or self._supervision.stop_requested():
            return 0
        return max(0.0, self._waves.room(self._running))

    def _needs_no_other_thread(self, room: float) -> bool:
        if self._running:
            return False
        nothing_happened = not self._waves.changed and not self._waves.failures
        return self._workers == 1 or room == 1 or not self._waiting or nothing_happened

    def _next(self) -> Visit:
        turn = self._waiting.popleft()
        return turn if self._waves.number == 1 else turn._replace(verbose=False)

    def _work(self, turn: Visit) -> None:
        try:
            self._results.put((turn, self._visit(turn)))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self._results.put((turn, error))

    def _collect(self) -> None:
        turn, result = self._results.get()
        self._running -= 1
        if isinstance(result, BaseException):
            raise result
        self._take(turn, result)

    def _take(self, turn: Visit, outcome: Outcome) -> None:
        error = outcome.error
        if outcome.is_gone:
            return
        if outcome.result is OutcomeKind.FAILED and error is not None:
            if not error.transient and not self._is_known(outcome):
                self._failure = self._failure or error
                self._waves.failed_one()
        elif outcome.result is OutcomeKind.APPLIED:
            self._waves.changed_one()
        elif outcome.result is OutcomeKind.UNAVAILABLE and _is_busy(error) and not turn.is_last:
            self._waiting.append(turn._replace(is_last=True))
            return
        self._tell(outcome)

    def _halt(self) -> Halt | None:
        if not self._waves.is_halted or self._failure is None or not self._waiting:
            return None
        untouched = tuple(turn.database for turn in self._waiting)
        return Halt(self._failure, self._waves.failures, self._waves.changed, untouched)


def _is_busy(error: MigrationError | None) -> bool:
    return error is not None and error.transient and (error.code or "").startswith(_BUSY)
