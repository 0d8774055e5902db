"""A connection that is open, and what was read through it."""

from typing import NamedTuple

import apsw

from migrated.core.records import Record


class Opened(NamedTuple):
    """A connection to a database, and the record if it was read, while the connection's data_version was this."""

    connection: apsw.Connection
    data_version: int | None = None
    record: Record | None = None
