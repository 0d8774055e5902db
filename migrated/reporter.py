"""Telling the log what happens during a run on one database, as it happens."""

from functools import lru_cache

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.engine.backend import Done, FormerState, KeptRows, Observer, Progress
from migrated.logs import events
from migrated.logs.events import Event
from migrated.logs.log import Log

_EMPTIED = events.SNAPSHOT_RESTORED._replace(sentence="went back to when nothing was in {database}")


class Reporter(Observer):
    """Logs the steps of a run, and counts them. `also` is told the same.

    Unless it is told `in_full`, what is as expected is only for debugging: in a fleet it is told by the thousand.
    """

    def __init__(self, log: Log, also: Observer | None = None, *, in_full: bool = True) -> None:
        self.log = log
        self._in_full = in_full
        self.applied = 0
        self.rolled_back = 0
        self.updates = 0
        self.versions: list[int] = []
        self._also = also or Observer()

    def lock_waiting(self, holder: str) -> None:
        self.log(events.LOCK_WAITING, holder=holder)
        self._also.lock_waiting(holder)

    def planned(self, steps: int) -> None:
        self._also.planned(steps)

    def beginning(self, step: Step, *, late: bool) -> None:
        migration = step.migration
        keys = _of(step) | {"checksum": migration.checksum}
        if late:
            self.log(events.MIGRATION_LATE, **keys)
        up = step.direction is MigrationDirection.UP
        self._log_usual(events.MIGRATION_APPLYING if up else events.MIGRATION_ROLLING_BACK, **keys)
        self._also.beginning(step, late=late)

    def progress(self, progress: Progress) -> None:
        self.log(
            events.MIGRATION_PROGRESS,
            **_of(progress.step),
            line=progress.line,
            statement_number=progress.statement,
            statement_count=progress.statements,
            execution_time_ms=progress.elapsed_ms,
            rows_changed=progress.rows_changed,
        )
        self._also.progress(progress)

    def done(self, done: Done, direction: MigrationDirection) -> None:
        up = direction is MigrationDirection.UP
        self.applied += up
        self.rolled_back += not up
        self.versions.append(done.entry.version)
        keys = {"version": done.entry.version or None, "name": done.entry.name, "direction": direction.value}
        if done.dropped:
            self.log(events.SCHEMA_OBJECTS_DROPPED, **keys, reason=", ".join(done.dropped))
        self._log_usual(
            events.MIGRATION_APPLIED if up else events.MIGRATION_ROLLED_BACK,
            **keys,
            checksum=done.entry.checksum,
            execution_time_ms=done.execution_time_ms,
            rows_changed=done.rows_changed,
        )
        self._also.done(done, direction)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self._log_usual(events.SNAPSHOT_TAKEN, snapshot=identifier, size=size, execution_time_ms=execution_time_ms)

    def snapshot_skipped(self, reason: str) -> None:
        self._log_usual(events.SNAPSHOT_SKIPPED, reason=reason)

    def went_back(self, former: FormerState) -> None:
        snapshot = former.snapshot
        self.log(
            events.SNAPSHOT_RESTORED if snapshot else _EMPTIED,
            snapshot=snapshot.id if snapshot else None,
            version=snapshot.version if snapshot else None,
            reason="a migration that changed, or is gone, has no down text",
        )

    def updated(self, migration: Migration) -> None:
        self.updates += 1
        self.log(events.MIGRATION_UPDATED, version=migration.version, name=migration.name, file=migration.file)

    def rows_kept(self, kept: KeptRows) -> None:
        if kept.put_back:
            rows = ", ".join(f"{count} of {table}" for table, count in kept.put_back.items())
            self.log(events.ROWS_PUT_BACK, snapshot=kept.snapshot, reason=rows)
        if kept.left_out:
            why = "; ".join(f"{table}: {reason}" for table, reason in kept.left_out.items())
            self.log(events.ROWS_LEFT_OUT, snapshot=kept.snapshot, reason=why)

    def _log_usual(self, event: Event, **keys: object) -> None:
        self.log(event if self._in_full else _for_debugging(event), **keys)


@lru_cache
def _for_debugging(event: Event) -> Event:
    return event._replace(level="debug")


def _of(step: Step) -> dict[str, object]:
    version, name = step.migration.known_as
    return {
        "version": version,
        "name": name,
        "file": step.migration.file,
        "direction": step.direction.value,
    }
