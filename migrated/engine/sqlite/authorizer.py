"""Refuse what a migration may not do, with SQLite's authorizer, while each statement is prepared."""

from itertools import islice

import apsw

from migrated.core.sql import first_token, words

LEDGER_PREFIX = "_migrations"

_OWN_TRANSACTION = "remove it: each migration runs in its own transaction"
NEEDS_DIRECTIVE = (
    "move it to a separate migration that has the line `-- migrated: no-transaction` at the top of its section"
)
_WHOLE_PROCESS = "it would affect every database of this process"
_ALONE = "a migration may change only its own database"
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
_CREATES = {apsw.SQLITE_CREATE_VIEW: "view", apsw.SQLITE_CREATE_TRIGGER: "trigger"}
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_MAY_BE_REFUSED = {
    *(apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH),
    *(apsw.SQLITE_FUNCTION, apsw.SQLITE_PRAGMA),
}
_SCHEMA_CHANGES = {
    *(apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_ALTER_TABLE),
    *(apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_VTABLE, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_DROP_TRIGGER),
}
_OWN = {None, "main", "temp"}
# Compared for every table and column: a global is found faster than an attribute of the module.
_READ = apsw.SQLITE_READ
# The name that the authorizer gets, whatever the statement used. SQLite itself refuses direct writes to it.
_SCHEMA = "sqlite_master"
_NOT_IN_TRANSACTION = {"journal_mode", "locking_mode", "synchronous", "wal_checkpoint"}
_TRANSACTION_WORDS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_FORBIDDEN_PRAGMAS = {
    "writable_schema": "change the schema with ALTER TABLE, or rebuild the table",
    "schema_version": "SQLite maintains it",
    "query_only": "it would prevent migrated from recording the migration",
    **dict.fromkeys(("hard_heap_limit", "soft_heap_limit"), _WHOLE_PROCESS),
    **dict.fromkeys(("temp_store_directory", "data_store_directory"), _WHOLE_PROCESS),
}


class StatementEffects:
    """The tables that one statement writes to, creates, drops or alters, by name.

    `removed` are the indexes and triggers that it drops by name, `unindexed` the tables that only lose an index.
    `is_virtual` is true if it creates or drops a virtual table, whose shadow tables the authorizer does not name.
    """

    def __init__(self) -> None:
        self.written: set[str] = set()
        self.created: set[str] = set()
        self.dropped: set[str] = set()
        self.altered: set[str] = set()
        self.removed: set[str] = set()
        self.unindexed: set[str] = set()
        self.adds_trigger = False
        self.is_virtual = False

    def note(self, action: int, first: str, second: str | None) -> None:
        """Add one schema change that the authorizer reported."""
        match action:
            case apsw.SQLITE_CREATE_TABLE:
                self.created.add(first)
            case apsw.SQLITE_CREATE_VTABLE | apsw.SQLITE_DROP_VTABLE:
                self.is_virtual = True
            case apsw.SQLITE_DROP_TABLE:
                self.dropped.add(first)
            case apsw.SQLITE_ALTER_TABLE:
                self.altered.add(second or "")
            case apsw.SQLITE_DROP_INDEX:
                # Without a unique index its table may no longer be a valid parent of a foreign key.
                self.unindexed |= {second or ""} - self.written
                self.written.add(second or "")
                self.removed.add(first)
            case apsw.SQLITE_DROP_TRIGGER:
                self.removed.add(first)
            case apsw.SQLITE_CREATE_TRIGGER:
                self.adds_trigger = True
            case _:
                pass


class Authorizer:
    """An authorizer callback that stores why it refused, and what each statement does.

    `reason` and `hint` are set by the first refusal. `pragma` is the last one seen, with its value.
    `pollutes_connection` is true if the connection now has temp objects or changed pragmas and must not be reused.
    `is_outside_transaction` is set by the caller for a statement outside any transaction, `is_vacuuming` for a
    VACUUM there, `is_paused` while our own statements run. `made` are the views and triggers that were created,
    `touched` the tables that were written, dropped or altered, `dropped` those that were dropped.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.hint: str | None = None
        self.pollutes_connection = False
        self.pragma: tuple[str, str | None] | None = None
        self.is_paused = False
        self.is_vacuuming = False
        self.is_outside_transaction = False
        self.made: set[tuple[str, str]] = set()
        self.touched: set[str] = set()
        self.dropped: set[str] = set()
        self._effects: StatementEffects | None = None

    @property
    def has_new_effects(self) -> bool:
        """True if the last prepared statement does anything that those before it did not."""
        return self._effects is not None

    def pop_effects(self) -> StatementEffects | None:
        """Return what the last prepared statement does; None if those before it did the same."""
        effects, self._effects = self._effects, None
        if effects is not None:
            # Dropping an index changes no rows, though it may break a foreign key.
            self.touched |= effects.written - effects.unindexed | effects.dropped | effects.altered
            self.dropped |= effects.dropped
        return effects

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if action == _READ or self.is_paused:
            # Our own statements, and reads, are never refused.
            return apsw.SQLITE_OK
        if action in _WRITES and (first == _SCHEMA or first in self.touched) and database in _OWN:
            # The fast path: every CREATE writes to the schema table, and a long script writes to the same tables
            # again and again. A table in `touched` was allowed before.
            return apsw.SQLITE_OK
        if self.is_vacuuming and not (action == apsw.SQLITE_ATTACH and first):
            # VACUUM itself attaches a temporary file and begins a transaction.
            return apsw.SQLITE_OK
        # ALTER TABLE has the database where others have the object, and a column where they have the database.
        where = first if action == apsw.SQLITE_ALTER_TABLE else database
        check = self._refusal if action in _MAY_BE_REFUSED else _ledger_refusal
        refusal = check(action, first or "", second) or _attached_refusal(where)
        if refusal is None:
            self._note(action, first or "", second)
            return apsw.SQLITE_OK
        if self.reason is None:
            reason, self.hint = refusal
            self.reason = f"{reason} (through the trigger {trigger})" if trigger else reason
        return apsw.SQLITE_DENY

    def _note(self, action: int, first: str, second: str | None) -> None:
        if action in _WRITES:
            if not first.startswith("sqlite_"):
                self._effects = self._effects or StatementEffects()
                self._effects.written.add(first)
            return
        if action in _SCHEMA_CHANGES:
            self._effects = self._effects or StatementEffects()
            self._effects.note(action, first, second)
        self.pollutes_connection |= action in _TEMPORARY or (action == apsw.SQLITE_PRAGMA and second is not None)
        if action == apsw.SQLITE_PRAGMA:
            self.pragma = first.lower(), second
        if action in _CREATES:
            self.made.add((_CREATES[action], first))

    def _refusal(self, action: int, first: str, second: str | None) -> tuple[str, str] | None:
        match action:
            case apsw.SQLITE_TRANSACTION:
                return f"{first} is not allowed in a migration", _OWN_TRANSACTION
            case apsw.SQLITE_SAVEPOINT:
                # The first argument is the operation ("BEGIN" for SAVEPOINT), the second the savepoint's name.
                word = {"BEGIN": "SAVEPOINT", "ROLLBACK": "ROLLBACK TO"}.get(first, first)
                return f"{word} {second} is not allowed in a migration", _OWN_TRANSACTION
            case apsw.SQLITE_ATTACH | apsw.SQLITE_DETACH:
                word = "ATTACH" if action == apsw.SQLITE_ATTACH else "DETACH"
                return f"{word} is not allowed in a migration", _ALONE
            case apsw.SQLITE_FUNCTION if (second or "").lower() == "load_extension":
                return "load_extension() is not allowed in a migration", "load it in the application"
            case apsw.SQLITE_PRAGMA if second is not None or first.lower() == "wal_checkpoint":
                return _pragma_refusal(first.lower(), alone=self.is_outside_transaction)
        return None


def _attached_refusal(database: str | None) -> tuple[str, str] | None:
    # A connection of the caller may have other databases attached.
    if database in _OWN:
        return None
    return f"changing the attached database {database} is not allowed in a migration", _ALONE


def _pragma_refusal(name: str, *, alone: bool) -> tuple[str, str] | None:
    if name in _NOT_IN_TRANSACTION and not alone:
        return f"PRAGMA {name} has no effect inside a transaction", NEEDS_DIRECTIVE
    if name in _FORBIDDEN_PRAGMAS:
        return f"PRAGMA {name} is not allowed in a migration", _FORBIDDEN_PRAGMAS[name]
    return None


def _ledger_refusal(action: int, first: str, second: str | None) -> tuple[str, str] | None:
    table = first if action in _TABLE_FIRST else second or ""
    verb = _TABLE_FIRST.get(action) or _TABLE_SECOND.get(action)
    if verb is None or not table.lower().startswith(LEDGER_PREFIX):
        return None
    return (
        f"{verb} {table} is not allowed in a migration",
        "tables whose names begin with _migrations are reserved for migrated",
    )


def explain(error: apsw.Error) -> tuple[str, str | None]:
    """Return message and hint for an error raised by SQLite."""
    if isinstance(error, apsw.BindingsError):
        return "the statement has a parameter", "write the value in the SQL: migrations run without parameters"
    if isinstance(error, apsw.TooBigError):
        return str(error), "SQLite limits a statement, a value and a row to 1 GB: split it"
    if "within a transaction" in str(error):
        return str(error), NEEDS_DIRECTIVE
    return str(error), None


def refusal_at_sight(statement: str) -> tuple[str, str] | None:
    """Return message and hint if the text alone shows that the statement is not allowed, else None."""
    start = first_token(statement)
    first, *rest = [word.upper() for word in islice(words(statement[start or 0 :]), 3)] or [""]
    if first in _TRANSACTION_WORDS:
        return f"{first} is not allowed in a migration", _OWN_TRANSACTION
    if first in {"ATTACH", "DETACH"}:
        return f"{first} is not allowed in a migration", _ALONE
    if first == "VACUUM" and "INTO" in rest:
        return "VACUUM INTO is not allowed in a migration", _ALONE
    return None
