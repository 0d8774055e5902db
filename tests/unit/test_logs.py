import json
import os
import re
import resource
import socket
import string
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated.core.errors import ChecksumMismatchError, DatabaseError, ExecutionFailedError, LockHeldError
from migrated.logs import events, logger, sink
from migrated.logs.events import EVENTS, Event
from migrated.logs.logger import Log

PLAIN = Event("thing.happened", "info", "something happened", "")
FORMATS = ["json", "ecs", "otel"]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
FIRST = ("timestamp", "level", "event", "message", "service", "pid")


class Output:
    """A log file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log(self, log_format: str = "json", level: str = "debug") -> Log:
        return logger.configure(log_format, level, self.descriptor)

    def text(self) -> str:
        return self.path.read_text("utf-8")

    def raw(self) -> list[bytes]:
        """Return the lines as written."""
        content = self.path.read_bytes()
        assert content.endswith(b"\n") or not content
        return content.splitlines()

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines parsed by a strict JSON reader, without time and process."""
        return [without_time(strictly(line)) for line in self.raw()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    opened = Output(tmp_path / "log")
    yield opened
    os.close(opened.descriptor)


def strictly(line: bytes) -> dict[str, Any]:
    """Reject NaN and Infinity, which Python accepts and JSON does not."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    read = json.loads(line, parse_constant=refuse)
    assert isinstance(read, dict)
    return read


def own_keys(line: dict[str, Any], log_format: str) -> dict[str, Any]:
    """Return our own keys from a line in any format."""
    if log_format == "ecs":
        return dict(line["labels"])
    if log_format == "otel":
        (record,) = line["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
        found: dict[str, Any] = {}
        for attribute in record["attributes"]:
            ((kind, value),) = attribute["value"].items()
            found[attribute["key"].removeprefix("migrated.")] = int(value) if kind == "intValue" else value
        return found
    return line


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    assert TIMESTAMP.fullmatch(line.pop("timestamp"))
    assert line.pop("pid") == os.getpid()
    return line


def plain(**keys: object) -> dict[str, object]:
    return {
        "level": "info",
        "event": "thing.happened",
        "message": "something happened",
        "service": "migrated",
        **keys,
    }


# JSON lines


def test_whole_line(output: Output) -> None:
    output.log()(events.MIGRATION_APPLIED, database="app.db", version=7, name="add_users", execution_time_ms=12)

    assert output.line() == {
        "level": "info",
        "event": "migration.applied",
        "message": "applied 7_add_users to app.db in 12 ms",
        "service": "migrated",
        "database": "app.db",
        "version": 7,
        "name": "add_users",
        "execution_time_ms": 12,
    }


def test_keys_begin_with_the_same_ones_in_the_same_order(output: Output) -> None:
    output.log().bind(database="app.db", run_id="r1")(PLAIN, version=7)

    (line,) = output.raw()

    assert (*FIRST, "run_id", "database", "version") == tuple(json.loads(line))


def test_pid_is_that_of_this_process(output: Output) -> None:
    output.log()(PLAIN)

    (line,) = output.raw()

    assert json.loads(line)["pid"] == os.getpid()


def test_timestamp_always_has_six_digits_and_a_z(output: Output) -> None:
    log = output.log()
    for _ in range(50):
        log(PLAIN)

    assert [line for line in output.raw() if not TIMESTAMP.fullmatch(json.loads(line)["timestamp"])] == []


def test_every_line_is_one_object(output: Output) -> None:
    log = output.log()
    log(PLAIN, reason="two\nlines\r\nand\u2028three")
    log(PLAIN)

    assert [plain(reason="two\nlines\r\nand\u2028three"), plain()] == output.lines()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_level_is_that_of_the_event(output: Output, level: str) -> None:
    output.log()(Event("thing.happened", level, "something happened", ""))

    assert plain() | {"level": level} == output.line()


@pytest.mark.parametrize(
    ("threshold", "written"),
    [
        ("debug", ["debug", "info", "warning", "error", "critical"]),
        ("info", ["info", "warning", "error", "critical"]),
        ("warning", ["warning", "error", "critical"]),
        ("error", ["error", "critical"]),
        ("critical", ["critical"]),
    ],
)
def test_lines_below_the_level_are_left_out(output: Output, threshold: str, written: list[str]) -> None:
    log = output.log(level=threshold)
    for level in ("debug", "info", "warning", "error", "critical"):
        log(Event("thing.happened", level, "", ""))

    assert written == [line["level"] for line in output.lines()]


def test_null_keys_are_left_out(output: Output) -> None:
    output.log().bind(database=None)(PLAIN, version=None, name="", pending=0, applied=False)

    assert plain(name="", pending=0, applied=False) == output.line()


def test_bound_keys_are_on_every_line_and_only_there(output: Output) -> None:
    log = output.log()
    bound = log.bind(database="app.db")
    bound(PLAIN)
    bound(PLAIN, database="other.db")
    log(PLAIN)

    assert [plain(database="app.db"), plain(database="other.db"), plain()] == output.lines()


def test_message_is_the_sentence_filled_from_the_keys(output: Output) -> None:
    event = Event("thing.happened", "info", "{name} is {{here}}, {nobody} is not", "")
    output.log()(event, name="a")

    assert plain(message="a is {here}, ? is not", name="a") == output.line()


def test_braces_in_a_value_are_text(output: Output) -> None:
    output.log()(events.DATABASE_UNAVAILABLE, database="{x}", reason="{database} {0} {")

    assert output.line()["message"] == "{x} is unavailable: {database} {0} {"


# Errors


def test_failure_line_has_all_attributes_of_the_error(output: Output) -> None:
    error = ExecutionFailedError(
        "no such table: user",
        hint="mend it",
        version=7,
        name="add_users",
        file="7_add_users.sql",
        line=3,
        column=5,
        statement="SELECT * FROM user",
        excerpt="SELECT\n^",
        code="SQLITE_ERROR",
    )

    output.log().failure(events.MIGRATION_FAILED, error, database="app.db")

    assert output.line() == {
        "level": "error",
        "event": "migration.failed",
        "message": "7_add_users failed in app.db: no such table: user",
        "service": "migrated",
        "version": 7,
        "name": "add_users",
        "file": "7_add_users.sql",
        "line": 3,
        "column": 5,
        "statement": "SELECT * FROM user",
        "reason": "no such table: user",
        "hint": "mend it",
        "error": {"type": "ExecutionFailedError", "message": "no such table: user", "code": "SQLITE_ERROR"},
        "database": "app.db",
    }


def test_failure_line_omits_missing_attributes(output: Output) -> None:
    output.log().failure(events.DATABASE_UNAVAILABLE, DatabaseError("disk I/O error"), database="app.db")

    assert output.line() == {
        "level": "error",
        "event": "database.unavailable",
        "message": "app.db is unavailable: disk I/O error",
        "service": "migrated",
        "reason": "disk I/O error",
        "error": {"type": "DatabaseError", "message": "disk I/O error", "code": "DATABASE"},
        "database": "app.db",
    }


def test_failure_line_has_holder_expected_and_found(output: Output) -> None:
    log = output.log()
    log.failure(PLAIN, LockHeldError("x", holder="pid 1"))
    log.failure(PLAIN, ChecksumMismatchError("x", expected="a", found="b"))

    held, mismatch = output.lines()

    assert held["holder"] == "pid 1"
    assert (mismatch["expected"], mismatch["found"]) == ("a", "b")


# Whatever is in it


class Unspeakable:
    """A value whose conversion to text fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Thing:
    def __repr__(self) -> str:
        return "<a thing>"


def list_in_itself() -> list[object]:
    endless: list[object] = []
    endless.append(endless)
    return endless


def mapping_in_itself() -> dict[str, object]:
    endless: dict[str, object] = {}
    endless["again"] = endless
    return endless


def nested(depth: int) -> list[object]:
    deep: list[object] = []
    for _ in range(depth):
        deep = [deep]
    return deep


HORRORS = [
    pytest.param(Path("/srv/a.sql"), id="path"),
    pytest.param(ValueError("wrong"), id="exception"),
    pytest.param(b"\x00\xff", id="bytes"),
    pytest.param({3}, id="set"),
    pytest.param(Thing(), id="object"),
    pytest.param(Thing, id="class"),
    pytest.param(lambda: None, id="function"),
    pytest.param(10**30, id="huge number"),
    pytest.param(10**5000, id="number too huge to be written"),
    pytest.param(-(10**30), id="huge negative number"),
    pytest.param(float("nan"), id="nan"),
    pytest.param(float("inf"), id="infinity"),
    pytest.param(1e300, id="huge fraction"),
    pytest.param(2**63 - 1, id="largest number"),
    pytest.param(1 + 2j, id="complex number"),
    pytest.param("/srv/\udcff.sql", id="name that is not UTF-8"),
    pytest.param(Path("/srv/\udcff.sql"), id="path that is not UTF-8"),
    pytest.param(ValueError("/srv/\udcff.sql"), id="exception about a name that is not UTF-8"),
    pytest.param("\ud800", id="lone surrogate"),
    pytest.param({"\ud800": "\ud800"}, id="lone surrogate as a key"),
    pytest.param("\x00\x1b[31m\x7f", id="control characters"),
    pytest.param("\U0001f600", id="outside the basic plane"),
    pytest.param(list_in_itself(), id="list in itself"),
    pytest.param(mapping_in_itself(), id="mapping in itself"),
    pytest.param(nested(100_000), id="deep list"),
    pytest.param({1: "a", (2, 3): "b"}, id="mapping of other keys"),
    pytest.param({"a": {10**30: {float("nan")}}}, id="several in one"),
    pytest.param([float("nan"), 10**30], id="list of horrors"),
    pytest.param(Unspeakable(), id="object that fails to be written"),
    pytest.param([Unspeakable()], id="list of it"),
    pytest.param("x" * 100_000, id="long text"),
    pytest.param("\x00" * 100_000, id="long text of control characters"),
    pytest.param("\U0001f600\udcff" * 10_000, id="long text that is not UTF-8"),
    pytest.param(b"x" * 100_000, id="long bytes"),
    pytest.param(["x"] * 100_000, id="long list"),
    pytest.param({str(n): n for n in range(10_000)}, id="long mapping"),
    pytest.param(ValueError("x" * 100_000), id="long exception"),
]


@pytest.mark.parametrize("horror", HORRORS)
@pytest.mark.parametrize("event", [PLAIN, events.DATABASE_UNAVAILABLE], ids=["aside", "in the message"])
def test_json_line_is_written_for_any_value(output: Output, event: Event, horror: object) -> None:
    output.log()(event, database="app.db", reason=horror)

    (raw,) = output.raw()
    line = strictly(raw)

    assert len(raw) < 4096
    assert (line["event"], line["level"], line["database"]) == (event.name, event.level, "app.db")
    assert None not in line.values()


@pytest.mark.parametrize("horror", HORRORS)
@pytest.mark.parametrize("key", ["reason", "hint", "file", "statement", "execution_time_ms", "outcome"])
@pytest.mark.parametrize("log_format", ["ecs", "otel"])
def test_ecs_and_otel_line_is_written_for_any_value(
    output: Output, log_format: str, key: str, horror: object
) -> None:
    output.log(log_format)(PLAIN, version=7, **{key: horror})

    (raw,) = output.raw()

    assert len(raw) < 4096
    assert own_keys(strictly(raw), log_format)["version"] == 7


@pytest.mark.parametrize("horror", HORRORS)
def test_console_line_is_written_for_any_value(output: Output, horror: object) -> None:
    output.log("console")(events.DATABASE_UNAVAILABLE, database="app.db", reason=horror)

    assert "app.db is unavailable" in output.text()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(Path("/srv/a.sql"), "/srv/a.sql", id="path"),
        pytest.param(ValueError("wrong"), "wrong", id="exception"),
        pytest.param(Thing(), "<a thing>", id="object"),
        pytest.param("é€\U0001f600", "é€\U0001f600", id="other characters"),
        pytest.param("/srv/\udcff.sql", "/srv/\\xff.sql", id="name that is not UTF-8"),
    ],
)
def test_value_is_written_readably(output: Output, value: object, written: str) -> None:
    output.log()(PLAIN, reason=value)

    assert plain(reason=written) == output.line()


def test_unencodable_value_leaves_the_others_unchanged(output: Output) -> None:
    others = {"file": Path("/srv/a.sql"), "version": 7, "hint": "é", "error": {"code": "X"}}
    output.log()(PLAIN, reason="\udcff", **others)

    assert plain(reason="\\xff", file="/srv/a.sql", version=7, hint="é", error={"code": "X"}) == output.line()


# How long


@pytest.mark.parametrize("key", ["reason", "statement", "traceback", "hint", "file", "database"])
@pytest.mark.parametrize("character", ["x", "é", "\U0001f600", "\n", "\x00", "\udcff"])
def test_long_text_is_cut_and_marked_truncated(output: Output, key: str, character: str) -> None:
    output.log()(PLAIN, version=7, **{key: character * 5000})

    (raw,) = output.raw()
    line = strictly(raw)
    cut = line.pop(key)

    assert len(raw) < 4096
    assert plain(version=7, truncated=True) == without_time(line)
    assert cut
    assert len(cut) < 5000 * len(character)


def test_short_line_is_not_marked_truncated(output: Output) -> None:
    output.log()(PLAIN, statement="x" * 2000)

    assert plain(statement="x" * 2000) == output.line()


def test_statement_is_cut_at_2000_characters(output: Output) -> None:
    output.log()(PLAIN, statement="x" * 2001)

    assert plain(statement="x" * 2000, truncated=True) == output.line()


def test_traceback_keeps_its_last_2000_characters(output: Output) -> None:
    """The end of a traceback has the raising frames and the exception."""
    output.log()(PLAIN, traceback="a" * 100 + "z" * 2000)

    assert plain(traceback="z" * 2000, truncated=True) == output.line()


@pytest.mark.parametrize("log_format", ["json", "ecs", "otel"])
def test_line_with_a_long_traceback_is_short_and_has_its_end(output: Output, log_format: str) -> None:
    output.log(log_format)(PLAIN, reason="x" * 1900, traceback="\n" * 5000 + "ValueError: the end")

    (raw,) = output.raw()

    assert len(raw) < 4096
    assert b"ValueError: the end" in raw


def test_message_of_an_error_is_cut_and_its_class_is_not(output: Output) -> None:
    error = DatabaseError("x" * 10_000, hint="y" * 10_000, code="SQLITE_BUSY")
    output.log().failure(events.DATABASE_UNAVAILABLE, error, database="app.db")

    line = output.line()

    assert line["truncated"] is True
    assert (line["error"]["type"], line["error"]["code"]) == ("DatabaseError", "SQLITE_BUSY")
    assert error.message == "x" * 10_000


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("journal", [False, True], ids=["file", "journal"])
def test_line_of_any_length_stays_below_the_limit(
    output: Output, monkeypatch: pytest.MonkeyPatch, log_format: str, *, journal: bool
) -> None:
    if journal:
        status = os.fstat(output.descriptor)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log = output.log(log_format)
    for length in range(3350, 3980):
        log(PLAIN, reason="x" * length)

    longest = max(len(line) + 1 for line in output.raw())

    assert 4060 < longest < 4096


def test_excerpt_and_difference_are_only_on_the_console(output: Output) -> None:
    output.log()(PLAIN, excerpt="SELECT\n^", difference="-SELECT 1\n+SELECT 2")

    assert plain() == output.line()


# The journal


PREFIXES = [("debug", b"<7>"), ("info", b"<6>"), ("warning", b"<4>"), ("error", b"<3>"), ("critical", b"<2>")]


@pytest.mark.parametrize("log_format", ["ecs", "otel"])
def test_journal_line_has_a_priority_in_every_format(
    output: Output, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    status = os.fstat(output.descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    output.log(log_format)(events.DATABASE_UNAVAILABLE, version=7)
    (line,) = output.raw()

    assert line[:3] == b"<3>"
    assert own_keys(strictly(line[3:]), log_format)["version"] == 7


@pytest.mark.parametrize(("level", "prefix"), PREFIXES)
def test_journal_line_has_a_priority(
    output: Output, monkeypatch: pytest.MonkeyPatch, level: str, prefix: bytes
) -> None:
    status = os.fstat(output.descriptor)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    output.log()(Event("thing.happened", level, "something happened", ""))

    (line,) = output.raw()

    assert prefix == line[:3]
    assert plain() | {"level": level} == without_time(strictly(line[3:]))


def test_pipe_to_the_journal_gets_a_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    logger.configure("auto", "info", writing)(PLAIN)
    os.close(writing)
    with os.fdopen(reading, "rb") as reader:
        line = reader.read()

    assert line.startswith(b'<6>{"timestamp":')


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param("{dev}:{other}", id="another file"),
        pytest.param("{other}:{ino}", id="another device"),
        pytest.param("{dev}:{ino}0", id="a longer number"),
        pytest.param("{dev}", id="half of it"),
        pytest.param("{ino}:{dev}", id="the wrong way round"),
        pytest.param("", id="empty"),
        pytest.param("x", id="nonsense"),
    ],
)
def test_other_descriptors_get_no_priority(output: Output, monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """JOURNAL_STREAM is inherited by children whose output goes elsewhere."""
    status = os.fstat(output.descriptor)
    monkeypatch.setenv(
        "JOURNAL_STREAM",
        stream.format(dev=status.st_dev, ino=status.st_ino, other=status.st_dev + status.st_ino + 1),
    )
    output.log()(PLAIN)

    assert plain() == output.line()


# What cannot be written


@pytest.mark.parametrize("log_format", FORMATS)
def test_closed_pipe_raises_nothing(log_format: str) -> None:
    reading, writing = os.pipe()
    log = logger.configure(log_format, "info", writing)
    os.close(reading)
    log(PLAIN)
    log(PLAIN)

    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    os.close(writing)


@pytest.mark.parametrize("log_format", FORMATS)
def test_full_disk_raises_nothing(log_format: str) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = logger.configure(log_format, "info", descriptor)
    log(PLAIN)
    os.close(descriptor)


def test_closed_descriptor_raises_nothing(output: Output) -> None:
    spare = os.dup(output.descriptor)
    log = logger.configure("json", "info", spare)
    os.close(spare)
    log(PLAIN)

    assert output.lines() == []


def swapped(descriptor: int, place: str) -> Callable[[], None]:
    """Redirect the descriptor to another file; return a function that restores it."""
    kept = os.dup(descriptor)
    other = os.open(place, os.O_WRONLY)
    os.dup2(other, descriptor)
    os.close(other)

    def back() -> None:
        os.dup2(kept, descriptor)
        os.close(kept)

    return back


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("lost", [1, 3])
def test_next_line_has_the_number_of_lost_lines(output: Output, log_format: str, lost: int) -> None:
    log = output.log(log_format)
    log(PLAIN, version=1)
    back = swapped(output.descriptor, "/dev/full")
    for _ in range(lost):
        log(PLAIN, version=2)
    back()
    log(PLAIN, version=3)
    log(PLAIN, version=4)

    seen = [own_keys(strictly(line), log_format) for line in output.raw()]
    assert [(line["version"], line.get("lost_lines")) for line in seen] == [(1, None), (3, lost), (4, None)]


class Limit:
    """Limit the file size, so that a write ends in the middle of a line, as on a full disk."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._before[1]))

    def lift(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.fixture
def limit() -> Iterator[Limit]:
    limit = Limit()
    yield limit
    limit.lift()


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_line_after_a_partial_write_starts_on_a_new_line(output: Output, limit: Limit, lost: int) -> None:
    log = output.log()
    log(PLAIN, version=1)
    limit.set(output.path.stat().st_size + 10)
    for _ in range(lost):
        log(PLAIN, version=2)
    limit.lift()
    log(PLAIN, version=3)
    first, half, last = output.raw()

    assert len(half) == 10
    assert [plain(version=1), plain(version=3, lost_lines=lost)] == [
        without_time(strictly(line)) for line in (first, last)
    ]


def fill(descriptor: int) -> None:
    while True:
        os.write(descriptor, b"x" * 65536)


def test_full_pipe_raises_nothing() -> None:
    """A stuck reader on a non-blocking pipe."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = logger.configure("json", "info", writing)
    with pytest.raises(BlockingIOError):
        fill(writing)
    log(PLAIN)

    os.close(reading)
    os.close(writing)


# The console


CLOCK = r"\d\d:\d\d:\d\d"


def console(output: Output, event: Event, **keys: object) -> str:
    """Return the text after the time."""
    output.log("console")(event, **keys)
    found = re.fullmatch(rf"{CLOCK} (.*)\n", output.text(), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("debug", "debug   something happened"),
        ("info", "info    something happened"),
        ("warning", "warning something happened"),
        ("error", "error   something happened"),
        ("critical", "critical something happened"),
    ],
)
def test_console_has_time_level_and_sentence(output: Output, level: str, text: str) -> None:
    assert text == console(output, Event("thing.happened", level, "something happened", ""), version=7)


def test_console_shows_place_excerpt_and_hint(output: Output) -> None:
    text = console(
        output,
        events.MIGRATION_FAILED,
        database="app.db",
        version=7,
        name="add_users",
        reason="no such table: user",
        file="7_add_users.sql",
        line=3,
        column=5,
        excerpt="SELECT * FROM user\n              ^",
        hint="mend it",
    )

    assert text == (
        "error   7_add_users failed in app.db: no such table: user\n"
        "         at 7_add_users.sql:3:5\n"
        "         SELECT * FROM user\n"
        "                       ^\n"
        "         hint: mend it"
    )


def test_console_shows_both_checksums(output: Output) -> None:
    assert console(output, PLAIN, expected="aa", found="bb") == (
        "info    something happened\n         expected aa\n         found    bb"
    )


FOR_PROGRAMS: list[tuple[Event, dict[str, object]]] = [
    (events.MIGRATION_APPLYING, {}),
    (events.MIGRATION_ROLLING_BACK, {}),
    (events.DAEMON_ALIVE, {}),
    (events.RUN_FINISHED, {"outcome": "failed"}),
    (events.RUN_FINISHED, {"outcome": "refused"}),
    (events.RUN_FINISHED, {"outcome": "unavailable"}),
    (events.RUN_FINISHED, {"outcome": "applied", "applied": 1, "pending": 0}),
]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_console_omits_redundant_lines_and_json_none(output: Output, log_format: str, level: str) -> None:
    log = output.log(log_format, level)
    for event, keys in FOR_PROGRAMS:
        log(event, **keys)
    log(events.MIGRATION_APPLIED)

    assert len(output.raw()) == (1 if (log_format, level) == ("console", "info") else 1 + len(FOR_PROGRAMS))


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"applied": 2, "pending": 0}, id="several"),
        pytest.param({"applied": 1, "pending": 1}, id="something left"),
        pytest.param({"applied": 0, "pending": 1, "direction": "down"}, id="rolled back"),
    ],
)
def test_console_shows_a_summary_of_several_migrations(output: Output, keys: dict[str, object]) -> None:
    assert "app.db: applied" in console(output, events.RUN_FINISHED, database="app.db", outcome="applied", **keys)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Return the reading and the writing end of a terminal."""
    reading, writing = os.openpty()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def read_line(descriptor: int) -> str:
    """Read a whole line; a terminal may deliver it in pieces."""
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(descriptor, 4096)
    return text.decode()


@pytest.mark.parametrize("log_format", ["auto", "console"])
@pytest.mark.parametrize(
    ("level", "coloured"),
    [
        ("debug", "<2>TIME debug   something happened<0>"),
        ("info", "<2>TIME info    <0>something happened"),
        ("warning", "<2>TIME<0> <33>warning something happened<0>"),
        ("error", "<2>TIME<0> <31>error   something happened<0>"),
        ("critical", "<2>TIME<0> <31;1>critical something happened<0>"),
    ],
)
def test_terminal_has_colours(terminal: tuple[int, int], log_format: str, level: str, coloured: str) -> None:
    reading, writing = terminal
    logger.configure(log_format, "debug", writing)(Event("thing.happened", level, "something happened", ""))

    text = re.sub(r"\033\[([0-9;]+)m", r"<\1>", read_line(reading))

    assert re.sub(CLOCK, "TIME", text, flags=re.ASCII) == f"{coloured}\r\n"


def test_no_color_is_obeyed(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = terminal
    monkeypatch.setenv("NO_COLOR", "1")
    logger.configure("auto", "info", writing)(Event("thing.happened", "error", "something happened", ""))

    assert re.fullmatch(rf"{CLOCK} error   something happened\r\n", read_line(reading))


def test_empty_no_color_is_ignored(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: only a non-empty value counts."""
    reading, writing = terminal
    monkeypatch.setenv("NO_COLOR", "")
    logger.configure("auto", "info", writing)(Event("thing.happened", "error", "something happened", ""))

    assert "\033[31m" in read_line(reading)


def test_colours_are_only_on_a_terminal(output: Output) -> None:
    output.log("console")(Event("thing.happened", "error", "something happened", ""))

    assert "\033" not in output.text()


def test_json_on_a_terminal_when_asked_for(terminal: tuple[int, int]) -> None:
    reading, writing = terminal
    logger.configure("json", "info", writing)(PLAIN)

    assert plain() == without_time(strictly(os.read(reading, 4096)))


def test_auto_is_json_without_a_terminal(output: Output) -> None:
    output.log("auto")(PLAIN)

    assert plain() == output.line()


# The events

PROMISED = {
    f"{thing}.{happened}"
    for thing, many in {
        "daemon": "starting as_root ready reloaded reload_failed paused resumed alive stopping stopped",
        "control": "unavailable",
        "config": "loaded",
        "watch": "started lost restored",
        "files": "changed",
        "file": "ignored draft invalid",
        "lock": "waiting held",
        "database": "discovered created unavailable recovered blocked unblocked",
        "migration": "applying applied rolling_back rolled_back progress failed missing late updated",
        "rows": "put_back left_out",
        "checksum": "mismatch",
        "snapshot": "taken skipped restored",
        "schema": "dumped dump_failed drifted objects_dropped",
        "internal": "error",
        "hook": "finished failed",
        "metrics": "failed",
        "run": "finished",
        "fleet": "halted resumed finished",
    }.items()
    for happened in many.split()
}
KEYS = {
    *("database", "version", "name", "file", "checksum", "expected", "found", "direction", "execution_time_ms"),
    *("rows_changed", "statement", "line", "column", "pending", "applied", "outcome", "reason", "hint", "holder"),
    *("program_version", "statement_number", "statement_count", "snapshot", "size"),
    *("databases", "current", "blocked", "unavailable", "untouched", "repeated"),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_event_name_has_a_subject_and_a_verb(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", event.name)
    assert event.name in PROMISED


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_event_has_a_level_a_sentence_and_a_meaning(event: Event) -> None:
    assert event.level in {"debug", "info", "warning", "error", "critical"}
    assert event.sentence
    assert event.meaning


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_sentence_uses_only_existing_keys(event: Event) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(event.sentence) if field is not None}

    assert fields - KEYS - {"migration"} == set()


@pytest.mark.parametrize(
    ("keys", "label"),
    [({"version": 7, "name": "users"}, "7_users"), ({"name": "R__views"}, "R__views"), ({"version": 7}, "?")],
)
def test_message_names_a_migration_by_its_label(output: Output, keys: dict[str, object], label: str) -> None:
    output.log("json")(Event("thing.happened", "info", "applied {migration}", ""), **keys)

    assert output.line()["message"] == f"applied {label}"


def test_no_two_events_have_one_name() -> None:
    defined = [event.name for event in vars(events).values() if isinstance(event, Event)]

    assert sorted(defined) == sorted(EVENTS)


def pipe() -> tuple[int, int]:
    return os.pipe()


def journal() -> tuple[int, int]:
    """A socket like the one that systemd connects to a service's standard error."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("connect", [pipe, journal])
def test_stuck_reader_does_not_block_and_gets_the_lost_count(
    monkeypatch: pytest.MonkeyPatch, log_format: str, connect: Callable[[], tuple[int, int]]
) -> None:
    """The pipe takes a few lines, the queue 2000; later lines are dropped and counted."""
    monkeypatch.setattr(sink, "_TIMEOUT_SECONDS", 0.1)
    reading, writing = connect()
    log = logger.configure(log_format, "info", writing, queued=True)
    sent = 3 * sink.QUEUED_LINES
    for number in range(sent):
        log(PLAIN, version=number)
    received: list[dict[str, object]] = []
    with os.fdopen(reading, "rb") as lines:
        read = (own_keys(strictly(line), log_format) for line in lines)
        reader = threading.Thread(target=lambda: received.extend(read))
        reader.start()
        while not any("lost_lines" in line for line in received):
            log(PLAIN, hint="more")
            sent += 1
            reader.join(0.01)
        # What is queued shall be written, however slow this machine is.
        monkeypatch.setattr(sink, "_TIMEOUT_SECONDS", 30)
        log.close()
        os.close(writing)
        reader.join()
    lost = sum(int(str(line.get("lost_lines", 0))) for line in received)
    numbers = [line["version"] for line in received if "version" in line]

    assert numbers == list(range(len(numbers)))
    assert 0 < lost == sent - len(received)


def test_queued_lines_are_written_before_the_end(output: Output) -> None:
    log = logger.configure("json", "info", output.descriptor, queued=True)
    for number in range(100):
        log(PLAIN, version=number)
    log.close()

    assert [line["version"] for line in output.lines()] == list(range(100))
