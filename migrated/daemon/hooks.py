"""The daemon's hooks: collecting the events of a pass, and running hook programs in the background.

Both classes belong to the main thread. One worker thread waits for the hook programs, so that a slow hook delays
neither signals nor migrations.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from migrated.config.settings import Config, HookName
from migrated.daemon.messages import DirectoryScanned, HookEnded
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.hook_events import HookCollector
from migrated.fleet.hooks import HookEvent, run_hook
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.logs.logger import Log
from migrated.system.cancellation import CancelToken


class PassHookCollector:
    """Collects the hook events of the current pass. A problem that an earlier pass reported is not repeated."""

    def __init__(self) -> None:
        self._collector = HookCollector("")
        self._faults: dict[str, str] = {}

    def begin(self, run_id: str) -> None:
        """Start collecting for a new pass."""
        self._collector = HookCollector(run_id)

    def scanned(self, scan: DirectoryScanned) -> None:
        """Record the result of reading a directory. Databases that its errors blocked before are not reported."""
        errors = scan.listing.invalid if scan.listing else [scan.error] if scan.error else []
        cause = "\n".join(map(str, errors))
        blocked = [path for path in scan.databases if cause and self._faults.get(path) != cause]
        if cause:
            self._faults |= dict.fromkeys(scan.databases, cause)
        elif self._faults:
            repaired = set(scan.databases)
            self._faults = {path: known for path, known in self._faults.items() if path not in repaired}
        if blocked:
            self._collector.add_failure(OutcomeKind.REFUSED, errors[0], blocked)

    def found(self, databases: Iterable[DatabasePath]) -> None:
        """Forget databases that are no longer in the current set."""
        # Normally no directory has errors: do not build a set of all paths in every pass.
        if not self._faults:
            return
        paths = {database.path for database in databases}
        self._faults = {path: cause for path, cause in self._faults.items() if path in paths}

    def visited(self, outcome: Outcome, *, is_new: bool) -> None:
        """Record the outcome of one database. `is_new`: its error, if any, was not reported by an earlier pass."""
        self._collector.add(outcome, is_new=is_new)

    def hook_events(self) -> list[HookEvent]:
        """Return the hook events of the pass. Call when the pass is over."""
        return self._collector.hook_events()


class HookQueue:
    """Runs hooks one at a time, in order. Waiting events of the same hook are merged, so the queue is bounded.

    When a hook has ended, `post` is called in the worker thread; the main thread must then call `ended`. Use it as
    a context manager: leaving it waits for the running hook, and interrupts the hook after an exception.
    """

    def __init__(self, log: Log, cancel_token: CancelToken, post: Callable[[HookEnded], None]) -> None:
        self._log = log
        self._cancel_token = cancel_token
        self._post = post
        self._thread = ThreadPoolExecutor(1, "migrated-hooks")
        self._waiting: dict[HookName, tuple[Config, HookEvent]] = {}
        self._is_running = False

    @property
    def is_busy(self) -> bool:
        """True while a hook is running. Events wait only then."""
        return self._is_running

    def waiting(self) -> list[str]:
        """Return the names of the hooks that wait for the running one."""
        return [name.value for name in self._waiting]

    def put(self, config: Config, events: Iterable[HookEvent]) -> None:
        """Queue the configured hooks for these events, and start the first if none is running."""
        for event in events:
            if config.hooks.command(event.hook):
                waiting = self._waiting.get(event.hook)
                merged = waiting[1].followed_by(event) if waiting else event
                self._waiting[event.hook] = config, merged
        self._start_next()

    def ended(self) -> None:
        """Note that the running hook has ended, and start the next one."""
        self._is_running = False
        self._start_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an exception nobody waits for the hook: without this, `shutdown` would, for up to its timeout.
        if error is not None:
            self._cancel_token.interrupt()
        self._thread.shutdown()

    def _start_next(self) -> None:
        if self._is_running or not self._waiting:
            return
        # A merged event keeps the position of its earliest part, so that merging never delays a hook.
        config, event = self._waiting.pop(next(iter(self._waiting)))
        self._is_running = True
        self._thread.submit(self._run, config, event)

    def _run(self, config: Config, event: HookEvent) -> None:
        try:
            run_hook(config, event, self._log, self._cancel_token)
        finally:
            self._post(HookEnded())
