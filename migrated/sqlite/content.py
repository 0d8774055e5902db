"""What an open database holds, at a glance: how much, and whether anything."""

import apsw


def content_size(connection: apsw.Connection) -> int:
    """The bytes of a database's pages, as this connection sees it: those still in the `-wal` count too."""
    return int(connection.pragma("page_count")) * int(connection.pragma("page_size"))


def schema_text(connection: apsw.Connection, stored: bytes | None) -> str:
    """A definition that was read as CAST(sql AS BLOB), which may not be what its encoding allows."""
    return bytes(stored or b"").decode(str(connection.pragma("encoding")), "replace")


def has_objects(connection: apsw.Connection) -> bool:
    """Whether anything at all was ever made in the database: a table, an index, a view."""
    return bool(connection.execute("SELECT 1 FROM main.sqlite_schema LIMIT 1").fetchall())
