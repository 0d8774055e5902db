"""Log lines on a terminal; colours are shown as <number>."""

import re

import pytest

from migrated.logs import events
from migrated.logs.console import Console
from migrated.logs.events import Event

PLAIN = Event("thing.happened", "info", "something happened", "")
DIFF = "--- as applied then\n+++ 7_m.sql\n@@ -1,2 +1,2 @@\n same\n-old\n+new\n… 3 more lines: migrated diff 7"
LONG_AGO = DIFF.replace("then", "long ago")


def line(event: Event, **keys: object) -> dict[str, object]:
    said = {"migration": f"{keys.get('version')}_{keys.get('name')}", "database": "app.db"}
    message = event.sentence.format_map(said | {"reason": "it did not work"} | keys)
    common = {"timestamp": "2024-01-01T12:00:00.000000Z", "level": event.level, "event": event.name}
    return {**common, "message": message, "database": "app.db", **keys}


def mismatch(**keys: object) -> dict[str, object]:
    keys = {"run_id": "r1", "version": 7, "name": "m", "reason": "statements differ", "difference": DIFF} | keys
    return line(events.CHECKSUM_MISMATCH, **keys)


def shown(line: dict[str, object], console: Console | None = None, *, colours: bool = False) -> list[str]:
    """Return the rendered rows without the time, with their colours."""
    text = (console or Console(colours=colours))(line).decode()
    first, *rest = re.sub(r"\033\[([0-9;]+)m", r"<\1>", text).split("\n")
    assert "12:00:00" in first
    return [first.replace("12:00:00 ", "").replace("<2>12:00:00<0> ", ""), *rest]


# Colours


@pytest.mark.parametrize(
    ("event", "text"),
    [
        pytest.param(events.MIGRATION_APPLIED, "<32>applied 7_m<0> to app.db in 3 ms", id="applied"),
        pytest.param(events.MIGRATION_ROLLED_BACK, "<32>rolled back 7_m<0> in app.db in 3 ms", id="rolled back"),
        pytest.param(events.DATABASE_UNBLOCKED, "<32>app.db is no longer blocked<0>", id="unblocked"),
        pytest.param(PLAIN, "something happened", id="anything else"),
    ],
)
def test_success_is_green_up_to_the_migration(event: Event, text: str) -> None:
    (row,) = shown(line(event, version=7, name="m", execution_time_ms=3), colours=True)

    assert row == f"<2>info    <0>{text}"


def test_secondary_line_is_dim() -> None:
    assert shown(line(events.CONFIG_LOADED), colours=True) == ["<2>info    configuration: it did not work<0>"]


def test_failure_has_red_sentence_and_caret() -> None:
    keys = {
        "version": 7,
        "name": "m",
        "file": "7_m.sql",
        "line": 3,
        "excerpt": "3 | SELEC\n  | ^",
        "hint": "mend it",
    }

    assert shown(line(events.MIGRATION_FAILED, **keys), colours=True) == [
        "<31>error   7_m failed in app.db: it did not work<0>",
        "         at 7_m.sql:3:1",
        "         3 | SELEC",
        "         <31>  | ^<0>",
        "         <36>hint:<0> mend it",
    ]


def test_difference_is_coloured_as_diff_does() -> None:
    assert shown(mismatch(), colours=True) == [
        "<31>error   7_m was changed after it was applied to app.db: statements differ<0>",
        "         <1>--- as applied then<0>",
        "         <1>+++ 7_m.sql<0>",
        "         <36>@@ -1,2 +1,2 @@<0>",
        "          same",
        "         <31>-old<0>",
        "         <32>+new<0>",
        "         <2>… 3 more lines: migrated diff 7<0>",
    ]


@pytest.mark.parametrize("event", [PLAIN, events.MIGRATION_APPLIED, events.CONFIG_LOADED, events.MIGRATION_FAILED])
def test_there_are_no_escape_sequences_without_colours(event: Event) -> None:
    rows = shown(line(event, version=7, name="m", execution_time_ms=3, excerpt="S\n^", difference=DIFF, hint="h"))

    assert "<" not in "".join(rows)


@pytest.mark.parametrize("colours", [True, False])
def test_control_characters_are_escaped(*, colours: bool) -> None:
    nasty = "a\x1b[2Jb\r\x07\x9b"
    keys = {"file": nasty, "line": 1, "excerpt": nasty, "hint": nasty, "reason": nasty, "version": 7, "name": "m"}
    for event in (events.MIGRATION_FAILED, events.CONFIG_LOADED):
        text = "\n".join(shown(line(event, **keys, difference=f"-{nasty}"), colours=colours))

        assert re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text) == []
        assert r"a\x1b[2Jb\x0d\x07\x9b" in text


# What changed


def test_checksums_are_shown_where_the_difference_cannot_be() -> None:
    known = shown(mismatch(expected="aa", found="bb"))
    unknown = shown(mismatch(expected="aa", found="bb", difference=None))

    assert [row for row in known if "aa" in row or "bb" in row] == []
    assert unknown[1:] == ["         expected aa", "         found    bb"]


def test_same_difference_is_shown_once_for_all_databases_of_a_run() -> None:
    console = Console(colours=False)
    rows = [
        shown(mismatch(**keys), console)[1:]
        for keys in (
            {},
            {"database": "b.db", "difference": LONG_AGO},
            {"database": "b.db", "version": 8},
            {"database": "c.db", "difference": DIFF.replace("old", "older")},
            {"run_id": "r2", "difference": DIFF.replace("old", "older")},
        )
    ]

    assert [len(each) for each in rows] == [7, 1, 7, 7, 7]
    assert rows[1] == ["         the difference is the one shown above"]


def test_repeated_line_omits_the_difference() -> None:
    assert shown(mismatch(repeated=1)) == [
        "error   7_m was changed after it was applied to app.db: statements differ"
    ]


# What is blocked


@pytest.mark.parametrize(
    ("kind", "repeated"),
    [
        ("ChecksumMismatchError", None),
        ("ChecksumMismatchError", 1),
        ("MigrationNotFoundError", 1),
        ("LateMigrationError", 1),
        ("ExecutionFailedError", None),
        ("RollbackFailedError", None),
    ],
)
def test_blocked_line_omits_a_cause_already_shown(kind: str, repeated: int | None) -> None:
    keys = {"error": {"type": kind}, "repeated": repeated, "expected": "aa", "found": "bb", "hint": "mend it"}

    assert shown(line(events.DATABASE_BLOCKED, **keys)) == ["error   app.db is blocked until this is fixed"]


@pytest.mark.parametrize(
    ("kind", "repeated"),
    [("UnfinishedError", None), ("RefusedError", None), ("ExecutionFailedError", 1), ("RollbackFailedError", 2)],
)
def test_blocked_line_shows_a_cause_not_shown_before(kind: str, repeated: int | None) -> None:
    keys = {"error": {"type": kind}, "repeated": repeated, "hint": "mend it"}

    assert shown(line(events.DATABASE_BLOCKED, **keys)) == [
        "error   app.db is blocked: it did not work",
        "         hint: mend it",
    ]
