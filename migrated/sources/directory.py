"""Read a migrations directory: complete files only; every skipped file is reported."""

import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from typing import NamedTuple, Protocol

from migrated.core.errors import InvalidFormatError, MigrationError, MigrationFileError, RefusedError
from migrated.core.migration import Migration
from migrated.sources.formats.native import FileName, Misnamed, RepeatableName, parse_migration, read_name
from migrated.system.files import is_shared, joined
from migrated.system.permissions import CODE, Trust, Weakness

QUIET_SECONDS = 2.0
"""Minimum age of a file if the kernel cannot tell whether a process has it open for writing."""

UNFINISHED_TIMEOUT_SECONDS = 2 * QUIET_SECONDS
"""How long a one-shot command waits for a file that is being written."""


class Remark(NamedTuple):
    """A file that is not used, and the reason."""

    file: str
    reason: str


class Listing:
    """The content of a migrations directory at one moment.

    `migrations` is ascending and includes drafts; repeatable ones come last, by name. Nothing may be applied from
    a listing whose `invalid` or `unfinished` is not empty.
    """

    def __init__(
        self,
        directory: str,
        *,
        invalid: Iterable[RefusedError] = (),
        unfinished: Iterable[Remark] = (),
    ) -> None:
        self.directory = directory
        self.migrations: list[Migration] = []
        self.ignored: list[Remark] = []
        self.unfinished = [*unfinished]
        self.invalid = [*invalid]

    def require_valid(self) -> None:
        """Raise the first fault, if any, with the others as its excerpt."""
        if not self.invalid:
            return
        first = self.invalid[0]
        if len(self.invalid) > 1:
            others = "\n".join(str(error) for error in self.invalid[1:])
            first.excerpt = f"{len(self.invalid)} files are invalid; the others:\n{others}"
        raise first


class Memory(Protocol):
    """A cache of parsed files between two readings of a directory."""

    def recall(self, file: str) -> Migration | None:
        """Return the cached migration if the file is unchanged; otherwise None."""

    def learn(self, file: str, migration: Migration) -> None:
        """Store a migration that `recall` did not have."""


class _UnfinishedError(Exception):
    """The file may be incomplete."""


def read_migrations(directory: str | os.PathLike[str]) -> list[Migration]:
    """Read a directory's migrations, ascending by version, including drafts; repeatable ones last, by name.

    Raises `MigrationFileError` if the directory or a file cannot be read or is still being written,
    `InvalidFormatError` if a file is invalid or two files have the same version. The error lists every fault.
    """
    listing = read_finished(directory)
    listing.require_valid()
    return listing.migrations


def read_finished(
    directory: str | os.PathLike[str], trust: Trust | None = None, *, timeout: float = UNFINISHED_TIMEOUT_SECONDS
) -> Listing:
    """Read a directory like `read_directory`, waiting up to `timeout` seconds for files being written.

    Raises `MigrationFileError` if one is still being written after that.
    """
    deadline = time.monotonic() + timeout
    while (listing := read_directory(directory, trust)).unfinished:
        if time.monotonic() > deadline:
            first = listing.unfinished[0]
            raise MigrationFileError(
                f"the file is incomplete: {first.reason}",
                file=first.file,
                hint="try again once the file is complete",
            )
        time.sleep(0.05)
    return listing


def read_directory(
    directory: str | os.PathLike[str], trust: Trust | None = None, memory: Memory | None = None
) -> Listing:
    """Read every `*.sql` file of a directory once. Raises `MigrationFileError` if the directory cannot be read.

    With `trust`, permissions are checked: a directory that others can write to raises `MigrationFileError`, such a
    file is listed as invalid. Without `trust`, nothing is checked. Files that `memory` recalls are not opened.
    """
    path = joined("", directory)
    with as_file_error(path, "migrations directory"):
        names = sorted(os.listdir(path))
        weakness = trust.of(path, os.stat(path)) if trust else None
    if weakness:
        raise _insecure(path, "migrations directory", weakness)
    listing = Listing(path)
    place = "" if path == "." else os.path.join(path, "")
    claims: dict[int, list[str]] = {}
    for name in names:
        named, file = read_name(name), f"{place}{name}"
        if isinstance(named, Misnamed):
            listing.ignored.append(Remark(file, named.reason))
        elif (
            named is not None and _read_entry(named, file, listing, trust, memory) and isinstance(named, FileName)
        ):
            claims.setdefault(named.version, []).append(file)
    listing.migrations.sort(key=lambda each: (each.is_repeatable, each.version, each.name))
    listing.invalid.extend(_duplicates(claims))
    return listing


def _read_entry(
    named: FileName | RepeatableName, file: str, listing: Listing, trust: Trust | None, memory: Memory | None
) -> bool:
    """Read one entry into the listing. Return True if it counts as a file of that version."""
    if memory is not None and (recalled := memory.recall(file)) is not None:
        listing.migrations.append(recalled)
        return True
    try:
        content = _read_whole(file, trust)
        if content is None:
            listing.ignored.append(Remark(file, "not a regular file"))
            return False
        migration = parse_migration(named, content, file=file)
        listing.migrations.append(migration)
        if memory is not None:
            memory.learn(file, migration)
    except _UnfinishedError as reason:
        listing.unfinished.append(Remark(file, str(reason)))
    except RefusedError as error:
        error.version, error.name = named.version, named.name
        listing.invalid.append(error)
    return True


def _read_whole(path: str, trust: Trust | None) -> bytes | None:
    """Return the content of a complete file; None if it is not a regular file."""
    try:
        # O_NONBLOCK: opening a named pipe without a writer would block forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        # Removed since it was listed, or a link whose target does not exist yet (Kubernetes creates such links).
        raise _UnfinishedError("it is a dangling symbolic link, or was just removed") from None
    except OSError as error:
        raise _file_error(path, "migration", error) from error
    try:
        return _content(descriptor, path, trust)
    except OSError as error:
        raise _file_error(path, "migration", error) from error
    finally:
        os.close(descriptor)


def _content(descriptor: int, path: str, trust: Trust | None) -> bytes | None:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return None
    if trust and (weakness := trust.of_file(path, before)):
        raise _insecure(path, "file", weakness)
    _require_finished(descriptor, before)
    content = _read_to_end(descriptor, before.st_size)
    after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _UnfinishedError("it changed while it was read")
    return content


def _read_to_end(descriptor: int, size: int) -> bytes:
    # Ask for one byte more: a short read proves the end of the file without a second read.
    content = os.read(descriptor, size + 1)
    if len(content) == size:
        return content
    # The file grew, or is larger than the maximum of one read().
    with FileIO(descriptor, closefd=False) as file:
        return content + file.readall()


def _require_finished(descriptor: int, status: os.stat_result) -> None:
    being_written = _open_for_writing(descriptor)
    if being_written:
        raise _UnfinishedError("another process has it open for writing")
    if being_written is None and abs(time.time() - status.st_mtime) < QUIET_SECONDS:
        raise _UnfinishedError(f"it was written less than {QUIET_SECONDS:.0f} s ago")


def _open_for_writing(descriptor: int) -> bool | None:
    """Return True if any process has the file open for writing; None if the kernel cannot tell.

    A read lease is refused exactly in that case. It requires ownership of the file or CAP_LEASE
    (https://man7.org/linux/man-pages/man2/F_SETLEASE.2const.html).
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        # If a writer opens the file while we hold the lease, the kernel sends us a signal. The default is SIGIO,
        # which would kill this process; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        # Some network file systems refuse the lease whenever the server has not delegated the file to this client.
        return None if is_shared(os.path.realpath(f"/proc/self/fd/{descriptor}")) else True
    except OSError:
        return None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _duplicates(claims: Mapping[int, Sequence[str]]) -> Iterator[InvalidFormatError]:
    for version, files in sorted(claims.items()):
        if len(files) > 1:
            yield InvalidFormatError(
                f"version {version} is used by more than one file: {', '.join(files)}",
                version=version,
                file=files[0],
                hint="rename one of them to an unused version, such as the one `migrated new` would choose",
            )


@contextmanager
def as_file_error(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _file_error(path, what, error) from error


def _file_error(path: str | os.PathLike[str], what: str, error: OSError) -> MigrationError:
    return MigrationFileError(
        f"the {what} cannot be read: {error.strerror or error}",
        file=str(path),
        hint="check that it exists, has the right type and is readable by this user",
    )


def _insecure(path: str, what: str, weakness: Weakness) -> MigrationError:
    return MigrationFileError(
        f"the {what} has insecure permissions: {weakness.reason}",
        file=str(path),
        code=CODE,
        hint=f"`{weakness.fix}`; or set allow_insecure_permissions = true if everyone "
        "who can write to it is trusted",
    )
