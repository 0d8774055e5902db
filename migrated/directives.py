"""The `-- migrated: …` lines of a migration."""

import re
from enum import StrEnum

from migrated.errors import InvalidFormatError
from migrated.sqltext import first_token, line_comments

_DIRECTIVE = re.compile(r"--[ \t]*migrated:[ \t]*(?P<value>.*?)[ \t]*\Z", re.IGNORECASE)


class Directive(StrEnum):
    """What such a line may say."""

    NO_TRANSACTION = "no-transaction"
    FOREIGN_KEYS_ON = "foreign-keys=on"
    NOTHING_TO_DO = "nothing-to-do"
    NOTHING_TO_UNDO = "nothing-to-undo"


def directive_in(comment: str) -> Directive | None:
    """The directive that a `--` comment holds, None for an ordinary comment.

    Raises `InvalidFormatError` for one that does not exist: a misspelt directive must not be ignored.
    """
    found = _DIRECTIVE.match(comment)
    if found is None:
        return None
    value = found["value"]
    try:
        return Directive(value)
    except ValueError:
        known = ", ".join(Directive)
        raise InvalidFormatError(
            f"unknown directive {value!r}", hint=f"write one of: {known}; or remove the line"
        ) from None


def directives_at_top(sql: str) -> frozenset[Directive]:
    """Those above the first statement of a section."""
    return directives_above(sql, first_token(sql))


def directives_above(sql: str, end: int | None) -> frozenset[Directive]:
    """Those above an offset; None is the end of the text."""
    if end == 0:
        return frozenset()
    found = (directive_in(comment.text) for comment in line_comments(sql[:end]))
    return frozenset(directive for directive in found if directive)
