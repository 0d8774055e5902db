"""Render log lines from keys to bytes with structlog.

Imported for the first line only: loading structlog and msgspec takes longer than a `migrated up` with nothing to
do.
"""

import math
import os
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import structlog

from migrated.core.errors import label_of
from migrated.logs import console
from migrated.logs.console import Console, is_for_programs
from migrated.logs.formats import SHAPES, Shaper
from migrated.logs.sink import LONGEST_LINE, Line, Sink

_ROOM_FOR_PREFIX = 8
_LARGEST_NUMBER = 2**63 - 1
LONGEST_STATEMENT = 2000
LONGEST_TRACEBACK = 2000
_LONGEST = {"statement": LONGEST_STATEMENT, "traceback": LONGEST_TRACEBACK}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIRST_KEYS = ("timestamp", "level", "event", "message", "service", "pid", "run_id")


def renderer(log_format: str, descriptor: int) -> Callable[[Line], bytes]:
    """Return the function that renders a line to bytes."""
    if is_console(log_format, descriptor):
        return Console(colours=console.are_wanted(os.environ, on_terminal=os.isatty(descriptor)))
    return _json(descriptor, SHAPES.get(log_format, SHAPES["json"]))


def is_console(log_format: str, descriptor: int) -> bool:
    """Return True if lines are rendered for a person."""
    return log_format == "console" or (log_format == "auto" and os.isatty(descriptor))


def logger(sink: Sink, level: str, *, for_people: bool) -> Any:
    """Configure structlog for this process to write to `sink`, and return its logger."""
    structlog.configure(
        processors=[
            *([_drop_lines_for_programs] if for_people and level != "debug" else []),
            structlog.processors.add_log_level,
            # Not "iso": it omits a fraction of zero, and the width must not vary.
            structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
            _Finish(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda: sink,
        cache_logger_on_first_use=False,
    )
    # Bound, the logger keeps this configuration even if structlog is configured again.
    return structlog.get_logger().bind()


def _drop_lines_for_programs(_logger: object, _method: str, line: Line) -> Line:
    if is_for_programs(line):
        raise structlog.DropEvent
    return line


class _Finish:
    """The last processor: completes the keys and makes every value encodable."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __call__(self, _logger: object, _method: str, line: Line) -> tuple[tuple[Line], dict[str, object]]:
        line.update(service="migrated", pid=self._pid)
        sentence = line.pop("sentence", "{event}")
        kept = {_text(key): _plain(value) for key, value in line.items() if value is not None}
        if isinstance(line.get("error"), dict):
            kept["error"] = {_text(key): _plain(value) for key, value in line["error"].items()}
        kept["message"] = str(sentence).format_map(_Gaps(kept))
        return ({key: kept[key] for key in (*_FIRST_KEYS, *kept) if key in kept},), {}


class _Gaps(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        if key == "migration" and "name" in self:
            return label_of(self.get("version"), str(self["name"]))
        return "?"


def _json(descriptor: int, shape: Shaper) -> Callable[[Line], bytes]:
    to_journal = _is_journal(descriptor)

    def render(line: Line) -> bytes:
        for console_only in ("excerpt", "difference"):
            line.pop(console_only, None)
        prefix = b"<%d>" % _PRIORITIES[line["level"]] if to_journal else b""
        return prefix + _encode(line, shape)

    return render


def _is_journal(descriptor: int) -> bool:
    # https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#%24JOURNAL_STREAM
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _encode(line: Line, shape: Shaper) -> bytes:
    """Encode a line as JSON in less than 4 KiB. Long strings are cut, the longest first.

    Of a traceback the end is kept, which has the raising frames. `truncated` is set on lines that were cut.
    """
    for key, longest in _LONGEST.items():
        if isinstance(line.get(key), str) and len(line[key]) > longest:
            line[key], line["truncated"] = _cut(key, line[key], longest), True
    encoded = msgspec.json.encode(shape(line))
    while len(encoded) >= LONGEST_LINE - _ROOM_FOR_PREFIX:
        texts: list[tuple[MutableMapping[str, Any], str]] = [
            (line, key) for key in line if isinstance(line[key], str)
        ]
        if isinstance(line.get("error"), dict):
            texts.append((line["error"], "message"))
        holder, key = max(texts, key=lambda text: len(text[0][text[1]]))
        if len(holder[key]) <= 1:
            break
        holder[key], line["truncated"] = _cut(key, holder[key], len(holder[key]) // 2), True
        encoded = msgspec.json.encode(shape(line))
    return encoded


def _cut(key: str, text: str, length: int) -> str:
    return text[-length:] if key == "traceback" else text[:length]


def _plain(value: object) -> object:
    """Convert a value to a type that every encoder accepts: string, number or boolean."""
    if type(value) is str:
        return _text(value)
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
    # Fast path: nearly all values are ASCII strings, and isascii() only reads a flag.
    if type(value) is str and value.isascii():
        return value
    try:
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    except Exception as error:  # noqa: BLE001 - whatever a value's own code does, the line is written
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    # A file name that is not UTF-8 contains surrogates, which no encoder accepts.
    try:
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
