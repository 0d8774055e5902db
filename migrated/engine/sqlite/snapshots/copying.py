"""Copies of a database as files of their own: made page by page, checked, synced; and copies of a template."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import apsw

from migrated.core.errors import DatabaseError
from migrated.core.migration import Migration
from migrated.core.records import AppliedMigration
from migrated.core.sql import folded, quoted, words
from migrated.engine.sqlite.authorizer import LEDGER_PREFIX
from migrated.engine.sqlite.connection import BusyHandler, database_error_of
from migrated.system.files import be_like, sync_directory

_STEP_BYTES = 4_000_000
_CHECK_STEPS = 100_000
# What a row holds against the promises of its table: the application's affair, and copied faithfully.
_ABOUT_CONTENT = re.compile(r"(?:NULL|NUMERIC|TEXT|non-\w+) value in |CHECK constraint failed in ")
_DAMAGE = (apsw.CorruptError, apsw.NotADBError)


def nothing() -> None:
    """Do nothing between two steps of a copy."""


@contextlib.contextmanager
def file_errors(database: str) -> Iterator[None]:
    """Turn an error of the file system into a transient `DatabaseError`, which names the file."""
    try:
        yield
    except OSError as error:
        raise DatabaseError(
            f"cannot create, read or remove a file next to the database: {error}",
            database=database,
            transient=True,
            hint="check the disk, and the owner and the mode of that file and of its directory",
        ) from error


def open_immutable(path: str) -> apsw.Connection:
    """Open a copy that nobody writes to: no lock is taken and no file appears beside it, in WAL mode neither."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"file:{quote(os.path.abspath(path))}?immutable=1", flags=flags)


def copy_to(part: str, source: apsw.Connection, database: str, step: Callable[[], None]) -> None:
    """Copy what `source` shows into the new file `part`, which its owner alone may read.

    `step` is called between the steps. Raises `DatabaseError`; the unfinished file is left to the caller.
    """
    with file_errors(database):
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    with copying_errors(database, part), contextlib.closing(apsw.Connection(part)) as destination:
        # A copy that is not finished is thrown away, and a finished one is synchronized by `put_on_disk`.
        destination.pragma("journal_mode", "off")
        destination.pragma("synchronous", "off")
        with backing_up(source, destination) as backup:
            take_steps(backup, source, step)


@contextlib.contextmanager
def backing_up(source: apsw.Connection, destination: apsw.Connection) -> Iterator[apsw.Backup]:
    """Write one database over another, in one transaction of the other's; undone when the block is left early."""
    backup = destination.backup("main", source, "main")
    try:
        yield backup
    except BaseException:
        # Finishing reports the error of the last step again, in place of what is on its way already.
        backup.close(force=True)
        raise
    backup.finish()


def take_steps(backup: apsw.Backup, source: apsw.Connection, step: Callable[[], None]) -> None:
    """Carry a backup through, some megabytes at a time, with `step` called before each."""
    pages = max(1, _STEP_BYTES // int(source.pragma("page_size")))
    while not backup.done:
        step()
        backup.step(pages)


@contextlib.contextmanager
def copying_errors(database: str, part: str) -> Iterator[None]:
    """Turn SQLite's errors into a `DatabaseError` that names the copy too: either file may be at fault."""
    try:
        yield
    except apsw.Error as error:
        known = database_error_of(error, database)
        raise DatabaseError(
            f"cannot make the copy {part}: {error}",
            database=database,
            transient=known.transient if known else False,
            code=known.code if known else None,
            hint=known.hint if known else None,
        ) from error


def damage(path: str, step: Callable[[], None]) -> str | None:
    """What is wrong with a copy that nobody writes to, by `PRAGMA quick_check`; None when it is sound.

    Rows that break a constraint of their table do not count: they were copied as they are. `step` is called
    now and then.
    """

    def invent(connection: apsw.Connection, name: str) -> None:
        # The application has collations that we have not; without them the check does not begin. It does not
        # look at the order that they make.
        connection.create_collation(name, lambda one, other: (one > other) - (one < other))

    def proceed() -> bool:
        step()
        return False

    with contextlib.closing(open_immutable(path)) as connection:
        connection.collation_needed(invent)
        connection.set_progress_handler(proceed, _CHECK_STEPS)
        try:
            found = [str(line) for (line,) in connection.execute("PRAGMA quick_check")]
        except _DAMAGE as error:
            return str(error)
    return next((line for line in found if line != "ok" and not _ABOUT_CONTENT.match(line)), None)


def put_on_disk(part: str, path: str, like: os.stat_result) -> int:
    """Give a finished copy its mode, its owner where we are root, and its name; it survives a power cut then.

    The name appears with the whole file behind it. Return how many bytes it has. Raises `OSError`, and there is no
    such name then.
    """
    descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        be_like(descriptor, like)
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    os.rename(part, path)
    try:
        sync_directory(os.path.dirname(path))
    except OSError:
        os.unlink(path)
        raise
    return size


LARGEST = 64_000_000
"""In bytes; each thread that copies it needs as much memory."""
_UNLIKE_A_FILE = frozenset({"page_size", "auto_vacuum", "encoding"})
_NEVER_THE_SAME = frozenset(
    {
        *("random", "randomblob", "now", "current_date", "current_time", "current_timestamp"),
        *("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"),
    }
)
_TABLES = "SELECT name FROM main.sqlite_schema WHERE type = 'table'"


@dataclass(frozen=True, slots=True)
class DatabaseTemplate:
    """Content of a database, and what its ledger says. Many threads may copy it at once."""

    content: bytes
    entries: Sequence[AppliedMigration]

    def copy_into(self, path: str, connection: apsw.Connection, busy_handler: BusyHandler) -> bool:
        """Make this the content of an empty file; whether that was done: not where somebody wrote to it before us.

        `connection` is open on the file at `path`. All is committed at once, or nothing. Raises `apsw.Error`.
        """
        with contextlib.closing(apsw.Connection(":memory:")) as source:
            source.deserialize("main", self.content)
            backup = connection.backup("main", source, "main")
            try:
                # Copies nothing, and locks the file for us alone: what is empty now stays so.
                busy_handler.retry(lambda: backup.step(0))
                if os.stat(path).st_size:
                    return False
                busy_handler.retry(lambda: backup.step(-1))
            finally:
                # Else what was raised above is raised once more.
                backup.close(force=True)
        return True


def template_of(
    connection: apsw.Connection, migrations: Iterable[Migration], entries: Sequence[AppliedMigration]
) -> DatabaseTemplate | None:
    """What was made in memory by applying the migrations, if a copy is as good as applying them again."""
    texts = [migration.up_sql for migration in migrations]
    said = {folded(word) for text in texts for word in words(text)}
    if said & _UNLIKE_A_FILE or (said & _NEVER_THE_SAME and _has_rows(connection)):
        return None
    content = connection.serialize("main")
    return DatabaseTemplate(content, entries) if len(content) <= LARGEST else None


def _has_rows(connection: apsw.Connection) -> bool:
    tables = [str(name) for (name,) in connection.execute(_TABLES)]
    theirs = [name for name in tables if not name.startswith(LEDGER_PREFIX)]
    return any(connection.execute(f"SELECT 1 FROM main.{quoted(name)} LIMIT 1").fetchall() for name in theirs)
