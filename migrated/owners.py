"""Users and groups: who they are, what they may do with a file, and giving them what root makes in their place."""

import grp
import os
import pwd
import stat
from contextlib import suppress


def name_of(uid: int) -> str:
    """The user's name, or `uid 1234` where the system has none for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def group_name_of(gid: int) -> str:
    """The group's name, or its number where the system has no name for it."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def could_use(uid: int, *, group: int, mode: int) -> bool:
    """Whether a user could read and write a file of this group and mode that belongs to somebody else."""
    by_group, by_others = (mode & needed == needed for needed in (0o060, 0o006))
    if uid == 0 or by_group == by_others:
        return uid == 0 or by_group
    return by_group if group in groups_of(uid) else by_others


def has_default_acl(directory: str) -> bool:
    """Whether a list of a directory's own, and not the mode alone, says who may use what is made in it."""
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError:
        return False


def owner_for_new(directory: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The uid and gid to give to what is made in a directory: its own, when root works in somebody else's.

    None when there is nothing to give away. Raises `OSError` when the directory is not there.
    """
    if os.geteuid() != 0:
        return None
    status = os.stat(directory)
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def give_to_owner_of(directory: str | os.PathLike[str], made: str | os.PathLike[str] | int) -> None:
    """Give a file or folder that root made to the owner of `directory`; no effect for anybody but root.

    `made` is a path, or the descriptor of an open file. What cannot be given away stays root's.
    """
    # Root may lack CAP_CHOWN, and NFS may not honour it: what was made works for root all the same.
    with suppress(OSError):
        owner = owner_for_new(directory)
        if owner is None:
            return
        if isinstance(made, int):
            _give(made, made, owner)
            return
        # Not by its path: the directory's owner could have put a link to a file of root's there by now. And
        # with O_PATH, as closing any other descriptor of a database would drop SQLite's locks on it.
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
    """The numbers of the groups that a user is in; none where the system does not know the user."""
    try:
        user = pwd.getpwuid(uid)
        return os.getgrouplist(user.pw_name, user.pw_gid)
    except (KeyError, OSError):
        return []
