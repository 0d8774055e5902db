"""Render log lines for a terminal: what happened, where, what to do; and colours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migrated.core.errors import label_of

_INDENT = " " * 9
BOLD_RED = "31;1"
"""Parameter of the SGR escape sequence, as are the colours below."""
DIM = "2"
RED = "31"
YELLOW = "33"
_OF_LEVEL = {"debug": DIM, "info": "", "warning": YELLOW, "error": RED, "critical": BOLD_RED}
_SUCCESS = {
    *("migration.applied", "migration.rolled_back", "migration.updated"),
    *("database.recovered", "database.unblocked", "watch.restored"),
}
_DIMMED = {
    *("daemon.starting", "config.loaded", "watch.started", "database.discovered"),
    *("snapshot.taken", "snapshot.skipped", "run.finished"),
}
_FOR_PROGRAMS = {"migration.applying", "migration.rolling_back", "daemon.alive"}
# Errors that other lines explain: at every occurrence, or only before the first `database.blocked`.
_EXPLAINED_ALWAYS = {"ChecksumMismatchError", "MigrationNotFoundError", "LateMigrationError"}
_EXPLAINED_FIRST = {"ExecutionFailedError", "RollbackFailedError"}


def is_for_programs(line: Mapping[str, Any]) -> bool:
    """Return True if other lines already tell a person everything in this one."""
    if line["event"] == "run.finished":
        adds_nothing = line.get("applied", 0) <= 1 and not line.get("pending") and not line.get("direction")
        return line.get("outcome") != "applied" or adds_nothing
    return line["event"] in _FOR_PROGRAMS


class Console:
    """Renders a line: time, level and sentence; below it place, excerpt or difference, and hint."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._run: object = None
        self._shown: dict[object, list[str]] = {}

    def __call__(self, line: Mapping[str, Any]) -> bytes:
        """Return the text without the last line feed."""
        rows = [self._first(line), *(f"{_INDENT}{row}" if row else "" for row in self._details(line))]
        return "\n".join(rows).encode(errors="backslashreplace")

    def _first(self, line: Mapping[str, Any]) -> str:
        event, level = line["event"], line["level"]
        clock, tag = str(line["timestamp"])[11:19], f"{level + ' ':<8}"
        sentence = visible(_sentence(line))
        if level == "debug" or event in _DIMMED:
            return self._paint(f"{clock} {tag}{sentence}", DIM)
        if level != "info":
            return f"{self._paint(clock, DIM)} {self._paint(f'{tag}{sentence}', _OF_LEVEL[level])}"
        if event in _SUCCESS:
            # Highlight the verb and the migration; database and duration stay plain.
            verb, label, rest = sentence.partition(label_of(line.get("version"), str(line.get("name"))))
            sentence = self._paint(f"{verb}{label}", GREEN) + rest
        return f"{self._paint(f'{clock} {tag}', DIM)}{sentence}"

    def _details(self, line: Mapping[str, Any]) -> Iterator[str]:
        if _is_explained_already(line):
            return
        if line.get("file") and line.get("line"):
            yield visible(f"at {line['file']}:{line['line']}:{line.get('column', 1)}")
        if line.get("excerpt"):
            for row in visible(str(line["excerpt"])).split("\n"):
                yield self._paint(row, RED) if row.strip(" |") == "^" else row
        if line.get("difference"):
            yield from self._difference(line)
        elif line.get("expected") and line.get("found"):
            yield visible(f"expected {line['expected']}")
            yield visible(f"found    {line['found']}")
        if line.get("hint"):
            yield f"{self._paint('hint:', CYAN)} {visible(str(line['hint']))}"

    def _difference(self, line: Mapping[str, Any]) -> Iterator[str]:
        """Yield a difference once for all databases of a run that have it, and not in repeated lines."""
        if line.get("repeated"):
            return
        if self._run != line.get("run_id"):
            self._run, self._shown = line.get("run_id"), {}
        rows = visible(str(line["difference"])).split("\n")
        # The first two lines are labels, whose time differs for each database.
        if self._shown.get(line.get("version")) == rows[2:]:
            yield "the difference is the one shown above"
            return
        self._shown[line.get("version")] = rows[2:]
        yield from painted_diff(rows) if self._colours else rows

    def _paint(self, text: str, colour: str) -> str:
        return painted(text, colour) if self._colours else text


def _sentence(line: Mapping[str, Any]) -> str:
    if _is_explained_already(line):
        return f"{line.get('database')} is blocked until this is fixed"
    return str(line["message"])


def _is_explained_already(line: Mapping[str, Any]) -> bool:
    """Return True if a database is blocked by a cause that earlier lines have explained."""
    error = line.get("error")
    if line["event"] != "database.blocked" or "databases" in line or not isinstance(error, Mapping):
        return False
    return error.get("type") in _EXPLAINED_ALWAYS or (
        error.get("type") in _EXPLAINED_FIRST and not line.get("repeated")
    )


BOLD = "1"
GREEN = "32"
CYAN = "36"
_OF_DIFF = {"@": CYAN, "-": RED, "+": GREEN, "…": DIM}
_LABELS = 2
# All C0 and C1 control characters except tab and line feed.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def are_wanted(environment: Mapping[str, str], *, on_terminal: bool) -> bool:
    """Return True on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return on_terminal and not environment.get("NO_COLOR")


def painted(text: str, colour: str) -> str:
    """Return the text in a colour; unchanged if the colour is empty."""
    return f"\033[{colour}m{text}\033[0m" if colour and text else text


def visible(text: str) -> str:
    """Escape control characters: in a file's name or content they could control the terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def painted_diff(lines: Sequence[str]) -> list[str]:
    """Colour the lines of a unified diff, including its two labels, as diff does."""
    labels = [painted(line, BOLD) for line in lines[:_LABELS]]
    return labels + [painted(line, _OF_DIFF.get(line[:1], "")) for line in lines[_LABELS:]]
