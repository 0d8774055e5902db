"""A look at a database that costs a fraction of reading its record, and tells whether that is like another's."""

import contextlib
from typing import Any, NamedTuple

import apsw

# What is applied in one text; what the history ends with, for a migration may have stopped half way; whether there
# are repeatable migrations, which only a real look tells of.
_GLANCE = """
SELECT
    (SELECT group_concat(version || ' ' || checksum || ' ' || name, char(10))
        FROM (SELECT version, checksum, name FROM main._migrations ORDER BY version)),
    (SELECT action FROM main._migrations_history ORDER BY id DESC LIMIT 1),
    (SELECT count(*) FROM main.sqlite_schema WHERE name = '_migrations_repeatable')
"""


class Glance(NamedTuple):
    """Two databases with the same one have the same applied, and nothing else on record that matters."""

    applied: str
    last_action: str


def glance(path: str, application_id: int) -> Glance | None:
    """What a database looks like; None where a real look has to be taken, for whatever reason.

    For a process of ours alone: it is not seen to whether another library has the database open in it.
    """
    if application_id:
        return None
    try:
        # For writing, as by `open_for_reading`, though nothing is written.
        with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            row: Any = connection.execute(_GLANCE).fetchall()[0]
    except (apsw.Error, UnicodeError):
        return None
    applied, last_action, repeatables = row
    if repeatables or not isinstance(applied, str) or not isinstance(last_action, str):
        return None
    return Glance(applied, last_action)
