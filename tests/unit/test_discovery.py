import os
from collections.abc import Callable
from pathlib import Path

import pytest

from migrated.config.load import would_be_found
from migrated.config.settings import Target
from migrated.fleet.discovery import DatabasePath, Discovery, assign, discover


def names(base: Path, *configured: str) -> list[str]:
    return [database.name for database in discover(Target(str(base), configured, str(base / "migrations")))]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("a.db", "b.db", "tenants/c.db", "tenants/deep/d.db"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("configured", "found"),
    [
        pytest.param(["a.db"], ["a.db"], id="path"),
        pytest.param(["new.db"], ["new.db"], id="missing path"),
        pytest.param(["b.db", "a.db"], ["b.db", "a.db"], id="paths in the order configured"),
        pytest.param(["*.db"], ["a.db", "b.db"], id="glob, sorted"),
        pytest.param(["?.db"], ["a.db", "b.db"], id="question mark"),
        pytest.param(["[b-z].db"], ["b.db"], id="character class"),
        pytest.param(["*/*.db"], ["tenants/c.db"], id="one directory down"),
        pytest.param(
            ["**/*.db"], ["a.db", "b.db", "tenants/c.db", "tenants/deep/d.db"], id="all directories down"
        ),
        pytest.param(["x*.db"], [], id="glob without matches"),
        pytest.param(["nowhere/*.db"], [], id="glob in a missing directory"),
        pytest.param(["*"], ["a.db", "b.db"], id="directories are not matched"),
        pytest.param(["b.db", "*.db"], ["b.db", "a.db"], id="each once, where it came first"),
        pytest.param(["*.db", "b.db", "new.db"], ["a.db", "b.db", "new.db"], id="glob, then paths"),
        pytest.param([], [], id="none"),
    ],
)
def test_databases_of_a_target(base: Path, configured: list[str], found: list[str]) -> None:
    assert found == names(base, *configured)


def test_files_of_sqlite_beside_a_database_are_not_matched(base: Path) -> None:
    for suffix in ("-wal", "-shm", "-journal"):
        (base / f"a.db{suffix}").touch()

    assert names(base, "a*") == ["a.db"]


@pytest.mark.parametrize("lookalike", ["wal", "my-wal.db", "a.db-walrus", "a.db.bak"])
def test_file_named_like_a_sibling_is_a_database(base: Path, lookalike: str) -> None:
    (base / lookalike).touch()

    assert lookalike in names(base, "*")


@pytest.mark.parametrize("pattern", [".migrated/*", "*/*", "**/*", ".*/*", "tenants/.migrated/*"])
def test_folder_of_the_locks_is_skipped(base: Path, pattern: str) -> None:
    for folder in (base / ".migrated", base / "tenants" / ".migrated"):
        folder.mkdir()
        (folder / "lock").touch()

    assert [name for name in names(base, pattern) if "lock" in name] == []


class TestAgain:
    """One object that looks again and again, as the daemon's does."""

    PATTERNS = ("./[x].db", "x.db", "*.db", "tenants/*.db", "*/deep/*.db")

    @pytest.fixture
    def target(self, base: Path) -> Target:
        (base / "x.db").touch()
        return Target(str(base), self.PATTERNS, str(base / "migrations"))

    def test_same_list_while_nothing_changes(self, target: Target) -> None:
        discovery = Discovery()

        assert discovery.discover(target) is discovery.discover(target)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda base: (base / "c.db").touch(), id="new file"),
            pytest.param(lambda base: (base / "tenants" / "e.db").touch(), id="new file in a folder"),
            pytest.param(lambda base: (base / "tenants" / "deep" / "e.db").touch(), id="new file in any folder"),
            pytest.param(lambda base: (base / "a.db").unlink(), id="removed"),
            pytest.param(lambda base: (base / "a.db").rename(base / "z.db"), id="renamed"),
            pytest.param(lambda base: (base / "[x].db").touch(), id="pattern that is a file by now"),
        ],
    )
    def test_list_after_a_change_is_that_of_a_first_look(
        self, base: Path, target: Target, change: Callable[[Path], object]
    ) -> None:
        discovery = Discovery()
        before = discovery.discover(target)
        change(base)

        assert discovery.discover(target) == discover(target) != before

    def test_targets_with_equal_paths_below_different_folders_are_kept_apart(self, base: Path) -> None:
        discovery = Discovery()
        here, below = (Target(str(place), ("a.db",), "m") for place in (base, base / "tenants"))

        assert discovery.discover(here) == discover(here)
        assert discovery.discover(below) == discover(below)
        assert discovery.discover(here) == discover(here)


def test_name_is_as_configured_and_path_is_below_the_base(base: Path) -> None:
    found = discover(Target(str(base), ("a.db", "tenants/*.db"), "migrations"))

    assert [
        DatabasePath("a.db", str(base / "a.db")),
        DatabasePath("tenants/c.db", str(base / "tenants/c.db"), matched=True),
    ] == found


def test_absolute_path_and_glob_stay_absolute(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.db").touch()

    found = discover(Target(str(base), (f"{elsewhere}/new.db", f"{elsewhere}/*.db"), "migrations"))

    assert [str(elsewhere / "new.db"), str(elsewhere / "e.db")] == [database.path for database in found]


def test_link_to_a_database_is_matched_and_a_dangling_link_is_not(base: Path) -> None:
    (base / "link.db").symlink_to("a.db")
    (base / "lost.db").symlink_to("nowhere")

    assert names(base, "l*.db") == ["link.db"]


def test_existing_file_with_a_name_like_a_pattern_is_a_path(base: Path) -> None:
    (base / "[b].db").touch()

    assert names(base, "[b].db") == ["[b].db"]
    assert names(base, "[ab].db") == ["a.db", "b.db"]


def test_two_spellings_of_a_path_are_one_database(base: Path) -> None:
    assert names(base, "a.db", "./a.db", "tenants/../a.db") == ["a.db"]


def test_database_of_several_targets_belongs_to_the_first(base: Path) -> None:
    first, second, third = (
        Target(str(base), configured, "m") for configured in (("b.db",), ("*.db", "new.db"), ("a.db", "./b.db"))
    )

    assert [
        (first, ["b.db"]),
        (second, ["a.db", "new.db"]),
        (third, []),
    ] == [(target, [database.name for database in found]) for target, found in assign([first, second, third])]


@pytest.mark.parametrize("there", [True, False], ids=["existing", "missing"])
@pytest.mark.parametrize(
    ("configured", "path", "expected"),
    [
        ("app.db", "app.db", True),
        ("app.db", "x/../app.db", True),
        ("x.db", "app.db", False),
        ("*", "app.db", True),
        ("*", ".app.db", False),
        (".*", ".app.db", True),
        ("*", "x/app.db", False),
        ("*/*.db", "x/app.db", True),
        ("*/*.db", "x/app.sql", False),
        ("*/[!x].db", "x/a.db", True),
        ("**", "app.db", True),
        ("**", "x/y/app.db", True),
        ("**/*.db", "app.db", True),
        ("x/**/app.db", "x/y/z/app.db", True),
        ("x/**/app.db", "y/z/app.db", False),
        ("**/*.db", "x/.y/app.db", False),
        ("x/**/**", "x/app.db", True),
        ("x**/app.db", "xx/y/app.db", False),
    ],
)
def test_would_be_found_agrees_with_discover(
    tmp_path: Path, configured: str, path: str, *, expected: bool, there: bool
) -> None:
    for directory in ("x/y/z", "x/.y", "xx/y", "y/z"):
        (tmp_path / directory).mkdir(parents=True)
    target = Target(str(tmp_path), (configured,), str(tmp_path / "migrations"))
    if there:
        (tmp_path / path).touch()
        found = [database.path for database in discover(target)]

        assert (os.path.abspath(tmp_path / path) in found) is expected
    assert would_be_found(target, str(tmp_path / path)) is expected


def test_would_be_found_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    through_link = Target(str(tmp_path / "link"), ("*.db", "one.sqlite"), str(tmp_path / "migrations"))

    assert would_be_found(through_link, str(tmp_path / "link/app.db"))
    assert would_be_found(through_link, str(tmp_path / "real/one.sqlite"))
