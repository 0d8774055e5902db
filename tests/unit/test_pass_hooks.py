"""Which faults of a directory are news to the daemon's hooks."""

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
    """Reason and databases of what one pass, which read these, gives reason to run a hook for."""
    collector.begin("r1")
    for each in scans:
        collector.scanned(each)
    for event in collector.hook_events():
        return event.reason, event.databases
    return None, ()


@pytest.fixture
def collector() -> PassHookCollector:
    return PassHookCollector()


def test_fault_is_news_once(collector: PassHookCollector) -> None:
    assert hook_arguments(collector, scan(DOUBLE)) == ("version 7 is claimed twice", ("/srv/a.db", "/srv/b.db"))
    assert hook_arguments(collector, scan(DOUBLE)) == (None, ())


def test_directory_that_cannot_be_read_is_a_fault(collector: PassHookCollector) -> None:
    unreadable = DirectoryScanned("/srv/sql", None, GONE, ("/srv/a.db",))

    assert hook_arguments(collector, unreadable) == ("no such directory", ("/srv/a.db",))


def test_another_fault_is_news(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))

    assert (
        hook_arguments(collector, scan(DOUBLE, InvalidFormatError("bad header")))[0]
        == "version 7 is claimed twice"
    )


def test_fault_that_comes_back_is_news(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    hook_arguments(collector, scan())

    assert hook_arguments(collector, scan(DOUBLE))[0] == "version 7 is claimed twice"


def test_only_databases_that_it_did_not_block_before_are_told(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    both = scan(DOUBLE), scan(DOUBLE, databases=("/srv/c.db",))

    assert hook_arguments(collector, *both) == ("version 7 is claimed twice", ("/srv/c.db",))


def test_database_that_went_and_came_back_is_told_again(collector: PassHookCollector) -> None:
    hook_arguments(collector, scan(DOUBLE))
    collector.found([DatabasePath("a.db", "/srv/a.db")])

    assert hook_arguments(collector, scan(DOUBLE)) == ("version 7 is claimed twice", ("/srv/b.db",))


def test_file_that_is_being_written_is_no_fault(collector: PassHookCollector) -> None:
    listing = Listing("/srv/sql", unfinished=[Remark("/srv/sql/7_x.sql", "open for writing")])

    assert hook_arguments(collector, DirectoryScanned("/srv/sql", listing, None, ("/srv/a.db",))) == (None, ())
