"""Structured logs through structlog: JSON lines for programs, short lines for a person at a terminal.

A log call never raises. Every value is made plain before it is encoded; a line that cannot be written is
counted, and the next one that can be says how many were lost.
"""

import math
import os
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import structlog

from migrated.errors import MigrationError
from migrated.events import Event

LONGEST_LINE = 4096
_ROOM_FOR_PREFIX = 8
_LARGEST_NUMBER = 2**63 - 1
LONGEST_STATEMENT = 2000
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIRST_KEYS = ("timestamp", "level", "event", "message", "service", "pid", "run_id")
_COLOURS = {
    "debug": "\033[2m",
    "info": "",
    "warning": "\033[33m",
    "error": "\033[31m",
    "critical": "\033[31;1m",
}
_Line = MutableMapping[str, Any]


class Log:
    """Where events go. `bind` gives one that adds its keys to every line."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def bind(self, **keys: object) -> "Log":
        """Return a log whose every line carries `keys`."""
        return Log(self._logger.bind(**keys))

    def __call__(self, event: Event, **keys: object) -> None:
        """Write one line. Keys that are None are left out."""
        getattr(self._logger, event.level)(event.name, sentence=event.sentence, **keys)

    def failure(self, event: Event, error: MigrationError, **keys: object) -> None:
        """Write one line about an error, with its place, hint and `error` object."""
        self(event, **failure_keys(error), **keys)


def failure_keys(error: MigrationError) -> dict[str, object]:
    """The keys that tell of an error."""
    return {
        "version": error.version,
        "name": error.name,
        "file": error.file,
        "line": error.line,
        "column": error.column,
        "statement": error.statement,
        "reason": error.message,
        "hint": error.hint,
        "holder": getattr(error, "holder", None),
        "expected": getattr(error, "expected", None),
        "found": getattr(error, "found", None),
        "excerpt": error.excerpt,
        "error": {"type": type(error).__name__, "message": error.message, "code": error.code},
    }


def configure(log_format: str, level: str, descriptor: int = 2) -> Log:
    """Set structlog up for this process. `auto` is console on a terminal, JSON otherwise."""
    output = _Output(descriptor)
    on_terminal = os.isatty(descriptor)
    as_console = log_format == "console" or (log_format == "auto" and on_terminal)
    colours = on_terminal and not os.environ.get("NO_COLOR")
    render: Callable[[_Line], bytes] = _Console(colours=colours) if as_console else _json(descriptor)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            # Not "iso": that leaves the fraction out when it is nought, and the width must not vary.
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
            _Finish(render, output),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.BytesLoggerFactory(file=output),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    return Log(structlog.get_logger())


class _Finish:
    """The last processor: complete the line's keys, render it, and survive whatever is in it."""

    def __init__(self, render: Callable[[_Line], bytes], output: "_Output") -> None:
        self._render = render
        self._output = output
        self._pid = os.getpid()

    def __call__(self, _logger: object, _method: str, line: _Line) -> bytes:
        line.update(service="migrated", pid=self._pid, lost_lines=self._output.lost or None)
        sentence = line.pop("sentence", "{event}")
        kept = {_text(key): _plain(value) for key, value in line.items() if value is not None}
        if isinstance(line.get("error"), dict):
            kept["error"] = {_text(key): _plain(value) for key, value in line["error"].items()}
        kept["message"] = str(sentence).format_map(_Gaps(kept))
        return self._render({key: kept[key] for key in (*_FIRST_KEYS, *kept) if key in kept})


class _Gaps(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _json(descriptor: int) -> Callable[[_Line], bytes]:
    to_journal = _is_journal(descriptor)

    def render(line: _Line) -> bytes:
        line.pop("excerpt", None)
        prefix = b"<%d>" % _PRIORITIES[line["level"]] if to_journal else b""
        return prefix + _fitting(line)

    return render


def _is_journal(descriptor: int) -> bool:
    # https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _fitting(line: _Line) -> bytes:
    """One JSON object in less than 4 KiB: long texts are cut, the longest first, and `truncated` says so."""
    if isinstance(line.get("statement"), str) and len(line["statement"]) > LONGEST_STATEMENT:
        line["statement"], line["truncated"] = line["statement"][:LONGEST_STATEMENT], True
    encoded = msgspec.json.encode(line)
    while len(encoded) >= LONGEST_LINE - _ROOM_FOR_PREFIX:
        texts: list[tuple[MutableMapping[str, Any], str]] = [
            (line, key) for key in line if isinstance(line[key], str)
        ]
        if isinstance(line.get("error"), dict):
            texts.append((line["error"], "message"))
        holder, key = max(texts, key=lambda text: len(text[0][text[1]]))
        if len(holder[key]) <= 1:
            break
        holder[key], line["truncated"] = holder[key][: len(holder[key]) // 2], True
        encoded = msgspec.json.encode(line)
    return encoded


def _plain(value: object) -> object:
    """What every encoder takes: a text, a number or a truth value."""
    match value:
        case bool():
            return value
        case int() if abs(value) <= _LARGEST_NUMBER:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return _text(value)


def _text(value: object) -> str:
    try:
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code does, the line is written
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    # A file name that is not UTF-8 comes as surrogates, which no encoder takes.
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()


class _Console:
    """Time, level, sentence; below it the hint and the excerpt of the file."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, line: _Line) -> bytes:
        level = line["level"]
        clock = str(line["timestamp"])[11:19]
        text = f"{clock} {level + ' ':<8}{line['message']}"
        if line.get("file") and line.get("line"):
            text += f"\n         at {line['file']}:{line['line']}:{line.get('column', 1)}"
        if line.get("excerpt"):
            text += "".join(f"\n         {row}" for row in str(line["excerpt"]).split("\n"))
        if line.get("expected") and line.get("found"):
            text += f"\n         expected {line['expected']}\n         found    {line['found']}"
        if line.get("hint"):
            text += f"\n         hint: {line['hint']}"
        if self._colours and _COLOURS[level]:
            text = f"{_COLOURS[level]}{text}\033[0m"
        return text.encode(errors="backslashreplace")


class _Output:
    """A descriptor as a binary file whose failures end here, counted in `lost`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False
        self.lost = 0

    def write(self, data: bytes) -> int:
        """Write one line; what cannot be written is dropped and counted."""
        left = b"\n" + data if self._torn else data
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            # A full disk or a closed pipe: the daemon's work is worth more than its log.
            self.lost += 1
            self._torn = self._torn or len(left) < len(data)
        else:
            self.lost, self._torn = 0, False
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""
