"""What a running daemon says, for people."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from migrated.cli.terminal import writable
from migrated.system.files import FOLDER, by_folder

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def may_have_daemon(databases: Iterable[str]) -> bool:
    """Whether one looks, or looked, after one of them. What asks it takes its time to load."""
    return any(os.path.exists(os.path.join(folder, FOLDER, "daemon.lock")) for folder in by_folder(databases))


def print_daemon(view: Mapping[str, Any]) -> None:
    """The daemon itself, in a line."""
    parts = [f"up {_duration(view['uptime'])}", view["summary"], *map(_watch, view["directories"])]
    print(writable(f"# daemon {view['program_version']}, pid {view['pid']}: {'; '.join(parts)}"))


def standing(view: Mapping[str, Any] | None) -> str:
    """How the daemon sees a database, to be added to a line; nothing without one."""
    if view is None:
        return ""
    text = f"; daemon: {view['state']} since {view['since']}"
    if view["retry_in"] is not None:
        text += f", tries again in {_duration(view['retry_in'])}"
    return text + (", paused" if view["is_paused"] else "")


def _watch(directory: Mapping[str, Any]) -> str:
    path, since = directory["directory"], _duration(directory["seconds"])
    if directory["lost"] is not None:
        return f"{path} not watched for {since}: {directory['lost']}"
    return f"{path} watched by {directory['backend']}"


def _duration(seconds: float) -> str:
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
