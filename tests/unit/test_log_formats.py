"""The ECS and OTLP formats against golden files and the OpenTelemetry parser."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from migrated.core import VERSION
from migrated.core.errors import MigrationError
from migrated.logs.events import EVENTS
from migrated.logs.formats import ECS, OTEL, SHAPES
from migrated.logs.logger import failure_keys

GOLDEN = Path(__file__).parent / "golden"


def lines(shape: str) -> list[dict[str, Any]]:
    """Return the lines of a golden file, with the program's version filled in."""
    return [
        json.loads(line)
        for line in (GOLDEN / f"{shape}.jsonl").read_text().replace("VERSION", VERSION).splitlines()
    ]


PLAIN = lines("json")


@pytest.mark.parametrize("shape", ["ecs", "otel"])
def test_line_equals_the_golden_file(shape: str) -> None:
    assert [SHAPES[shape](line) for line in PLAIN] == lines(shape)


def test_json_format_changes_nothing() -> None:
    assert [SHAPES["json"](line) for line in PLAIN] == PLAIN


def test_golden_lines_use_existing_events() -> None:
    assert [line["event"] for line in PLAIN if EVENTS[line["event"]].level != line["level"]] == []


def leaves(value: object) -> list[object]:
    match value:
        case dict():
            return [leaf for inner in value.values() for leaf in leaves(inner)]
        case list():
            return [leaf for inner in value for leaf in leaves(inner)]
        case _:
            return [value]


@pytest.mark.parametrize("shape", ["ecs", "otel"])
def test_every_value_survives_the_conversion(shape: str) -> None:
    every = failure_keys(MigrationError("x")).keys() | {key for line in PLAIN for key in line}
    line = {key: f"value of {key}" for key in every} | {
        "timestamp": "2026-03-04T05:06:11.623456Z",
        "level": "error",
        "execution_time_ms": 12,
        "error": {"type": "its type", "message": "its message", "code": "its code"},
    }
    rewritten: dict[object, object] = (
        {12: 12_000_000} if shape == "ecs" else {12: "12", line["timestamp"]: "1772600771623456000"}
    )
    there = leaves(SHAPES[shape](line))

    assert [value for value in leaves(line) if rewritten.get(value, value) not in there] == []


def test_ecs_keeps_unknown_keys_under_labels() -> None:
    assert ECS({"whatever": 1, "a/b": True, "error": "only a text"})["labels"] == {
        "whatever": 1,
        "a.b": True,
        "error": "only a text",
    }


def test_otel_keeps_unknown_keys_as_migrated_attributes() -> None:
    (resource,) = OTEL({"level": "info", "whatever": 1, "a/b": True, "error": "only a text"})["resourceLogs"]

    assert resource["scopeLogs"][0]["logRecords"][0]["attributes"] == [
        {"key": "migrated.whatever", "value": {"intValue": "1"}},
        {"key": "migrated.a.b", "value": {"boolValue": True}},
        {"key": "migrated.error", "value": {"stringValue": "only a text"}},
    ]


# https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber: the first of each range.
@pytest.mark.parametrize(
    ("level", "name"),
    [("debug", "DEBUG"), ("info", "INFO"), ("warning", "WARN"), ("error", "ERROR"), ("critical", "FATAL")],
)
def test_opentelemetry_understands_the_severity(level: str, name: str) -> None:
    logs_pb2 = import_module("opentelemetry.proto.logs.v1.logs_pb2")
    record = read_by_opentelemetry(OTEL(PLAIN[0] | {"level": level}))

    assert record.severity_number == logs_pb2.SeverityNumber.Value(f"SEVERITY_NUMBER_{name}")
    assert record.severity_text == level


def test_opentelemetry_reads_every_golden_line() -> None:
    for plain, shaped in zip(PLAIN, lines("otel"), strict=True):
        record = read_by_opentelemetry(shaped)

        assert (record.event_name, record.body.string_value) == (plain["event"], plain["message"])
        assert record.time_unix_nano % 1_000_000_000 == int(plain["timestamp"][20:26]) * 1000


def read_by_opentelemetry(line: dict[str, Any]) -> Any:
    """Parse the one record of a line; unknown keys and wrong types are errors."""
    request = import_module("opentelemetry.proto.collector.logs.v1.logs_service_pb2").ExportLogsServiceRequest()
    import_module("google.protobuf.json_format").ParseDict(line, request)
    (resource,) = request.resource_logs
    (scope,) = resource.scope_logs
    (record,) = scope.log_records
    return record
