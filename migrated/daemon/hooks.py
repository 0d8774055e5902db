"""The daemon's hooks: which are wanted after a pass, and running them while the daemon goes on.

Owned by the loop's thread, but for the programs, which a thread of their own waits for.
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
    """What is new in the pass that is under way, and was not in those before it."""

    def __init__(self) -> None:
        self._collector = HookCollector("")
        self._faults: dict[str, str] = {}

    def begin(self, run_id: str) -> None:
        """A pass begins."""
        self._collector = HookCollector(run_id)

    def scanned(self, scan: DirectoryScanned) -> None:
        """Take what reading a directory gave. News are the databases that its faults did not block before."""
        errors = scan.listing.invalid if scan.listing else [scan.error] if scan.error else []
        cause = "\n".join(map(str, errors))
        blocked = [path for path in scan.databases if cause and self._faults.get(path) != cause]
        if cause:
            self._faults |= dict.fromkeys(scan.databases, cause)
        elif self._faults:
            repaired = set(scan.databases)
            self._faults = {path: known for path, known in self._faults.items() if path not in repaired}
        if blocked:
            self._collector.add_trouble(OutcomeKind.REFUSED, errors[0], blocked)

    def found(self, databases: Iterable[DatabasePath]) -> None:
        """Take the present set of databases: those gone are forgotten."""
        if not self._faults:
            return
        paths = {database.path for database in databases}
        self._faults = {path: cause for path, cause in self._faults.items() if path in paths}

    def visited(self, outcome: Outcome, *, is_new: bool) -> None:
        """Take what a visit came to; `is_news` whether its trouble, if any, is new."""
        self._collector.add(outcome, is_news=is_new)

    def hook_events(self) -> list[HookEvent]:
        """What there is to run hooks for, once the pass is over."""
        return self._collector.occasions()


class HookQueue:
    """Runs one hook at a time, in order. What waits is bounded: several runs of the same hook become one.

    `post` is called, in the other thread, when one has ended; then `ended` is to be called. A context manager.
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
        """Whether one is running; others wait only while one is."""
        return self._is_running

    def waiting(self) -> list[str]:
        """The names of those that wait for the one that is running."""
        return [name.value for name in self._waiting]

    def put(self, config: Config, events: Iterable[HookEvent]) -> None:
        """Run what is configured for these occasions, as soon as those before them have ended."""
        for event in events:
            if config.hooks.command(event.hook):
                waiting = self._waiting.get(event.hook)
                merged = waiting[1].followed_by(event) if waiting else event
                self._waiting[event.hook] = config, merged
        self._start_next()

    def ended(self) -> None:
        """Go on with the next one."""
        self._is_running = False
        self._start_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._cancel_token.interrupt()
        self._thread.shutdown()

    def _start_next(self) -> None:
        if self._is_running or not self._waiting:
            return
        # Its place is that of the first of those it was merged from.
        config, event = self._waiting.pop(next(iter(self._waiting)))
        self._is_running = True
        self._thread.submit(self._run, config, event)

    def _run(self, config: Config, event: HookEvent) -> None:
        try:
            run_hook(config, event, self._log, self._cancel_token)
        finally:
            self._post(HookEnded())
