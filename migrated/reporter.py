"""Telling the log what happens during a run on one database, as it happens."""

from migrated import events
from migrated.backend import Done, Observer, Progress
from migrated.logs import Log
from migrated.model import MigrationDirection, Step


class Reporter(Observer):
    """Logs the steps of a run, and counts them. `also` is told the same."""

    def __init__(self, log: Log, also: Observer | None = None) -> None:
        self.log = log
        self.applied = 0
        self.rolled_back = 0
        self.versions: list[int] = []
        self._also = also or Observer()

    def lock_waiting(self, holder: str) -> None:
        self.log(events.LOCK_WAITING, holder=holder)

    def planned(self, steps: int) -> None:
        self._also.planned(steps)

    def beginning(self, step: Step, *, late: bool) -> None:
        migration = step.migration
        keys = _of(step) | {"checksum": migration.checksum}
        if late:
            self.log(events.MIGRATION_LATE, **keys)
        up = step.direction is MigrationDirection.UP
        self.log(events.MIGRATION_APPLYING if up else events.MIGRATION_ROLLING_BACK, **keys)
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
        keys = {"version": done.entry.version, "name": done.entry.name, "direction": direction.value}
        if done.dropped:
            self.log(events.SCHEMA_OBJECTS_DROPPED, **keys, reason=", ".join(done.dropped))
        self.log(
            events.MIGRATION_APPLIED if up else events.MIGRATION_ROLLED_BACK,
            **keys,
            checksum=done.entry.checksum,
            execution_time_ms=done.execution_time_ms,
            rows_changed=done.rows_changed,
        )
        self._also.done(done, direction)

    def snapshot_taken(self, identifier: str, size: int, execution_time_ms: int) -> None:
        self.log(events.SNAPSHOT_TAKEN, snapshot=identifier, size=size, execution_time_ms=execution_time_ms)

    def snapshot_skipped(self, reason: str) -> None:
        self.log(events.SNAPSHOT_SKIPPED, reason=reason)


def _of(step: Step) -> dict[str, object]:
    return {
        "version": step.migration.version,
        "name": step.migration.name,
        "file": step.migration.file,
        "direction": step.direction.value,
    }
