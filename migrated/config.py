"""What the program works by: the defaults, what a file says over them, what the command line says over that.

Without a file nothing but this module is loaded: reading commands start in half the time.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from migrated.errors import ConfigError
from migrated.planning import Policy

DEFAULT_MIGRATIONS = "migrations"
DEFAULT_DATABASE = "app.db"
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
WatchMode = Literal["auto", "events", "polling"]

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds, from a text such as "250ms". Raises `ValueError` for anything but a number and ms, s, m or h."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a duration such as "250ms", "30s" or "5m", got {text!r}')
    return float(found["number"]) * _SECONDS[found["unit"]]


@dataclass(frozen=True, slots=True)
class Target:
    """Databases, as paths or globs relative to `base`, and the directory whose migrations they take."""

    base: str
    databases: tuple[str, ...]
    migrations: str
    create: bool = True
    policy: Policy = field(default_factory=Policy)
    busy_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration in force. Durations are seconds, the migrations' paths are absolute."""

    source: str
    targets: tuple[Target, ...]
    log_format: str = "auto"
    log_level: str = "info"
    settle: float = 0.05
    settle_max: float = 2.0
    resync_interval: float = 30.0
    watch: WatchMode = "auto"
    lock_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says, over the file."""

    file: str | None = None
    databases: Sequence[str] = ()
    migrations: str | None = None
    log_format: str | None = None
    log_level: str | None = None
    lock_timeout: float | None = None


@dataclass(slots=True)
class Faults:
    """Everything that is wrong, each with its key, and its line where `text` shows it."""

    source: str
    text: str = ""
    found: list[str] = field(default_factory=list)

    def add(self, key: str, reason: str, *, table: int | None = None) -> None:
        """Note one; `table` is the number of the `[[target]]` that the key stands in."""
        line = _line_of(self.text, key.rpartition(".")[2], table)
        self.found.append(f"{self.source}{f':{line}' if line else ''}: {key}: {reason}")

    def require_path(self, path: str, key: str, *, table: int | None = None) -> None:
        """Note one unless `path` can be that of a file."""
        if not path or path == ":memory:":
            self.add(key, f"{path!r} is not the path of a file", table=table)

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` with all of them."""
        if self.found:
            several = len(self.found) > 1
            text = "\n".join(self.found)
            raise ConfigError(
                f"the configuration has {len(self.found)} faults:\n{text}" if several else text,
                faults=self.found,
                hint="the README lists every key and its values",
            )


def load_config(overrides: Overrides, directory: str | os.PathLike[str] = ".") -> Config:
    """Find and read the configuration: `overrides.file`, else what `directory` holds, else the defaults.

    That is `migrated.toml`, or `pyproject.toml` if it has a table `[tool.migrated]`. Raises `ConfigError` with
    every fault, each with its key, and its line where known.
    """
    here = Path(directory).absolute()
    file = _find(overrides, here)
    if file is None:
        faults = Faults("options")
        config = _without_file(here, faults)
    else:
        from migrated.configfile import read_config_file

        config, faults = read_config_file(file)
    config = _override(config, overrides, here, faults)
    faults.raise_if_any()
    return config


def _find(overrides: Overrides, here: Path) -> Path | None:
    if overrides.file is not None:
        return here / overrides.file
    own, shared = here / "migrated.toml", here / "pyproject.toml"
    if own.exists():
        return own
    # Whether the table is really there only the TOML reader can tell; most files can be told apart without it.
    if shared.exists() and b"migrated" in shared.read_bytes():
        from migrated.configfile import has_table

        return shared if has_table(shared) else None
    return None


def _without_file(here: Path, faults: Faults) -> Config:
    database = DEFAULT_DATABASE
    if "DATABASE_URL" in os.environ:
        database = _from_url(os.environ["DATABASE_URL"], faults)
    target = Target(str(here), (database,), str(here / DEFAULT_MIGRATIONS))
    return Config("defaults and options, no file", (target,))


def _from_url(url: str, faults: Faults) -> str:
    for prefix in ("sqlite:///", "sqlite:"):
        path = url.removeprefix(prefix)
        if path != url and path and "?" not in path and not path.startswith("//"):
            return path
    faults.add("DATABASE_URL", f"expected sqlite:PATH or sqlite:///PATH, got {url!r}")
    return DEFAULT_DATABASE


def _override(config: Config, overrides: Overrides, here: Path, faults: Faults) -> Config:
    target = config.targets[0]
    if (overrides.databases or overrides.migrations) and len(config.targets) > 1:
        faults.add("target", "-d and -m stand for one target; the configuration has several")
    for path in overrides.databases:
        faults.require_path(path, "-d")
    if overrides.databases:
        target = replace(target, base=str(here), databases=tuple(overrides.databases))
    if overrides.migrations:
        target = replace(target, migrations=str(here / overrides.migrations))
    return replace(
        config,
        targets=(target, *config.targets[1:]),
        log_format=overrides.log_format or config.log_format,
        log_level=overrides.log_level or config.log_level,
        lock_timeout=config.lock_timeout if overrides.lock_timeout is None else overrides.lock_timeout,
    )


def _line_of(text: str, key: str, table: int | None) -> int | None:
    """The line of a key, for a message alone: the first that looks like it, below the right `[[target]]`."""
    start = 0
    if table is not None:
        headers = list(re.finditer(r"^[ \t]*\[\[[^\]]*target[ \t]*\]\]", text, re.MULTILINE))
        start = headers[table].end() if table < len(headers) else len(text)
    pattern = rf"^[ \t]*(?:\[\[?[^\]\n]*)?[\"']?{re.escape(key)}[\"']?[ \t]*[=\]]"
    found = re.compile(pattern, re.MULTILINE).search(text, start)
    return text.count("\n", 0, found.start()) + 1 if found else None
