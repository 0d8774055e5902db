"""Whether git is changing the files of a directory at this moment."""

import os

_LOCK = "index.lock"


def is_under_way(directory: str) -> bool:
    """Whether the repository that `directory` lies in is locked, as it is for the whole of a checkout or a merge.

    A lock that a killed git left behind looks the same: do not wait for its end for ever
    (https://git-scm.com/docs/api-lockfile).
    """
    place = os.path.realpath(directory)
    while True:
        git = os.path.join(place, ".git")
        if os.path.lexists(git):
            return os.path.lexists(os.path.join(_git_directory(git), _LOCK))
        if place == (place := os.path.dirname(place)):
            return False


def _git_directory(git: str) -> str:
    """`.git` itself, or where it points in a worktree of its own (https://git-scm.com/docs/gitrepository-layout)."""
    try:
        with open(git, encoding="utf-8", errors="surrogateescape") as file:
            kind, _, path = file.readline().strip().partition(": ")
    except OSError:
        return git
    return os.path.join(os.path.dirname(git), path) if kind == "gitdir" else git
