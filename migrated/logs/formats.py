"""Convert log lines to the Elastic Common Schema, and to OTLP for OpenTelemetry.

Each format is a table of renamed keys that one function applies. Keys without an equivalent keep their names in
the place that the schema has for custom fields, so that nothing is lost.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from migrated.core import VERSION

Line = Mapping[str, Any]
Shaper = Callable[[Line], Mapping[str, Any]]
Converter = Callable[[Any], Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The largest duration that fits in 64 bits as nanoseconds.
_LONGEST_MS = 2**63 // 1_000_000
_FAILURES = {"failed", "refused", "unavailable"}


@dataclass(frozen=True, slots=True)
class Shape:
    """Mapping of a log line to another schema. A name with slashes is a path into nested objects.

    `renames` maps each key (`error/code` for a nested one) to its new names, each with a converter of the value;
    None as the new value omits the key. `others` is the prefix of all other keys. `constants` are added to every
    line.
    """

    renames: Mapping[str, Mapping[str, Converter]]
    others: str
    constants: Mapping[str, object]
    finish: Callable[[dict[str, Any]], dict[str, Any]]

    def __call__(self, line: Line) -> dict[str, Any]:
        """Return the line in this schema, ready to be encoded."""
        shaped: dict[str, Any] = {}
        for key, value in _flat(line):
            for name, renamed in self._renamed(key, value).items():
                if renamed is not None:
                    _put(shaped, name, renamed)
        for name, value in self.constants.items():
            _put(shaped, name, value)
        return self.finish(shaped)

    def _renamed(self, key: str, value: Any) -> dict[str, Any]:
        try:
            return {name: convert(value) for name, convert in self.renames[key].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            # An unknown key, or a value of an unexpected type: keep it as a custom field, because a log call never
            # raises.
            return {self.others + key.replace("/", "."): value}


def _flat(line: Line) -> Iterator[tuple[str, Any]]:
    for key, value in line.items():
        if isinstance(value, Mapping):
            for inner, innermost in value.items():
                yield f"{key}/{inner}", innermost
        else:
            yield key, value


def _put(shaped: dict[str, Any], name: str, value: object) -> None:
    *way, last = name.split("/")
    for step in way:
        shaped = shaped.setdefault(step, {})
    shaped[last] = value


def _same(value: Any) -> Any:
    return value


def _nanoseconds(milliseconds: object) -> int:
    if not isinstance(milliseconds, (int, float)) or abs(milliseconds) > _LONGEST_MS:
        raise TypeError(milliseconds)
    return round(milliseconds * 1_000_000)


def _ecs_outcome(outcome: str) -> str:
    return "failure" if outcome in _FAILURES else "success"


# https://www.elastic.co/docs/reference/ecs and, for the dotted keys at the top, https://github.com/elastic/ecs-logging
ECS = Shape(
    renames={
        "timestamp": {"@timestamp": _same},
        "level": {"log.level": _same},
        "message": {"message": _same},
        "event": {"event/action": _same},
        "service": {"service/name": _same},
        "pid": {"process/pid": _same},
        "file": {"file/path": _same},
        "reason": {"event/reason": _same},
        "execution_time_ms": {"event/duration": _nanoseconds},
        "outcome": {"event/outcome": _ecs_outcome, "labels/outcome": _same},
        "traceback": {"error/stack_trace": _same},
        "error/type": {"error/type": _same},
        "error/message": {"error/message": _same},
        "error/code": {"error/code": _same},
    },
    others="labels/",
    constants={"ecs.version": "8.11.0", "service/version": VERSION},
    finish=_same,
)


_SEVERITIES = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}


def _unix_nanoseconds(timestamp: str) -> str:
    # A string, as ProtoJSON encodes 64-bit numbers. Computed with integers, because a float would lose digits.
    return str((datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1) * 1000)


def _any_value(value: object) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case _:
            return {"stringValue": value}


def _sqlite_code(code: str) -> str | None:
    return code if code.startswith("SQLITE_") else None


def _export_request(shaped: dict[str, Any]) -> dict[str, Any]:
    """Wrap a line as one ExportLogsServiceRequest with one record, as collectors accept it."""
    resource = {"attributes": _key_values(shaped["resource"])}
    record = shaped["record"] | {"attributes": _key_values(shaped.get("attributes", {}))}
    scope = {"scope": {"name": "migrated", "version": VERSION}, "logRecords": [record]}
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]}


def _key_values(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


# https://opentelemetry.io/docs/specs/otel/protocol/file-exporter and the semantic conventions for SQL databases
OTEL = Shape(
    renames={
        "timestamp": {"record/timeUnixNano": _unix_nanoseconds, "record/observedTimeUnixNano": _unix_nanoseconds},
        "level": {"record/severityNumber": _SEVERITIES.get, "record/severityText": _same},
        "message": {"record/body": _any_value},
        "event": {"record/eventName": _same},
        "service": {"resource/service.name": _same},
        "pid": {"resource/process.pid": _same},
        "database": {"attributes/db.namespace": _same, "attributes/db.system.name": lambda _: "sqlite"},
        "statement": {"attributes/db.query.text": _same},
        "traceback": {"attributes/exception.stacktrace": _same},
        "file": {"attributes/file.path": _same},
        "error/type": {"attributes/error.type": _same},
        "error/message": {"attributes/exception.message": _same},
        "error/code": {
            "attributes/migrated.error.code": _same,
            "attributes/db.response.status_code": _sqlite_code,
        },
    },
    others="attributes/migrated.",
    constants={"resource/service.version": VERSION},
    finish=_export_request,
)

SHAPES: Mapping[str, Shaper] = {"json": _same, "ecs": ECS, "otel": OTEL}
"""The converter of each machine-readable format."""
