import pytest

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import Directive, directive_in, directives_at_top


@pytest.mark.parametrize(
    ("comment", "directive"),
    [
        pytest.param("-- migrated: no-transaction", Directive.NO_TRANSACTION, id="no-transaction"),
        pytest.param("-- migrated: foreign-keys=on", Directive.FOREIGN_KEYS_ON, id="foreign-keys=on"),
        pytest.param("-- migrated: nothing-to-do", Directive.NOTHING_TO_DO, id="nothing-to-do"),
        pytest.param("-- migrated: nothing-to-undo", Directive.NOTHING_TO_UNDO, id="nothing-to-undo"),
        pytest.param("--migrated:no-transaction", Directive.NO_TRANSACTION, id="without spaces"),
        pytest.param("-- \tmigrated: \tno-transaction \t", Directive.NO_TRANSACTION, id="with many"),
        pytest.param("-- Migrated: no-transaction", Directive.NO_TRANSACTION, id="other case"),
    ],
)
def test_directive_is_read(comment: str, directive: Directive) -> None:
    assert directive is directive_in(comment)


@pytest.mark.parametrize(
    "comment",
    [
        pytest.param("--", id="empty"),
        pytest.param("-- no-transaction", id="without its prefix"),
        pytest.param("-- migrated no-transaction", id="without the colon"),
        pytest.param("-- this was migrated: no-transaction", id="in a sentence"),
        pytest.param("--- migrated: no-transaction", id="three dashes"),
        pytest.param("-- Migration: no-transaction", id="header line"),
        pytest.param("-- migrate: no-transaction", id="other word"),
    ],
)
def test_ordinary_comment_is_no_directive(comment: str) -> None:
    assert directive_in(comment) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("no-transactions", id="misspelt"),
        pytest.param("notransaction", id="without its dash"),
        pytest.param("No-Transaction", id="other case"),
        pytest.param("foreign-keys", id="without its value"),
        pytest.param("foreign-keys=off", id="with another value"),
        pytest.param("no-transaction, foreign-keys=on", id="two on a line"),
        pytest.param("no-transaction;", id="with a semicolon"),
        pytest.param("", id="empty"),
    ],
)
def test_unknown_directive_is_an_error(value: str) -> None:
    with pytest.raises(InvalidFormatError) as caught:
        directive_in(f"-- migrated: {value}")

    assert str(caught.value) == (
        f"unknown directive {value!r}\n"
        "hint: use one of: no-transaction, foreign-keys=on, nothing-to-do, nothing-to-undo; or remove the line"
    )


@pytest.mark.parametrize(
    ("sql", "directives"),
    [
        pytest.param("", set(), id="none"),
        pytest.param("-- migrated: no-transaction\nVACUUM;", {Directive.NO_TRANSACTION}, id="one"),
        pytest.param(
            "-- why\n\n-- migrated: no-transaction\n/* and */\n-- migrated: foreign-keys=on\nVACUUM;",
            {Directive.NO_TRANSACTION, Directive.FOREIGN_KEYS_ON},
            id="two among other comments",
        ),
        pytest.param("-- migrated: nothing-to-do", {Directive.NOTHING_TO_DO}, id="without a statement"),
        pytest.param("VACUUM;\n-- migrated: no-transaction\n", set(), id="below a statement"),
        pytest.param("/*\n-- migrated: no-transaction\n*/\nVACUUM;", set(), id="in a block comment"),
        pytest.param("SELECT '\n-- migrated: no-transaction\n';", set(), id="in a string"),
    ],
)
def test_directives_are_those_above_the_first_statement(sql: str, directives: set[Directive]) -> None:
    assert directives == directives_at_top(sql)
