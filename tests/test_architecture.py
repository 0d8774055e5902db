"""The layout: imports go downward only, and modules that decide import nothing of the outside world."""

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ROOT, needs_git

PACKAGE = ROOT / "migrated"

# Top floor first. Rooms on one floor do not import each other.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["checks"],
    ["daemon"],
    ["fleet"],
    ["engine"],
    ["config", "sources"],
    ["logs", "system"],
    ["core"],
]
# Besides everything in `core`.
PURE = [
    "checks.findings",
    "cli.markdown",
    "daemon.databases",
    "daemon.messages",
    "daemon.scheduler",
    "engine.backend",
    "engine.run",
    "engine.steps",
    "fleet.hook_events",
    "fleet.waves",
    "logs.console",
    "logs.events",
    "logs.formats",
    "sources.formats.native",
    "system.cancellation",
]
# Clocks, disks, threads, loggers, the environment, and libraries that use them.
OUTSIDE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "signal", "socket", "subprocess", "sys"),
    *("time", "random", "threading", "queue", "logging", "concurrent"),
    *("apsw", "structlog", "watchdog", "filelock", "msgspec", "tomllib", "rich"),
}


def _modules() -> Iterator[tuple[str, Path]]:
    """Every module with its name below the package, that of a folder ending in `__init__`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, `migrated.x.y` for `from migrated.x import y` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which nothing here follows"
            module = node.module or ""
            for alias in node.names:
                below = PACKAGE.parent.joinpath(*module.split("."), alias.name)
                is_module = below.with_suffix(".py").exists() or below.is_dir()
                yield f"{module}.{alias.name}" if is_module else module


def _own_imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, by the names that `_modules` gives them."""
    for imported in _imports(path):
        top, *parts = imported.split(".")
        if top == "migrated":
            yield ".".join([*parts, "__init__"] if PACKAGE.joinpath(*parts).is_dir() else parts)


def _floor(room: str) -> int:
    found = [number for number, floor in enumerate(FLOORS) if room in floor]

    assert found, f"{room} stands on no floor: add it to FLOORS, or do not import it"
    return found[0]


def _imports_within(folder: str) -> dict[str, set[str]]:
    """What the items of a folder import of each other: its modules, and each subfolder as a whole."""

    def item(module: str) -> str:
        return module.removeprefix(f"{folder}.").partition(".")[0]

    found: dict[str, set[str]] = {}
    for name, path in _modules():
        if name.startswith(f"{folder}."):
            imported = {item(other) for other in _own_imports(path) if other.startswith(f"{folder}.")}
            found.setdefault(item(name), set()).update(imported - {item(name)})
    return found


# The package's own __init__ is the library's face: it imports from everywhere, when a name is asked for.
MODULES = [pytest.param(name, path, id=name) for name, path in _modules() if name != "__init__"]
FOLDERS = [name.removesuffix(".__init__") for name, _ in _modules() if name.endswith(".__init__")]


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_imports_between_rooms_go_downward_only(name: str, path: Path) -> None:
    room = name.partition(".")[0]
    floor = _floor(room)
    for imported in _own_imports(path):
        other = imported.partition(".")[0]
        assert other == room or _floor(other) > floor, f"{name} imports {imported}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_within_a_folder_make_no_circle(folder: str) -> None:
    """Then its items have floors too. Raises `CycleError` with the circle otherwise."""
    TopologicalSorter(_imports_within(folder)).prepare()


@pytest.mark.parametrize("name", [*(name for name, _ in _modules() if name.startswith("core.")), *PURE])
def test_pure_modules_import_nothing_of_the_outside_world(name: str) -> None:
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    others = {imported.partition(".")[0] for imported in _imports(path)}
    ours = {imported for imported in _own_imports(path) if imported.startswith(("logs.", "system."))}

    assert (others & OUTSIDE) | (ours - {*PURE}) == set()


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_no_module_imports_the_standard_sqlite(name: str, path: Path) -> None:
    """Two SQLite libraries in one process drop each other's locks."""
    assert "sqlite3" not in {module.partition(".")[0] for module in _imports(path)}


def test_only_engine_sqlite_and_the_runners_signature_know_apsw() -> None:
    users = {name for name, path in _modules() if "apsw" in _imports(path)}

    assert {name for name in users if not name.startswith("engine.sqlite.")} == {"engine.runner"}


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_only_engine_and_checks_import_the_inside_of_engine_sqlite(name: str, path: Path) -> None:
    """The other rooms use `engine.database` and `engine.runner`, whatever kind of database it is."""
    inside = {imported for imported in _own_imports(path) if imported.startswith("engine.sqlite.")}

    assert name.startswith(("engine.", "checks.")) or inside == set()


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_no_pattern_is_possessive_or_atomic(name: str, path: Path) -> None:
    """Debian 12 has a CPython that matches such patterns wrongly (github.com/python/cpython/issues/106052)."""
    texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))

    assert [
        text for text in texts if isinstance(text, str) and re.search(r"\(\?>|[\w\])*?}.][*+?}]\+", text)
    ] == []


@needs_git
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is not git's working tree")
def test_the_top_level_is_as_given() -> None:
    # Whoever it belongs to: git reads no configuration from a working tree of another user.
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.partition("/")[0] for line in listed.splitlines()}
    given = {"pyproject.toml", "README.md", "migrated", "tests", "systemd", "migrations", "LICENSE"}

    assert {entry for entry in top if not entry.startswith(".")} <= given


def test_public_names_are_listed_once_and_there() -> None:
    import migrated

    homes = [name for names in migrated._HOMES.values() for name in names]

    assert sorted(homes) == sorted(migrated.__all__)
    assert sorted(migrated.__all__) == migrated.__all__
    former = {"Supervision": "CancelToken"}
    for name in migrated.__all__:
        assert getattr(migrated, name).__name__ == former.get(name, name)
