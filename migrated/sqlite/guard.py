"""What a migration may not do, told apart by SQLite's authorizer while each statement is prepared."""

import apsw

LEDGER_PREFIX = "_migrations"

_OWN_TRANSACTION = "remove it: each migration runs in a transaction of its own"
_NO_DIRECTIVE_YET = (
    "it needs `-- migrated: no-transaction`, which this version does not offer yet; "
    "run it by hand, outside of the migrations"
)
_ALONE = "a migration changes one database, alone"
_TABLE_FIRST = {
    apsw.SQLITE_INSERT: "a write to",
    apsw.SQLITE_UPDATE: "a write to",
    apsw.SQLITE_DELETE: "a write to",
    apsw.SQLITE_CREATE_TABLE: "creating",
    apsw.SQLITE_CREATE_TEMP_TABLE: "creating",
    apsw.SQLITE_CREATE_VIEW: "creating",
    apsw.SQLITE_CREATE_TEMP_VIEW: "creating",
    apsw.SQLITE_CREATE_VTABLE: "creating",
    apsw.SQLITE_DROP_TABLE: "dropping",
}
_TABLE_SECOND = {
    apsw.SQLITE_ALTER_TABLE: "altering",
    apsw.SQLITE_CREATE_INDEX: "an index on",
    apsw.SQLITE_CREATE_TRIGGER: "a trigger on",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "a trigger on",
    apsw.SQLITE_DROP_INDEX: "dropping an index of",
    apsw.SQLITE_DROP_TRIGGER: "dropping a trigger of",
}
_TEMPORARY = {
    apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_CREATE_TEMP_INDEX,
}
_NOT_IN_TRANSACTION = {"journal_mode", "locking_mode", "synchronous", "wal_checkpoint"}
_FORBIDDEN_PRAGMAS = {
    "writable_schema": "change the schema with ALTER TABLE, or rebuild the table",
    "schema_version": "SQLite keeps it by itself",
    "query_only": "it would keep the migration from being recorded",
}


class Guard:
    """An authorizer callback that remembers why it said no.

    `reason` and `hint` are set by the first refusal. `leaves_traces` tells that the connection should not be
    used for another migration: temporary objects were made, or a pragma was set.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.hint: str | None = None
        self.leaves_traces = False

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        # ALTER TABLE has the database where others have the object, and a column where they have the database.
        where = first if action == apsw.SQLITE_ALTER_TABLE else database
        refusal = self._refusal(action, first or "", second) or _elsewhere(action, where)
        if refusal is None:
            self.leaves_traces |= action in _TEMPORARY or (action == apsw.SQLITE_PRAGMA and second is not None)
            return apsw.SQLITE_OK
        if self.reason is None:
            reason, self.hint = refusal
            self.reason = f"{reason} (through the trigger {trigger})" if trigger else reason
        return apsw.SQLITE_DENY

    def _refusal(self, action: int, first: str, second: str | None) -> tuple[str, str] | None:
        match action:
            case apsw.SQLITE_TRANSACTION:
                return f"{first} is not allowed in a migration", _OWN_TRANSACTION
            case apsw.SQLITE_SAVEPOINT:
                # The action's name comes first ("BEGIN" for SAVEPOINT itself), then the savepoint's.
                word = {"BEGIN": "SAVEPOINT", "ROLLBACK": "ROLLBACK TO"}.get(first, first)
                return f"{word} {second} is not allowed in a migration", _OWN_TRANSACTION
            case apsw.SQLITE_ATTACH | apsw.SQLITE_DETACH:
                word = "ATTACH" if action == apsw.SQLITE_ATTACH else "DETACH"
                return f"{word} is not allowed in a migration", _ALONE
            case apsw.SQLITE_FUNCTION if (second or "").lower() == "load_extension":
                return "load_extension() is not allowed in a migration", "load it in the application"
            case apsw.SQLITE_PRAGMA if second is not None or first.lower() == "wal_checkpoint":
                return _pragma_refusal(first.lower())
        return _ledger_refusal(action, first, second or "")


def _elsewhere(action: int, database: str | None) -> tuple[str, str] | None:
    # A connection that the caller opened may have other databases attached.
    if action == apsw.SQLITE_READ or database in {None, "main", "temp"}:
        return None
    return f"a change of the attached database {database} is not allowed in a migration", _ALONE


def _pragma_refusal(name: str) -> tuple[str, str] | None:
    if name in _NOT_IN_TRANSACTION:
        return f"PRAGMA {name} has no effect inside a transaction", _NO_DIRECTIVE_YET
    if name in _FORBIDDEN_PRAGMAS:
        return f"PRAGMA {name} is not allowed in a migration", _FORBIDDEN_PRAGMAS[name]
    return None


def _ledger_refusal(action: int, first: str, second: str) -> tuple[str, str] | None:
    table = first if action in _TABLE_FIRST else second
    verb = _TABLE_FIRST.get(action) or _TABLE_SECOND.get(action)
    if verb is None or not table.lower().startswith(LEDGER_PREFIX):
        return None
    return f"{verb} {table} is not allowed in a migration", "these tables are migrated's own record"


def explain(error: apsw.Error) -> tuple[str, str | None]:
    """Message and hint for an error of SQLite's own."""
    if isinstance(error, apsw.BindingsError):
        return "the statement has a parameter", "write the value itself: nothing is bound in a migration"
    if "within a transaction" in str(error):
        return str(error), _NO_DIRECTIVE_YET
    return str(error), None
