"""Find and load the configuration: defaults, overridden by a file, overridden by the command line.

Without a file the TOML reader is not imported, which halves the start-up time of reading commands.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

from migrated.config.settings import DEFAULT_DATABASE, DEFAULT_MIGRATIONS, Config, Faults, Target
from migrated.system.files import joined


class Overrides(NamedTuple):
    """Values from the command line, which override the file."""

    file: str | None = None
    databases: Sequence[str] = ()
    migrations: str | None = None
    log_format: str | None = None
    log_level: str | None = None
    lock_timeout: float | None = None
    allow_insecure_permissions: bool = False


def load_config(overrides: Overrides, directory: str | os.PathLike[str] = ".") -> Config:
    """Read the configuration: `overrides.file`, else a file in `directory`, else the defaults.

    The file in `directory` is `migrated.toml`, or `pyproject.toml` if it has a table `[tool.migrated]`. Raises
    `ConfigError` with every fault, each with its key, and its line if known.
    """
    here = joined(os.getcwd(), directory)
    file = _find(overrides, here)
    if file is None:
        faults = Faults("options")
        config = _without_file(here, overrides, faults)
    else:
        from pathlib import Path

        from migrated.config.file import read_config_file

        config, faults = read_config_file(Path(file), trusting=overrides.allow_insecure_permissions)
    config = _override(config, overrides, here, faults)
    for number, target in enumerate(config.targets):
        if target.schema_file is not None and (
            reason := _why_unusable(target.schema_file, number, config.targets)
        ):
            faults.add(f"target[{number}].schema_file", reason, table=number)
    faults.raise_if_any()
    return config


def _find(overrides: Overrides, here: str) -> str | None:
    if overrides.file is not None:
        return joined(here, overrides.file)
    own, shared = joined(here, "migrated.toml"), joined(here, "pyproject.toml")
    if os.path.exists(own):
        return own
    if os.path.exists(shared) and _may_configure_us(shared):
        from pathlib import Path

        from migrated.config.file import has_table

        return shared if has_table(Path(shared)) else None
    return None


def _may_configure_us(path: str) -> bool:
    # Most pyproject.toml files do not contain our name, so TOML need not be parsed. The later read reports a file
    # that cannot be opened.
    try:
        with open(path, "rb") as file:
            return b"migrated" in file.read()
    except OSError:
        return True


def _without_file(here: str, overrides: Overrides, faults: Faults) -> Config:
    database = DEFAULT_DATABASE
    url = os.environ.get("DATABASE_URL")
    if url and not overrides.databases:
        database = _from_url(url, faults)
    target = Target(here, (database,), joined(here, DEFAULT_MIGRATIONS))
    return Config("defaults and options, no configuration file", (target,))


def _from_url(url: str, faults: Faults) -> str:
    for prefix in ("sqlite:///", "sqlite:"):
        path = url.removeprefix(prefix)
        if path != url and path not in {"", ":memory:"} and "?" not in path and not path.startswith("//"):
            return path
    faults.add("DATABASE_URL", f"expected sqlite:PATH or sqlite:///PATH, got {url!r}")
    return DEFAULT_DATABASE


def _why_unusable(schema_file: str, number: int, targets: Sequence[Target]) -> str | None:
    """Return why the schema file of target `number` is refused; None if it is fine.

    The file is overwritten, so it must not be anything else that is in use.
    """
    path = os.path.realpath(schema_file)
    if os.path.isdir(path):
        return f"{schema_file} is a directory"
    for target in targets:
        if os.path.dirname(path) == os.path.realpath(target.migrations):
            return f"{schema_file} is in the migrations directory, where it would be read as a migration"
        # A file that does not exist yet also counts: a glob would match it as soon as it is written.
        if would_be_found(target, schema_file):
            return f"{schema_file} is, or would match, one of the databases {', '.join(target.databases)}"
    others = (target.schema_file for target in targets[:number] if target.schema_file is not None)
    if path in map(os.path.realpath, others):
        return f"{schema_file} is also the schema_file of another target; each target needs its own"
    return None


def _override(config: Config, overrides: Overrides, here: str, faults: Faults) -> Config:
    target = config.targets[0]
    if (overrides.databases or overrides.migrations) and len(config.targets) > 1:
        faults.add("target", "-d and -m replace a single target; the configuration has several")
    for path in overrides.databases:
        faults.require_path(path, "-d")
    if overrides.databases:
        target = target._replace(base=here, databases=tuple(overrides.databases))
    if overrides.migrations:
        target = target._replace(migrations=joined(here, overrides.migrations))
    return config._replace(
        targets=(target, *config.targets[1:]),
        log_format=overrides.log_format or config.log_format,
        log_level=overrides.log_level or config.log_level,
        lock_timeout=config.lock_timeout if overrides.lock_timeout is None else overrides.lock_timeout,
        allow_insecure_permissions=overrides.allow_insecure_permissions or config.allow_insecure_permissions,
    )


def would_be_found(target: Target, path: str) -> bool:
    """Return True if `path` (absolute) is, or would match, one of a target's databases."""
    names = [os.path.abspath(path), os.path.realpath(path)]
    wanted = [os.path.abspath(os.path.join(target.base, configured)) for configured in target.databases]
    return names[1] in map(os.path.realpath, wanted) or any(
        _glob_matches(name.split(os.sep), pattern.split(os.sep)) for name in names for pattern in wanted
    )


def _glob_matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return True if `glob` would find a path for a pattern, both split into their parts."""
    import fnmatch

    if not patterns or not parts:
        return not parts and set(patterns) <= {"**"}
    if patterns[0] == "**":
        return _glob_matches(parts, patterns[1:]) or (
            not parts[0].startswith(".") and _glob_matches(parts[1:], patterns)
        )
    hidden = parts[0].startswith(".") and not patterns[0].startswith(".")
    return not hidden and fnmatch.fnmatchcase(parts[0], patterns[0]) and _glob_matches(parts[1:], patterns[1:])
