"""Refuse a Python that is too old, or that cannot read SQL text correctly."""

import sys

from migrated.core import MINIMUM_PYTHON
from migrated.core.errors import UnsupportedPythonError
from migrated.core.sql import line_comments, statements

# Texts, and the statements and line comments in each.
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
    """Raise `UnsupportedPythonError` on a Python older than the oldest that is tested, or with faulty `re`.

    Called before anything is read or run. It takes 0.1 ms, whatever is read later.
    """
    found = sys.version_info[:3]
    if found < MINIMUM_PYTHON:
        needed, this = (".".join(str(part) for part in version) for version in (MINIMUM_PYTHON, found))
        raise UnsupportedPythonError(
            f"migrated needs Python {needed} or newer, this is {this}", hint="install it with a newer Python"
        )
    _require_exact_scanner()


def _require_exact_scanner() -> None:
    # Where a marker is overlooked, a DOWN section runs as part of UP and data is lost: Python 3.11.2 did that with
    # patterns of the kind that its `re` gets wrong. The next such fault is to be found here.
    for sql, expected in _READINGS.items():
        pieces = [(start, sql[start:end]) for start, end in statements(sql)]
        pieces += [(comment.start, comment.text) for comment in line_comments(sql)]
        found = [text for _, text in sorted(pieces)]
        if found != expected:
            raise UnsupportedPythonError(
                f"this Python reads the SQL text {sql!r} as {found}",
                hint="its `re` module is faulty; install migrated with another release of Python",
            )
