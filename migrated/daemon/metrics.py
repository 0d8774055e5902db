"""Prometheus metrics, written to a file for the node exporter's textfile collector.

https://github.com/prometheus/node_exporter#textfile-collector
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from migrated.core import VERSION
from migrated.daemon.alerts import Alerts
from migrated.daemon.directories import Directories
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.logs import events
from migrated.logs.logger import Log

if TYPE_CHECKING:
    from prometheus_client import Metric

_STATES = ("current", "blocked", "unavailable")
_FAILURES = (OutcomeKind.FAILED, OutcomeKind.UNAVAILABLE)
_MODE = 0o644


class Metrics:
    """Metrics of the daemon, written to `path` after each pass; without a path nothing is written.

    Used by the main thread only. Counters start at 0 with the process. A failed write is logged once per cause and
    never raised.
    """

    def __init__(self, path: str | None, alerts: Alerts, directories: Directories, log: Log) -> None:
        self.path = path
        self._alerts = alerts
        self._directories = directories
        self._log = log
        self._applied = 0
        self._failures = dict.fromkeys(_FAILURES, 0)
        self._began = 0.0
        self._duration = 0.0
        self._succeeded_at = 0.0
        self._last_error: str | None = None

    def visited(self, outcome: Outcome) -> None:
        """Count the outcome of one database."""
        self._applied += outcome.applied
        if outcome.result in self._failures:
            self._failures[outcome.result] += 1

    def pass_began(self) -> None:
        """Note the start time of a pass."""
        self._began = time.monotonic()

    def pass_ended(self) -> None:
        """Note the duration and success of the pass, and write the file."""
        self._duration = time.monotonic() - self._began
        counts = self._alerts.counts()
        if counts["current"] == counts["databases"] and not self._directories.summary():
            self._succeeded_at = time.time()
        self.write()

    def write(self) -> None:
        """Write all metrics to the file."""
        if self.path is None:
            return
        try:
            # Imported here because the library is an optional dependency.
            from prometheus_client import generate_latest

            _replace_file(self.path, generate_latest(self))
        except Exception as error:  # noqa: BLE001 - the daemon's work is worth more than its numbers
            reason = getattr(error, "strerror", None) or repr(error)
            if reason != self._last_error:
                self._last_error = reason
                hint = "check that the directory exists and that this user can write to it"
                self._log(events.METRICS_FAILED, file=self.path, reason=reason, hint=hint)
        else:
            self._last_error = None

    def collect(self) -> "Iterator[Metric]":
        """Yield all metrics. `prometheus_client` calls this."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        databases = GaugeMetricFamily("migrated_databases", "Databases by their state", labels=["state"])
        counts = self._alerts.counts()
        tried = {state: counts[state] for state in _STATES}
        for state, number in {**tried, "unknown": counts["databases"] - sum(tried.values())}.items():
            databases.add_metric([state], number)
        failures = CounterMetricFamily(
            "migrated_failures", "Runs that failed or found the database unavailable", labels=["outcome"]
        )
        for result, number in self._failures.items():
            failures.add_metric([result.value], number)
        yield databases
        yield GaugeMetricFamily(
            "migrated_pending_migrations",
            "Pending migrations, summed over all databases, as of the last run on each",
            counts["pending"],
        )
        yield CounterMetricFamily("migrated_applied", "Migrations applied", self._applied)
        yield failures
        yield GaugeMetricFamily(
            "migrated_last_success_timestamp_seconds",
            "When a pass last ended with every database current and every directory valid; 0 if never",
            self._succeeded_at,
        )
        yield GaugeMetricFamily("migrated_pass_duration_seconds", "Duration of the last pass", self._duration)
        yield CounterMetricFamily(
            "migrated_watch_restarts", "Directory watches that were restarted", self._directories.restarts
        )
        yield InfoMetricFamily("migrated_build", "Version of the running program", {"version": VERSION})


def _replace_file(path: str, content: bytes) -> None:
    """Replace a file atomically, with mode 0644 whatever the umask. Raises `OSError`, leaving the old file.

    The exporter runs as another user and may read at any moment.
    """
    beside = f"{path}.{os.getpid()}"
    # A killed process with the same pid may have left this file.
    with suppress(FileNotFoundError):
        os.unlink(beside)
    # Others may be able to write to the directory: never follow a link, nor write to a file that they created.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(beside, flags, _MODE), "wb") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(content)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise
