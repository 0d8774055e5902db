"""The settings with their defaults, and the collection of configuration faults."""

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
    """One transaction for each migration, or one for the whole run on a database."""

    EACH = "each"
    RUN = "run"


class SnapshotWhen(StrEnum):
    """When a snapshot is taken before a database is changed."""

    NEVER = "never"
    BEFORE_RUN = "before-run"
    BEFORE_EACH = "before-each"


class SnapshotPolicy(NamedTuple):
    """When to take snapshots of databases up to `max_size` bytes; the newest `keep` are kept."""

    when: SnapshotWhen = SnapshotWhen.BEFORE_RUN
    keep: int = 5
    max_size: int = 256_000_000


DEVELOPMENT_SNAPSHOTS = SnapshotPolicy(SnapshotWhen.BEFORE_EACH, keep=20)
"""Default of `migrated dev`: an edited migration without a DOWN section needs a snapshot."""
NO_SNAPSHOTS = SnapshotPolicy(SnapshotWhen.NEVER)


class HookName(StrEnum):
    """The event after which a hook's program is run."""

    AFTER_APPLY = "after_apply"
    ON_FAILURE = "on_failure"


class Hooks(NamedTuple):
    """Programs with arguments (empty: none), and the time limit of each in seconds."""

    after_apply: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    timeout: float = 60.0

    def command(self, name: HookName) -> tuple[str, ...]:
        """Return the program of a hook, with its arguments."""
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
    """Return the bytes for "256MB" (powers of 1000) or "1GiB" (powers of 1024).

    Raises `ValueError` for anything else.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a size such as "256MB" or "1GiB", got {text!r}')
    # kB is the SI spelling and KB the common one; both are 1000 bytes.
    return int(float(found["number"]) * _BYTES[found["unit"].replace("k", "K")])


def parse_duration(text: str) -> float:
    """Return the seconds for a string such as "250ms".

    Raises `ValueError` for anything but a number followed by ms, s, m or h.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f'expected a duration such as "250ms", "30s" or "5m", got {text!r}')
    return float(found["number"]) * _SECONDS[found["unit"]]


class Share(NamedTuple):
    """A number of databases, or a percentage of all databases."""

    number: float
    is_percent: bool = False

    def of(self, total: int) -> int:
        """Return the number of databases out of `total`; at least one for a percentage."""
        return max(1, int(total * self.number / 100)) if self.is_percent else int(self.number)


class WavePolicy(NamedTuple):
    """Sizes of the waves of a rollout, and the failures that halt it.

    `waves` are the sizes of all waves but the last, which has the remaining databases. None means the default
    sizes, if there are enough databases. A rollout halts when more than `max_failures` databases have failed; None
    means one in the first wave, later one in a hundred.
    """

    waves: tuple[Share, ...] | None = None
    max_failures: Share | None = None


class Target(NamedTuple):
    """Databases (paths or globs relative to `base`) and their migrations directory."""

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
    """The whole configuration. Durations are in seconds.

    Paths of migrations directories and schema files are absolute.
    """

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
        """The directory of the configuration file: base of relative paths, and where hooks run."""
        return os.path.dirname(os.path.abspath(self.source))

    def trust(self) -> Trust | None:
        """Return a `Trust` for permission checks; None if insecure permissions are allowed."""
        return None if self.allow_insecure_permissions else Trust()


def for_development(config: Config) -> Config:
    """Return the configuration of `migrated dev`: databases follow every change of the directory."""
    return config._replace(targets=tuple(_for_development(target) for target in config.targets))


def without_waves(config: Config) -> Config:
    """Return the configuration without waves: every database is tried, however many fail."""
    return config._replace(targets=tuple(target._replace(waves=WavePolicy(())) for target in config.targets))


def following(policy: Policy) -> Policy:
    """Return the policy that redoes changed migrations and rolls back missing ones."""
    return policy._replace(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)


def _for_development(target: Target) -> Target:
    is_default = target.snapshots == SnapshotPolicy()
    policy = following(target.policy)
    return target._replace(policy=policy, snapshots=DEVELOPMENT_SNAPSHOTS if is_default else target.snapshots)


class Faults:
    """Collects configuration faults, each with its key, and its line if `text` has it.

    `table` is the table of `text` that holds our keys; empty if they are at the top.
    """

    def __init__(self, source: str, text: str = "", table: str = "") -> None:
        self.source = source
        self.text = text
        self.table = table
        self.found: list[str] = []

    def add(self, key: str, reason: str, *, table: int | None = None) -> None:
        """Add a fault; `table` is the index of the `[[target]]` that has the key."""
        parts = [part for part in key.split(".") if not part.startswith("target[")]
        within = parts[0] if table is None and len(parts) > 1 else ""
        line = next((line for part in reversed(parts) if (line := self._line_of(part, table, within))), None)
        self.found.append(f"{self.source}{f':{line}' if line else ''}: {key}: {reason}")

    def require_path(self, path: str, key: str, *, table: int | None = None) -> bool:
        """Return True if `path` can be a file path; otherwise add a fault."""
        if not path or path == ":memory:" or "\0" in path:
            self.add(key, f"{path!r} is not a file path", table=table)
            return False
        return True

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` with all faults, if there are any."""
        if self.found:
            several = len(self.found) > 1
            text = "\n".join(self.found)
            raise ConfigError(
                f"the configuration has {len(self.found)} faults:\n{text}" if several else text,
                faults=self.found,
                hint="`migrated help configuration` lists every key and its values",
            )

    def _line_of(self, key: str, number: int | None, within: str) -> int | None:
        """Return the line of a key: the first match below the right header.

        Only for messages; the text is not parsed, so the line can be wrong in unusual files.
        """
        inner = f"{self.table}.{within}" if self.table else within
        if number is not None:
            name = re.escape(f"{self.table}.target" if self.table else "target")
            start = self._below(rf"\[\[[ \t]*{name}[ \t]*\]\]", number)
        else:
            # A table may have its own header, or be an inline table below ours.
            names = [re.escape(name) for name in (self.table, inner if key != within else "") if name]
            start = max((self._below(rf"\[[ \t]*{name}[ \t]*\]", 0) for name in names), default=0)
        pattern = rf"^[ \t]*(?:\[\[?[^\]\n]*)?[\"']?{re.escape(key)}[\"']?[ \t]*[=\]]"
        found = re.compile(pattern, re.MULTILINE).search(self.text, start)
        return self.text.count("\n", 0, found.start()) + 1 if found else None

    def _below(self, header: str, number: int) -> int:
        found = list(re.finditer(rf"^[ \t]*{header}", self.text, re.MULTILINE))
        return found[number].end() if number < len(found) else 0


def parse_share(value: object) -> Share:
    """Convert a number or a string such as "10%". Raises `ValueError` for anything else."""
    # bool is a subclass of int: True would pass as 1.
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Share(value)
    if isinstance(value, str) and value.endswith("%"):
        # Not float() alone, which also accepts "nan", "inf" and "1e1".
        number = value[:-1].strip()
        if number.replace(".", "", 1).isdecimal() and float(number) <= 100:  # noqa: PLR2004 - percent
            return Share(float(number), is_percent=True)
    raise ValueError(f'expected a number or a percentage such as "10%", got {value!r}')
