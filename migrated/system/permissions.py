"""Users, groups and permissions of files, and the owner of files that root creates."""

import grp
import os
import pwd
import stat
from contextlib import suppress
from typing import NamedTuple


def name_of(uid: int) -> str:
    """Return the user's name, or `uid 1234` if the system has no name for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_name_of(gid: int) -> str:
    """Return the group's name, or its number if the system has no name for it."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def could_use(uid: int, *, group: int, mode: int) -> bool:
    """Return True if a user could read and write another user's file of this group and mode."""
    # The kernel uses the group bits for members of the group even if the bits for others allow more.
    by_group, by_others = (mode & needed == needed for needed in (0o060, 0o006))
    if uid == 0 or by_group == by_others:
        return uid == 0 or by_group
    return by_group if group in groups_of(uid) else by_others


def has_default_acl(directory: str) -> bool:
    """Return True if a directory has a default ACL, which new files in it inherit."""
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError:
        return False


def owner_for_new(directory: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the uid and gid for new files in a directory if root works in another user's directory.

    None if the files can stay as created. Raises `OSError` if the directory does not exist.
    """
    if os.geteuid() != 0:
        return None
    status = os.stat(directory)
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def give_to_owner_of(directory: str | os.PathLike[str], made: str | os.PathLike[str] | int) -> None:
    """Give a file or directory that root created to the owner of `directory`. No effect unless run as root.

    `made` is a path, or the descriptor of an open file. If the owner cannot be changed, root keeps the file.
    """
    # Root may lack CAP_CHOWN, and NFS may ignore it. The file still works for root.
    with suppress(OSError):
        owner = owner_for_new(directory)
        if owner is None:
            return
        if isinstance(made, int):
            _give(made, made, owner)
            return
        # Not by path: the directory's owner could by now have replaced it with a link to a file of root. And with
        # O_PATH, because closing any other descriptor of a database would drop SQLite's POSIX locks on it.
        descriptor = os.open(made, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give(descriptor, f"/proc/self/fd/{descriptor}", owner)
        finally:
            os.close(descriptor)


def _give(descriptor: int, target: int | str, owner: tuple[int, int]) -> None:
    status = os.fstat(descriptor)
    made_here = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
    if status.st_uid == 0 and made_here:
        os.chown(target, *owner)


def groups_of(uid: int) -> list[int]:
    """Return the group ids of a user; empty if the system does not know the user."""
    try:
        user = pwd.getpwuid(uid)
        return os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return []


CODE = "INSECURE_PERMISSIONS"
_BY_GROUP_OR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Weakness(NamedTuple):
    """Why an untrusted user can write, and the command that fixes it."""

    reason: str
    fix: str


class Trust:
    """Checks that only root, the user of this process and its groups can write to a file.

    Only modes are checked, not access control lists. As root, files of another user are judged as that user would:
    `sudo migrated up` in a user's own project is legitimate. Group memberships are cached, so use a new object for
    each check.
    """

    def __init__(self) -> None:
        self._us = os.geteuid()
        self._ours = frozenset({0, os.getegid(), *os.getgroups()})
        self._theirs: dict[int, frozenset[int]] = {}

    def of_file(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """Return the weakness of a file or directory with this status; None if it is safe."""
        if status.st_uid not in {0, self._us} and self._us != 0:
            us, them = name_of(self._us), name_of(status.st_uid)
            return Weakness(f"it belongs to {them}, but migrated runs as {us}", f"chown root {_quoted(path)}")
        return self._of_mode("it", path, status)

    def of_place(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """Return the weakness of the directories that contain `path` and its link target; None if safe.

        Whoever can write to such a directory can replace the file, unless the directory has the sticky bit. With
        the sticky bit, root requires that the file belongs to root, because anyone could have created it.
        Directories further up are not checked. Raises `OSError` if a directory does not exist.
        """
        # The directory of a link and that of its target: replacing the file in either changes what is run.
        places = (os.path.dirname(function(path)) for function in (os.path.abspath, os.path.realpath))
        for place in dict.fromkeys(places):
            around = os.stat(place)
            found = self._of_mode(place, place, around)
            if found and not around.st_mode & stat.S_ISVTX:
                return found
            if found and self._us == 0 and status.st_uid != 0:
                them = name_of(status.st_uid)
                return Weakness(f"it belongs to {them}, and {found.reason}", f"chown root {_quoted(path)}")
        return None

    def of(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """Return the weakness of a file or of its directories; None if both are safe."""
        return self.of_file(path, status) or self.of_place(path, status)

    def _of_mode(self, name: str, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        if not status.st_mode & _BY_GROUP_OR_OTHERS:
            return None
        by_others = bool(status.st_mode & stat.S_IWOTH)
        by_group = bool(status.st_mode & stat.S_IWGRP) and status.st_gid not in self._groups(status.st_uid)
        if not by_others and not by_group:
            return None
        who = "everyone" if by_others else f"the group {group_name_of(status.st_gid)}"
        bits = ("g" if by_group else "") + ("o" if by_others else "")
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return Weakness(f"{who} can write to {name} (mode {mode})", f"chmod {bits}-w {_quoted(path)}")

    def _groups(self, owner: int) -> frozenset[int]:
        """Return the groups that may write to files of `owner`."""
        if self._us != 0 or owner == 0:
            return self._ours
        if owner not in self._theirs:
            # A user that this system does not know: its private group usually has the same number.
            self._theirs[owner] = self._ours | frozenset(groups_of(owner) or [owner])
        return self._theirs[owner]


def _quoted(path: str | os.PathLike[str]) -> str:
    import shlex

    return shlex.quote(os.fspath(path))
