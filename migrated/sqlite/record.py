"""All that a database says of its migrations, read at once."""

import apsw

from migrated.core.records import Record
from migrated.sqlite import history, ledger, repeatables


def read_record(connection: apsw.Connection, database: str) -> Record:
    """What is applied, and what stopped half way. Raises `DatabaseError` where a table of ours is another's."""
    there = ledger.there(connection)
    return Record(
        ledger.read_there(connection, database) if "_migrations" in there else [],
        history.unfinished_there(connection, database) if "_migrations_history" in there else None,
        repeatables.read_there(connection, database) if repeatables.TABLE in there else [],
    )
