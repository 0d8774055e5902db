"""Checks before the first write to a database, so that problems are reported with nothing changed."""

import os
import stat

import apsw

from migrated.core.errors import DatabaseError
from migrated.engine.sqlite import lock_holders
from migrated.engine.sqlite.connection import has_objects
from migrated.system import permissions

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}
_LOOKS = 3
_SIBLINGS = ("-wal", "-shm", "-journal")
_AS_EFFECTIVE_USER = os.access in os.supports_effective_ids


def require_usable(path: str, *, create: bool, is_alone: bool = False) -> None:
    """Check that this process can migrate a database and its owner can use it afterwards. Changes nothing.

    Raises `DatabaseError` with one of these codes, checked in this order: NOT_A_FILE, OPEN_ELSEWHERE_IN_PROCESS,
    READ_ONLY, DIRECTORY_NOT_WRITABLE, SIBLING_NOT_WRITABLE, FOREIGN_OWNER. For a missing database the directory is
    checked only if the database may be created. `is_alone` skips the check for other users in this process.
    """
    # SQLite creates its files beside the real file, so links are resolved.
    real = os.path.realpath(path) if os.path.islink(path) else os.path.abspath(path)
    directory = os.path.dirname(real)
    try:
        status = os.stat(real)
    except OSError as error:
        if create or isinstance(error, PermissionError):
            _require_directory(directory, path)
        return
    _require_regular(status, path)
    if not is_alone:
        require_alone_in_process(path)
    _require_writable(real, status, path)
    _require_directory(directory, path)
    for ending in _SIBLINGS:
        _require_sibling(real + ending, path)
    _require_usable_for_owner(status, directory, path)


def require_regular_file(path: str) -> None:
    """Raise `DatabaseError` NOT_A_FILE if the path exists and is not a regular file."""
    try:
        status = os.stat(path)
    except OSError:
        return
    _require_regular(status, path)


def require_alone_in_process(path: str) -> None:
    """Raise `DatabaseError` OPEN_ELSEWHERE_IN_PROCESS if this process has the file open without apsw.

    Reading needs this check too: when we close the file, the other library loses its POSIX locks.
    """
    if how := lock_holders.other_sqlite_user(path):
        raise DatabaseError(
            f"this process has the database open without apsw too ({how}): when either side closes it, "
            "both lose their locks, and committed data may be lost",
            database=path,
            transient=True,
            code="OPEN_ELSEWHERE_IN_PROCESS",
            hint="close it first, open it with apsw, or migrate in a process of its own",
        )


def create_for_owner(path: str) -> None:
    """As root, create a missing database as an empty file with the owner of its directory.

    SQLite gives its `-wal`, `-shm` and `-journal` the owner of the database file. Does nothing if we are not root
    or own the directory. Raises `DatabaseError` FOREIGN_OWNER, leaving no file, if the owner cannot be changed.
    """
    real = os.path.realpath(path)
    try:
        owner = permissions.owner_for_new(os.path.dirname(real))
        if owner is None:
            return
        # 0644 is SQLite's own default. O_EXCL: a file that appears meanwhile keeps its owner.
        descriptor = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        # It exists by now, or SQLite reports the same problem when it opens the file.
        return
    try:
        os.fchown(descriptor, *owner)
    except OSError as error:
        os.unlink(real)
        name = permissions.name_of(owner[0])
        raise DatabaseError(
            f"cannot make {name}, who owns the directory, the owner of the new database: {error.strerror}",
            database=path,
            transient=True,
            code="FOREIGN_OWNER",
            hint=f"run migrated as {name} (User= in the unit)",
        ) from error
    finally:
        os.close(descriptor)


def require_application_id(connection: apsw.Connection, expected: int, database: str) -> None:
    """Raise `DatabaseError` APPLICATION_ID for a database of another program; 0 accepts any.

    A database without objects belongs to no program yet. The number may be signed or unsigned.
    """
    if expected == 0:
        return
    found = connection.pragma("application_id")
    # The pragma returns a signed 32-bit number; the configuration may have the unsigned one.
    if (found - expected) % 2**32 == 0:
        return
    if has_objects(connection):
        raise DatabaseError(
            "the database belongs to another program: "
            f"its application_id is {_number(found)}, not {_number(expected)}",
            database=database,
            code="APPLICATION_ID",
            hint="check the path, and the application_id in the configuration",
        )


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseError(
            f"the path leads to {_kind(status)}, not to a file",
            database=path,
            code="NOT_A_FILE",
            hint="check the path",
        )


def _require_writable(real: str, status: os.stat_result, path: str) -> None:
    if _may(real, os.R_OK | os.W_OK):
        return
    if _is_mounted_read_only(real):
        raise _mounted_read_only(path)
    raise DatabaseError(
        f"no permission to read and write the file: {_rights(status)}",
        database=path,
        transient=True,
        code="READ_ONLY",
        hint="change its owner or mode, or run migrated as its owner; "
        "`lsattr` shows an `i` if the file is immutable",
    )


def _require_directory(directory: str, path: str) -> None:
    if _may(directory, os.W_OK | os.X_OK):
        return
    try:
        status = os.stat(directory)
    except OSError as error:
        reason = f"the directory {directory} cannot be used: {error.strerror}"
        if isinstance(error, FileNotFoundError):
            reason = f"the directory {directory} does not exist"
        raise _no_directory(reason, path, hint="create it, or check the path of the database") from error
    if not stat.S_ISDIR(status.st_mode):
        raise _no_directory(f"{directory} is not a directory", path, hint="check the path of the database")
    if _is_mounted_read_only(directory):
        raise _mounted_read_only(path)
    raise _no_directory(
        f"SQLite creates files beside the database, but {directory} is not writable: {_rights(status)}",
        path,
        hint="change the owner or the mode of the directory, or run migrated as its owner",
    )


def _no_directory(reason: str, path: str, *, hint: str) -> DatabaseError:
    return DatabaseError(reason, database=path, transient=True, code="DIRECTORY_NOT_WRITABLE", hint=hint)


def _require_sibling(sibling: str, path: str) -> None:
    if not (reason := _sibling_trouble(sibling)):
        return
    raise DatabaseError(
        f"SQLite needs the file {os.path.basename(sibling)} beside the database, but {reason}",
        database=path,
        transient=True,
        code="SIBLING_NOT_WRITABLE",
        hint="give it the owner and mode of the database; do not delete it: it may hold committed data",
    )


def _sibling_trouble(sibling: str) -> str | None:
    reason = None
    # SQLite creates and removes these files while the database is in use, and access() also fails for one that
    # was just removed. So a missing permission only counts if the file still exists at the next try.
    for _ in range(_LOOKS):
        try:
            status = os.lstat(sibling)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return f"it is {_kind(status)}, not a file"
        if _may(sibling, os.R_OK | os.W_OK):
            return None
        reason = f"there is no permission to read and write it: {_rights(status)}"
    return reason


def _require_usable_for_owner(status: os.stat_result, directory: str, path: str) -> None:
    us, owner = os.geteuid(), status.st_uid
    if us in {0, owner}:
        return
    # Files that SQLite creates get the mode of the database, our user, and our group or the setgid directory's.
    place = os.stat(directory)
    group = place.st_gid if place.st_mode & stat.S_ISGID else os.getegid()
    if permissions.could_use(owner, group=group, mode=status.st_mode) or permissions.has_default_acl(directory):
        return
    name = permissions.name_of(owner)
    raise DatabaseError(
        f"the database belongs to {name}, who could not use the files that SQLite creates beside it "
        f"as {permissions.name_of(us)}",
        database=path,
        transient=True,
        code="FOREIGN_OWNER",
        hint=f"run migrated as {name} (User= in the unit), or share a group: "
        "mode 0660, a setgid directory of that group",
    )


def _may(path: str, what: int) -> bool:
    return os.access(path, what, effective_ids=_AS_EFFECTIVE_USER)


def _is_mounted_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _mounted_read_only(path: str) -> DatabaseError:
    return DatabaseError(
        "the file system is mounted read-only",
        database=path,
        transient=True,
        code="READ_ONLY",
        hint="mount it read-write; in a systemd unit, add the directory to ReadWritePaths=",
    )


def _rights(status: os.stat_result) -> str:
    owner, us = permissions.name_of(status.st_uid), permissions.name_of(os.geteuid())
    return f"mode {stat.S_IMODE(status.st_mode):04o}, owned by {owner}, this is {us}"


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def _number(value: int) -> str:
    return f"{value} (0x{value % 2**32:08x})"
