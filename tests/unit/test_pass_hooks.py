"""Directory errors for which the daemon runs failure hooks."""

import pytest

from migrated.core.errors import InvalidFormatError, MigrationFileError, RefusedError
from migrated.daemon.hooks import PassHookCollector
from migrated.daemon.messages import DirectoryScanned
from migrated.fleet.discovery import DatabasePath
from migrated.sources.directory import Listing, Remark

DOUBLE = InvalidFormatError("version 7 is claimed twice", version=7, file="/srv/sql/07_x.sql")
GONE = MigrationFileError("no such directory", file="/srv/sql")


def scan(*errors: RefusedError, databases: tuple[str, ...] = ("/srv/a.db", "/srv/b.db")) -> DirectoryScanned:
    listing = Listing("/srv/sql", invalid=list(errors))
    return DirectoryScanned("/srv/sql", listing, None, databases)


def hook_arguments(collector: PassHookCollector, *scans: DirectoryScanned) -> tuple[str | None, tuple[str, ...]]:
    """Return reason and databases of the first hook event after a pass with these scans."""
    collector.begin("r1")
    for each in scans:
        collector.scanned(each)
    for event in collector.hook_events():
        return event.reason, event.databases
    return None, ()


@pytest.fixture
def collector() -> PassHookCollector:
    return PassHookCollector()


def test_directory_error_is_reported_once(collector: PassHookCollector) -> None:
    assert hook_arguments(collector, scan(DOUBLE)) == ("version 7 is claimed twice", ("/srv/a.db", "/srv/b.db"))
    assert hook_arguments(collector, scan(DOUBLE)) == (None, ())


def test_unreadable_directory_is_reported(collector: PassHookCollector) -> None:
    unreadable = DirectoryScanned("/srv/sql", None, GONE, ("/srv/a.db",))

    assert hook_arguments(collector, unreadable) == ("no such directory", ("/srv/a.db",))


def test_different_directory_error_is_reported(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))

    assert (
        hook_arguments(collector, scan(DOUBLE, InvalidFormatError("bad header")))[0]
        == "version 7 is claimed twice"
    )


def test_directory_error_that_returns_is_reported(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    hook_arguments(collector, scan())

    assert hook_arguments(collector, scan(DOUBLE))[0] == "version 7 is claimed twice"


def test_only_newly_blocked_databases_are_reported(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    both = scan(DOUBLE), scan(DOUBLE, databases=("/srv/c.db",))

    assert hook_arguments(collector, *both) == ("version 7 is claimed twice", ("/srv/c.db",))


def test_database_that_was_removed_and_returned_is_reported_again(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    collector.found([DatabasePath("a.db", "/srv/a.db")])

    assert hook_arguments(collector, scan(DOUBLE)) == ("version 7 is claimed twice", ("/srv/b.db",))


def test_incomplete_file_is_not_reported(collector: PassHookCollector) -> None:
    listing = Listing("/srv/sql", unfinished=[Remark("/srv/sql/7_x.sql", "open for writing")])

    assert hook_arguments(collector, DirectoryScanned("/srv/sql", listing, None, ("/srv/a.db",))) == (None, ())
