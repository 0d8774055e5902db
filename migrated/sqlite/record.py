"""All that a database says of its migrations, read at once."""

import apsw

from migrated.model import Record
from migrated.sqlite import history, ledger, repeatables


def read_record(connection: apsw.Connection, database: str) -> Record:
    """What is applied, and what stopped half way. Raises `DatabaseError` where a table of ours is another's."""
    there = ledger.tables(connection)
    return Record(
        ledger.entries(connection, database) if ledger.TABLE in there else [],
        history.stopped(connection, database) if history.TABLE in there else None,
        repeatables.entries(connection, database) if repeatables.TABLE in there else [],
    )
