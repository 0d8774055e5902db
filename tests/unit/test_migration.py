import hashlib
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime

import pytest

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import HIGHEST_VERSION, Directive, Migration, MigrationDirection, Origin
from migrated.core.plan import MigrationPlan
from migrated.core.records import AppliedMigration


def migration(up: str = "SELECT 1;", down: str | None = None, *header: Directive) -> Migration:
    return Migration(1, "one", up, down, header=frozenset(header))


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("", id="empty"),
        pytest.param("SELECT 1;", id="ascii"),
        pytest.param("SELECT 'é€😀';", id="other characters, as UTF-8"),
        pytest.param(" SELECT 1;\r\n", id="white space counts"),
    ],
)
def test_checksum_is_lower_case_hex_sha256_of_the_up_text(sql: str) -> None:
    expected = hashlib.sha256(sql.encode("utf-8")).hexdigest()

    assert expected == migration(sql).checksum == Migration.compute_checksum(sql)


def test_checksum_of_a_known_text_never_changes() -> None:
    assert Migration.compute_checksum("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_down_text_and_header_do_not_count_in_the_checksum() -> None:
    other = migration("SELECT 1;", "SELECT 2;", Directive.NO_TRANSACTION)

    assert migration("SELECT 1;").checksum == other.checksum


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        pytest.param("", True, id="none"),
        pytest.param(hashlib.sha256(b"SELECT 1;").hexdigest(), True, id="the right one"),
        pytest.param(hashlib.sha256(b"SELECT 1;").hexdigest().upper(), False, id="in upper case"),
        pytest.param(hashlib.sha256(b"SELECT 2;").hexdigest(), False, id="another text's"),
    ],
)
def test_given_checksum_is_verified_against_the_text(*, given: str, fits: bool) -> None:
    assert fits is Migration(1, "one", "SELECT 1;", checksum=given).verify_checksum()


def test_with_down_gives_a_copy_that_differs_in_the_down_text_alone() -> None:
    origin = Origin("1_one.sql")
    before = Migration(1, "one", "SELECT 1;", header=frozenset({Directive.NO_TRANSACTION}), origin=origin)

    after = before.with_down("SELECT 2;")

    assert before.down_sql is None
    assert after == Migration(1, "one", "SELECT 1;", "SELECT 2;", header=frozenset({Directive.NO_TRANSACTION}))
    assert after.origin is origin


def test_origin_is_ignored_in_equality() -> None:
    assert Migration(1, "one", "SELECT 1;") == Migration(1, "one", "SELECT 1;", origin=Origin("1_one.sql"))


def test_migration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        migration().up_sql = "SELECT 2;"  # type: ignore[misc]


@pytest.mark.parametrize("version", [1, HIGHEST_VERSION])
def test_version_at_the_edge_is_accepted(version: int) -> None:
    assert version == Migration(version, "one", "").version


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_version_out_of_range_is_refused(version: int) -> None:
    with pytest.raises(InvalidFormatError) as caught:
        Migration(version, "one", "")

    assert str(caught.value) == f"version {version} is out of range: expected 1 to 9223372036854775807"
    assert caught.value.version == version


@pytest.mark.parametrize("version", [True, 1.0, "1", None])
def test_version_that_is_not_an_integer_is_refused(version: object) -> None:
    with pytest.raises(InvalidFormatError) as caught:
        Migration(version, "one", "")  # type: ignore[arg-type]

    assert str(caught.value) == f"version {version!r} is not a whole number"


def test_empty_name_is_refused() -> None:
    with pytest.raises(InvalidFormatError) as caught:
        Migration(1, "", "")

    assert str(caught.value) == "migration 1 has no name"


@pytest.mark.parametrize(
    ("up", "down"),
    [
        pytest.param("-- migrated: nothing", None, id="up"),
        pytest.param("SELECT 1;", "-- migrated: nothing", id="down"),
    ],
)
def test_unknown_directive_is_refused(up: str, down: str | None) -> None:
    with pytest.raises(InvalidFormatError) as caught:
        migration(up, down)

    assert caught.value.message == "unknown directive 'nothing'"


@pytest.mark.parametrize(
    ("subject", "draft"),
    [
        pytest.param(migration(""), True, id="no text"),
        pytest.param(migration("-- to be written\n"), True, id="a comment"),
        pytest.param(migration(";"), True, id="a semicolon"),
        pytest.param(migration("", "SELECT 1;"), True, id="a down text alone"),
        pytest.param(migration("SELECT 1"), False, id="a statement"),
        pytest.param(migration("-- migrated: nothing-to-do"), False, id="on purpose"),
        pytest.param(migration("", None, Directive.NOTHING_TO_DO), False, id="on purpose, in the header"),
        pytest.param(migration("", "-- migrated: nothing-to-do"), True, id="on purpose, but in the down section"),
        pytest.param(migration("-- migrated: no-transaction"), True, id="another directive"),
    ],
)
def test_draft_is_an_up_text_without_a_statement(*, subject: Migration, draft: bool) -> None:
    assert draft is subject.is_draft


@pytest.mark.parametrize(
    ("subject", "reversible"),
    [
        pytest.param(migration(down=None), False, id="no down text"),
        pytest.param(migration(down=""), False, id="an empty one"),
        pytest.param(migration(down="-- nothing"), False, id="a comment"),
        pytest.param(migration(down="SELECT 1;"), True, id="a statement"),
        pytest.param(migration(down="-- migrated: nothing-to-undo"), True, id="on purpose"),
        pytest.param(migration("SELECT 1;", "", Directive.NOTHING_TO_UNDO), True, id="on purpose, in the header"),
        pytest.param(migration(down="-- migrated: no-transaction"), False, id="another directive"),
    ],
)
def test_reversible_needs_a_down_text(*, subject: Migration, reversible: bool) -> None:
    assert reversible is subject.is_reversible


def test_directives_of_a_section_are_its_own_and_the_headers() -> None:
    subject = migration(
        "-- migrated: foreign-keys=on\nSELECT 1;", "-- migrated: nothing-to-undo", Directive.NO_TRANSACTION
    )

    assert {Directive.NO_TRANSACTION, Directive.FOREIGN_KEYS_ON} == subject.up_directives
    assert {Directive.NO_TRANSACTION, Directive.NOTHING_TO_UNDO} == subject.down_directives


def test_label_is_version_and_name() -> None:
    entry = AppliedMigration(7, "seven", "", datetime(2024, 1, 1, tzinfo=UTC), 0)

    assert migration().label == "1_one"
    assert entry.label == "7_seven"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_plan_has_the_length_and_truth_of_its_steps(count: int) -> None:
    plan = MigrationPlan(MigrationDirection.UP, (migration(),) * count)

    assert (count, count > 0, count == 0) == (len(plan), bool(plan), plan.is_empty())


@pytest.mark.parametrize("text", ["SELECT 1;\0", "SELECT '\ud800'"], ids=["NUL", "surrogate"])
def test_nul_and_surrogates_are_refused(text: str) -> None:
    for parts in (("a", text, None), ("a", "SELECT 1", text), (text, "SELECT 1", None)):
        with pytest.raises(InvalidFormatError) as caught:
            Migration(1, *parts)

        assert (
            caught.value.message
            == "migration 1 contains a NUL character or a lone surrogate, which SQL text cannot"
        )


def test_plans_of_the_same_steps_are_equal_and_iterable() -> None:
    steps = [Migration(1, "a", "SELECT 1"), Migration(2, "b", "SELECT 2")]
    plan = MigrationPlan(MigrationDirection.UP, tuple(steps))

    assert plan == MigrationPlan(MigrationDirection.UP, steps)
    assert plan.migrations == steps
    assert list(plan) == steps
