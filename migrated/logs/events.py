"""The log events: their names are an interface, written against by alerts. Additions only.

`sentence` becomes the `message`; it is filled from the event's own keys, and may change between versions.
`{migration}` in it is the label of the migration that `version` and `name` stand for.
"""

from typing import NamedTuple


class Event(NamedTuple):
    """One kind of log line. `meaning` is what the README says of it."""

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
    "the process began; nothing is read yet",
)
DAEMON_AS_ROOT = Event(
    "daemon.as_root",
    "warning",
    "running as root: {reason}",
    "once, at the start; what writes the migrations then has more power than it needs",
)
DAEMON_READY = Event(
    "daemon.ready", "info", "ready: {reason}", "the first pass over every database is done; systemd is told"
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
    "commands cannot talk to this daemon: {reason}",
    "there is no place for the control socket; everything else works",
)
DAEMON_ALIVE = Event(
    "daemon.alive", "info", "alive: {reason}", "every five minutes, with counts; its absence is an alarm"
)
DAEMON_STOPPING = Event(
    "daemon.stopping",
    "info",
    "stopping: {reason}",
    "SIGTERM or SIGINT came; the current migration is finished first",
)
DAEMON_STOPPED = Event("daemon.stopped", "info", "stopped", "the last line of an orderly end")
CONFIG_LOADED = Event("config.loaded", "info", "configuration: {reason}", "which configuration is in force")
WATCH_STARTED = Event("watch.started", "info", "watching {file} by {reason}", "a migrations directory is watched")
WATCH_LOST = Event(
    "watch.lost",
    "error",
    "the migrations directory {file} cannot be watched: {reason}",
    "missing, unreadable or not a directory; looked for again every second",
)
WATCH_RESTORED = Event(
    "watch.restored", "info", "watching {file} again by {reason}", "the directory is back, or was replaced"
)
FILES_CHANGED = Event("files.changed", "debug", "{file} changed", "a pass was started by a change in a directory")
FILE_IGNORED = Event(
    "file.ignored", "warning", "{file} is not used: {reason}", "an SQL file that is no migration; once"
)
FILE_DRAFT = Event(
    "file.draft",
    "info",
    "{file} is a draft: its UP section holds no statement",
    "not applied until it does; once",
)
FILE_INVALID = Event(
    "file.invalid",
    "error",
    "{file} is invalid: {reason}",
    "nothing from its directory is applied until it is mended; repeated at growing intervals",
)
LOCK_WAITING = Event(
    "lock.waiting", "info", "waiting for the lock of {database}, held by {holder}", "once per wait"
)
LOCK_HELD = Event("lock.held", "error", "{reason}", "another process holds a lock that is needed")
DATABASE_DISCOVERED = Event(
    "database.discovered", "info", "found {database}", "a path or a match seen for the first time"
)
DATABASE_CREATED = Event(
    "database.created", "info", "created {database}", "a database that did not exist was made"
)
DATABASE_UNAVAILABLE = Event(
    "database.unavailable",
    "error",
    "{database} is unavailable: {reason}",
    "busy, unreadable, missing, disk full …; tried again with back-off",
)
DATABASE_RECOVERED = Event(
    "database.recovered", "info", "{database} is available again", "after database.unavailable"
)
DATABASE_BLOCKED = Event(
    "database.blocked",
    "error",
    "{database} is blocked: {reason}",
    "refused or failed; stays so until a file or the database changes; repeated at growing intervals",
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
    "it is committed together with its ledger row",
)
MIGRATION_ROLLING_BACK = Event(
    "migration.rolling_back", "info", "rolling back {migration} in {database}", "a rollback begins"
)
MIGRATION_ROLLED_BACK = Event(
    "migration.rolled_back",
    "info",
    "rolled back {migration} in {database} in {execution_time_ms} ms",
    "it is committed together with the ledger's change",
)
MIGRATION_UPDATED = Event(
    "migration.updated",
    "info",
    "recorded the name and the DOWN section of {migration} as they are now in {database}",
    'an applied migration was renamed, or another DOWN section written; with `on_changed = "redo"` only',
)
MIGRATION_PROGRESS = Event(
    "migration.progress",
    "info",
    "{migration} in {database}: statement {statement_number} of {statement_count}, line {line}, after "
    "{execution_time_ms} ms",
    "every three seconds while a statement is running; rows_changed counts those before it",
)
MIGRATION_FAILED = Event(
    "migration.failed",
    "error",
    "{migration} failed in {database}: {reason}",
    "all of that migration was undone; without a transaction, the failing statement was",
)
CHECKSUM_MISMATCH = Event(
    "checksum.mismatch",
    "error",
    "{migration} was changed after it was applied to {database}: {reason}",
    "one line per changed migration; with `expected` and `found`",
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
    "{migration} lies below the highest version applied to {database}",
    "applied late, or refused, as `on_late` says",
)
SNAPSHOT_TAKEN = Event(
    "snapshot.taken",
    "info",
    "kept {database} as snapshot {snapshot}, {size} bytes, in {execution_time_ms} ms",
    "before the database is changed or restored",
)
SNAPSHOT_SKIPPED = Event(
    "snapshot.skipped", "info", "no snapshot of {database}: {reason}", "one is configured, and is not taken"
)
SNAPSHOT_RESTORED = Event(
    "snapshot.restored",
    "warning",
    "put snapshot {snapshot} back into {database}",
    "after `migrated restore`, or a redo without a DOWN section",
)
ROWS_PUT_BACK = Event(
    "rows.put_back",
    "info",
    "{database} has its rows again: {reason}",
    "a redo had dropped their tables, and made them again",
)
ROWS_LEFT_OUT = Event(
    "rows.left_out",
    "warning",
    "{database} has not all of its rows any more, snapshot {snapshot} has: {reason}",
    "a redo had no place for them; none is lost",
)
SCHEMA_OBJECTS_DROPPED = Event(
    "schema.objects_dropped",
    "warning",
    "{migration} rebuilt a table of {database} without what belonged to it: {reason}",
    "indexes or triggers went with a table that is there again",
)
HOOK_FINISHED = Event(
    "hook.finished",
    "info",
    "hook {name} finished in {execution_time_ms} ms",
    "a hook's program exited with 0; `output` has the end of what it printed",
)
HOOK_FAILED = Event(
    "hook.failed",
    "error",
    "hook {name} failed: {reason}",
    "a hook's program was not run, failed or was ended; nothing else changes by that",
)
SCHEMA_DUMPED = Event(
    "schema.dumped",
    "info",
    "wrote the schema of {database} to {file}",
    "the file `schema_file` did not have the schema that the first database has now",
)
SCHEMA_DUMP_FAILED = Event(
    "schema.dump_failed",
    "error",
    "the schema of {database} was not written to {file}: {reason}",
    "the migrations stand all the same; tried again at every pass, told once for each cause",
)
METRICS_FAILED = Event(
    "metrics.failed",
    "warning",
    "metrics cannot be written to {file}: {reason}",
    "once per cause; the daemon goes on without them",
)
RUN_FINISHED = Event(
    "run.finished",
    "info",
    "{database}: {outcome}, {applied} applied, {pending} pending",
    "one per database and pass that did or refused something",
)
FLEET_HALTED = Event(
    "fleet.halted",
    "error",
    "not brought to more databases: {reason}; {blocked} of {databases} failed, {untouched} were not touched",
    "a migration failed in too many of a fleet; `migrated resume`, or a changed file, goes on",
)
FLEET_RESUMED = Event(
    "fleet.resumed",
    "info",
    "going on with the fleet: {reason}",
    "after fleet.halted; it begins with one database again",
)
FLEET_FINISHED = Event(
    "fleet.finished",
    "info",
    "{current} of {databases} databases current, {blocked} blocked, {unavailable} unavailable; {applied} applied",
    "one per pass over several databases in which something was done or refused; `applied` counts migrations",
)

EVENTS = _every()
"""Every event by its name."""
