"""migrated wait."""

import argparse
import time

from migrated.cli import options
from migrated.cli.summary import MANY, Groups, said_of
from migrated.cli.terminal import print_problem
from migrated.config.settings import Config

EXAMPLE = "migrated wait --timeout 60s && exec my-application"

_POLL_SECONDS = 0.1
_NOT_IN_TIME = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "--timeout", type=options.duration, metavar="DURATION", help="then exit 3 (default: for ever)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Exit 0 once everything is applied and nothing is refused, 3 after the timeout, saying what is missing."""
    config = options.configuration(arguments)
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    is_first = True
    while missing := _missing(config):
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


class _Missing:
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
            print_problem(group.told(text))


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
        answer = client.ask(socket, None if left is None else left + protocol.PATIENCE_SECONDS, **request)
    except OSError:
        return False
    return answer.get("ok") is True


def _missing(config: Config) -> _Missing:
    from migrated.fleet import inspect

    began = time.monotonic()
    found = _Missing()
    for target in inspect.look(config, patience=0):
        found.problems += [str(problem) for problem in target.problems]
        for view in target.views():
            if view.fault or view.pending:
                said = said_of(view.fault) if view.fault else (f"{view.pending} pending", None)
                found.databases.append((view.name, *said))
                found.paths.append(view.database.path)
    found.seconds = time.monotonic() - began
    return found
