"""The daemon's main loop.

The main thread owns all state and waits on one inbox. All other threads only post messages into it: the watchers,
the signal handlers, the control socket, and the worker. All SQL runs in the worker thread, so that the main thread
reacts to a signal at once. The start order is: locks, watches, full pass. A watch started after the pass would
miss changes made in between.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import FrameType

from migrated.config.settings import Config, following
from migrated.core import VERSION
from migrated.core.errors import INTERRUPTED, ConfigError, LockHeldError, MigrationError
from migrated.daemon import systemd
from migrated.daemon.alerts import Alerts
from migrated.daemon.control.protocol import SOCKET_KEY, Answer, PendingRequest
from migrated.daemon.control.requests import RequestQueue
from migrated.daemon.control.server import ControlSocket
from migrated.daemon.databases import DatabaseRegistry
from migrated.daemon.directories import Directories
from migrated.daemon.holding import DaemonLocks
from migrated.daemon.hooks import HookQueue, PassHookCollector
from migrated.daemon.messages import (
    Changed,
    DatabaseDone,
    DatabasesFound,
    DirectoryScanned,
    HookEnded,
    Message,
    PassEnded,
    RolloutHalted,
    Signalled,
)
from migrated.daemon.metrics import Metrics
from migrated.daemon.reconcile import ReconcileCache, Reconciliation
from migrated.daemon.scheduler import Debouncer, RepeatTimer, WatchdogPinger
from migrated.daemon.status import Activity, daemon_view, database_view
from migrated.daemon.systemd import StatusLine
from migrated.daemon.watcher import WatchdogWarnings
from migrated.fleet.schema_dump import SchemaFiles
from migrated.logs import events
from migrated.logs.logger import Log, new_run_id
from migrated.system import permissions
from migrated.system.cancellation import CancelToken
from migrated.system.inbox import receive

TICK_SECONDS = 1.0
ALIVE_SECONDS = 300.0
EXTENSION_USEC = 15_000_000
"""Extra time requested from systemd, once a second, while work advances during a start or a stop."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def _caused_by_stopping(error: MigrationError | None) -> bool:
    """True if stopping the daemon caused the error, for example by cancelling a wait for a lock.

    An interrupted migration is not meant: that is reported like any other failure.
    """
    return error is not None and error.transient and error.code != INTERRUPTED


class Daemon:
    """Keeps every configured database current until SIGTERM or SIGINT.

    `load` reads the configuration again on a reload; it raises `ConfigError`.
    """

    def __init__(self, config: Config, load: Callable[[], Config], log: Log) -> None:
        self._config = config
        self._load = load
        self._log = log
        self._inbox: SimpleQueue[Message | HookEnded | Changed | Signalled | PendingRequest] = SimpleQueue()
        self._locks = DaemonLocks()
        self._schemas = SchemaFiles()
        self._cache = ReconcileCache()
        self._alerts = Alerts(log, random.random)
        self._directories = Directories(log, self._changed)
        self._metrics = Metrics(config.metrics_file, self._alerts, self._directories, log)
        self._debouncer = Debouncer(config.settle, config.settle_max)
        self._touched: set[str] = set()
        self._cancel_token = CancelToken()
        self._activity = Activity()
        self._status = StatusLine(self._summary)
        self._hooks = HookQueue(log, self._cancel_token, self._inbox.put)
        self._pass_hooks = PassHookCollector()
        self._heartbeats_seen = 0
        self._run_id = ""
        self._databases = DatabaseRegistry()
        self._requests = RequestQueue(log, self._cancel_token, self._databases, self._describe)
        self._control = ControlSocket(self._inbox.put)
        self._control_timer = RepeatTimer()
        self._ready = False
        self._pass: Future[None] | None = None
        self._began = now = time.monotonic()
        self._watchdog = WatchdogPinger(systemd.watchdog_interval(), now)
        self._resync_at = now
        self._tick_at = now
        self._alive_at = now + ALIVE_SECONDS

    def run(self) -> int:
        """Run until SIGTERM or SIGINT. Return the exit code: 0, or 5 if another daemon holds a lock we need."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        self._log(events.DAEMON_STARTING, program_version=VERSION)
        self._log(events.CONFIG_LOADED, reason=self._config.source)
        warn_if_root(self._config, self._log)
        try:
            self._locks.ensure_all(self._config)
        except LockHeldError as error:
            self._log.failure(events.LOCK_HELD, error)
            return error.exit_code
        with WatchdogWarnings(self._changed), ThreadPoolExecutor(1, "migrated-worker") as worker, self._hooks:
            try:
                self._directories.watch(self._config)
                self._open_control()
                self._loop(worker)
            finally:
                self._control.close()
                self._directories.stop()
        self._locks.release()
        self._log(events.DAEMON_STOPPED)
        return 0

    def _loop(self, worker: ThreadPoolExecutor) -> None:
        # After a stop request the loop goes on until the running pass and hook have ended: both post here, and
        # systemd and the control socket still need answers.
        while not self._cancel_token.is_stopping() or self._pass is not None or self._hooks.is_busy:
            now = time.monotonic()
            if now >= self._tick_at:
                self._tick(now)
            if now >= self._watchdog.check_at and self._watchdog.should_ping(now, self._progress_token()):
                systemd.notify("WATCHDOG=1")
            self._requests.expire_waits(now)
            self._status.update(now)
            if self._pass is None:
                self._start_work(worker, now)
            try:
                message = receive(self._inbox, max(0.0, self._next_wake() - time.monotonic()))
            except Empty:
                continue
            self._handle(message)

    def _next_wake(self) -> float:
        times = [self._tick_at, self._watchdog.check_at, self._status.due_at(), self._requests.due_at()]
        if self._pass is None and not self._requests.is_paused:
            # While a burst of changes lasts, wake only for its end: `_start_work` starts nothing before.
            settled_at = self._debouncer.due_at()
            others = (self._resync_at, self._alerts.retry_at(), self._directories.rescan_at)
            times += [at for at in others if at] if settled_at is None else [settled_at]
        return min(times)

    def _tick(self, now: float) -> None:
        self._tick_at = now + TICK_SECONDS
        self._ask_for_time()
        if self._directories.check() or self._pass is not None:
            self._status.changed()
        self._alerts.log_repeats(now)
        self._directories.log_repeats(now)
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_SECONDS
            self._log(events.DAEMON_ALIVE, reason=self._summary(), **self._alerts.counts())
            self._metrics.write()

    def _start_work(self, worker: ThreadPoolExecutor, now: float) -> None:
        if self._cancel_token.is_stopping():
            return
        if self._requests.reload_wanted:
            self._reload()
        if self._requests.is_paused:
            return
        fired = self._advance_debouncer(now)
        if self._debouncer.due_at() is not None:
            # While files are still changing, no pass starts, whatever else is due: it could read half a checkout.
            return
        rescan = self._directories.should_rescan(now) or self._requests.full_pass_wanted
        if rescan or now >= self._resync_at:
            if not fired and self._directories.checkout_in_progress():
                # No event of the checkout has arrived yet. Wait for its end as if one had.
                self._debouncer.event(now)
                return
            self._resync_at = now + self._config.resync_interval
            self._submit(worker, now, None)
            return
        requested = self._requests.take_retries()
        if retrying := requested | self._alerts.take_due(now):
            self._submit(worker, now, retrying, requested)

    def _advance_debouncer(self, now: float) -> bool:
        """Return True if the quiet time after a change has just passed, so that a full pass is due."""
        # A single new migration is applied after a much shorter delay; anything else waits for the full one.
        one = self._debouncer.single_file(now)
        if one is not None and not self._directories.is_next_migration(self._touched, one):
            self._debouncer.use_full_delay()
        # Git writes the files of a checkout one by one: postpone the pass while its lock exists. At most by
        # `settle_max`, because a killed git leaves its lock behind.
        if self._debouncer.is_due(now) and self._directories.checkout_in_progress():
            self._debouncer.event(now)
        if not self._debouncer.fire(now):
            return False
        if self._touched:  # nothing, where only a checkout was waited for
            self._log(events.FILES_CHANGED, file=", ".join(sorted(self._touched)))
            self._touched.clear()
        self._resync_at = now
        return True

    def _submit(
        self,
        worker: ThreadPoolExecutor,
        now: float,
        only: frozenset[str] | None,
        requested: frozenset[str] = frozenset(),
    ) -> None:
        self._run_id = run_id = new_run_id()
        self._pass_hooks.begin(run_id)
        self._requests.pass_begins(is_full=only is None)
        self._alerts.pass_begins(now)
        work = Reconciliation(
            self._config,
            run_id,
            self._log.bind(run_id=run_id),
            self._locks,
            self._inbox.put,
            self._cancel_token,
            now,
            self._alerts.known(),
            only,
            requested,
            self._alerts.backing_off(),
            self._alerts.failing(),
            self._schemas,
            self._activity,
            self._cache,
            self._requests.take_rollout_resume(),
        )
        self._metrics.pass_began()
        self._pass = worker.submit(work.run)

    def _handle(self, message: Message | HookEnded | Changed | Signalled | PendingRequest) -> None:
        now = time.monotonic()
        if isinstance(message, Message | PendingRequest):
            self._status.changed()
        match message:
            case Changed(directory, name):
                self._debouncer.event(now, name)
                self._touched.add(directory or "any directory")
            case Signalled(number):
                self._handle_signal(signal.Signals(number))
            case DirectoryScanned() | DatabasesFound() | DatabaseDone() | RolloutHalted():
                self._record_result(message, now)
            case PassEnded():
                self._pass_ended()
            case HookEnded():
                self._hooks.ended()
            case PendingRequest():
                self._requests.handle(message, now)

    def _record_result(
        self, message: DirectoryScanned | DatabasesFound | DatabaseDone | RolloutHalted, now: float
    ) -> None:
        match message:
            case DirectoryScanned():
                self._directories.scanned(message, now)
                self._pass_hooks.scanned(message)
                self._databases.scanned(message, now)
            case DatabasesFound(databases):
                self._alerts.found(databases)
                self._pass_hooks.found(databases)
                self._databases.found(databases, now)
            case DatabaseDone(outcome):
                # A stop cancels waits for locks. Reporting these as failures would log errors for an orderly stop.
                is_reported = not self._cancel_token.stop_requested() or not _caused_by_stopping(outcome.error)
                if is_reported:
                    self._databases.visited(outcome, now)
                    self._metrics.visited(outcome)
                self._pass_hooks.visited(outcome, is_new=is_reported and self._alerts.visited(message, now))
            case RolloutHalted():
                self._alerts.halted(message, self._run_id, now)
                self._databases.halted(message, now)

    def _handle_signal(self, number: signal.Signals) -> None:
        match number:
            case signal.SIGHUP:
                self._requests.reload_wanted = True
            case signal.SIGUSR1:
                self._resync_at = time.monotonic()
            case _:
                self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._cancel_token.is_stopping():
            self._cancel_token.interrupt()
            # The third signal kills the process. SQLite's journal then undoes the unfinished migration.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            return
        self._cancel_token.stop(number.name, time.monotonic() + self._config.stop_grace)
        self._status.send("STOPPING=1")
        self._log(events.DAEMON_STOPPING, reason=number.name)

    def _ask_for_time(self) -> None:
        """Extend systemd's start or stop timeout if the worker advanced since the last call.

        A running hook extends the stop timeout without a sign of progress: `timeout` or `stop_grace` limits it.
        """
        advances = self._pass is not None and self._cancel_token.heartbeats != self._heartbeats_seen
        stops = self._cancel_token.is_stopping()
        if (advances and not self._ready) or (stops and (advances or self._hooks.is_busy)):
            systemd.notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_USEC}")
        self._heartbeats_seen = self._cancel_token.heartbeats

    def _pass_ended(self) -> None:
        if self._pass is not None:
            # Raises exceptions that the pass did not handle. They are bugs: end, and let systemd restart us.
            self._pass.result()
        self._pass = None
        self._alerts.pass_ended(time.monotonic(), self._run_id)
        self._metrics.pass_ended()
        self._hooks.put(self._config, self._pass_hooks.hook_events())
        self._requests.pass_ended(time.monotonic())
        if self._cancel_token.is_stopping():
            return
        # The socket may have been deleted, or the first lock exists only now.
        self._open_control()
        # A pass that a pause cut short has not visited every database, so the daemon is not ready yet.
        is_first = not self._ready and not self._requests.is_paused
        summary = self._status.send(f"X_MIGRATED_PASS={self._run_id}", *(["READY=1"] if is_first else []))
        if is_first:
            self._ready = True
            self._log(events.DAEMON_READY, reason=summary, **self._alerts.counts())

    def _reload(self) -> None:
        systemd.reloading()
        # Take the new locks before anything changes, so that a failure leaves the old configuration in force.
        before = self._locks.held()
        try:
            config = self._load()
            self._locks.ensure_all(config)
        except (ConfigError, LockHeldError) as error:
            self._locks.release(keeping=before)
            self._log.failure(events.DAEMON_RELOAD_FAILED, error)
            self._requests.reloaded(error)
        else:
            self._config = config
            self._metrics.path = config.metrics_file
            self._locks.release_unconfigured(config)
            self._debouncer = Debouncer(config.settle, config.settle_max)
            self._resync_at = time.monotonic()
            self._schemas = SchemaFiles()
            self._cache = ReconcileCache()
            self._alerts.retry_all()
            self._directories.watch(config)
            self._log(events.CONFIG_LOADED, reason=config.source)
            self._log(events.DAEMON_RELOADED)
            self._open_control()
            self._requests.reloaded(None)
        self._status.send("READY=1")

    def _summary(self) -> str:
        parts = [self._alerts.summary(), self._directories.summary()]
        current = self._activity.long_running(time.monotonic())
        mode = "paused" if self._requests.is_paused else ""
        if self._cancel_token.is_stopping():
            mode = f"stopping: {self._cancel_token.reason}"
        return "; ".join(part for part in (mode, str(current) if current else "", *parts) if part)

    def _describe(self, now: float, paths: tuple[str, ...]) -> Answer:
        """Build the answer to a `status` request: the daemon and the databases at `paths`, or all."""
        back_offs = self._alerts.backing_off()
        daemon = daemon_view(
            now,
            self._began,
            self._activity.now,
            config=self._config.source,
            is_ready=self._ready,
            is_paused=self._requests.is_paused,
            is_stopping=self._cancel_token.is_stopping(),
            summary=self._summary(),
            is_for_development=all(each.policy == following(each.policy) for each in self._config.targets),
            waiting={**self._requests.waiting(), "hooks": self._hooks.waiting()},
            is_hook_running=self._hooks.is_busy,
            directories=self._directories.views(now),
        )
        databases = [
            database_view(each, now, back_off.due_at if (back_off := back_offs.get(each.database.path)) else None)
            for each in self._databases.select(paths)
        ]
        return {"daemon": daemon, "databases": databases}

    def _open_control(self) -> None:
        lock = self._locks.first()
        if lock is None:
            return
        try:
            self._locks.note({SOCKET_KEY: str(self._control.ensure(lock))})
        except OSError as error:
            if self._control_timer.should_log(str(error), time.monotonic()):
                self._log(events.CONTROL_UNAVAILABLE, reason=str(error))

    def _progress_token(self) -> object:
        """Return a value that changes whenever the worker advances; None while the worker is idle."""
        return (self._cancel_token.heartbeats, self._activity.progress_token()) if self._pass is not None else None

    def _changed(self, directory: str | None = None, name: str | None = None) -> None:
        self._inbox.put(Changed(directory, name))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Do nothing else here. A handler interrupts the main thread at any point, even while it holds a lock, so
        # taking that lock again would deadlock. `SimpleQueue.put` is reentrant.
        self._inbox.put(Signalled(number))


def warn_if_root(config: Config, log: Log) -> None:
    """Log a warning if the daemon runs as root, naming the users who own migrations directories."""
    if os.geteuid() != 0:
        return
    strangers = {user for target in config.targets if (user := _owner(target.migrations))}
    reason = "anyone who can write migrations can then act as root"
    if strangers:
        names = ", ".join(sorted(map(permissions.name_of, strangers)))
        reason = f"migrations written by {names} run as root"
    hint = "run migrated as the user that owns the databases (User= in the unit)"
    log(events.DAEMON_AS_ROOT, reason=reason, hint=hint)


def _owner(directory: str) -> int | None:
    try:
        return os.stat(directory).st_uid
    except OSError:
        return None
