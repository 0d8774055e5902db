"""The commands `wait`, `reload`, `retry`, `pause` and `resume`: requests to a running daemon."""

import argparse
import os
import time

from migrated.cli import options
from migrated.cli.commands import Command
from migrated.cli.summary import MANY, Groups, split_error
from migrated.cli.terminal import print_problem
from migrated.config.settings import Config
from migrated.core.errors import RefusedError
from migrated.fleet.discovery import assign

_POLL_SECONDS = 0.1
_NOT_IN_TIME = 3


def configure_wait(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--timeout", type=options.duration, metavar="DURATION", help="exit 3 after this time (default: no limit)"
    )


def execute_wait(arguments: argparse.Namespace) -> int:
    """Return 0 once every database is current; 3 after the timeout, printing why databases are not."""
    config = options.configuration(arguments)
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    is_first = True
    while not_current := _find_not_current(config):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            not_current.print()
            return _NOT_IN_TIME
        # The daemon only provides a good time to look again: its view may be older than ours. If a database is
        # still not current after its answer, poll without it.
        if not (is_first and _wait_with_daemon(not_current.paths, left)):
            # Sleep at least as long as the last look took: polling a large fleet then uses half a processor at
            # most, and leaves the rest to the process that migrates.
            time.sleep(max(_POLL_SECONDS, not_current.seconds))
        is_first = False
    return 0


class _NotCurrent:
    """Problems of directories, and databases that are not current. `seconds` is how long finding them took."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.databases: list[tuple[str, str, str | None]] = []
        self.paths: list[str] = []
        self.seconds = 0.0

    def __bool__(self) -> bool:
        return bool(self.problems or self.databases)

    def print(self) -> None:
        """Print each problem with its cause; many databases are grouped by cause."""
        for problem in self.problems:
            print_problem(problem)
        groups: Groups[str] = Groups()
        for name, text, remark in self.databases:
            if len(self.databases) > MANY:
                groups.add(text, name, remark)
            else:
                print_problem(f"{name}: {text}" + (f"\n{remark}" if remark else ""))
        for text, group in groups:
            print_problem(group.describe(text))


def _wait_with_daemon(paths: list[str], left: float | None) -> bool:
    """Let a daemon wait until its databases are current or `left` seconds are over.

    Return False if a database has no daemon, or the daemon cannot be asked. Of several daemons only the first is
    asked: the caller looks at all databases afterwards.
    """
    from migrated.daemon.control import client, protocol

    found = client.sockets(paths)
    if sum(map(len, found.values())) < max(1, len(paths)):
        return False
    socket, databases = next(iter(found.items()))
    request = {"request": "wait", "databases": databases, "timeout": left}
    # The names of a large fleet may exceed the limit of the protocol: then poll instead.
    if len(protocol.line_of(request)) > protocol.LONGEST_REQUEST:
        return False
    try:
        answer = client.ask(socket, None if left is None else left + protocol.ANSWER_TIMEOUT_SECONDS, **request)
    except OSError:
        return False
    return answer.get("ok") is True


def _find_not_current(config: Config) -> _NotCurrent:
    from migrated.fleet import inspect

    began = time.monotonic()
    found = _NotCurrent()
    for target in inspect.look(config, timeout=0):
        found.problems += [str(problem) for problem in target.problems]
        for view in target.views():
            if view.problem or view.pending:
                text_and_remark = split_error(view.problem) if view.problem else (f"{view.pending} pending", None)
                found.databases.append((view.name, *text_and_remark))
                found.paths.append(view.database.path)
    found.seconds = time.monotonic() - began
    return found


def configure_nothing(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def execute_pause(arguments: argparse.Namespace) -> int:
    """Pause the daemon. Returns when the running migration has finished."""
    from migrated.daemon.control import client

    client.ask_every(options.configuration(arguments), None, request="pause")
    return 0


def configure_reload(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until the new configuration is in force; exit 78 if it is refused",
    )


def execute_reload(arguments: argparse.Namespace) -> int:
    """Let the daemon read its configuration again.

    Errors in the configuration are reported here, before the daemon is asked; the old one stays in force.
    """
    from migrated.daemon.control import client

    config = options.configuration(arguments)
    # With --wait the daemon answers only when the configuration is in force, which may take long.
    limit = None if arguments.wait else client.PROMPT_ANSWER_SECONDS
    client.ask_every(config, limit, request="reload", wait=arguments.wait)
    return 0


def execute_resume(arguments: argparse.Namespace) -> int:
    """Let the daemon continue; it begins with a full pass."""
    from migrated.daemon.control import client

    client.ask_every(options.configuration(arguments), None, request="resume")
    return 0


def configure_retry(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("name", metavar="DATABASE", help="as configured, as matched, or its path")


def execute_retry(arguments: argparse.Namespace) -> int:
    """Let the daemon try a database; return the exit code that `migrated up` would."""
    from migrated.daemon.control import client

    path = _path(options.configuration(arguments), arguments.name)
    found = client.ask_about(path, request="retry", database=path)["database"]
    if found["state"] == "current":
        return 0
    error = found["error"] or {"message": found["waiting_for"] or f"{found['pending']} pending"}
    print_problem(f"{arguments.name}: {found['state']}: {error['message']}")
    if error.get("hint"):
        print_problem(error["hint"], "hint")
    code: int = error.get("exit_code", RefusedError.exit_code)
    return code


def _path(config: Config, name: str) -> str:
    databases = [database for _, databases in assign(config.targets) for database in databases]
    return next((each.path for each in databases if each.name == name), os.path.abspath(name))


COMMANDS = {
    "wait": Command("migrated wait --timeout 60s && exec my-application", configure_wait, execute_wait),
    "reload": Command("migrated reload --wait -c /etc/migrated.toml", configure_reload, execute_reload),
    "retry": Command("migrated retry tenants/42.db", configure_retry, execute_retry),
    "pause": Command("migrated pause && rsync app.db* backup/; migrated resume", configure_nothing, execute_pause),
    "resume": Command("migrated resume", configure_nothing, execute_resume),
}
