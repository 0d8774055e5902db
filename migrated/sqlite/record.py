"""All that a database says of its migrations, read at once."""

import apsw

from migrated.model import Record
from migrated.sqlite import history, ledger, repeatables


def read_record(connection: apsw.Connection, database: str) -> Record:
    """What is applied, and what stopped half way. Raises `DatabaseError` where a table of ours is another's."""
    return Record(
        ledger.read(connection, database),
        history.unfinished(connection, database),
        repeatables.read(connection, database),
    )
