"""What the integration tests share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.children import Children


@pytest.fixture
def children() -> Iterator[Children]:
    """Child processes that end with the test."""
    with Children() as started:
        yield started


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that every user reaches, as pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="migrated-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
