"""Read `migrated.toml`, or `[tool.migrated]` of `pyproject.toml`, and collect all its faults."""

import os
import tomllib
from collections.abc import Mapping
from enum import EnumType
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from migrated.config.settings import (
    DEFAULT_DATABASE,
    DEFAULT_MIGRATIONS,
    Config,
    Faults,
    Hooks,
    LogFormat,
    LogLevel,
    Share,
    SnapshotPolicy,
    SnapshotWhen,
    Target,
    TransactionMode,
    WatchMode,
    WavePolicy,
    parse_duration,
    parse_share,
    parse_size,
)
from migrated.core.errors import ConfigError
from migrated.core.status import OnChanged, OnLate, OnMissing, Policy
from migrated.system.permissions import CODE, Trust

MOST_WORKERS = 64


class Duration(float):
    """Seconds, written as a string such as "250ms"."""


class Size(int):
    """Bytes, written as a string such as "256MB"."""


class Portions(tuple[Share, ...]):
    """A list of numbers of databases or percentages of all databases."""

    __slots__ = ()


class Portion(Portions):
    """One number of databases or percentage, not in a list."""

    __slots__ = ()


class Command(tuple[str, ...]):
    """A program and its arguments, written as a list of strings; empty for none."""

    __slots__ = ()


class SnapshotTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The table `snapshots`; missing keys have their defaults."""

    when: SnapshotWhen = SnapshotPolicy().when
    keep: Annotated[int, msgspec.Meta(ge=1)] = SnapshotPolicy().keep
    max_size: Size = Size(SnapshotPolicy().max_size)


TOP_KEYS: dict[str, Any] = {
    "log_format": LogFormat,
    "log_level": LogLevel,
    "settle": Duration,
    "settle_max": Duration,
    "resync_interval": Duration,
    "watch": WatchMode,
    "lock_timeout": Duration,
    "stop_grace": Duration,
    "hooks": Any,
    "allow_insecure_permissions": bool,
    "metrics_file": str,
    "workers": Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)],
}
HOOK_KEYS: dict[str, Any] = {"after_apply": Command, "on_failure": Command, "timeout": Duration}
TARGET_KEYS: dict[str, Any] = {
    "databases": list[str],
    "migrations": str,
    "create": bool,
    "busy_timeout": Duration,
    "statement_timeout": Duration,
    "transaction": TransactionMode,
    "snapshots": SnapshotTable,
    "application_id": Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**32)],
    "schema_file": str,
    "waves": Portions,
    "max_failures": Portion,
}
POLICY_KEYS: dict[str, Any] = {"on_changed": OnChanged, "on_missing": OnMissing, "on_late": OnLate}
_POSITIVE = ("settle", "settle_max", "resync_interval")


def has_table(path: Path) -> bool:
    """Return True if a `pyproject.toml` has the table `[tool.migrated]`.

    Raises `ConfigError` if the file cannot be read or is not TOML.
    """
    return _tool_table(_read(path)[0]) is not None


def read_config_file(path: Path, *, trusting: bool = False) -> tuple[Config, Faults]:
    """Read a configuration file. Return it with its faults, which the caller raises.

    Raises `ConfigError` if the file cannot be read, is not TOML, or is writable by others and not `trusting`.
    """
    table, text = _read(path, None if trusting else Trust())
    shared = path.name == "pyproject.toml"
    faults = Faults(str(path), text, "tool.migrated" if shared else "")
    if shared:
        ours = _tool_table(table)
        table = ours or {}
        if ours is None:
            faults.add("tool.migrated", "there is no such table")
    top = {key: value for key, value in table.items() if key != "target"}
    values = _converted(top, TOP_KEYS, faults)
    for key in _POSITIVE:
        if values.get(key, 1) <= 0:
            faults.add(key, "must be greater than zero")
    values["hooks"] = _hooks(values.pop("hooks", {}), faults)
    # Without [[target]] there is one target with all defaults.
    targets = _tables(table.get("target", [{}]), faults)
    base = path.absolute().parent
    values["metrics_file"] = _metrics_file(values.get("metrics_file", ""), base, faults)
    return Config(
        str(path), tuple(_target(entry, n, base, faults) for n, entry in enumerate(targets)), **values
    ), faults


def _read(path: Path, trust: Trust | None = None) -> tuple[dict[str, Any], str]:
    try:
        with path.open(encoding="utf-8") as file:
            if trust:
                # Of the open file: the path could be replaced between the check and the read.
                _require_safe(path, os.fstat(file.fileno()), trust)
            text = file.read()
        return tomllib.loads(text), text
    except OSError as error:
        fault = f"{path}: cannot be read: {error.strerror or error}"
    except RecursionError:
        fault = f"{path}: not TOML: nested too deeply"
    except ValueError as error:
        # Not TOML, not UTF-8, or an integer of thousands of digits (int() refuses those).
        fault = f"{path}: not TOML: {error}"
    raise ConfigError(
        fault,
        faults=[fault],
        hint="check the file given with -c, or the one in this directory; see `migrated help configuration`",
    )


def _require_safe(path: Path, status: os.stat_result, trust: Trust) -> None:
    weakness = trust.of(path, status)
    if weakness is None:
        return
    # The key allow_insecure_permissions cannot apply to its own file: anyone who can write the file can set it.
    fault = f"{path}: the configuration file has insecure permissions: {weakness.reason}"
    hint = f"`{weakness.fix}`; or pass --allow-insecure-permissions if everyone who can write to it is trusted"
    raise ConfigError(fault, faults=[fault], code=CODE, hint=hint)


def _tool_table(table: Mapping[str, Any]) -> dict[str, Any] | None:
    tool = table.get("tool")
    found = tool.get("migrated") if isinstance(tool, dict) else None
    return found if isinstance(found, dict) else None


def _metrics_file(name: str, base: Path, faults: Faults) -> str | None:
    if not name:
        return None
    if not name.endswith(".prom"):
        faults.add("metrics_file", f"must end in .prom, because the collector ignores other files, got {name!r}")
    # find_spec only looks for the library; importing it would slow down every start.
    if find_spec("prometheus_client") is None:
        faults.add("metrics_file", "needs the library prometheus_client: pip install 'migrated[metrics]'")
    return str(base / name)


def _tables(value: object, faults: Faults) -> list[dict[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return value
    faults.add("target", "expected one or more tables, written [[target]]")
    return [{}]


def _hooks(value: object, faults: Faults) -> Hooks:
    if not isinstance(value, dict):
        faults.add("hooks", "expected a table, written [hooks]")
        return Hooks()
    values = _converted(value, HOOK_KEYS, faults, prefix="hooks.")
    if values.get("timeout", 1) <= 0:
        faults.add("hooks.timeout", "must be greater than zero")
    return Hooks(**values)


def _target(entry: Mapping[str, Any], number: int, base: Path, faults: Faults) -> Target:
    prefix = f"target[{number}]."
    values = _converted(entry, TARGET_KEYS | POLICY_KEYS, faults, number, prefix=prefix)
    if isinstance(kept := values.get("snapshots"), SnapshotTable):
        values["snapshots"] = SnapshotPolicy(kept.when, kept.keep, kept.max_size)
    policy = Policy(**{key: values.pop(key) for key in POLICY_KEYS if key in values})
    databases = values.pop("databases", [DEFAULT_DATABASE])
    migrations = values.pop("migrations", DEFAULT_MIGRATIONS)
    if not databases:
        faults.add(f"{prefix}databases", "expected at least one path or glob", table=number)
    databases = [path for path in databases if faults.require_path(path, f"{prefix}databases", table=number)]
    if not faults.require_path(migrations, f"{prefix}migrations", table=number):
        migrations = DEFAULT_MIGRATIONS
    schema_file = values.pop("schema_file", None)
    if schema_file is not None and faults.require_path(schema_file, f"{prefix}schema_file", table=number):
        values["schema_file"] = str(base / schema_file)
    limit: Portions = values.pop("max_failures", Portion())
    values["waves"] = WavePolicy(values.pop("waves", None), next(iter(limit), None))
    return Target(str(base), tuple(databases), str(base / migrations), policy=policy, **values)


def _converted(
    entry: Mapping[str, Any], keys: Mapping[str, Any], faults: Faults, number: int | None = None, prefix: str = ""
) -> dict[str, Any]:
    """Convert each key separately, so that one fault does not hide others."""
    values = {}
    for key, value in entry.items():
        if key not in keys:
            faults.add(prefix + key, f"unknown key; known are {', '.join(keys)}", table=number)
            continue
        try:
            values[key] = msgspec.convert(value, keys[key], dec_hook=_measure)
        except (msgspec.ValidationError, ValueError) as error:
            reason, within = _readable(error, keys[key])
            faults.add(prefix + key + within, f"{reason}, got {value!r}", table=number)
    return values


def _measure(kind: type[Any], value: object) -> object:
    if kind is Command:
        return _command(value)
    if kind is Portion:
        return Portion([parse_share(value)])
    if kind is Portions:
        if isinstance(value, list):
            return Portions(map(parse_share, value))
        raise ValueError('expected a list of numbers and percentages, such as [1, 10, "10%"]')
    if kind is Size:
        if isinstance(value, str):
            return Size(parse_size(value))
        raise ValueError('expected a size such as "256MB" or "1GiB"')
    if kind is Duration and isinstance(value, str):
        return Duration(parse_duration(value))
    raise ValueError('expected a duration such as "250ms", "30s" or "5m"')


def _command(value: object) -> Command:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        example = ", ".join(msgspec.json.encode(word).decode() for word in _split(value))
        raise ValueError(f"expected a list of strings, the program and its arguments, such as [{example}]")
    if value and not value[0]:
        raise ValueError("expected a program name as the first element")
    if any("\0" in word for word in value):
        raise ValueError("arguments must not contain a NUL character")
    return Command(value)


def _split(line: object) -> list[str]:
    """Split a command line as a shell would, to show it as an example in a message."""
    import shlex

    try:
        words = shlex.split(line) if isinstance(line, str) else []
    except ValueError:
        words = []
    return words or ["sqlc", "generate"]


def _readable(error: Exception, kind: Any) -> tuple[str, str]:
    """Return a readable reason, and the key within an inner table as a suffix."""
    choices = tuple(kind) if isinstance(kind, EnumType) else get_args(kind)
    if choices and all(isinstance(choice, str) for choice in choices):
        return f"expected one of {', '.join(choices)}", ""
    # msgspec appends the path of a nested key, such as " - at `$.keep`".
    text, _, path = str(error).partition(" - at `$")
    if text.startswith("Invalid enum value"):
        text = f"expected one of {', '.join(SnapshotWhen)}"
    return text.replace("Expected", "expected").partition(", got ")[0], path.rstrip("`")
