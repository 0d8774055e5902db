"""Find the database files of targets: plain paths and glob patterns."""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from migrated.config.settings import Target
from migrated.core.errors import DatabaseError
from migrated.system.files import FOLDER

_SIBLINGS = ("-wal", "-shm", "-journal")
_GLOB = re.compile(r"[*?\[]")


class DatabasePath(NamedTuple):
    """A database: `name` as configured or matched, `path` to open, `matched` if a glob found it."""

    name: str
    path: str
    matched: bool = False


class _Matches(NamedTuple):
    """The current matches of one configured path or glob.

    A database is shown as `shown` + name, and its path is `folder` / name.
    """

    names: list[str]
    matched: bool = False
    shown: str = ""
    folder: str | None = None


class Discovery:
    """Finds the databases of targets repeatedly.

    While no match changed, `discover` returns the same list object, so callers can compare by identity.
    """

    def __init__(self) -> None:
        self._found: dict[Target, tuple[list[_Matches], list[DatabasePath]]] = {}

    def discover(self, target: Target) -> list[DatabasePath]:
        """Return a target's databases in configured order: paths as they are, globs as their current matches.

        SQLite's files beside a database (-wal, -shm, -journal) and files in `.migrated/` are never matched.
        """
        matches = [_look(configured, target.base) for configured in target.databases]
        before, databases = self._found.get(target, (None, []))
        if matches != before:
            databases = _databases(matches, target.base, {database.path: database for database in databases})
            self._found[target] = matches, databases
        return databases

    def assign(self, targets: Iterable[Target]) -> list[tuple[Target, list[DatabasePath]]]:
        """Return every target with its databases.

        A database that several targets name belongs to the first: one ledger can follow only one directory.
        """
        every = [(target, self.discover(target)) for target in targets]
        if len(every) == 1:
            return every
        taken: set[str] = set()
        assigned = []
        for target, found in every:
            databases = [database for database in found if database.path not in taken]
            taken |= {database.path for database in databases}
            assigned.append((target, databases))
        return assigned


def discover(target: Target) -> list[DatabasePath]:
    """Like `Discovery.discover`, without memory of earlier calls."""
    return Discovery().discover(target)


def assign(targets: Iterable[Target]) -> list[tuple[Target, list[DatabasePath]]]:
    """Like `Discovery.assign`, without memory of earlier calls."""
    return Discovery().assign(targets)


def require_some(target: Target, databases: list[DatabasePath]) -> None:
    """Raise `DatabaseError` if a target has no database: the pattern is then probably misspelt."""
    if not databases:
        raise DatabaseError(
            f"no file matches {', '.join(target.databases)}",
            hint="check the pattern; a glob does not create databases",
        )


def _is_pattern(configured: str, base: str) -> bool:
    # A file may have a name that looks like a pattern, such as `a[1].db`; an existing file wins.
    return _GLOB.search(configured) is not None and not os.path.lexists(os.path.join(base, configured))


def _look(configured: str, base: str) -> _Matches:
    if not _is_pattern(configured, base):
        return _Matches([configured])
    folder, pattern = os.path.split(configured)
    if _GLOB.search(folder) or pattern == "**":
        return _Matches(sorted(_matches_below(configured, base)), matched=True)
    directory = os.path.abspath(os.path.join(base, folder))
    names = [] if FOLDER in folder.split(os.sep) else sorted(_matches_in(directory, pattern))
    return _Matches(names, matched=True, shown=os.path.join(folder, "") if folder else "", folder=directory)


def _matches_in(folder: str, pattern: str) -> Iterable[str]:
    """Yield what `glob` would, with one `scandir`.

    `glob` calls `stat` once more for each file, which is slow with tens of thousands of databases.
    """
    import fnmatch

    fits = re.compile(fnmatch.translate(pattern)).match
    # As in a shell, `*` does not match hidden files; a pattern that begins with a dot does.
    matches_hidden = pattern.startswith(".")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            is_match = fits(name) and (matches_hidden or not name.startswith("."))
            if is_match and not name.endswith(_SIBLINGS) and entry.is_file():
                yield name


def _matches_below(pattern: str, base: str) -> Iterable[str]:
    import glob

    for name in glob.glob(pattern, root_dir=base, recursive=True):
        in_our_folder = FOLDER in name.split(os.sep)
        if not name.endswith(_SIBLINGS) and not in_our_folder and os.path.isfile(os.path.join(base, name)):
            yield name


def _databases(matches: Iterable[_Matches], base: str, known: Mapping[str, DatabasePath]) -> list[DatabasePath]:
    found: dict[str, DatabasePath] = {}
    for match in matches:
        for name in match.names:
            path = os.path.join(match.folder, name) if match.folder else os.path.abspath(os.path.join(base, name))
            database = DatabasePath(f"{match.shown}{name}", path, match.matched)
            # The same object as before keeps comparisons and memory small in a large fleet.
            earlier = known.get(path)
            found.setdefault(path, earlier if earlier is not None and earlier == database else database)
    return list(found.values())
