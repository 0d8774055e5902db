from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrated.core.errors import (
    ChecksumMismatchError,
    LateMigrationError,
    MigrationNotFoundError,
    RefusedError,
    RollbackFailedError,
)
from migrated.core.migration import Migration, MigrationDirection, Origin, Step
from migrated.core.plan import (
    MigrationPlan,
    applied_above,
    leading_group,
    newest_applied,
    plan_down,
    plan_to,
    plan_up,
)
from migrated.core.records import AppliedMigration, Unfinished
from migrated.core.refusals import refuse_by_policy, refuse_changed
from migrated.core.status import MigrationState, OnLate, OnMissing, Policy, examine, missing_versions, pending

WHEN = datetime(2024, 1, 1, tzinfo=UTC)
UP, DOWN = MigrationDirection.UP, MigrationDirection.DOWN
STRICT = Policy(on_late=OnLate.REFUSE)
IGNORING = Policy(on_missing=OnMissing.IGNORE)


def migration(version: int, up: str | None = None, down: str | None = "SELECT 'down';") -> Migration:
    up = f"SELECT {version};" if up is None else up
    return Migration(version, f"m{version}", up, down, origin=Origin(f"{version}_m{version}.sql"))


def changed(version: int) -> Migration:
    return migration(version, f"SELECT {version}, 'other';")


def draft(version: int) -> Migration:
    return migration(version, "-- to do")


def applied(*of: Migration | int) -> list[AppliedMigration]:
    migrations = [each if isinstance(each, Migration) else migration(each) for each in of]
    return [AppliedMigration(m.version, m.name, m.checksum, WHEN, 0) for m in migrations]


def directory(*of: Migration | int) -> list[Migration]:
    return [each if isinstance(each, Migration) else migration(each) for each in of]


def nothing_recorded(_: list[int]) -> Mapping[int, Migration]:
    return {}


def must_not_be_asked(versions: list[int]) -> Mapping[int, Migration]:
    raise AssertionError(versions)


def versions(plan: MigrationPlan) -> tuple[MigrationDirection, list[int]]:
    return plan.direction, [step.version for step in plan.migrations]


# States


@pytest.mark.parametrize(
    ("available", "ledger", "states"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([migration(1)], [], [(1, "pending")], id="pending"),
        pytest.param([draft(1)], [], [(1, "draft")], id="draft"),
        pytest.param([migration(1)], applied(1), [(1, "applied")], id="applied"),
        pytest.param([migration(1, "SELECT 'other';")], applied(1), [(1, "changed")], id="changed"),
        pytest.param([draft(1)], applied(1), [(1, "changed")], id="changed to a draft"),
        pytest.param([draft(1)], applied(draft(1)), [(1, "applied")], id="a draft that is applied as it is"),
        pytest.param([], applied(1), [(1, "missing")], id="missing"),
        pytest.param([migration(1), migration(2)], applied(2), [(1, "late"), (2, "applied")], id="late"),
        pytest.param([draft(1), migration(2)], applied(2), [(1, "draft"), (2, "applied")], id="no late draft"),
        pytest.param([migration(1)], applied(2), [(1, "late"), (2, "missing")], id="late below a missing one"),
        pytest.param(
            [migration(3), migration(1, "SELECT 'other';"), draft(5), migration(6)],
            applied(4, 2, 1),
            [(1, "changed"), (2, "missing"), (3, "late"), (4, "missing"), (5, "draft"), (6, "pending")],
            id="all together, ascending",
        ),
        pytest.param(
            [migration(1, down="SELECT 'other';")], applied(1), [(1, "applied")], id="the down text does not count"
        ),
    ],
)
def test_state_of_every_version(
    available: list[Migration], ledger: list[AppliedMigration], states: list[tuple[int, str]]
) -> None:
    assert states == [(status.version, status.state.value) for status in examine(available, ledger)]


def test_status_has_migration_and_ledger_row() -> None:
    changed, missing = examine([migration(1, "SELECT 'other';")], applied(1, 2))

    assert (migration(1, "SELECT 'other';"), *applied(1)) == (changed.migration, changed.applied)
    assert (None, *applied(2)) == (missing.migration, missing.applied)


def test_renamed_migration_is_not_changed() -> None:
    renamed = Migration(1, "renamed", "SELECT 1;")

    (status,) = examine([renamed], applied(1))

    assert (status.state, status.label) == (MigrationState.APPLIED, "1_renamed")


def test_pending_is_a_set_difference_and_never_a_high_water_mark() -> None:
    statuses = examine(directory(1, 2, 3, draft(4), 5), applied(2, 3))

    assert directory(1, 5) == pending(statuses)


def test_missing_versions_are_those_without_a_file() -> None:
    assert missing_versions(examine(directory(2, 4), applied(1, 2, 3))) == [1, 3]


# Plans


@pytest.mark.parametrize(
    ("available", "ledger", "target", "planned"),
    [
        pytest.param([1, 2, 3], [], None, (UP, [1, 2, 3]), id="everything"),
        pytest.param([3, 1, 2], [], None, (UP, [1, 2, 3]), id="in ascending order"),
        pytest.param([1, 2, 3], [1, 2, 3], None, (UP, []), id="nothing left"),
        pytest.param([1, 2, 3], [2], None, (UP, [1, 3]), id="the gap too"),
        pytest.param([], [1, 2], None, (UP, []), id="never down without a target"),
        pytest.param([1, 2, 3], [], 2, (UP, [1, 2]), id="up to a target"),
        pytest.param([1, 2, 3], [1], 2, (UP, [2]), id="from where it is to a target"),
        pytest.param([1, 2, 3], [1, 2], 2, (UP, []), id="at the target"),
        pytest.param([1, 2, 3], [1, 2, 3], 2, (DOWN, [3]), id="down to a target"),
        pytest.param([1, 2, 3], [1, 2, 3], 1, (DOWN, [3, 2]), id="newest first"),
        pytest.param([1, 2, 3], [1, 2, 3], 0, (DOWN, [3, 2, 1]), id="down to empty"),
        pytest.param([1, 2, 3], [], 0, (UP, []), id="empty already"),
        pytest.param([], [], 0, (UP, []), id="nothing at all"),
        pytest.param([1, 2, 3], [1, 3], 1, (DOWN, [3]), id="down only what is applied"),
        pytest.param([1, 2, 3], [1, 3], 0, (DOWN, [3, 1]), id="a gap is not rolled back"),
        pytest.param([1, 2, 3], [1, 3], 2, (UP, [2]), id="a gap below the target comes first"),
        pytest.param([1, 2, 3], [2, 3], 1, (UP, [1]), id="a gap at the target comes first"),
        pytest.param([1, 2, 3], [3], 2, (UP, [1, 2]), id="several gaps"),
        pytest.param([1, draft(2), 3], [1, 3], 2, (DOWN, [3]), id="a draft is no gap"),
        pytest.param([1, draft(2)], [1], 2, (UP, []), id="a draft is a target"),
        pytest.param([1, 3], [1, 2, 3], 2, (DOWN, [3]), id="a missing one is a target"),
    ],
)
def test_plan(
    available: Sequence[Migration | int],
    ledger: Sequence[int],
    target: int | None,
    planned: tuple[MigrationDirection, list[int]],
) -> None:
    statuses = examine(directory(*available), applied(*ledger))

    assert planned == versions(plan_to(statuses, target, nothing_recorded))


@pytest.mark.parametrize("target", [4, 2, -1, 2**63])
def test_unknown_target_is_refused(target: int) -> None:
    statuses = examine(directory(1, 3), applied(1))

    with pytest.raises(MigrationNotFoundError) as caught:
        plan_to(statuses, target, nothing_recorded)

    assert str(caught.value) == (
        f"version {target} is unknown: it is neither among the migrations nor in the migrations table\n"
        "hint: `migrated status` lists the versions; 0 means an empty database"
    )
    assert caught.value.version == target


def test_history_is_not_read_for_a_plan_up() -> None:
    statuses = examine(directory(1, 2, 3), applied(3))

    assert versions(plan_to(statuses, 2, must_not_be_asked)) == (UP, [1, 2])


def test_history_is_read_for_a_rollback() -> None:
    asked: list[list[int]] = []

    def recorded(wanted: list[int]) -> Mapping[int, Migration]:
        asked.append(wanted)
        return {}

    plan_to(examine(directory(1, 2, 3), applied(1, 2, 3)), 1, recorded)

    assert asked == [[2, 3]]


def test_applied_above_ends_at_the_target() -> None:
    statuses = examine(directory(1, 2, 3, 4), applied(1, 2, 4))

    assert applied_above(statuses, 1) == [2, 4]
    assert applied_above(statuses, None) == []


@pytest.mark.parametrize(("steps", "newest"), [(0, []), (1, [4]), (2, [2, 4]), (3, [1, 2, 4]), (9, [1, 2, 4])])
def test_newest_applied_are_the_highest(steps: int, newest: list[int]) -> None:
    statuses = examine(directory(1, 2, 3, 4), applied(1, 2, 4))

    assert newest == newest_applied(statuses, steps)


# Which down text


OTHER = "SELECT 'recorded';"


@pytest.mark.parametrize(
    ("available", "recorded", "down"),
    [
        pytest.param([migration(1)], [], "SELECT 'down';", id="the file's"),
        pytest.param([migration(1)], [migration(1, down=OTHER)], "SELECT 'down';", id="not the record's"),
        pytest.param([migration(1, down=None)], [migration(1, down=OTHER)], OTHER, id="the file has none"),
        pytest.param([changed(1)], [migration(1, down=OTHER)], OTHER, id="the file is changed"),
        pytest.param([], [migration(1, down=OTHER)], OTHER, id="the file is missing"),
    ],
)
def test_rollback_takes_the_down_text_that_belongs_to_what_was_applied(
    available: list[Migration], recorded: list[Migration], down: str
) -> None:
    plan = plan_down(examine(available, applied(1)), {m.version: m for m in recorded}, [1])

    assert [(1, down)] == [(step.version, step.down_sql) for step in plan.migrations]


@pytest.mark.parametrize(
    ("available", "recorded"),
    [
        pytest.param([migration(1, down=None)], [], id="the file has none"),
        pytest.param([migration(1, down=None)], [migration(1, down=None)], id="nor has the record"),
        pytest.param([migration(1, down="-- none")], [], id="the file's holds no statement"),
        pytest.param([migration(1, "SELECT 'other';")], [], id="the changed file's does not count"),
        pytest.param([], [], id="neither file nor record"),
    ],
)
def test_rollback_without_a_down_text_is_refused(available: list[Migration], recorded: list[Migration]) -> None:
    statuses = examine(available, applied(1))

    with pytest.raises(RollbackFailedError) as caught:
        plan_down(statuses, {m.version: m for m in recorded}, [1])

    assert str(caught.value) == (
        "cannot roll back 1_m1: no down text\n"
        "hint: add a DOWN section (`-- migrated: nothing-to-undo` in it if there is nothing to undo); "
        "nothing was rolled back"
    )


def test_rollback_is_refused_as_a_whole_and_names_every_step_that_has_no_down_text() -> None:
    available = directory(1, migration(2, down=None), 3, migration(4, down=None), 5)
    statuses = examine(available, applied(*available))

    with pytest.raises(RollbackFailedError) as caught:
        plan_to(statuses, 1, nothing_recorded)

    assert caught.value.message == "cannot roll back 4_m4, 2_m2: no down text"
    assert (caught.value.version, caught.value.name) == (4, "m4")


def test_nothing_to_undo_counts_as_a_down_text() -> None:
    subject = migration(1, down="-- migrated: nothing-to-undo")

    assert versions(plan_down(examine([subject], applied(subject)), {}, [1])) == (DOWN, [1])


def test_only_what_is_applied_is_rolled_back() -> None:
    statuses = examine(directory(1, 2, 3), applied(1, 3))

    assert versions(plan_down(statuses, {}, [3, 2, 1, 9])) == (DOWN, [3, 1])


# Refusals


def mismatch(version: int) -> str:
    return (
        f"{version}_m{version} was changed after it was applied: "
        f"expected checksum {migration(version).checksum}, found {changed(version).checksum}"
    )


def how_changed(version: str = "") -> str:
    return (
        f"`migrated diff{version}` shows what changed; restore the text that was applied (only the UP section "
        "counts) and make the change a new migration"
    )


HOW_MISSING = (
    "restore the file, roll it back with `migrated down` (its down text was recorded), "
    'or set on_missing = "ignore"'
)
HOW_LATE = 'give them a higher version, or set on_late = "apply"'


@pytest.mark.parametrize(
    ("available", "ledger", "policy", "kind", "message", "hint", "offenders"),
    [
        pytest.param(
            [changed(1), migration(2), changed(3)],
            [1, 2, 3],
            Policy(),
            ChecksumMismatchError,
            f"{mismatch(1)}; {mismatch(3)}",
            how_changed(),
            [1, 3],
            id="changed",
        ),
        pytest.param(
            [migration(2)],
            [1, 2, 3],
            Policy(),
            MigrationNotFoundError,
            "applied, but no longer among the migrations: 1_m1, 3_m3",
            HOW_MISSING,
            [1, 3],
            id="missing",
        ),
        pytest.param(
            directory(1, 2, 3),
            [3],
            STRICT,
            LateMigrationError,
            "pending below the highest applied version: 1_m1, 2_m2",
            HOW_LATE,
            [1, 2],
            id="late",
        ),
        pytest.param(
            [migration(1), migration(3), changed(4)],
            [2, 3, 4],
            STRICT,
            ChecksumMismatchError,
            f"{mismatch(4)}; applied, but no longer among the migrations: 2_m2; "
            "pending below the highest applied version: 1_m1",
            f"{how_changed(' 4')}; {HOW_MISSING}; {HOW_LATE}",
            [1, 2, 4],
            id="all three",
        ),
        pytest.param(
            directory(1, 3),
            [2, 3],
            STRICT,
            MigrationNotFoundError,
            "applied, but no longer among the migrations: 2_m2; pending below the highest applied version: 1_m1",
            f"{HOW_MISSING}; {HOW_LATE}",
            [1, 2],
            id="missing before late",
        ),
        pytest.param(
            [changed(1)],
            [1, 2],
            IGNORING,
            ChecksumMismatchError,
            mismatch(1),
            how_changed(" 1"),
            [1],
            id="ignoring the missing does not ignore the changed",
        ),
    ],
)
def test_refusal_names_every_offender_and_has_the_most_serious_class(
    *,
    available: list[Migration],
    ledger: list[int],
    policy: Policy,
    kind: type[RefusedError],
    message: str,
    hint: str,
    offenders: list[int],
) -> None:
    with pytest.raises(RefusedError) as caught:
        refuse_by_policy(examine(available, applied(*ledger)), policy)

    assert type(caught.value) is kind
    assert message == caught.value.message
    assert caught.value.hint == f"{hint}; see `migrated help repair`"
    assert offenders == sorted(status.version for status in caught.value.offenders)


def test_offenders_come_lowest_version_first() -> None:
    statuses = examine([migration(1), migration(3), changed(4)], applied(2, 3, 4))

    with pytest.raises(RefusedError) as caught:
        refuse_by_policy(statuses, STRICT)

    assert [status.version for status in caught.value.offenders] == [1, 2, 4]


def test_mismatch_carries_the_first_ones_checksums_and_file() -> None:
    with pytest.raises(ChecksumMismatchError) as caught:
        refuse_changed(examine([changed(2), changed(3)], applied(2, 3)))

    error = caught.value
    assert (error.expected, error.found) == (migration(2).checksum, changed(2).checksum)
    assert (error.version, error.name, error.file) == (2, "m2", "2_m2.sql")


@pytest.mark.parametrize(
    ("available", "ledger", "policy"),
    [
        pytest.param(directory(1, 2), [1], Policy(), id="nothing wrong"),
        pytest.param(directory(1, 2), [2], Policy(), id="late ones are applied by default"),
        pytest.param([migration(2)], [1, 2], IGNORING, id="missing ones ignored"),
        pytest.param([migration(2)], [1, 2], Policy(on_missing=OnMissing.ROLLBACK), id="missing ones rolled back"),
        pytest.param([draft(1), migration(2)], [2], STRICT, id="a draft is not late"),
        pytest.param([migration(1), migration(2)], [1], STRICT, id="above the highest is not late"),
        pytest.param([migration(1, down=None)], [1], Policy(), id="the down text may change"),
    ],
)
def test_policy_accepts_the_state(available: list[Migration], ledger: list[int], policy: Policy) -> None:
    refuse_by_policy(examine(available, applied(*ledger)), policy)


def test_verify_checks_only_changed_migrations() -> None:
    refuse_changed(examine(directory(1, 3), applied(2, 3)))


# Laws

NUMBERS = st.sets(st.integers(1, 30), max_size=12)


def carry_out(plan: MigrationPlan, ledger: Iterable[AppliedMigration]) -> list[AppliedMigration]:
    """Return the ledger after the plan."""
    after = {entry.version: entry for entry in ledger}
    for step in plan.migrations:
        if plan.direction is UP:
            assert step.version not in after
            after[step.version] = applied(step)[0]
        else:
            del after[step.version]
    return list(after.values())


def plan_of(
    available: Iterable[Migration], ledger: Iterable[AppliedMigration], target: int | None
) -> MigrationPlan:
    return plan_to(examine(available, ledger), target, nothing_recorded)


@given(NUMBERS, NUMBERS)
def test_plan_leaves_nothing_pending(available: set[int], ledger: set[int]) -> None:
    migrations, before = directory(*available), applied(*ledger)

    after = carry_out(plan_of(migrations, before, None), before)

    assert plan_of(migrations, after, None).is_empty()
    assert available | ledger == {entry.version for entry in after}


@given(NUMBERS, NUMBERS, st.data())
def test_plans_to_a_target_reach_it(available: set[int], ledger: set[int], data: st.DataObject) -> None:
    """One plan goes up to fill gaps, one down for versions above; then the target is reached."""
    target = data.draw(st.sampled_from(sorted({0} | available)))
    migrations, before = directory(*available), applied(*(ledger & available))

    once = carry_out(plan_of(migrations, before, target), before)
    twice = carry_out(plan_of(migrations, once, target), once)

    assert {version for version in available if version <= target} == {entry.version for entry in twice}
    assert plan_of(migrations, twice, target).is_empty()


@given(NUMBERS, NUMBERS, st.data())
def test_steps_are_strictly_ordered_and_of_the_right_kind(
    available: set[int], ledger: set[int], data: st.DataObject
) -> None:
    target = data.draw(st.sampled_from([None, 0, *sorted(available)]))

    direction, steps = versions(plan_of(directory(*available), applied(*(ledger & available)), target))

    assert steps == sorted(set(steps), reverse=direction is DOWN)
    if direction is UP:
        assert set(steps) & ledger == set()
    else:
        assert set(steps) <= ledger


@given(st.permutations(range(1, 9)), st.permutations(range(1, 9)), st.integers(0, 8), st.integers(0, 8))
def test_order_of_what_is_given_does_not_matter(
    available: list[int], ledger: list[int], some: int, target: int
) -> None:
    entries = sorted(ledger[:some])

    shuffled = examine(directory(*available), applied(*ledger[:some]))

    assert examine(directory(*sorted(available)), applied(*entries)) == shuffled
    assert plan_of(directory(*available), applied(*ledger[:some]), target) == plan_of(
        directory(*sorted(available)), applied(*entries), target
    )


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.integers(min_value=0),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    st.sampled_from([Policy(), STRICT, IGNORING, Policy(on_missing=OnMissing.ROLLBACK)]),
)
def test_change_of_one_character_is_always_refused(text: str, at: int, other: str, policy: Policy) -> None:
    at %= len(text)
    before = Migration(1, "m1", f"SELECT 1; {text}")
    after = Migration(1, "m1", f"SELECT 1; {text[:at]}{other}{text[at + 1 :]}")
    statuses = examine([after], applied(before))

    if before.up_sql == after.up_sql:
        refuse_by_policy(statuses, policy)
        return
    with pytest.raises(ChecksumMismatchError):
        refuse_by_policy(statuses, policy)


@given(NUMBERS, NUMBERS, st.data())
def test_up_to_a_target_and_then_all_is_the_same_as_all(
    available: set[int], ledger: set[int], data: st.DataObject
) -> None:
    target = data.draw(st.integers(0, 31))
    migrations, before = directory(*available), applied(*ledger)

    first = carry_out(plan_up(examine(migrations, before), target), before)
    stepwise = carry_out(plan_up(examine(migrations, first)), first)
    at_once = carry_out(plan_up(examine(migrations, before)), before)

    assert {entry.version: entry for entry in stepwise} == {entry.version: entry for entry in at_once}


@given(NUMBERS, NUMBERS)
def test_drafts_change_no_plan(available: set[int], drafts: set[int]) -> None:
    migrations = directory(*available)
    with_drafts = [*migrations, *(draft(version) for version in drafts - available)]

    assert plan_of(migrations, [], None) == plan_of(with_drafts, [], None)


# Stopped migrations


def unfinished(of: Migration, direction: MigrationDirection = UP) -> Unfinished:
    return Unfinished(of, direction, 1, 3, WHEN, "host", 7)


@pytest.mark.parametrize(
    ("available", "ledger", "direction"),
    [
        pytest.param([migration(1), migration(2), migration(3)], [migration(1)], UP, id="on its way up"),
        pytest.param([migration(1), changed(2), migration(3)], [migration(1)], UP, id="edited since"),
        pytest.param([migration(1), draft(2), migration(3)], [migration(1)], UP, id="emptied since"),
        pytest.param([migration(1), migration(3)], [migration(1)], UP, id="with no file any more"),
        pytest.param([migration(1), migration(2), migration(3)], [migration(1), migration(2)], DOWN, id="down"),
        pytest.param([migration(1), changed(2), migration(3)], [migration(1), migration(2)], DOWN, id="changed"),
        pytest.param([migration(1), migration(3)], [migration(1), migration(2)], DOWN, id="missing"),
    ],
)
def test_stopped_comes_before_every_other_state(
    available: list[Migration], ledger: list[Migration], direction: MigrationDirection
) -> None:
    stopped = unfinished(migration(2), direction)

    found = examine(available, applied(*ledger), stopped)

    assert [(status.version, status.state) for status in found] == [
        (1, MigrationState.APPLIED),
        (2, MigrationState.STOPPED),
        (3, MigrationState.PENDING),
    ]
    assert [status.unfinished for status in found] == [None, stopped, None]
    assert [status.label for status in found] == ["1_m1", "2_m2", "3_m3"]


def test_stopped_version_that_only_the_history_knows_is_among_the_statuses() -> None:
    (status,) = examine([], [], unfinished(migration(4)))

    assert (status.version, status.name, status.label) == (4, "m4", "4_m4")
    assert (status.state, status.migration, status.applied) == (MigrationState.STOPPED, None, None)


def test_stopped_migration_is_neither_pending_nor_missing() -> None:
    statuses = examine(directory(1, 3), applied(1), unfinished(migration(2)))

    assert [step.version for step in pending(statuses)] == [3]
    assert missing_versions(statuses) == []


# What may share a transaction

NO_TRANSACTION, FOREIGN_KEYS = "-- migrated: no-transaction\n", "-- migrated: foreign-keys=on\n"
OWN = st.sampled_from(["", "", NO_TRANSACTION, FOREIGN_KEYS, NO_TRANSACTION + FOREIGN_KEYS])


def steps(*tops: str, direction: MigrationDirection = UP) -> list[Step]:
    return [
        Step(migration(number, f"{top}SELECT 1", f"{top}SELECT 2"), direction)
        for number, top in enumerate(tops, 1)
    ]


@pytest.mark.parametrize("direction", MigrationDirection)
@pytest.mark.parametrize(
    ("tops", "length"),
    [
        ([], 0),
        ([""], 1),
        (["", "", ""], 3),
        (["", "", NO_TRANSACTION, ""], 2),
        (["", FOREIGN_KEYS, ""], 1),
        ([NO_TRANSACTION, "", ""], 1),
        ([FOREIGN_KEYS, FOREIGN_KEYS], 1),
    ],
)
def test_leading_group_ends_before_what_needs_a_transaction_of_its_own(
    tops: list[str], length: int, direction: MigrationDirection
) -> None:
    of = steps(*tops, direction=direction)

    assert leading_group(of) == of[:length]


def test_directives_of_the_other_section_do_not_count() -> None:
    one_way = [
        Step(migration(number, f"{NO_TRANSACTION}SELECT 1", f"{FOREIGN_KEYS}SELECT 2"), UP) for number in (1, 2)
    ]
    only_down = [Step(migration(number, "SELECT 1", f"{FOREIGN_KEYS}SELECT 2"), UP) for number in (1, 2)]

    assert len(leading_group(one_way)) == 1
    assert len(leading_group(only_down)) == 2


@given(st.lists(OWN, max_size=8))
def test_groups_one_after_another_are_all_steps_in_order(tops: list[str]) -> None:
    rest: Sequence[Step] = steps(*tops)
    groups = []
    while rest:
        group = leading_group(rest)
        groups.append(group)
        rest = rest[len(group) :]

    assert [step for group in groups for step in group] == steps(*tops)
    assert all(group for group in groups)
    for group in groups:
        assert len(group) == 1 or not any(step.needs_own_transaction for step in group)
    # And none is shorter than it need be.
    for group, following in pairwise(groups):
        assert group[0].needs_own_transaction or following[0].needs_own_transaction
