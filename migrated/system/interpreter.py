"""Reject a Python that is too old, or whose `re` reads SQL incorrectly."""

import sys

from migrated.core import MINIMUM_PYTHON
from migrated.core.errors import UnsupportedPythonError
from migrated.core.sql import line_comments, statements

# SQL texts, each with its statements and line comments.
_READINGS = {
    "SELECT 1; SELECT 2": ["SELECT 1;", "SELECT 2"],
    "-- UP\nDROP TABLE a;\n-- DOWN\nDROP TABLE b;": ["-- UP", "DROP TABLE a;", "-- DOWN", "DROP TABLE b;"],
    "SELECT 1 -- one\n-- two\n;": ["SELECT 1 -- one\n-- two\n;", "-- one", "-- two"],
    "/* * ; -- */ ; /**/ SELECT 1;": ["SELECT 1;"],
    "SELECT 'it''s; -- '; -- '": ["SELECT 'it''s; -- ';", "-- '"],
    'SELECT "a;""b", `c;`, [d;];e': ['SELECT "a;""b", `c;`, [d;];', "e"],
    "SELECT 1 - -1 / 2 /* ; */;--": ["SELECT 1 - -1 / 2 /* ; */;", "--"],
    "CREATE TRIGGER g BEGIN SELECT ';'; -- ;\nEND; x": [
        "CREATE TRIGGER g BEGIN SELECT ';'; -- ;\nEND;",
        "-- ;",
        "x",
    ],
    "create /* */ temp trigger g begin select case 1 when 1 then 2 end; end;y": [
        "create /* */ temp trigger g begin select case 1 when 1 then 2 end; end;",
        "y",
    ],
    "SELECT ';": ["SELECT ';"],
}


def require_supported_python() -> None:
    """Raise `UnsupportedPythonError` if Python is older than `MINIMUM_PYTHON` or its `re` is faulty.

    Called before anything is read or run. Takes 0.1 ms.
    """
    found = sys.version_info[:3]
    if found < MINIMUM_PYTHON:
        needed, this = (".".join(str(part) for part in version) for version in (MINIMUM_PYTHON, found))
        raise UnsupportedPythonError(
            f"migrated needs Python {needed} or newer, this is {this}", hint="install it with a newer Python"
        )
    _require_exact_scanner()


def _require_exact_scanner() -> None:
    # If a section marker is overlooked, the DOWN section runs as part of UP and data is lost. Python 3.11.2 did
    # that with possessive quantifiers. This check is meant to find the next such fault of `re` before it does
    # damage.
    for sql, expected in _READINGS.items():
        pieces = [(start, sql[start:end]) for start, end in statements(sql)]
        pieces += [(comment.start, comment.text) for comment in line_comments(sql)]
        found = [text for _, text in sorted(pieces)]
        if found != expected:
            raise UnsupportedPythonError(
                f"this Python reads the SQL text {sql!r} as {found}",
                hint="its `re` module is faulty; install migrated with another release of Python",
            )
