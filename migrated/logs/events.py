"""All log events. Their names are an interface that alerts depend on: only add, never rename.

`sentence` becomes the `message`. It is formatted with the event's keys, and may change between versions.
`{migration}` in it becomes the label made of `version` and `name`.
"""

from typing import NamedTuple


class Event(NamedTuple):
    """One kind of log line. `meaning` is its description in the manual's table of events."""

    name: str
    level: str
    sentence: str
    meaning: str


def _every() -> dict[str, Event]:
    return {event.name: event for event in globals().values() if isinstance(event, Event)}


DAEMON_STARTING = Event(
    "daemon.starting",
    "info",
    "migrated {program_version} is starting",
    "the process started; no file has been read yet",
)
DAEMON_AS_ROOT = Event(
    "daemon.as_root",
    "warning",
    "running as root: {reason}",
    "once, at the start; anyone who can write migrations can then act as root",
)
DAEMON_READY = Event(
    "daemon.ready",
    "info",
    "ready: {reason}",
    "the first pass over every database is done, and systemd is notified",
)
DAEMON_RELOADED = Event(
    "daemon.reloaded", "info", "the new configuration is in force", "after SIGHUP or `migrated reload`"
)
DAEMON_RELOAD_FAILED = Event(
    "daemon.reload_failed",
    "error",
    "the new configuration is not used: {reason}",
    "after SIGHUP or `migrated reload`; the old configuration stays in force",
)
DAEMON_PAUSED = Event(
    "daemon.paused",
    "warning",
    "paused: nothing is applied until `migrated resume`",
    "after `migrated pause`; watching goes on",
)
DAEMON_RESUMED = Event("daemon.resumed", "info", "resumed", "after `migrated resume`; a full pass follows")
CONTROL_UNAVAILABLE = Event(
    "control.unavailable",
    "warning",
    "the control socket is not available, commands cannot reach this daemon: {reason}",
    "the control socket could not be created; everything else works",
)
DAEMON_ALIVE = Event(
    "daemon.alive", "info", "alive: {reason}", "every five minutes, with counts; its absence is an alarm"
)
DAEMON_STOPPING = Event(
    "daemon.stopping",
    "info",
    "stopping: {reason}",
    "SIGTERM or SIGINT was received; the current migration is finished first",
)
DAEMON_STOPPED = Event("daemon.stopped", "info", "stopped", "the last line of an orderly shutdown")
CONFIG_LOADED = Event("config.loaded", "info", "configuration: {reason}", "which configuration is in force")
WATCH_STARTED = Event("watch.started", "info", "watching {file} by {reason}", "a migrations directory is watched")
WATCH_LOST = Event(
    "watch.lost",
    "error",
    "the migrations directory {file} cannot be watched: {reason}",
    "missing, unreadable or not a directory; retried every second",
)
WATCH_RESTORED = Event(
    "watch.restored", "info", "watching {file} again by {reason}", "the directory is back, or was replaced"
)
FILES_CHANGED = Event("files.changed", "debug", "{file} changed", "a pass was started by a change in a directory")
FILE_IGNORED = Event(
    "file.ignored", "warning", "{file} is not used: {reason}", "an SQL file that is not a migration; once"
)
FILE_DRAFT = Event(
    "file.draft",
    "info",
    "{file} is a draft: its UP section contains no statement",
    "not applied until the UP section contains a statement; once",
)
FILE_INVALID = Event(
    "file.invalid",
    "error",
    "{file} is invalid: {reason}",
    "nothing from its directory is applied until the file is fixed; repeated at growing intervals",
)
LOCK_WAITING = Event(
    "lock.waiting", "info", "waiting for the lock of {database}, held by {holder}", "once per wait"
)
LOCK_HELD = Event("lock.held", "error", "{reason}", "another process holds a lock that is needed")
DATABASE_DISCOVERED = Event(
    "database.discovered",
    "info",
    "found {database}",
    "a configured path, or a match of a glob, was found for the first time",
)
DATABASE_CREATED = Event(
    "database.created", "info", "created {database}", "a database that did not exist was created"
)
DATABASE_UNAVAILABLE = Event(
    "database.unavailable",
    "error",
    "{database} is unavailable: {reason}",
    "busy, unreadable, missing, disk full …; retried with back-off",
)
DATABASE_RECOVERED = Event(
    "database.recovered", "info", "{database} is available again", "after database.unavailable or internal.error"
)
DATABASE_BLOCKED = Event(
    "database.blocked",
    "error",
    "{database} is blocked: {reason}",
    "refused or failed; blocked until a file or the database changes; repeated at growing intervals",
)
DATABASE_UNBLOCKED = Event(
    "database.unblocked", "info", "{database} is no longer blocked", "after database.blocked"
)
MIGRATION_APPLYING = Event(
    "migration.applying", "info", "applying {migration} to {database}", "a migration begins"
)
MIGRATION_APPLIED = Event(
    "migration.applied",
    "info",
    "applied {migration} to {database} in {execution_time_ms} ms",
    "the migration is committed together with its row in the migrations table",
)
MIGRATION_ROLLING_BACK = Event(
    "migration.rolling_back", "info", "rolling back {migration} in {database}", "a rollback begins"
)
MIGRATION_ROLLED_BACK = Event(
    "migration.rolled_back",
    "info",
    "rolled back {migration} in {database} in {execution_time_ms} ms",
    "the rollback is committed together with the change of the migrations table",
)
MIGRATION_UPDATED = Event(
    "migration.updated",
    "info",
    "updated the recorded name and DOWN section of {migration} in {database}",
    'an applied migration was renamed, or its DOWN section was changed; with `on_changed = "redo"` only',
)
MIGRATION_PROGRESS = Event(
    "migration.progress",
    "info",
    "{migration} in {database}: statement {statement_number} of {statement_count}, line {line}, after "
    "{execution_time_ms} ms",
    "every three seconds while a statement is running; `rows_changed` counts the statements before it",
)
MIGRATION_FAILED = Event(
    "migration.failed",
    "error",
    "{migration} failed in {database}: {reason}",
    "the whole migration was rolled back; without a transaction, only the failing statement",
)
CHECKSUM_MISMATCH = Event(
    "checksum.mismatch",
    "error",
    "{migration} was changed after it was applied to {database}: {reason}",
    "one line per changed migration, with `expected` and `found`",
)
MIGRATION_MISSING = Event(
    "migration.missing",
    "warning",
    "{migration} is applied to {database}, but no file has it",
    "one line per missing migration",
)
MIGRATION_LATE = Event(
    "migration.late",
    "warning",
    "{migration} is below the highest version applied to {database}",
    "applied late, or refused, as `on_late` says",
)
SNAPSHOT_TAKEN = Event(
    "snapshot.taken",
    "info",
    "took snapshot {snapshot} of {database} ({size} bytes, {execution_time_ms} ms)",
    "before the database is changed or restored",
)
SNAPSHOT_SKIPPED = Event(
    "snapshot.skipped",
    "info",
    "no snapshot of {database}: {reason}",
    "a snapshot is configured, but was not taken",
)
SNAPSHOT_RESTORED = Event(
    "snapshot.restored",
    "warning",
    "restored {database} from snapshot {snapshot}",
    "after `migrated restore`, or a redo without a DOWN section",
)
ROWS_PUT_BACK = Event(
    "rows.put_back",
    "info",
    "restored rows of {database}: {reason}",
    "a redo dropped and recreated their tables",
)
ROWS_LEFT_OUT = Event(
    "rows.left_out",
    "warning",
    "could not restore all rows of {database}; they are in snapshot {snapshot}: {reason}",
    "a redo could not restore these rows; the snapshot still has them",
)
SCHEMA_OBJECTS_DROPPED = Event(
    "schema.objects_dropped",
    "warning",
    "{migration} rebuilt a table in {database} and lost its indexes or triggers: {reason}",
    "indexes or triggers of a table were dropped when the migration recreated the table",
)
INTERNAL_ERROR = Event(
    "internal.error",
    "error",
    "{database}: {reason}",
    "an exception that is a bug in migrated, with its `traceback`; retried with back-off",
)
HOOK_FINISHED = Event(
    "hook.finished",
    "info",
    "hook {name} finished in {execution_time_ms} ms",
    "a hook's program exited with code 0; `output` has the end of its output",
)
HOOK_FAILED = Event(
    "hook.failed",
    "error",
    "hook {name} failed: {reason}",
    "a hook's program could not be started, failed or was terminated; the migrations are not affected",
)
SCHEMA_DUMPED = Event(
    "schema.dumped",
    "info",
    "wrote the schema of {database} to {file}",
    "the file `schema_file` differed from the schema of the first database and was rewritten",
)
SCHEMA_DUMP_FAILED = Event(
    "schema.dump_failed",
    "error",
    "cannot write the schema of {database} to {file}: {reason}",
    "the migrations are applied regardless; retried at every pass, logged once per cause",
)
METRICS_FAILED = Event(
    "metrics.failed",
    "warning",
    "cannot write metrics to {file}: {reason}",
    "once per cause; the daemon continues without them",
)
RUN_FINISHED = Event(
    "run.finished",
    "info",
    "{database}: {outcome}, {applied} applied, {pending} pending",
    "one per database and pass that applied, rolled back or refused something",
)
FLEET_HALTED = Event(
    "fleet.halted",
    "error",
    "rollout halted: {reason}; {blocked} of {databases} databases failed, {untouched} were not reached",
    "a migration failed in too many databases of a fleet; `migrated resume` or a changed file resumes the rollout",
)
FLEET_RESUMED = Event(
    "fleet.resumed",
    "info",
    "rollout resumed: {reason}",
    "after fleet.halted; the rollout starts with one database again",
)
FLEET_FINISHED = Event(
    "fleet.finished",
    "info",
    "{current} of {databases} databases current, {blocked} blocked, {unavailable} unavailable; {applied} applied",
    "one per pass over several databases that applied or refused something; `applied` counts migrations",
)

EVENTS = _every()
"""Every event by its name."""
