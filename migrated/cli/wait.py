"""migrated wait."""

import argparse
import time

from migrated.cli import options
from migrated.cli.render import print_problem
from migrated.settings import Config

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
            for line, _ in missing:
                print_problem(line)
            return _NOT_IN_TIME
        # What a daemon says is only a better time to look again; where we then see it otherwise, we go on alone.
        if not (is_first and _wait_with_daemon([path for _, path in missing if path], left)):
            time.sleep(_POLL_SECONDS)
        is_first = False
    return 0


def _wait_with_daemon(wanted: list[str], left: float | None) -> bool:
    """Have a daemon tell when its databases are current, or the time is over; False where it cannot be asked."""
    from migrated import control

    found = control.sockets(wanted)
    if sum(map(len, found.values())) < max(1, len(wanted)):
        return False
    socket, databases = next(iter(found.items()))
    request = {"request": "wait", "databases": databases, "timeout": left}
    if len(control.line_of(request)) > control.LONGEST_REQUEST:
        return False
    try:
        answer = control.ask(socket, None if left is None else left + control.PATIENCE_SECONDS, **request)
    except OSError:
        return False
    return answer.get("ok") is True


def _missing(config: Config) -> list[tuple[str, str | None]]:
    """What is missing, in a line each, with the path of the database where it is one's."""
    from migrated.cli import reading

    found: list[tuple[str, str | None]] = []
    for view in reading.look(config, patience=0):
        found += [(str(problem), None) for problem in view.problems]
        for database in view.databases:
            trouble = database.error or database.refusal
            if trouble or database.pending:
                line = f"{database.database.name}: {trouble or f'{database.pending} pending'}"
                found.append((line, database.database.path))
    return found
