"""What the integration tests share."""

from collections.abc import Iterator

import pytest
from integration.children import Children


@pytest.fixture
def children() -> Iterator[Children]:
    """Child processes that end with the test."""
    with Children() as started:
        yield started
