"""Hooks: user programs that run after migrations were applied, or when something failed."""

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

from migrated.config.settings import Config, HookName
from migrated.logs import events
from migrated.logs.logger import Log
from migrated.system.cancellation import CancelToken
from migrated.system.processes import Ended, run_program

LONGEST_OUTPUT = 2000
"""Limit for `output` in a log line, in bytes as encoded in JSON."""
LONGEST_VARIABLE = 100_000
"""Limit for one environment variable, in bytes. execve() fails with E2BIG from 128 KiB on (MAX_ARG_STRLEN)."""
_LONGEST_REASON = 4000
_EVENT = "MIGRATED_EVENT"
_OURS = (
    _EVENT,
    *(f"MIGRATED_{name}" for name in ("DATABASE", "DATABASES", "VERSIONS", "OUTCOME", "RUN_ID")),
    *(f"MIGRATED_{name}" for name in ("REASON", "FILE", "TRUNCATED")),
)
_SERVICE_MANAGERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class HookEvent(NamedTuple):
    """Why a hook runs: what happened to which databases (paths), and the `outcome` of the pass."""

    hook: HookName
    run_id: str
    outcome: str
    databases: tuple[str, ...]
    versions: tuple[int, ...] = ()
    reason: str | None = None
    file: str | None = None

    def followed_by(self, later: "HookEvent") -> "HookEvent":
        """Merge with a later event: all databases and versions, the outcome of the later one."""
        return later._replace(
            databases=tuple(dict.fromkeys(self.databases + later.databases)),
            versions=tuple(sorted({*self.versions, *later.versions})),
        )

    def variables(self) -> dict[str, str]:
        """Return the environment variables of the program.

        A list longer than `LONGEST_VARIABLE` is cut between two entries, and MIGRATED_TRUNCATED is set.
        """
        databases, fewer = _joined(self.databases, "\n")
        versions, less = _joined((str(version) for version in self.versions if version), " ")
        found = {
            _EVENT: self.hook.value,
            "MIGRATED_DATABASE": self.databases[0] if len(self.databases) == 1 else None,
            "MIGRATED_DATABASES": databases,
            "MIGRATED_VERSIONS": versions,
            "MIGRATED_OUTCOME": self.outcome,
            "MIGRATED_RUN_ID": self.run_id,
            "MIGRATED_REASON": self.reason[:_LONGEST_REASON] if self.reason is not None else None,
            "MIGRATED_FILE": self.file,
            "MIGRATED_TRUNCATED": "1" if fewer or less else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def within_a_hook() -> bool:
    """True if a hook started this process. Running hooks here could start an endless chain of failures."""
    return _EVENT in os.environ


def run_hook(config: Config, event: HookEvent, log: Log, cancel_token: CancelToken) -> None:
    """Run the program that is configured for this event, if any, and log the result. Never raises."""
    command = config.hooks.command(event.hook)
    if not command:
        return
    log = log.bind(name=event.hook.value, run_id=event.run_id)
    started = time.monotonic()
    try:
        if cancel_token.deadline_passed(started):
            ended = Ended(f"not run, because migrated is stopping: {cancel_token.reason}", "raise stop_grace")
        else:
            environment = _environment(event)
            ended = run_program(command, config.directory, environment, config.hooks.timeout, cancel_token)
    except Exception as error:  # noqa: BLE001 - the migrations are committed; a hook must not fail the run
        ended = Ended(f"internal error: {error!r}", "this is a bug in migrated; please report it")
    _report(ended, round((time.monotonic() - started) * 1000), log)


def _report(ended: Ended, execution_time_ms: int, log: Log) -> None:
    text, is_cut = _fitting(ended)
    log(
        events.HOOK_FINISHED if ended.reason is None else events.HOOK_FAILED,
        execution_time_ms=execution_time_ms,
        reason=ended.reason,
        hint=ended.hint,
        output=text or None,
        truncated=is_cut or None,
        excerpt=_visible(text) or None,
    )


def _environment(event: HookEvent) -> dict[str, str | bytes]:
    """Our environment without the variables of an outer hook and of the service manager.

    With NOTIFY_SOCKET the program could report readiness, or feed the watchdog, in our name.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in {*_OURS, *_SERVICE_MANAGERS}}
    return {**inherited, **{name: _encoded(value) for name, value in event.variables().items()}}


def _encoded(value: str) -> bytes:
    """Encode like file names, so that a path that is not UTF-8 has the same bytes as on disk."""
    # A NUL byte cannot occur in an environment variable; Popen would raise.
    value = value.replace("\0", "\\0")
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace")


def _joined(values: Iterable[str], separator: str) -> tuple[str, bool]:
    """Join as many values as fit; the second result is true if some did not."""
    text = separator.join(values)
    encoded = _encoded(text)
    if len(encoded) <= LONGEST_VARIABLE:
        return text, False
    return os.fsdecode(encoded[: encoded.rindex(separator.encode(), 0, LONGEST_VARIABLE)]), True


def _fitting(ended: Ended) -> tuple[str, bool]:
    """Return the end of the output that fits a log line, and whether it was cut."""
    import msgspec

    whole = text = ended.output.decode(errors="backslashreplace").strip()
    # The encoded length counts: control characters take six bytes each in JSON.
    while len(msgspec.json.encode(text)) > LONGEST_OUTPUT:
        text = text[len(text) // 8 + 1 :]
    is_cut = ended.is_cut or text != whole
    # After a cut the first line is incomplete, perhaps even its first character: drop it.
    return (text.partition("\n")[2] or text if is_cut else text), is_cut


def _visible(text: str) -> str:
    """Escape control characters, which a terminal would execute."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )
