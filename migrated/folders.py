"""The directories that databases lie in, which is where our own files lie too."""

import os
from collections.abc import Iterable


def by_folder(databases: Iterable[str]) -> dict[str, list[str]]:
    """Every directory that one of the databases lies in, wherever links lead, each with the paths that lead there.

    Each directory is looked up once: a fleet has few.
    """
    real: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for database in databases:
        folder = os.path.dirname(database)
        if os.path.islink(database):
            # Beside the file itself, where SQLite keeps its journal too.
            home = os.path.dirname(os.path.realpath(database))
        else:
            home = real.get(folder) or real.setdefault(folder, os.path.realpath(folder))
        found.setdefault(home, []).append(database)
    return found
