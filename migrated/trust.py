"""Who may write what is run: whoever changes a migration or the configuration changes every database."""

import os
import stat
from typing import NamedTuple

from migrated import owners

CODE = "INSECURE_PERMISSIONS"
_BY_GROUP_OR_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Weakness(NamedTuple):
    """What lets somebody write who is not trusted, and the command that ends it."""

    reason: str
    fix: str


class Trust:
    """Trusted are root, the user of this process and its groups. Modes count; access control lists are not read.

    Root judges what belongs to somebody else as that user would: `sudo migrated up` in a user's own project is
    no mistake. An object is for one look at one directory or file.
    """

    def __init__(self) -> None:
        self._us = os.geteuid()
        self._ours = frozenset({0, os.getegid(), *os.getgroups()})
        self._theirs: dict[int, frozenset[int]] = {}

    def of_file(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """What is wrong with a file or directory of this status, if anything is."""
        if status.st_uid not in {0, self._us} and self._us != 0:
            us, them = owners.name_of(self._us), owners.name_of(status.st_uid)
            return Weakness(f"it belongs to {them}, and this is {us}", f"chown root {_quoted(path)}")
        return self._of_mode("it", path, status)

    def of_place(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """What is wrong with the directories that `path` and what it leads to lie in, if anything is.

        One that others may write lets them put something else there, unless it has the sticky bit; what root finds
        there has to be root's, as anybody could have put it there. Those further up are not looked at. Raises
        `OSError` when one is not there.
        """
        places = (os.path.dirname(function(path)) for function in (os.path.abspath, os.path.realpath))
        for place in dict.fromkeys(places):
            around = os.stat(place)
            found = self._of_mode(place, place, around)
            if found and not around.st_mode & stat.S_ISVTX:
                return found
            if found and self._us == 0 and status.st_uid != 0:
                them = owners.name_of(status.st_uid)
                return Weakness(f"it belongs to {them}, and {found.reason}", f"chown root {_quoted(path)}")
        return None

    def of(self, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        """What is wrong with something of this status, or with its place."""
        return self.of_file(path, status) or self.of_place(path, status)

    def _of_mode(self, name: str, path: str | os.PathLike[str], status: os.stat_result) -> Weakness | None:
        if not status.st_mode & _BY_GROUP_OR_OTHERS:
            return None
        by_others = bool(status.st_mode & stat.S_IWOTH)
        by_group = bool(status.st_mode & stat.S_IWGRP) and status.st_gid not in self._groups(status.st_uid)
        if not by_others and not by_group:
            return None
        who = "everybody" if by_others else f"the group {owners.group_name_of(status.st_gid)}"
        bits = ("g" if by_group else "") + ("o" if by_others else "")
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return Weakness(f"{who} may write {name} (mode {mode})", f"chmod {bits}-w {_quoted(path)}")

    def _groups(self, owner: int) -> frozenset[int]:
        """The groups that are trusted with what belongs to `owner`."""
        if self._us != 0 or owner == 0:
            return self._ours
        if owner not in self._theirs:
            # A user that only another machine knows: the usual group of its own has the same number.
            self._theirs[owner] = self._ours | frozenset(owners.groups_of(owner) or [owner])
        return self._theirs[owner]


def _quoted(path: str | os.PathLike[str]) -> str:
    import shlex

    return shlex.quote(os.fspath(path))
