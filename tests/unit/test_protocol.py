"""Parsing of request lines from the control socket."""

import json

import pytest

from migrated.daemon.control.protocol import NAMES, Request, parse


def line(**keys: object) -> bytes:
    return json.dumps({"version": 1, **keys}).encode()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "retry"])
def test_request_needs_only_a_name(name: str) -> None:
    assert parse(line(request=name)) == Request(name)


def test_request_with_every_key() -> None:
    assert parse(line(request="retry", database="a\udcff.db")) == Request("retry", database="a\udcff.db")
    assert parse(line(request="reload", wait=True)) == Request("reload", wait=True)
    assert parse(line(request="wait", timeout=2, databases=["a", "b"])) == Request(
        "wait", timeout=2.0, databases=("a", "b")
    )


def test_unknown_keys_are_ignored() -> None:
    assert parse(line(request="status", colour="red")) == Request("status")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "a JSON object", id="empty line"),
        pytest.param(b"status", "a JSON object", id="no JSON"),
        pytest.param(b"\xff", "a JSON object", id="no UTF-8"),
        pytest.param(b"[" * 50_000, "a JSON object", id="deeply nested"),
        pytest.param(b'["status"]', "a JSON object", id="a list"),
        pytest.param(b'{"request": "status"}', "version 1, got None", id="no version"),
        pytest.param(b'{"version": 2, "request": "status"}', "version 1, got 2", id="another version"),
        pytest.param(line(), "request: expected one of status, reload", id="no request"),
        pytest.param(
            line(request=["status"]), "request: expected one of status, reload", id="a request that is no string"
        ),
        pytest.param(line(request="x" * 1000), "got 'xxx", id="unknown request"),
        pytest.param(line(request="retry"), "retry: expected a database", id="retry without a database"),
        pytest.param(line(request="retry", database=1), "database: expected a string", id="database"),
        pytest.param(line(request="wait", databases="a"), "databases: expected a list", id="databases"),
        pytest.param(line(request="wait", databases=[1]), "databases: expected a list", id="one of the databases"),
        *(
            pytest.param(line(request="wait", timeout=value), "timeout: expected a number", id=f"timeout {value}")
            for value in (-1, "1", True, float("nan"), float("inf"), 1e300)
        ),
    ],
)
def test_invalid_request_error_says_what_was_expected(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        parse(data)

    assert reason in str(refused.value)
    assert len(str(refused.value)) < 300
