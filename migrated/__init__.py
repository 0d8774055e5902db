"""A migration daemon for SQLite, and the library it is built on."""

from importlib import import_module

from migrated import core

TYPE_CHECKING = False  # not typing's: importing typing here adds 5 ms to every start
if TYPE_CHECKING:
    from migrated.config.settings import SnapshotPolicy, SnapshotWhen, TransactionMode
    from migrated.core.errors import (
        ChecksumMismatchError,
        ConfigError,
        DatabaseError,
        ExecutionFailedError,
        InvalidFormatError,
        LateMigrationError,
        LockHeldError,
        MigrationError,
        MigrationFileError,
        MigrationNotFoundError,
        RefusedError,
        RollbackFailedError,
        UnfinishedError,
        UnsupportedPythonError,
    )
    from migrated.core.migration import ChecksumMismatch, Migration, MigrationDirection
    from migrated.core.plan import MigrationPlan
    from migrated.core.records import AppliedMigration, Repair, Snapshot, Unfinished
    from migrated.core.status import OnChanged, OnLate, OnMissing, Policy
    from migrated.engine.runner import MigrationRunner
    from migrated.sources.directory import read_migrations
    from migrated.system.cancellation import CancelToken, Supervision

__version__ = core.VERSION

_HOMES = {
    "migrated.config.settings": (
        "SnapshotPolicy",
        "SnapshotWhen",
        "TransactionMode",
    ),
    "migrated.core.errors": (
        "ChecksumMismatchError",
        "ConfigError",
        "DatabaseError",
        "ExecutionFailedError",
        "InvalidFormatError",
        "LateMigrationError",
        "LockHeldError",
        "MigrationError",
        "MigrationFileError",
        "MigrationNotFoundError",
        "RefusedError",
        "RollbackFailedError",
        "UnfinishedError",
        "UnsupportedPythonError",
    ),
    "migrated.core.migration": (
        "ChecksumMismatch",
        "Migration",
        "MigrationDirection",
    ),
    "migrated.core.plan": ("MigrationPlan",),
    "migrated.core.records": (
        "AppliedMigration",
        "Repair",
        "Snapshot",
        "Unfinished",
    ),
    "migrated.core.status": (
        "OnChanged",
        "OnLate",
        "OnMissing",
        "Policy",
    ),
    "migrated.engine.runner": ("MigrationRunner",),
    "migrated.sources.directory": ("read_migrations",),
    "migrated.system.cancellation": ("CancelToken", "Supervision"),
}

__all__ = [
    "AppliedMigration",
    "CancelToken",
    "ChecksumMismatch",
    "ChecksumMismatchError",
    "ConfigError",
    "DatabaseError",
    "ExecutionFailedError",
    "InvalidFormatError",
    "LateMigrationError",
    "LockHeldError",
    "Migration",
    "MigrationDirection",
    "MigrationError",
    "MigrationFileError",
    "MigrationNotFoundError",
    "MigrationPlan",
    "MigrationRunner",
    "OnChanged",
    "OnLate",
    "OnMissing",
    "Policy",
    "RefusedError",
    "Repair",
    "RollbackFailedError",
    "Snapshot",
    "SnapshotPolicy",
    "SnapshotWhen",
    "Supervision",
    "TransactionMode",
    "Unfinished",
    "UnfinishedError",
    "UnsupportedPythonError",
    "read_migrations",
]


def __getattr__(name: str) -> object:
    # Load a module when one of its names is first used: most commands need few of them and start sooner.
    for home, names in _HOMES.items():
        if name in names:
            import_module("migrated.system.interpreter").require_supported_python()
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
