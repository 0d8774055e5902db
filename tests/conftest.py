"""What every test may ask for, and what every test is checked for afterwards."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from gate import COMMANDS, GATE
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", _UNTIMED, max_examples=500)
# Every run tries other examples. `--hypothesis-profile=thorough` tries many at once.
settings.register_profile("quick", _UNTIMED, max_examples=20)
settings.load_profile("quick")
_IN_TURN = "PYTEST_XDIST_WORKER" not in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The gate comes first where two work side by side: mypy takes long, and one alone would wait for it."""
    if not _IN_TURN:
        items.sort(key=lambda item: item.path.name != "test_gate.py")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the gate's tools where its tests are to be run in turn, so that they run beside the others."""
    if not _IN_TURN:
        return
    wanted = {item.name for item in session.items}
    for name in COMMANDS:
        if f"test_tool_finds_nothing[{name}]" in wanted and not session.config.option.collectonly:
            GATE.start(name)


def pytest_sessionfinish() -> None:
    GATE.stop()


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """An empty migrations directory."""
    directory = tmp_path / "migrations"
    directory.mkdir()
    return directory


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of a database that does not exist yet."""
    return tmp_path / "app.db"


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "DATABASE_URL",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
        "NO_COLOR",
        "WATCHDOG_USEC",
        "RUNTIME_DIRECTORY",
        "XDG_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """A thread that a test started must be gone when it ends; logging is reset."""
    before = set(threading.enumerate())
    yield
    structlog.reset_defaults()
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.is_alive()]

    assert left == []
