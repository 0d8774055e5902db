"""Fixtures of the tests with faults."""

from collections.abc import Iterator

import pytest
from integration.faults.serving import Servers


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    """The processes that a fault hits."""
    with Servers() as started:
        yield started
