"""Refusals before a run: unfinished migrations, edited executed statements, mixed directives."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.core.errors import ChecksumMismatchError, RefusedError, UnfinishedError
from migrated.core.migration import Directive, Migration, MigrationDirection, Origin, Step
from migrated.core.records import AppliedMigration, Unfinished
from migrated.core.refusals import refuse_by_policy, refuse_mixture, refuse_other_beginning, refuse_unfinished
from migrated.core.status import MigrationState, OnLate, OnMissing, Policy, examine

WHEN = datetime(2024, 1, 1, tzinfo=UTC)
UP, DOWN = MigrationDirection.UP, MigrationDirection.DOWN
NO_TRANSACTION, FOREIGN_KEYS = "-- migrated: no-transaction\n", "-- migrated: foreign-keys=on\n"


def migration(version: int, up: str = "SELECT 1;", down: str | None = "SELECT 2;") -> Migration:
    return Migration(version, f"m{version}", up, down, origin=Origin(f"{version}_m{version}.sql"))


def entry(version: int, up: str = "SELECT 1;") -> AppliedMigration:
    return AppliedMigration(version, f"m{version}", Migration.compute_checksum(up), WHEN, 0)


def unfinished(recorded: Migration, statement: int = 1, direction: MigrationDirection = UP) -> Unfinished:
    return Unfinished(recorded, direction, statement, 3, WHEN, "host", 7)


# Until it is settled


@pytest.mark.parametrize("direction", MigrationDirection)
def test_unfinished_migration_is_refused_with_a_repair_hint(direction: MigrationDirection) -> None:
    statuses = examine([migration(1), migration(2)], [entry(1)], unfinished(migration(2), direction=direction))

    with pytest.raises(UnfinishedError) as refused:
        refuse_unfinished(statuses)

    going = "" if direction is UP else "the rollback of "
    assert refused.value.message == (
        f"{going}2_m2 stopped after statement 1 of 3: the executed statements stay in effect"
    )
    assert (refused.value.version, refused.value.name, refused.value.file) == (2, "m2", "2_m2.sql")
    assert refused.value.offenders == (statuses[1],)
    for word in ("migrated repair 2", "--resume", "--mark-applied", "--forget"):
        assert word in str(refused.value.hint)
    assert not refused.value.transient


def test_there_is_no_refusal_without_an_unfinished_migration() -> None:
    refuse_unfinished(examine([migration(1), migration(2)], [entry(1), entry(3)]))


@pytest.mark.parametrize("policy", [Policy(), Policy(on_missing=OnMissing.IGNORE), Policy(on_late=OnLate.REFUSE)])
def test_unfinished_is_the_most_serious_and_every_offender_is_named(policy: Policy) -> None:
    changed, missing, late = entry(1, "SELECT 'other'"), entry(5), migration(3)
    statuses = examine([migration(1), migration(2), late], [changed, missing, entry(6)], unfinished(migration(2)))

    with pytest.raises(UnfinishedError) as refused:
        refuse_by_policy(statuses, policy)

    named = [1, 2]
    named += [3] if policy.on_late is OnLate.REFUSE else []
    named += [5, 6] if policy.on_missing is OnMissing.REFUSE else []
    assert [status.version for status in refused.value.offenders] == named
    assert refused.value.message.startswith("2_m2 stopped after statement 1 of 3")
    assert "1_m1 was changed" in refused.value.message


# An edited beginning

DONE = ["CREATE TABLE a (x)", "INSERT INTO a VALUES (';')", "SELECT 'é'"]


def text(*statements: str, between: str = "\n") -> str:
    return NO_TRANSACTION + between.join(f"{one};" for one in statements)


@pytest.mark.parametrize("direction", MigrationDirection)
@pytest.mark.parametrize(
    "now",
    [
        text(*DONE),
        text(*DONE[:2], "SELECT 'other'"),
        text(*DONE[:2], "SELECT 4", "SELECT 5"),
        text(*DONE[:2], "SELECT 4").rstrip(";"),
        text(*DONE, between="\n\n-- a comment; of many words\n"),
        text(*DONE, between=" /* ; */ "),
        f"{DONE[0]};{DONE[1]};{DONE[2]}",
    ],
)
def test_changed_rest_and_layout_can_be_resumed(now: str, direction: MigrationDirection) -> None:
    recorded = migration(1, text(*DONE), text(*DONE))

    refuse_other_beginning(unfinished(recorded, 2, direction), migration(1, now, now))


@pytest.mark.parametrize("direction", MigrationDirection)
@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (text("CREATE TABLE a (y)", *DONE[1:]), "statement 1 has been executed and was changed since"),
        (
            text(DONE[0], "INSERT INTO a VALUES (7)", DONE[2]),
            "statement 2 has been executed and was changed since",
        ),
        (text(DONE[1], DONE[0], DONE[2]), "statement 1 has been executed and was changed since"),
        (text(DONE[0], DONE[2]), "statement 2 has been executed and was changed since"),
        (text(DONE[0]), "statement 2 has been executed and was changed since"),
        (text("SELECT 0", *DONE), "statement 1 has been executed and was changed since"),
        (text("create table a (x)", *DONE[1:]), "statement 1 has been executed and was changed since"),
        (text(*DONE[:2]), "no statement is left to run"),
        ("", "statement 1 has been executed and was changed since"),
    ],
)
def test_changed_executed_statement_is_refused(now: str, reason: str, direction: MigrationDirection) -> None:
    recorded = migration(1, text(*DONE), text(*DONE))
    present = migration(1, now, now)

    with pytest.raises(ChecksumMismatchError) as refused:
        refuse_other_beginning(unfinished(recorded, 2, direction), present)

    assert refused.value.message == f"1_m1 cannot be resumed: {reason}"
    assert (refused.value.expected, refused.value.found) == (recorded.checksum, present.checksum)
    assert (refused.value.version, refused.value.file) == (1, "1_m1.sql")
    assert "--mark-applied" in str(refused.value.hint)


@given(
    st.lists(st.sampled_from(DONE), min_size=2, max_size=6),
    st.lists(st.sampled_from(DONE), min_size=1, max_size=6),
    st.data(),
)
def test_resume_needs_the_executed_statements_and_at_least_one_more(
    was: list[str], now: list[str], data: st.DataObject
) -> None:
    done = data.draw(st.integers(1, len(was) - 1))
    open_one, present = unfinished(migration(1, text(*was)), done), migration(1, text(*now))

    if now[:done] == was[:done] and len(now) > done:
        refuse_other_beginning(open_one, present)
    else:
        with pytest.raises(ChecksumMismatchError):
            refuse_other_beginning(open_one, present)


# What cannot be together


def steps(*tops: str, direction: MigrationDirection = UP) -> list[Step]:
    return [
        Step(migration(number, f"{top}SELECT 1", f"{top}SELECT 2"), direction)
        for number, top in enumerate(tops, 1)
    ]


@pytest.mark.parametrize("tops", [["", ""], [FOREIGN_KEYS, FOREIGN_KEYS], ["", "", ""]])
@pytest.mark.parametrize("direction", MigrationDirection)
def test_steps_with_equal_directives_share_a_transaction(tops: list[str], direction: MigrationDirection) -> None:
    refuse_mixture(steps(*tops, direction=direction), [])


@pytest.mark.parametrize("direction", MigrationDirection)
@pytest.mark.parametrize(
    ("tops", "odd", "directive"),
    [
        (["", NO_TRANSACTION], [2], Directive.NO_TRANSACTION),
        ([NO_TRANSACTION, NO_TRANSACTION, ""], [1, 2], Directive.NO_TRANSACTION),
        (["", FOREIGN_KEYS, "", FOREIGN_KEYS], [2, 4], Directive.FOREIGN_KEYS_ON),
        ([FOREIGN_KEYS, NO_TRANSACTION], [2], Directive.NO_TRANSACTION),
        ([NO_TRANSACTION + FOREIGN_KEYS, FOREIGN_KEYS], [1], Directive.NO_TRANSACTION),
        ([NO_TRANSACTION, NO_TRANSACTION], [1, 2], Directive.NO_TRANSACTION),
    ],
)
def test_steps_with_other_directives_are_refused_by_name(
    tops: list[str], odd: list[int], directive: Directive, direction: MigrationDirection
) -> None:
    of = steps(*tops, direction=direction)
    statuses = examine([step.migration for step in of], [])

    with pytest.raises(RefusedError) as refused:
        refuse_mixture(of, statuses)

    labels = ", ".join(f"{number}_m{number}" for number in odd)
    assert refused.value.message == (
        f'with transaction = "run" {labels} cannot share a transaction: it has the directive {directive}'
    )
    assert (refused.value.version, refused.value.exit_code) == (odd[0], 4)
    assert [status.version for status in refused.value.offenders] == odd
    assert {status.state for status in refused.value.offenders} == {MigrationState.PENDING}
    assert "it alone" in str(refused.value.hint)
