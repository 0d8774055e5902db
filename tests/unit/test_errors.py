import pytest

from migrated.core import errors
from migrated.core.errors import (
    ChecksumMismatchError,
    ConfigError,
    DatabaseError,
    ExecutionFailedError,
    InvalidFormatError,
    LateMigrationError,
    LockHeldError,
    MigrationError,
    MigrationFileError,
    MigrationNotFoundError,
    RefusedError,
    RollbackFailedError,
    combined_exit_code,
)


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (ExecutionFailedError, 1, "EXECUTION_FAILED"),
        (RollbackFailedError, 1, "ROLLBACK_FAILED"),
        (ChecksumMismatchError, 4, "CHECKSUM_MISMATCH"),
        (MigrationNotFoundError, 4, "MIGRATION_NOT_FOUND"),
        (LateMigrationError, 4, "LATE_MIGRATION"),
        (InvalidFormatError, 4, "INVALID_FORMAT"),
        (MigrationFileError, 4, "MIGRATION_FILE"),
        (LockHeldError, 5, "LOCK_HELD"),
        (DatabaseError, 6, "DATABASE"),
        (ConfigError, 78, "CONFIG"),
    ],
)
def test_each_error_has_its_codes(error: type[MigrationError], exit_code: int, code: str) -> None:
    assert (exit_code, code) == (error("x").exit_code, error("x").code)


def test_sqlite_code_overrides_the_class_code() -> None:
    assert DatabaseError("x", code="SQLITE_BUSY").code == "SQLITE_BUSY"


def test_every_error_is_a_migration_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]

    assert kinds
    assert [kind for kind in kinds if not issubclass(kind, MigrationError)] == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(MigrationError("it broke"), "it broke", id="message alone"),
        pytest.param(MigrationError("it broke", hint="mend it"), "it broke\nhint: mend it", id="with a hint"),
        pytest.param(MigrationError("it broke", file="a.sql"), "a.sql: it broke", id="with a file"),
        pytest.param(MigrationError("it broke", file="a.sql", line=3), "a.sql:3: it broke", id="with a line"),
        pytest.param(
            MigrationError("it broke", file="a.sql", line=3, column=5), "a.sql:3:5: it broke", id="with a column"
        ),
        pytest.param(
            MigrationError("it broke", file="a.sql", line=3, column=5, excerpt="SELEC\n^", hint="mend it"),
            "a.sql:3:5: it broke\nSELEC\n^\nhint: mend it",
            id="with everything",
        ),
    ],
)
def test_text_has_place_message_excerpt_and_hint(error: MigrationError, text: str) -> None:
    assert text == str(error)


def test_attributes_are_kept() -> None:
    error = ExecutionFailedError(
        "it broke",
        hint="mend it",
        version=3,
        name="three",
        file="3_three.sql",
        line=2,
        column=1,
        statement="SELEC",
        excerpt="SELEC\n^",
        code="SQLITE_ERROR",
        completed=["first", "second"],
    )

    assert vars(error) == {
        "message": "it broke",
        "hint": "mend it",
        "version": 3,
        "name": "three",
        "file": "3_three.sql",
        "line": 2,
        "column": 1,
        "statement": "SELEC",
        "excerpt": "SELEC\n^",
        "code": "SQLITE_ERROR",
        "transient": False,
        "traceback": None,
        "completed": ("first", "second"),
    }


def test_attributes_of_single_classes_are_kept() -> None:
    mismatch = ChecksumMismatchError("x", expected="a", found="b", offenders=[1, 2])

    assert (mismatch.expected, mismatch.found, mismatch.offenders) == ("a", "b", (1, 2))
    assert DatabaseError("x", database="app.db").database == "app.db"
    assert LockHeldError("x", holder="pid 1").holder == "pid 1"
    assert ConfigError("x", faults=["a", "b"]).faults == ("a", "b")


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        pytest.param(ExecutionFailedError("x"), False, id="a failed statement"),
        pytest.param(RefusedError("x"), False, id="a refusal"),
        pytest.param(DatabaseError("x"), False, id="a database"),
        pytest.param(DatabaseError("x", transient=True), True, id="a busy database"),
        pytest.param(LockHeldError("x"), True, id="a lock"),
    ],
)
def test_transient_errors_are_those_a_retry_may_fix(*, error: MigrationError, transient: bool) -> None:
    assert transient is error.transient


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([0, 0], 0, id="all done"),
        pytest.param([0, 5], 5, id="one locked"),
        pytest.param([5, 6], 6, id="unavailable before locked"),
        pytest.param([5, 6, 4], 4, id="refused before unavailable"),
        pytest.param([5, 6, 4, 1], 1, id="failed before all"),
        pytest.param([1, 0], 1, id="in any order"),
    ],
)
def test_exit_code_over_several_databases(codes: list[int], code: int) -> None:
    assert code == combined_exit_code(codes)
