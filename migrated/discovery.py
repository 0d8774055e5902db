"""Which databases there are."""

import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from migrated.errors import DatabaseError
from migrated.settings import Target

_SIBLINGS = ("-wal", "-shm", "-journal")
_GLOB = re.compile(r"[*?\[]")
FOLDER = ".migrated"
"""Where the locks of the databases of a directory are kept."""


class DatabasePath(NamedTuple):
    """A database: `name` as configured or matched, `path` to open; whether a pattern found it."""

    name: str
    path: str
    matched: bool = False

    def may_be_made(self, target: Target) -> bool:
        """Whether it may be created: a match that is gone again was removed on purpose."""
        return target.create and not self.matched


def discover(target: Target) -> list[DatabasePath]:
    """A target's databases, in the order configured: plain paths as they are, globs as what they match now.

    What SQLite keeps beside a database, and our own folder, is never taken for one.
    """
    found: dict[str, DatabasePath] = {}
    for configured in target.databases:
        is_pattern = _is_pattern(configured, target.base)
        for name in _matches(configured, target.base) if is_pattern else [configured]:
            path = os.path.abspath(os.path.join(target.base, name))
            found.setdefault(path, DatabasePath(name, path, is_pattern))
    return list(found.values())


def assign(targets: Iterable[Target]) -> list[tuple[Target, list[DatabasePath]]]:
    """Every target with its databases. What several name is the first's: one ledger can follow one directory."""
    taken: set[str] = set()
    assigned = []
    for target in targets:
        databases = [database for database in discover(target) if database.path not in taken]
        taken |= {database.path for database in databases}
        assigned.append((target, databases))
    return assigned


def require_some(target: Target, databases: list[DatabasePath]) -> None:
    """Raise `DatabaseError` when a target has no database: a misspelt pattern is not an empty fleet."""
    if not databases:
        raise DatabaseError(
            f"no file matches {', '.join(target.databases)}", hint="check the pattern; a glob makes no database"
        )


def would_be_found(target: Target, path: str) -> bool:
    """Whether a file at an absolute `path` is one of a target's databases, or would be if it were there."""
    names = [os.path.abspath(path), os.path.realpath(path)]
    wanted = [os.path.abspath(os.path.join(target.base, configured)) for configured in target.databases]
    return names[1] in map(os.path.realpath, wanted) or any(
        _fits(name.split(os.sep), pattern.split(os.sep)) for name in names for pattern in wanted
    )


def _fits(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path is one that `glob` gives for a pattern, both as the names they consist of."""
    import fnmatch

    if not patterns or not parts:
        return not parts and set(patterns) <= {"**"}
    if patterns[0] == "**":
        return _fits(parts, patterns[1:]) or (not parts[0].startswith(".") and _fits(parts[1:], patterns))
    hidden = parts[0].startswith(".") and not patterns[0].startswith(".")
    return not hidden and fnmatch.fnmatchcase(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _is_pattern(configured: str, base: str) -> bool:
    # A file may have a name that looks like a pattern.
    return _GLOB.search(configured) is not None and not os.path.lexists(os.path.join(base, configured))


def _matches(pattern: str, base: str) -> Iterable[str]:
    import glob

    for name in sorted(glob.glob(pattern, root_dir=base, recursive=True)):
        inside_ours = FOLDER in name.split(os.sep)
        if not name.endswith(_SIBLINGS) and not inside_ours and os.path.isfile(os.path.join(base, name)):
            yield name
