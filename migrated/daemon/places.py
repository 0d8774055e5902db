"""Where the control socket lies: in a directory that nobody else can write to."""

import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path

from migrated.control import address_of, given_folders
from migrated.system.permissions import give_to_owner_of

_NAME = re.compile(r"\.?control-[0-9]+\.sock")
_WRITABLE_BY_OTHERS = 0o022


def folder_for(lock: str) -> Path:
    """A directory for the socket of the daemon that holds the lock at this path. Raises `OSError` for want of one.

    That is systemd's `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/migrated`, else one beside the lock.
    """
    for candidate in given_folders():
        with suppress(OSError):
            candidate.mkdir(mode=0o700, exist_ok=True)
            _require_ours(candidate, os.geteuid())
            return candidate
    beside = Path(lock).parent / "control"
    if not beside.exists():
        beside.mkdir(mode=0o700, exist_ok=True)
        give_to_owner_of(beside.parent, beside)
    # Root works in the directories of others.
    owner = beside.parent.stat().st_uid if os.geteuid() == 0 else os.geteuid()
    _require_ours(beside, owner)
    return beside


def socket_in(folder: Path) -> Path:
    """The path of this process's socket."""
    return folder / f"control-{os.getpid()}.sock"


def remove_stale(folder: Path) -> None:
    """Remove the sockets of daemons that ended without doing so. Only for one who holds the lock of a daemon.

    Ours are connected to as soon as they have their name, so that one which refuses has nobody behind it.
    """
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.is_socket() and _refuses(path):
            with suppress(OSError):
                path.unlink()


def listen(path: Path, backlog: int) -> socket.socket:
    """Listen there, for our own user and root alone. Raises `OSError`."""
    unnamed = path.with_name(f".{path.name}")
    unnamed.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Before it has a name: there is no moment at which others could connect.
        os.fchmod(listener.fileno(), 0o600)
        with address_of(os.fspath(unnamed)) as address:
            listener.bind(address)
        listener.listen(backlog)
        unnamed.rename(path)
    except OSError:
        listener.close()
        raise
    return listener


def _require_ours(folder: Path, owner: int) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{folder} is no directory")
    if status.st_uid not in {owner, os.geteuid()} or status.st_mode & _WRITABLE_BY_OTHERS:
        raise PermissionError(f"{folder} belongs to another user, or others may write there")


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as channel:
        try:
            with address_of(os.fspath(path)) as address:
                channel.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
