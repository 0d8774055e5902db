"""The layout, held: imports go downward only, and what decides touches nothing outside."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, needs_git

PACKAGE = ROOT / "migrated"

# Top floor first. Rooms on one floor do not import each other; a folder's own modules have their own floors below.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["doctor"],
    ["daemon"],
    ["reports"],
    ["occasions", "dumping", "rollout"],
    ["fleet"],
    ["prototype", "alike"],
    ["reporter", "runner", "hooks", "schemafile"],
    ["execution"],
    ["work"],
    ["control", "locking"],
    ["sources", "sqlite", "locks", "logs", "config", "programs"],
    ["discovery", "configfile", "backend", "loglines"],
    ["settings", "events", "agenda", "supervision", "sink", "console", "logshapes"],
    ["refusals", "differences"],
    ["misread"],
    ["planning"],
    ["sections"],
    ["model"],
    ["directives", "trust", "interpreter"],
    ["sqltext", "errors", "colours", "owners", "folders", "paths", "waves", "inbox"],
    ["about"],
]
INNER_FLOORS = {
    "cli": [
        ["__init__"],
        [
            *("run_daemon", "dev", "up", "down", "redo", "status", "verify", "diff", "new", "wait"),
            *("repair", "snapshots", "restore", "doctor", "install_service"),
            *("reload", "retry", "pause", "resume"),
        ],
        ["applying", "plan", "serving", "document", "tally"],
        ["reading", "worker", "progress", "fleetbar", "alone", "daemons", "live"],
        ["groups"],
        ["render"],
        ["options", "collecting"],
    ],
    "daemon": [
        ["loop"],
        ["desk", "metrics"],
        ["viewing"],
        ["tracking", "directories", "hooking", "standing", "listening"],
        ["crowd"],
        ["passes", "announcing", "asking", "places"],
        ["roster", "wording"],
        [
            *("holding", "watcher", "schedule", "settle", "systemd", "checkout", "caution"),
            *("activity", "pulse"),
        ],
        ["__init__"],
    ],
    "doctor": [
        ["examination"],
        ["machine", "directories", "databases", "places"],
        ["findings"],
        ["__init__"],
    ],
    "sources": [["rereading"], ["directory"], ["parsing"], ["naming", "mounts"], ["__init__"]],
    "sqlite": [
        ["database"],
        ["session", "template", "glance"],
        ["rebuilding"],
        ["piecewise", "step", "preparing", "restoring", "comparing", "former", "schema"],
        ["failures", "checks", "snapshots", "rewriting"],
        ["shelf", "condition"],
        ["copying"],
        ["record", "opened"],
        ["script", "history", "repeatables", "oversight"],
        ["ledger"],
        ["carrying"],
        ["guard", "foreign_keys", "belongings", "connection", "space", "preflight"],
        ["holders", "content", "keys"],
        ["__init__"],
    ],
}
PURE = [
    "errors",
    "sqltext",
    "directives",
    "model",
    "sections",
    "planning",
    "misread",
    "differences",
    "refusals",
    "agenda",
    "console",
    "logshapes",
    "supervision",
    "waves",
    "backend",
    "work",
    "execution",
    "occasions",
    "events",
    "daemon.settle",
    "daemon.schedule",
    "daemon.pulse",
    "sources.naming",
    "sources.parsing",
    "doctor.findings",
]
OUTSIDE = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "signal", "socket", "subprocess", "sys"),
    *("time", "random", "threading", "queue", "logging", "concurrent"),
    *("apsw", "structlog", "watchdog", "filelock", "msgspec", "tomllib", "rich"),
}


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, `migrated.x.y` for `from migrated.x import y` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                is_module = below.with_suffix(".py").exists() or below.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def _floor(floors: list[list[str]], room: str) -> int:
    found = [number for number, floor in enumerate(floors) if room in floor]

    assert found, f"{room} stands on no floor: add it to the list above"
    return found[0]


MODULES = [pytest.param(name, path, id=name) for name, path in _modules() if name != "__init__"]


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_imports_go_downward_only(name: str, path: Path) -> None:
    room, _, inner = name.partition(".")
    for imported in _imports(path):
        if not imported.startswith("migrated."):
            continue
        other, _, other_inner = imported.removeprefix("migrated.").partition(".")
        if other != room:
            assert _floor(FLOORS, other) > _floor(FLOORS, room), f"{name} imports {imported}"
        elif inner:
            floors = INNER_FLOORS[room]
            above = _floor(floors, inner)

            assert _floor(floors, other_inner or "__init__") > above, f"{name} imports {imported}"


@pytest.mark.parametrize("name", PURE)
def test_what_decides_imports_nothing_of_the_world(name: str) -> None:
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    imported = {module.partition(".")[0] for module in _imports(path)}

    assert imported & OUTSIDE == set()


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_no_module_imports_the_standard_sqlite(name: str, path: Path) -> None:
    """Two SQLite libraries in one process drop each other's locks."""
    assert "sqlite3" not in {module.partition(".")[0] for module in _imports(path)}


def test_only_the_sqlite_room_and_the_runners_signature_know_apsw() -> None:
    users = {name for name, path in _modules() if "apsw" in _imports(path)}

    assert {name for name in users if not name.startswith("sqlite.")} == {"runner"}


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
    for name in migrated.__all__:
        assert getattr(migrated, name).__name__ == name
