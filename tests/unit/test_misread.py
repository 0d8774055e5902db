"""Migrations whose whole file was executed as the UP section: detection and messages."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.core.errors import ChecksumMismatchError, DatabaseError
from migrated.core.migration import Migration, MigrationDirection
from migrated.core.misread import Misreading, misreading, misreadings
from migrated.core.records import AppliedMigration, Unfinished
from migrated.core.refusals import refuse_changed, refuse_misread
from migrated.core.status import examine
from migrated.sources.formats.native import FileName, decode, parse_migration

HEADER = "-- Migration: m\n-- Version: 1\n\n"
UP, DOWN = "CREATE TABLE t (x);", "DROP TABLE t;"
BOTH, ONLY_UP = f"-- UP\n{UP}\n-- DOWN\n{DOWN}\n", f"-- UP\n{UP}\n"
KEYS = "-- migrated: foreign-keys=on\n"


def parsed(text: str, version: int = 1) -> Migration:
    return parse_migration(FileName(version, "m"), text.encode(), file=f"{version}_m.sql")


def executed(text: str, version: int = 1) -> Migration:
    """Return a file as the faulty parser read it: the whole file is the UP section."""
    return Migration(version, "m", decode(text.encode()).strip())


def judged(text: str, present: str | None = None) -> Misreading | None:
    whole = executed(text)
    return misreading(whole.checksum, parsed(text if present is None else present), whole)


@pytest.mark.parametrize("header", ["", HEADER, "/* a comment */\n", "\n\n", "-- a note; of many words\n"])
@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (f"-- UP\n{UP}\n\n-- DOWN\n{DOWN}\n", Misreading.DOWN_RAN_AFTER),
        (f"-- up\n{UP[:-1]}\n--DOWN \n{DOWN}", Misreading.DOWN_RAN_AFTER),
        (f"-- UP\n{KEYS}{UP}\n-- DOWN\n{DOWN}\n", Misreading.DOWN_RAN_AFTER),
        (f"-- DOWN\n{DOWN}\n-- UP\n{UP}\n", Misreading.DOWN_RAN_BEFORE),
        (f"-- UP\n{UP}\n", Misreading.HARMLESS),
        (f"-- UP\n{UP}\n-- DOWN\n-- migrated: nothing-to-undo\n", Misreading.HARMLESS),
        (f"-- UP\n-- migrated: no-transaction\n{UP}\n-- DOWN\n", Misreading.HARMLESS),
        (f"-- UP\n-- migrated: nothing-to-do\n-- DOWN\n{DOWN}\n", Misreading.DOWN_RAN_AFTER),
        (f"-- UP\n{KEYS}DELETE FROM t;\n-- DOWN\n", Misreading.HARMLESS),
        (f"{KEYS}-- UP\nDELETE FROM t;\n", Misreading.HARMLESS),
        ("-- UP\nCREATE TRIGGER g AFTER INSERT ON t BEGIN\n-- DOWN\nSELECT 1; END;\n", Misreading.HARMLESS),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_whole_file_execution_is_recognised_with_its_consequence(
    header: str, rest: str, expected: Misreading, end: str
) -> None:
    text = (header + rest).replace("\n", end)

    assert judged(text) is expected


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (f"-- UP\n{UP}\n-- DOWN\n{DOWN}\n", "-- UP\nCREATE TABLE t (y);\n"),
        (f"-- UP\n{UP}\n-- DOWN\n{DOWN}\n", f"-- UP\n{DOWN}\n"),
        # All of the present text is in the one that was executed, and is not its UP section.
        (f"-- UP\n{UP}\nSELECT 1;\n", f"-- UP\n{UP}\n"),
        (f"{UP}\nSELECT 1;\n", f"-- UP\n{UP}\n"),
        (f"-- UP\nSELECT 1;\n-- DOWN\n{UP}\n", f"-- UP\n{UP}\n"),
        (f"{UP}\n/*\n-- DOWN\n*/\nSELECT 1;", UP),
        # No file may have such a text.
        (f"-- UP\n{UP}\n-- UP\n{DOWN}", f"-- UP\n{UP}\n"),
        (f"SELECT 1;\n-- UP\n{UP}", f"-- UP\n{UP}\n"),
    ],
)
def test_edited_migration_is_not_misread(then: str, now: str) -> None:
    assert judged(then, now) is None


def test_edited_migration_is_ruled_out_without_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("migrated.core.misread.read_comments")

    assert judged(f"-- UP\n{UP}\n-- DOWN\n{DOWN}\n", "-- UP\nSELECT 'edited';\n") is None


def test_stopped_migration_is_not_misread() -> None:
    """The refusal of a stopped migration has its own hint."""
    whole = executed(BOTH)
    entry = AppliedMigration(1, "m", whole.checksum, datetime.now(UTC), 0)
    stopped = Unfinished(whole, MigrationDirection.DOWN, 1, 2, datetime.now(UTC), "host", 7)

    assert misreadings(examine([parsed(BOTH)], [entry]), {1: whole}) == {1: Misreading.DOWN_RAN_AFTER}
    assert misreadings(examine([parsed(BOTH)], [entry], stopped), {1: whole}) == {}


def test_recorded_text_with_another_checksum_is_ignored() -> None:
    text = f"-- UP\n{UP}\n-- DOWN\n{DOWN}\n"
    whole, present = executed(text), parsed(text)

    assert misreading(whole.checksum, present, None) is None
    assert misreading(Migration.compute_checksum("SELECT 1"), present, whole) is None
    assert misreading(present.checksum, present, whole) is None


@given(
    st.sampled_from(["", HEADER, "-- x\n"]),
    st.lists(st.sampled_from([UP, "SELECT ';';", "-- c\n", "/* d */", "SELECT 1 -- DOWN\n;"]), min_size=1),
    st.none() | st.lists(st.sampled_from([DOWN, "-- c", "SELECT 2;"])),
)
def test_every_file_with_markers_is_recognised(header: str, up: list[str], down: list[str] | None) -> None:
    text = f"{header}-- UP\n" + "\n".join(up) + ("" if down is None else "\n-- DOWN\n" + "\n".join(down))
    undoes = parsed(text).down_sql is not None

    assert judged(text) is (Misreading.DOWN_RAN_AFTER if undoes else Misreading.HARMLESS)


# The words


def refused(*texts: str, edited: int | None = None) -> ChecksumMismatchError:
    """Return the refusal of files executed as a whole, from version 1 on; one was edited later."""
    wholes = {version: executed(text, version) for version, text in enumerate(texts, 1)}
    files = [parsed(text, version) for version, text in enumerate(texts, 1)]
    if edited:
        files[edited - 1] = parsed("-- UP\nSELECT 'edited';\n", edited)
    ledger = [AppliedMigration(each.version, "m", each.checksum, datetime.now(UTC), 0) for each in wholes.values()]
    with pytest.raises(ChecksumMismatchError) as raised:
        refuse_changed(examine(files, ledger), lambda versions: {version: wholes[version] for version in versions})
    assert set(raised.value.recorded) == set(wholes)
    return raised.value


def test_refusal_says_what_happened_and_what_to_do() -> None:
    refusal = refused(BOTH)

    assert refusal.message == (
        "1_m was read wrongly by an earlier version of migrated when it was applied: its whole file was executed "
        "as the UP section; the DOWN section ran right after UP, so the tables that UP made are probably gone "
        f"(expected checksum {executed(BOTH).checksum}, found {parsed(BOTH).checksum})"
    )
    assert refusal.hint == (
        "1_m: look at the schema; if what UP makes is missing, `migrated repair 1 --forget` records it as not "
        "applied and `migrated up` applies it; if it is there, repaired by hand, "
        "`migrated repair 1 --mark-applied` accepts the file as it is; see `migrated help repair`"
    )
    assert (refusal.expected, refusal.found) == (executed(BOTH).checksum, parsed(BOTH).checksum)
    assert (refusal.exit_code, refusal.code) == (4, "CHECKSUM_MISMATCH")


def test_hint_has_one_remedy_for_each_kind() -> None:
    refusal = refused(ONLY_UP, BOTH, BOTH, BOTH, edited=3)

    assert [part[:4] for part in refusal.message.split("; ") if "_m " in part] == [
        "1_m ",
        "2_m ",
        "3_m ",
        "4_m ",
    ]
    assert "3_m was changed after it was applied: expected checksum" in refusal.message
    assert refusal.hint == (
        "`migrated diff 3` shows what changed; restore the text that was applied (only the UP section counts) and "
        "make the change a new migration; "
        "for each of 2_m, 4_m: look at the schema; if what UP makes is missing, "
        "`migrated repair VERSION --forget` records it as not applied and `migrated up` applies it; "
        "if it is there, repaired by hand, "
        "`migrated repair VERSION --mark-applied` accepts the file as it is; "
        "1_m: `migrated repair 1 --mark-applied` accepts the file as it is; see `migrated help repair`"
    )


def test_history_is_read_only_for_changed_migrations() -> None:
    whole, present = executed(BOTH, 2), parsed(BOTH, 2)
    other = Migration(1, "m", "SELECT 1")
    ledger = [
        AppliedMigration(each.version, each.name, each.checksum, datetime.now(UTC), 0) for each in (other, whole)
    ]
    statuses = examine([other, present], ledger)
    asked: list[list[int]] = []

    def recorded(versions: list[int]) -> dict[int, Migration]:
        asked.append(versions)
        return {2: whole}

    with pytest.raises(ChecksumMismatchError, match="read wrongly"):
        refuse_changed(statuses, recorded)
    refuse_changed(statuses[:1], recorded)

    assert asked == [[2]]
    # Its text, as it is when it is not changed, is never judged.
    assert misreadings(statuses[:1], {1: executed("-- UP\nSELECT 1")}) == {}


def test_texts_that_cannot_be_read_do_not_hide_the_refusal() -> None:
    def unreadable(_versions: list[int]) -> dict[int, Migration]:
        raise DatabaseError("of a later version")

    ledger = [AppliedMigration(1, "m", executed(BOTH).checksum, datetime.now(UTC), 0)]
    with pytest.raises(ChecksumMismatchError, match="1_m was changed after it was applied"):
        refuse_changed(examine([parsed(BOTH)], ledger), unreadable)


@pytest.mark.parametrize(("stuck", "is_refused"), [(1, True), (2, False), (None, False)])
def test_rollback_of_a_misread_migration_without_a_down_text_is_refused(
    stuck: int | None, *, is_refused: bool
) -> None:
    whole, edited = executed(BOTH), Migration(2, "m", "SELECT 'then'")
    ledger = [
        AppliedMigration(each.version, each.name, each.checksum, datetime.now(UTC), 0) for each in (whole, edited)
    ]
    statuses = examine([parsed(BOTH), Migration(2, "m", "SELECT 'now'")], ledger)

    if not is_refused:
        refuse_misread(statuses, stuck, lambda _versions: {1: whole, 2: edited})
        return
    with pytest.raises(ChecksumMismatchError) as refusal:
        refuse_misread(statuses, stuck, lambda _versions: {1: whole, 2: edited})
    assert [offender.version for offender in refusal.value.offenders] == [1]
