"""What a migration may not do, told apart by SQLite's authorizer while each statement is prepared."""

from itertools import islice

import apsw

from migrated.core.sql import first_token, words

LEDGER_PREFIX = "_migrations"

_OWN_TRANSACTION = "remove it: each migration runs in a transaction of its own"
NEEDS_DIRECTIVE = (
    "put it into a migration of its own with the line `-- migrated: no-transaction` at the top of the section"
)
_WHOLE_PROCESS = "it would hold for every database of this process"
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
_MAKES = {apsw.SQLITE_CREATE_VIEW: "view", apsw.SQLITE_CREATE_TRIGGER: "trigger"}
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_JUDGED = {
    *(apsw.SQLITE_TRANSACTION, apsw.SQLITE_SAVEPOINT, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH),
    *(apsw.SQLITE_FUNCTION, apsw.SQLITE_PRAGMA),
}
_NOTED = {
    *(apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_VTABLE, apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_ALTER_TABLE),
    *(apsw.SQLITE_DROP_TABLE, apsw.SQLITE_DROP_VTABLE, apsw.SQLITE_DROP_INDEX, apsw.SQLITE_DROP_TRIGGER),
}
_OWN = {None, "main", "temp"}
# Looked at for every table and column: an attribute of the module is found more slowly.
_READ = apsw.SQLITE_READ
# As the authorizer has it, whatever the statement called it. Writing to it by hand is refused by SQLite.
_SCHEMA = "sqlite_master"
_NOT_IN_TRANSACTION = {"journal_mode", "locking_mode", "synchronous", "wal_checkpoint"}
_TRANSACTION_WORDS = {"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"}
_FORBIDDEN_PRAGMAS = {
    "writable_schema": "change the schema with ALTER TABLE, or rebuild the table",
    "schema_version": "SQLite keeps it by itself",
    "query_only": "it would keep the migration from being recorded",
    **dict.fromkeys(("hard_heap_limit", "soft_heap_limit"), _WHOLE_PROCESS),
    **dict.fromkeys(("temp_store_directory", "data_store_directory"), _WHOLE_PROCESS),
}


class StatementEffects:
    """What one statement does to tables, by their names: writes rows, makes, drops or alters them.

    `removed` are the indexes and triggers that it drops by name, `unindexed` the tables that only lose an index.
    One that `is_virtual` makes or drops a virtual table, with others behind it that it does not name.
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
        """Take into account what the authorizer is told of the schema."""
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
                # Without an index its table may be no parent any more.
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
    """An authorizer callback that remembers why it said no, and what each statement does.

    `reason` and `hint` are set by the first refusal. `pragma` is the last one met, with its value.
    `pollutes_connection` is set if the connection must not be used for another migration: temporary objects were
    made, or a pragma was set. `is_alone` is set for a statement outside of any transaction, `is_vacuuming` for
    a VACUUM there, `is_resting` while our own statements run. `made` are views and triggers that were made,
    `touched` the tables that were written, dropped or altered, `dropped` those that were dropped.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.hint: str | None = None
        self.pollutes_connection = False
        self.pragma: tuple[str, str | None] | None = None
        self.is_resting = False
        self.is_vacuuming = False
        self.is_alone = False
        self.made: set[tuple[str, str]] = set()
        self.touched: set[str] = set()
        self.dropped: set[str] = set()
        self._touch: StatementEffects | None = None

    @property
    def has_touched(self) -> bool:
        """Whether the statement that was prepared last does anything that those before it did not."""
        return self._touch is not None

    def pop_effects(self) -> StatementEffects | None:
        """What the statement that was prepared last does; None where it does nothing that those before did not."""
        touch, self._touch = self._touch, None
        if touch is not None:
            # The loss of an index makes no other rows, though it may break a foreign key.
            self.touched |= touch.written - touch.unindexed | touch.dropped | touch.altered
            self.dropped |= touch.dropped
        return touch

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if action == _READ or self.is_resting:
            # Our own look at the database; and reading is free.
            return apsw.SQLITE_OK
        if action in _WRITES and (first == _SCHEMA or first in self.touched) and database in _OWN:
            # Whatever makes a table writes to the schema, and a long script writes where it wrote before: what is
            # refused was never touched.
            return apsw.SQLITE_OK
        if self.is_vacuuming and not (action == apsw.SQLITE_ATTACH and first):
            # VACUUM at work: it attaches a temporary file and begins by itself.
            return apsw.SQLITE_OK
        # ALTER TABLE has the database where others have the object, and a column where they have the database.
        where = first if action == apsw.SQLITE_ALTER_TABLE else database
        judge = self._refusal if action in _JUDGED else _ledger_refusal
        refusal = judge(action, first or "", second) or _elsewhere(where)
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
                self._touch = self._touch or StatementEffects()
                self._touch.written.add(first)
            return
        if action in _NOTED:
            self._touch = self._touch or StatementEffects()
            self._touch.note(action, first, second)
        self.pollutes_connection |= action in _TEMPORARY or (action == apsw.SQLITE_PRAGMA and second is not None)
        if action == apsw.SQLITE_PRAGMA:
            self.pragma = first.lower(), second
        if action in _MAKES:
            self.made.add((_MAKES[action], first))

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
                return _pragma_refusal(first.lower(), alone=self.is_alone)
        return None


def _elsewhere(database: str | None) -> tuple[str, str] | None:
    # A connection that the caller opened may have other databases attached.
    if database in _OWN:
        return None
    return f"a change of the attached database {database} is not allowed in a migration", _ALONE


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
    return f"{verb} {table} is not allowed in a migration", "these tables are migrated's own record"


def explain(error: apsw.Error) -> tuple[str, str | None]:
    """Message and hint for an error of SQLite's own."""
    if isinstance(error, apsw.BindingsError):
        return "the statement has a parameter", "write the value itself: nothing is bound in a migration"
    if isinstance(error, apsw.TooBigError):
        return str(error), "SQLite takes no statement, value or row of more than 1 GB: make it several"
    if "within a transaction" in str(error):
        return str(error), NEEDS_DIRECTIVE
    return str(error), None


def refusal_at_sight(statement: str) -> tuple[str, str] | None:
    """Message and hint for what can be told not to be allowed before anything runs."""
    start = first_token(statement)
    first, *rest = [word.upper() for word in islice(words(statement[start or 0 :]), 3)] or [""]
    if first in _TRANSACTION_WORDS:
        return f"{first} is not allowed in a migration", _OWN_TRANSACTION
    if first in {"ATTACH", "DETACH"}:
        return f"{first} is not allowed in a migration", _ALONE
    if first == "VACUUM" and "INTO" in rest:
        return "VACUUM INTO is not allowed in a migration", _ALONE
    return None
