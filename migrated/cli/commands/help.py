"""The command `help`: show the manual or the options of a command."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from migrated.cli.commands import Command

_WIDEST = 100  # columns; longer lines are hard to read
_WRONG_USAGE = 2
_NOT_RUN = {126, 127}
"""The exit codes of a shell that could not run what it was given."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("topic", metavar="TOPIC", nargs="?", help="a topic of the manual, or a command")


def execute(arguments: argparse.Namespace) -> int:
    """List the topics, or show one. Text longer than the terminal goes through a pager."""
    from migrated.cli import manual

    topic: str | None = arguments.topic
    commands: Mapping[str, argparse.ArgumentParser] = arguments.commands
    topics = manual.topics()
    if topic is None:
        _show(_overview(topics, _columns()))
    elif topic in topics:
        text = manual.render(manual.read(topic), _columns(), styled=_is_styled())
        if topic in commands:
            text += f"\nThe options of the command: migrated {topic} --help\n"
        _show(text)
    elif topic in commands:
        commands[topic].parse_args(["--help"])
    else:
        _refuse(topic, [*topics, *commands], topics)
        return _WRONG_USAGE
    return 0


def _overview(topics: Sequence[str], columns: int) -> str:
    from migrated.cli import manual

    width = max(map(len, topics))
    lines = ["Topics of the manual:", ""]
    for topic in topics:
        sentence = manual.summary(manual.read(topic))
        first, *rest = manual.fill(sentence, columns - width - 4)
        lines.append(f"  {topic:{width}}  {first}")
        lines += [f"{'':{width}}    {line}" for line in rest]
    lines += ["", *manual.fill("Read one with `migrated help TOPIC`, for example `migrated help files`.", columns)]
    lines += manual.fill("`migrated help COMMAND` shows the options of a command.", columns)
    return "\n".join(lines) + "\n"


def _refuse(name: str, known: Sequence[str], topics: Sequence[str]) -> None:
    from difflib import get_close_matches

    near = list(dict.fromkeys(get_close_matches(name.lower(), known)))
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    print(f"migrated help: error: there is no topic and no command {name!r}{meant}", file=sys.stderr)
    print(f"topics: {', '.join(topics)}", file=sys.stderr)


def _columns() -> int:
    import shutil

    return min(shutil.get_terminal_size().columns, _WIDEST)


def _is_styled() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _show(text: str) -> None:
    """Print a text; through a pager if standard output is a terminal that has fewer lines."""
    import shutil

    is_long = sys.stdout.isatty() and text.count("\n") >= shutil.get_terminal_size().lines
    if not (is_long and (pager := _pager()) and _page(text, pager)):
        _print(text)


def _pager() -> str | None:
    import shutil

    for variable in ("MANPAGER", "PAGER"):
        if pager := os.environ.get(variable):
            return pager
    return "less -R" if shutil.which("less") else None


def _page(text: str, pager: str) -> bool:
    """Show a text in a pager, which is a command line for the shell. Return False if there is no such program."""
    import signal
    import subprocess

    # `less` shows the escapes of headings as they are meant only with -R, also where it is called as $PAGER.
    options = f"-R {os.environ.get('LESS', '')}".rstrip()
    with subprocess.Popen(  # noqa: S603 - the user's own variable says what runs
        ["/bin/sh", "-c", pager],
        stdin=subprocess.PIPE,
        encoding=sys.stdout.encoding,
        errors="replace",
        env={**os.environ, "LESS": options},
    ) as process:
        # Ctrl-C is the pager's: if it ended us, the shell would write its prompt while the pager still runs.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.communicate(text)
        finally:
            signal.signal(signal.SIGINT, before)
    return process.returncode not in _NOT_RUN


def _print(text: str) -> None:
    # Not every encoding of a terminal has every character of the manual.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


COMMANDS = {"help": Command("migrated help snapshots", configure, execute)}
