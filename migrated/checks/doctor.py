"""Run every check; a check that raises becomes a finding and does not stop the others."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from migrated.checks import inputs, machine
from migrated.checks.findings import Finding, from_error, ok, problem
from migrated.config.settings import Config, HookName, Target
from migrated.core.errors import ConfigError, MigrationError
from migrated.core.migration import Migration
from migrated.fleet.discovery import DatabasePath, assign, require_some
from migrated.sources.directory import Listing, read_directory

_MACHINE = (
    *(machine.check_versions, machine.check_systemd, machine.check_user),
    *(machine.check_inotify, machine.check_time),
)


def examine(load: Callable[[], Config]) -> Iterator[Finding]:
    """Run all checks. If `load` raises `ConfigError`, only the machine is checked.

    Findings with equal subject and message are yielded once.
    """
    seen = set()
    for finding in _everything(load):
        if (finding.subject, finding.message) not in seen:
            seen.add((finding.subject, finding.message))
            yield finding


def _everything(load: Callable[[], Config]) -> Iterator[Finding]:
    for check in _MACHINE:
        yield from _guarded("machine", "machine", check)
    try:
        config = load()
    except ConfigError as error:
        for fault in error.faults:
            yield problem("configuration", "configuration", fault, error.hint)
        return
    yield ok("configuration", "configuration", config.source)
    if config.metrics_file:
        yield from _guarded("metrics", config.metrics_file, partial(_check_metrics, config.metrics_file))
    for name in HookName:
        if command := config.hooks.command(name):
            yield from _guarded("hooks", name, partial(_check_hook, name, command[0], config.directory))
    for target, found in assign(config.targets):
        yield from _examine_target(config, target, found)


def _examine_target(config: Config, target: Target, found: list[DatabasePath]) -> Iterator[Finding]:
    listing: Listing | None = None
    directory = target.migrations
    try:
        listing = read_directory(directory, config.trust())
    except MigrationError as error:
        yield from_error("migrations.files", directory, error)
    else:
        read = listing
        allowed = config.allow_insecure_permissions
        yield from _guarded("migrations.files", directory, lambda: inputs.check_files(directory, read))
        yield from _guarded(
            "migrations.permissions",
            directory,
            lambda: inputs.check_safety(directory, read, insecure_allowed=allowed),
        )
    if os.path.isdir(directory):
        check_events = partial(inputs.check_events, directory, config.watch)
        yield from _guarded("watch.hears", directory, check_events)
    try:
        require_some(target, found)
    except MigrationError as error:
        yield from_error("database.found", ", ".join(target.databases), error)
    # An incomplete listing would make applied migrations look missing.
    usable = listing.migrations if listing and not listing.invalid and not listing.unfinished else None
    for database in found:
        yield from _examine_database(database, target, usable)
    # Locks and file times belong to the directory: check each directory once, not once per database.
    for place, database in {os.path.dirname(os.path.realpath(each.path)): each for each in found}.items():
        yield from _guarded("locks", place, partial(machine.check_locks, database.path))
        yield from _guarded("clock.files", place, partial(machine.check_clock, place))


def _examine_database(
    database: DatabasePath, target: Target, migrations: Sequence[Migration] | None
) -> Iterator[Finding]:
    checks: tuple[tuple[str, Callable[[], Iterable[Finding]]], ...] = (
        ("usable", partial(inputs.check_usable, database, target)),
        ("content", partial(inputs.check_content, database, target, migrations)),
        ("file_system", partial(inputs.check_file_system, database)),
        ("owners", partial(inputs.check_owners, database)),
        ("room", partial(inputs.check_room, database, target)),
        ("leftovers", partial(inputs.check_leftovers, database)),
    )
    for name, check in checks:
        yield from _guarded(f"database.{name}", database.name, check)


def _check_metrics(path: str) -> Iterator[Finding]:
    directory = os.path.dirname(path)
    if os.access(directory, os.W_OK | os.X_OK):
        yield ok("metrics", path, "writable")
    else:
        hint = f"create {directory}, or give this user write access to it"
        yield problem("metrics", path, "its directory is missing or not writable", hint)


def _check_hook(name: HookName, program: str, directory: str) -> Iterator[Finding]:
    # A name with a slash is a path, relative to the directory in which hooks run; others are searched in PATH.
    found = shutil.which(os.path.join(directory, program) if "/" in program else program)
    if found:
        yield ok("hooks", name, f"runs {found}")
    else:
        hint = "check its name, and that this user may execute it"
        yield problem("hooks", name, f"program {program} does not exist or is not executable", hint)


def _guarded(check: str, subject: str, work: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from work()
    except MigrationError as error:
        yield from_error(check, subject, error)
    except Exception as error:  # noqa: BLE001 - a bug in one check must not stop the others
        yield problem(check, subject, f"the check failed: {error}", None)
