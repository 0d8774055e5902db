"""The gate: lint, format and types, as tests, so that `python -m pytest` is the one command."""

import pytest
from gate import COMMANDS, GATE


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.timeout(300)
def test_tool_finds_nothing(name: str) -> None:
    code, said = GATE.findings(name)

    assert code == 0, said
