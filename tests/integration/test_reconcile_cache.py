"""How a pass detects, without opening files, which databases and directories changed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from daemon_process import DEADLINE, poll
from support import execute
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from migrated.daemon.reconcile import ReconcileCache
from migrated.fleet.discovery import DatabasePath
from migrated.sources import cache
from migrated.sources.cache import Reading
from migrated.sources.directory import Listing

SECOND_NS = 1_000_000_000
REVISION = 11


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database whose time stamps are old."""
    made = tmp_path / "app.db"
    execute(made, "CREATE TABLE t (x)")
    age(made)
    return made


def age(path: Path) -> None:
    os.utime(path, (time.time() - 60, time.time() - 60))


def set_clock(monkeypatch: pytest.MonkeyPatch, now_ns: Callable[[], int]) -> None:
    """Have the code under test take this for the time."""
    monkeypatch.setattr(cache, "time", SimpleNamespace(time_ns=now_ns))


def wait_for_tick(directory: Path, file: Path) -> None:
    """Return when the file system's clock has advanced past the last write in a directory."""
    newest = max(path.stat().st_ctime_ns for path in directory.iterdir())

    def is_later() -> bool:
        file.write_bytes(b"")
        return file.stat().st_ctime_ns > newest

    poll(is_later, "a tick of the clock")


def seen(path: Path) -> ReconcileCache:
    known = ReconcileCache()
    known.remember(str(path), REVISION)
    return known


def has_changed(known: ReconcileCache, path: Path, revision: int = REVISION) -> bool:
    database = DatabasePath("app.db", str(path))
    return known.changed([database], revision) == [database]


def test_unvisited_database_has_changed(path: Path) -> None:
    assert has_changed(ReconcileCache(), path)


def test_visited_database_has_not_changed(path: Path) -> None:
    assert not has_changed(seen(path), path)


def test_other_revision_means_changed(path: Path) -> None:
    assert has_changed(seen(path), path, REVISION + 1)


def replace(path: Path) -> None:
    """Put another file of the same size and with the same time in its place."""
    before = path.stat()
    other = path.with_suffix(".new")
    execute(other, "CREATE TABLE t (x)")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.rename(path)


def grow(path: Path) -> None:
    """Make it larger, and give it the time of before."""
    before = path.stat()
    execute(path, "CREATE TABLE more (x)")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_to_the_log(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"x")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: execute(path, "INSERT INTO t VALUES (1)"), id="written"),
        pytest.param(replace, id="replaced"),
        pytest.param(grow, id="grown"),
        pytest.param(write_to_the_log, id="written to its log"),
        pytest.param(Path.unlink, id="removed"),
    ],
)
def test_change_is_seen(path: Path, change: Callable[[Path], None]) -> None:
    known = seen(path)
    change(path)

    assert has_changed(known, path)


def grow_the_log(log: Path) -> None:
    before = log.stat()
    log.write_bytes(b"xy")
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda log: log.write_bytes(b"y"), id="written from its beginning"),
        pytest.param(grow_the_log, id="grown"),
        pytest.param(Path.unlink, id="removed"),
        pytest.param(lambda log: replace(log.with_name("app.db")), id="beside another database"),
    ],
)
def test_change_of_a_log_that_was_there_is_seen(path: Path, change: Callable[[Path], object]) -> None:
    log = Path(f"{path}-wal")
    log.write_bytes(b"x")
    age(log)
    roster = seen(path)
    assert not has_changed(roster, path)
    change(log)

    assert has_changed(roster, path)


def test_wal_of_a_linked_database_is_beside_the_real_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "app.db"
    link.symlink_to(path)
    known = seen(link)
    assert not has_changed(known, link)
    write_to_the_log(path)

    assert has_changed(known, link)


def test_log_of_a_file_that_took_the_place_of_a_link_lies_beside_it(path: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "app.db"
    link.symlink_to(path)
    roster = seen(link)
    path.rename(link)
    roster.remember(str(link), REVISION)
    assert not has_changed(roster, link)
    write_to_the_log(link)

    assert has_changed(roster, link)


def test_recently_written_database_is_visited_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further write in the same tick of the file system's clock would not change the time stamp."""
    execute(path, "INSERT INTO t VALUES (1)")
    set_clock(monkeypatch, lambda: path.stat().st_mtime_ns + SECOND_NS)

    assert has_changed(seen(path), path)


@pytest.mark.parametrize("young", ["app.db", "app.db-wal"])
def test_file_and_log_must_both_have_rested(path: Path, young: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_to_the_log(path)
    age(Path(f"{path}-wal"))
    path.with_name(young).touch()
    set_clock(monkeypatch, lambda: path.with_name(young).stat().st_mtime_ns + SECOND_NS)

    assert has_changed(seen(path), path)


def test_removed_database_is_forgotten(path: Path) -> None:
    known = seen(path)
    known.keep([])

    assert has_changed(known, path)


def test_forgotten_database_has_changed(path: Path) -> None:
    known = seen(path)
    known.forget(str(path))

    assert has_changed(known, path)


def test_target_has_changed_with_another_reading_or_other_databases() -> None:
    roster = ReconcileCache()
    one, other = Reading(Listing("/m"), 1), Reading(Listing("/m"), 1)
    few, many = [DatabasePath("a.db", "/a.db")], [DatabasePath("a.db", "/a.db"), DatabasePath("b.db", "/b.db")]

    scans = [("t", one, few), ("t", one, few), ("t", other, few), ("t", other, many), ("t", other, many)]
    assert [roster.directory_changed(*scan) for scan in scans] == [True, False, True, True, False]
    assert roster.directory_changed("another target", other, many)


class TestDirectory:
    @pytest.fixture
    def migrations(self, tmp_path: Path) -> Path:
        made = tmp_path / "migrations"
        made.mkdir()
        for version in (1, 2):
            (made / f"{version}_change.sql").write_text(f"CREATE TABLE t{version} (x);")
        return made

    @pytest.fixture(autouse=True)
    def later(self, migrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Advance the reader's clock by three seconds, so that the files count as written long ago."""
        wait_for_tick(migrations, tmp_path / "now")
        set_clock(monkeypatch, lambda: time.time_ns() + 3 * SECOND_NS)

    def test_reading_is_reused_while_nothing_changes(self, migrations: Path) -> None:
        reader = ReconcileCache().reader
        first = reader.read(str(migrations))

        assert [migration.version for migration in first.listing.migrations] == [1, 2]
        assert reader.read(str(migrations)) is first

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda path: (path / "3_change.sql").write_text("SELECT 3;"), id="a new file"),
            pytest.param(lambda path: (path / "2_change.sql").write_text("SELECT 2;"), id="changed text"),
            pytest.param(lambda path: (path / "2_change.sql").rename(path / "2_other.sql"), id="renamed file"),
            pytest.param(lambda path: (path / "2_change.sql").unlink(), id="deleted file"),
        ],
    )
    def test_changed_directory_has_another_mark(self, migrations: Path, change: Callable[[Path], object]) -> None:
        reader = ReconcileCache().reader
        first = reader.read(str(migrations))
        change(migrations)
        second = reader.read(str(migrations))

        assert second.directory_revision != first.directory_revision
        assert second.listing.migrations != first.listing.migrations

    def test_ignored_file_that_comes_or_goes_is_another_reading_with_the_same_mark(self, migrations: Path) -> None:
        reader = ReconcileCache().reader
        first = reader.read(str(migrations))
        (migrations / "misnamed.sql").write_text("SELECT 1;")
        second = reader.read(str(migrations))
        (migrations / "misnamed.sql").unlink()
        third = reader.read(str(migrations))

        assert [len(reading.listing.ignored) for reading in (first, second, third)] == [0, 1, 0]
        assert first.directory_revision == second.directory_revision == third.directory_revision

    def test_file_with_its_old_size_and_time_is_read_again(self, migrations: Path) -> None:
        reader = ReconcileCache().reader
        path = migrations / "2_change.sql"
        first = reader.read(str(migrations))
        before = path.stat()
        path.write_text(path.read_text().replace("x", "y"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

        assert reader.read(str(migrations)).directory_revision != first.directory_revision

    def test_recently_changed_file_is_read_again_each_time(
        self, migrations: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A further write may leave the same time stamp (the racy-git problem)."""
        reader = ReconcileCache().reader
        path = migrations / "2_change.sql"
        first = reader.read(str(migrations))
        age(path)
        set_clock(monkeypatch, lambda: path.stat().st_ctime_ns + SECOND_NS)
        second = reader.read(str(migrations))
        third = reader.read(str(migrations))

        assert third.listing.migrations == first.listing.migrations
        assert third.listing.migrations[0] is second.listing.migrations[0] is first.listing.migrations[0]
        assert third.listing.migrations[1] is not second.listing.migrations[1]
        assert third.directory_revision == second.directory_revision == first.directory_revision

    def test_only_the_new_file_is_opened(self, migrations: Path, tmp_path: Path) -> None:
        for version in range(3, 60):
            (migrations / f"{version}_change.sql").write_text(f"CREATE TABLE t{version} (x);")
        wait_for_tick(migrations, tmp_path / "now")
        reader = ReconcileCache().reader
        reader.read(str(migrations))
        beside = tmp_path / "new"
        beside.write_text("CREATE TABLE t99 (x);")
        beside.rename(migrations / "99_new.sql")
        opened: SimpleQueue[str] = SimpleQueue()
        observer = Observer()
        observer.schedule(_Opened(opened), str(migrations), recursive=False)
        observer.start()
        try:
            assert len(reader.read(str(migrations)).listing.migrations) == 60
            (migrations / "last").touch()
            names = set()
            while (name := opened.get(timeout=DEADLINE)) != "last":
                names.add(name)
        finally:
            observer.stop()
            observer.join()

        assert names == {"99_new.sql"}


class _Opened(FileSystemEventHandler):
    def __init__(self, names: "SimpleQueue[str]") -> None:
        self._names = names

    def dispatch(self, event: FileSystemEvent) -> None:
        if not event.is_directory and event.event_type in {"opened", "created"}:
            self._names.put(Path(os.fsdecode(event.src_path)).name)
