"""migrated wait, reload, retry, pause and resume."""

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
    """Exit 0 once everything is applied and nothing is refused, 3 after the timeout, saying what is missing."""
    config = options.configuration(arguments)
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    is_first = True
    while missing := _find_not_current(config):
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            missing.tell()
            return _NOT_IN_TIME
        # What a daemon says is only a better time to look again; where we then see it otherwise, we go on alone.
        if not (is_first and _wait_with_daemon(missing.paths, left)):
            # As long as a look takes, where that is long: a processor is left to whoever does the work.
            time.sleep(max(_POLL_SECONDS, missing.seconds))
        is_first = False
    return 0


class _NotCurrent:
    """What is missing: of the directories, and of which databases. `seconds` is how long finding that took."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.databases: list[tuple[str, str, str | None]] = []
        self.paths: list[str] = []
        self.seconds = 0.0

    def __bool__(self) -> bool:
        return bool(self.problems or self.databases)

    def tell(self) -> None:
        """Each with its cause; of many databases those with the same cause together."""
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


def _wait_with_daemon(wanted: list[str], left: float | None) -> bool:
    """Have a daemon tell when its databases are current, or the time is over; False where it cannot be asked."""
    from migrated.daemon.control import client, protocol

    found = client.sockets(wanted)
    if sum(map(len, found.values())) < max(1, len(wanted)):
        return False
    socket, databases = next(iter(found.items()))
    request = {"request": "wait", "databases": databases, "timeout": left}
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
                said = split_error(view.problem) if view.problem else (f"{view.pending} pending", None)
                found.databases.append((view.name, *said))
                found.paths.append(view.database.path)
    found.seconds = time.monotonic() - began
    return found


def configure_nothing(parser: argparse.ArgumentParser) -> None:
    """Add no options: the command has none of its own."""


def execute_pause(arguments: argparse.Namespace) -> int:
    """Return once nothing is being applied any more: the migration that is running is finished first."""
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
    """Tell it. A configuration with faults is told here already; the old one stays in force."""
    from migrated.daemon.control import client

    config = options.configuration(arguments)
    limit = None if arguments.wait else client.PROMPT_ANSWER_SECONDS
    client.ask_every(config, limit, request="reload", wait=arguments.wait)
    return 0


def execute_resume(arguments: argparse.Namespace) -> int:
    """Tell it; a full pass follows."""
    from migrated.daemon.control import client

    client.ask_every(options.configuration(arguments), None, request="resume")
    return 0


def configure_retry(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("name", metavar="DATABASE", help="as configured, as matched, or its path")


def execute_retry(arguments: argparse.Namespace) -> int:
    """Return what the try came to, as `migrated up` would."""
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
