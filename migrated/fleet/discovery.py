"""Which databases there are."""

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
    """A database: `name` as configured or matched, `path` to open; whether a pattern found it."""

    name: str
    path: str
    matched: bool = False


class _Matches(NamedTuple):
    """What one configured path or glob stands for now; `names` are what comes behind `shown`, and `folder`."""

    names: list[str]
    matched: bool = False
    shown: str = ""
    folder: str | None = None


class Discovery:
    """Finds the databases of targets again and again. While nothing changed it gives the same lists."""

    def __init__(self) -> None:
        self._found: dict[Target, tuple[list[_Matches], list[DatabasePath]]] = {}

    def discover(self, target: Target) -> list[DatabasePath]:
        """A target's databases, in the order configured: plain paths as they are, globs as what they match now.

        What SQLite keeps beside a database, and our own folder, is never taken for one.
        """
        matches = [_look(configured, target.base) for configured in target.databases]
        before, databases = self._found.get(target, (None, []))
        if matches != before:
            databases = _databases(matches, target.base, {database.path: database for database in databases})
            self._found[target] = matches, databases
        return databases

    def assign(self, targets: Iterable[Target]) -> list[tuple[Target, list[DatabasePath]]]:
        """Every target with its databases.

        What several name is the first's: one ledger can follow one directory.
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
    """As `Discovery.discover`, once."""
    return Discovery().discover(target)


def assign(targets: Iterable[Target]) -> list[tuple[Target, list[DatabasePath]]]:
    """As `Discovery.assign`, once."""
    return Discovery().assign(targets)


def require_some(target: Target, databases: list[DatabasePath]) -> None:
    """Raise `DatabaseError` when a target has no database: a misspelt pattern is not an empty fleet."""
    if not databases:
        raise DatabaseError(
            f"no file matches {', '.join(target.databases)}",
            hint="check the pattern; a glob does not create databases",
        )


def _is_pattern(configured: str, base: str) -> bool:
    # A file may have a name that looks like a pattern.
    return _GLOB.search(configured) is not None and not os.path.lexists(os.path.join(base, configured))


def _look(configured: str, base: str) -> _Matches:
    if not _is_pattern(configured, base):
        return _Matches([configured])
    folder, pattern = os.path.split(configured)
    if _GLOB.search(folder) or pattern == "**":
        return _Matches(sorted(_matches_below(configured, base)), matched=True)
    place = os.path.abspath(os.path.join(base, folder))
    names = [] if FOLDER in folder.split(os.sep) else sorted(_matches_in(place, pattern))
    return _Matches(names, matched=True, shown=os.path.join(folder, "") if folder else "", folder=place)


def _matches_in(folder: str, pattern: str) -> Iterable[str]:
    """As `glob`, which looks at each file once more than needed: there may be tens of thousands."""
    import fnmatch

    fits = re.compile(fnmatch.translate(pattern)).match
    is_of_hidden = pattern.startswith(".")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            is_wanted = fits(name) and (is_of_hidden or not name.startswith("."))
            if is_wanted and not name.endswith(_SIBLINGS) and entry.is_file():
                yield name


def _matches_below(pattern: str, base: str) -> Iterable[str]:
    import glob

    for name in glob.glob(pattern, root_dir=base, recursive=True):
        inside_ours = FOLDER in name.split(os.sep)
        if not name.endswith(_SIBLINGS) and not inside_ours and os.path.isfile(os.path.join(base, name)):
            yield name


def _databases(matches: Iterable[_Matches], base: str, known: Mapping[str, DatabasePath]) -> list[DatabasePath]:
    found: dict[str, DatabasePath] = {}
    for match in matches:
        for name in match.names:
            path = os.path.join(match.folder, name) if match.folder else os.path.abspath(os.path.join(base, name))
            database = DatabasePath(f"{match.shown}{name}", path, match.matched)
            was = known.get(path)
            found.setdefault(path, was if was is not None and was == database else database)
    return list(found.values())
