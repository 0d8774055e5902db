"""The settings as values, with their defaults, and the faults that reading them may find."""

import os
import re
from enum import StrEnum
from typing import Literal, NamedTuple

from migrated.core.errors import ConfigError
from migrated.core.status import OnChanged, OnMissing, Policy
from migrated.system.permissions import Trust

DEFAULT_MIGRATIONS = "migrations"
DEFAULT_DATABASE = "app.db"
LogFormat = Literal["auto", "json", "ecs", "otel", "console"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
WatchMode = Literal["auto", "events", "polling"]


class TransactionMode(StrEnum):
    """Whether each migration is a transaction, or all that is pending for a database is one."""

    EACH = "each"
    RUN = "run"


class SnapshotWhen(StrEnum):
    """When the content of a database is kept before it is changed."""

    NEVER = "never"
    BEFORE_RUN = "before-run"
    BEFORE_EACH = "before-each"


class SnapshotPolicy(NamedTuple):
    """Of a database of at most `max_size` bytes, the `keep` newest snapshots are there."""

    when: SnapshotWhen = SnapshotWhen.BEFORE_RUN
    keep: int = 5
    max_size: int = 256_000_000


DEVELOPMENT_SNAPSHOTS = SnapshotPolicy(SnapshotWhen.BEFORE_EACH, keep=20)
"""What `migrated dev` keeps, unless it is told otherwise: an edited migration may have no other way back."""
NO_SNAPSHOTS = SnapshotPolicy(SnapshotWhen.NEVER)


class HookName(StrEnum):
    """On which occasion a program is run."""

    AFTER_APPLY = "after_apply"
    ON_FAILURE = "on_failure"


class Hooks(NamedTuple):
    """Programs with their arguments, none where empty, and how many seconds each may take."""

    after_apply: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: float = 60.0

    def command(self, name: HookName) -> tuple[str, ...]:
        """The program of a hook, with its arguments."""
        return self.after_apply if name is HookName.AFTER_APPLY else self.on_failure


_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)[ ]?(?P<unit>B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_BYTES = {"B": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", 1)
}


def parse_size(text: str) -> int:
    """Bytes, from a text such as "256MB" (1000s) or "1GiB" (1024s). Raises `ValueError` for anything else."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a size such as "256MB" or "1GiB", got {text!r}')
    return int(float(found["number"]) * _BYTES[found["unit"].replace("k", "K")])


def parse_duration(text: str) -> float:
    """Seconds, from a text such as "250ms". Raises `ValueError` for anything but a number and ms, s, m or h."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a duration such as "250ms", "30s" or "5m", got {text!r}')
    return float(found["number"]) * _SECONDS[found["unit"]]


class Share(NamedTuple):
    """A number of databases, or so many percent of all."""

    number: float
    is_percent: bool = False

    def of(self, total: int) -> int:
        """How many that is, of so many; at least one, where it is a percentage."""
        return max(1, int(total * self.number / 100)) if self.is_percent else int(self.number)


class WavePolicy(NamedTuple):
    """`waves` are the sizes of all but the last, which is the rest; None: the usual ones, where there are enough.

    `max_failures` is how many databases may fail before a wave is broken off; None: one of the first wave, later
    one in a hundred.
    """

    waves: tuple[Share, ...] | None = None
    max_failures: Share | None = None


class Target(NamedTuple):
    """Databases, as paths or globs relative to `base`, and the directory whose migrations they take."""

    base: str
    databases: tuple[str, ...]
    migrations: str
    create: bool = True
    policy: Policy = Policy()
    busy_timeout: float = 30.0
    statement_timeout: float = 0.0
    transaction: TransactionMode = TransactionMode.EACH
    snapshots: SnapshotPolicy = SnapshotPolicy()
    application_id: int = 0
    schema_file: str | None = None
    waves: WavePolicy = WavePolicy()


class Config(NamedTuple):
    """The configuration in force. Durations are seconds; the paths of migrations and schema files are absolute."""

    source: str
    targets: tuple[Target, ...]
    log_format: str = "auto"
    log_level: str = "info"
    settle: float = 0.05
    settle_max: float = 2.0
    resync_interval: float = 30.0
    watch: WatchMode = "auto"
    lock_timeout: float = 10.0
    stop_grace: float = 30.0
    hooks: Hooks = Hooks()
    allow_insecure_permissions: bool = False
    metrics_file: str | None = None
    workers: int = 4

    @property
    def directory(self) -> str:
        """That of the configuration file: what its relative paths begin at, and where hooks run."""
        return os.path.dirname(os.path.abspath(self.source))

    def trust(self) -> Trust | None:
        """Whom to trust with what is run; None for everybody."""
        return None if self.allow_insecure_permissions else Trust()


def for_development(config: Config) -> Config:
    """The same, with databases that follow the directory whatever happens there."""
    return config._replace(targets=tuple(_for_development(target) for target in config.targets))


def without_waves(config: Config) -> Config:
    """The same, with every database tried, however many fail."""
    return config._replace(targets=tuple(target._replace(waves=WavePolicy(())) for target in config.targets))


def following(policy: Policy) -> Policy:
    """The same, so that a database follows its migrations."""
    return policy._replace(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)


def _for_development(target: Target) -> Target:
    is_default = target.snapshots == SnapshotPolicy()
    policy = following(target.policy)
    return target._replace(policy=policy, snapshots=DEVELOPMENT_SNAPSHOTS if is_default else target.snapshots)


class Faults:
    """Everything that is wrong, each with its key, and its line where `text` shows it below `table`, if any."""

    def __init__(self, source: str, text: str = "", table: str = "") -> None:
        self.source = source
        self.text = text
        self.table = table
        self.found: list[str] = []

    def add(self, key: str, reason: str, *, table: int | None = None) -> None:
        """Note one; `table` is the number of the `[[target]]` that the key stands in."""
        parts = [part for part in key.split(".") if not part.startswith("target[")]
        within = parts[0] if table is None and len(parts) > 1 else ""
        line = next((line for part in reversed(parts) if (line := self._line_of(part, table, within))), None)
        self.found.append(f"{self.source}{f':{line}' if line else ''}: {key}: {reason}")

    def require_path(self, path: str, key: str, *, table: int | None = None) -> bool:
        """Whether `path` can be that of a file; note a fault if not."""
        if not path or path == ":memory:" or "\0" in path:
            self.add(key, f"{path!r} is not a file path", table=table)
            return False
        return True

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` with all of them."""
        if self.found:
            several = len(self.found) > 1
            text = "\n".join(self.found)
            raise ConfigError(
                f"the configuration has {len(self.found)} faults:\n{text}" if several else text,
                faults=self.found,
                hint="`migrated help configuration` lists every key and its values",
            )

    def _line_of(self, key: str, number: int | None, within: str) -> int | None:
        """The line of a key, for a message alone: the first that looks like it below the right header."""
        inner = f"{self.table}.{within}" if self.table else within
        if number is not None:
            name = re.escape(f"{self.table}.target" if self.table else "target")
            start = self._below(rf"\[\[[ \t]*{name}[ \t]*\]\]", number)
        else:
            # A table may have a header of its own, or stand in a line below that of ours.
            names = [re.escape(name) for name in (self.table, inner if key != within else "") if name]
            start = max((self._below(rf"\[[ \t]*{name}[ \t]*\]", 0) for name in names), default=0)
        pattern = rf"^[ \t]*(?:\[\[?[^\]\n]*)?[\"']?{re.escape(key)}[\"']?[ \t]*[=\]]"
        found = re.compile(pattern, re.MULTILINE).search(self.text, start)
        return self.text.count("\n", 0, found.start()) + 1 if found else None

    def _below(self, header: str, number: int) -> int:
        found = list(re.finditer(rf"^[ \t]*{header}", self.text, re.MULTILINE))
        return found[number].end() if number < len(found) else 0


def parse_share(value: object) -> Share:
    """A number, or a text such as "10%". Raises `ValueError` for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Share(value)
    if isinstance(value, str) and value.endswith("%"):
        number = value[:-1].strip()
        if number.replace(".", "", 1).isdecimal() and float(number) <= 100:  # noqa: PLR2004 - percent
            return Share(float(number), is_percent=True)
    raise ValueError(f'expected a number or a percentage such as "10%", got {value!r}')
