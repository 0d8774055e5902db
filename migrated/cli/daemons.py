"""Asking the running daemons of a configuration's databases."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from migrated import control
from migrated.cli.render import print_problem
from migrated.config.settings import Config
from migrated.core.errors import (
    ConfigError,
    DatabaseError,
    LockHeldError,
    MigrationError,
    NoDaemonError,
    RefusedError,
)
from migrated.fleet.discovery import assign

Answer = dict[str, Any]
SOON_SECONDS = 10.0
"""For what a daemon answers at once, unless the machine is very busy."""

_NOBODY = "no daemon that looks after these databases answers"
_HINT = "is one running, as this user? `migrated status` shows it"
_ERRORS: dict[str, type[MigrationError]] = {
    ConfigError.code: ConfigError,
    LockHeldError.code: LockHeldError,
    "UNKNOWN_DATABASE": DatabaseError,
    "PAUSED": RefusedError,
}


def paths(config: Config) -> list[str]:
    """Of every database."""
    return [database.path for _, databases in assign(config.targets) for database in databases]


def statuses(databases: Sequence[str]) -> list[Answer]:
    """The live view of every daemon that looks after one of them and answers soon."""
    found = []
    for socket, theirs in control.sockets(databases).items():
        request = {"request": "status", "databases": theirs}
        # Of very many it tells all that it has.
        fits = len(control.line_of(request)) <= control.LONGEST_REQUEST
        try:
            answer = control.ask(socket, **(request if fits else {"request": "status"}))
        except control.TooSlowError as error:
            print_problem(f"a daemon does not answer: {error}", "warning")
            continue
        except OSError:
            continue
        if answer.get("ok") is True and answer.get("version") == control.PROTOCOL:
            found.append(answer)
    return found


def ask_every(config: Config, timeout: float | None, /, **request: object) -> None:
    """Send a request to the daemons of all databases, each of which must accept it.

    Raises `NoDaemonError` when there is none, and what a daemon declined with.
    """
    asked = 0
    for socket in control.sockets(paths(config)) or _by_configuration(config):
        try:
            _accepted(control.ask(socket, timeout, **request))
        except control.TooSlowError as error:
            raise NoDaemonError(str(error), hint="the daemon is there, and hangs or is stopped") from error
        except OSError:
            # It has ended; the note that it wrote into its lock stays.
            continue
        asked += 1
    if not asked:
        raise NoDaemonError(_NOBODY, hint=_HINT)


def ask_about(database: str, /, **request: object) -> Answer:
    """Send a request to the daemon of one database and return its answer, whenever it comes. Raises as above."""
    for socket in control.sockets([database]):
        try:
            return _accepted(control.ask(socket, None, **request))
        except OSError:
            continue
    raise NoDaemonError(f"no daemon that looks after {database} answers", hint=_HINT)


def _by_configuration(config: Config) -> Iterator[str]:
    """The daemons that were started with the same file, when it names other databases by now."""
    for folder in control.given_folders():
        for socket in sorted(map(str, folder.glob("control-*.sock"))):
            try:
                answer = control.ask(socket, request="status")
            except OSError:
                continue
            if os.path.isabs(config.source) and answer.get("daemon", {}).get("config") == config.source:
                yield socket


def _accepted(answer: Answer) -> Answer:
    if answer.get("ok") is True:
        return answer
    error = answer.get("error") or {}
    kind = _ERRORS.get(error.get("code", ""), NoDaemonError)
    raise kind(error.get("message", "the daemon declined"), hint=error.get("hint"))
