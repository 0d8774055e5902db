"""What the tests under faults share."""

from collections.abc import Iterator

import pytest
from integration.faults.serving import Servers


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    """The processes that are struck."""
    with Servers() as started:
        yield started
