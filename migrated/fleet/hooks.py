"""Hooks: a program of the user's that is run after something was applied, or when something failed."""

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
"""How much of a line of the log its `output` may take, in bytes as they are written."""
LONGEST_VARIABLE = 100_000
"""In bytes. The kernel takes none of 128 KiB or more."""
_LONGEST_REASON = 4000
_EVENT = "MIGRATED_EVENT"
_OURS = (
    _EVENT,
    *(f"MIGRATED_{name}" for name in ("DATABASE", "DATABASES", "VERSIONS", "OUTCOME", "RUN_ID")),
    *(f"MIGRATED_{name}" for name in ("REASON", "FILE", "TRUNCATED")),
)
_SERVICE_MANAGERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class HookEvent(NamedTuple):
    """Why a hook is run: what happened to which databases (their paths), in a pass that came to `outcome`."""

    hook: HookName
    run_id: str
    outcome: str
    databases: tuple[str, ...]
    versions: tuple[int, ...] = ()
    reason: str | None = None
    file: str | None = None

    def followed_by(self, later: "HookEvent") -> "HookEvent":
        """Both in one: all databases and versions, and what the later one came to."""
        return later._replace(
            databases=tuple(dict.fromkeys(self.databases + later.databases)),
            versions=tuple(sorted({*self.versions, *later.versions})),
        )

    def variables(self) -> dict[str, str]:
        """What the program finds in its environment. Of a list that is too long for it the beginning is there."""
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
    """Whether we were started by one: our failing would start it again, and so on without end."""
    return _EVENT in os.environ


def run_hook(config: Config, occasion: HookEvent, log: Log, supervision: CancelToken) -> None:
    """Run the program that is configured for this occasion, if one is, and log what it came to. Never raises."""
    command = config.hooks.command(occasion.hook)
    if not command:
        return
    log = log.bind(name=occasion.hook.value, run_id=occasion.run_id)
    started = time.monotonic()
    try:
        if supervision.deadline_passed(started):
            ended = Ended(f"not run, because migrated is stopping: {supervision.reason}", "increase stop_grace")
        else:
            environment = _environment(occasion)
            ended = run_program(command, config.directory, environment, config.hooks.timeout, supervision)
    except Exception as surprise:  # noqa: BLE001 - what was applied is; nothing that a hook does may change that
        ended = Ended(f"internal error: {surprise!r}", "this is a bug in migrated; please report it")
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


def _environment(occasion: HookEvent) -> dict[str, str | bytes]:
    """Ours, without what an outer hook was told, and without what is between the service manager and us."""
    inherited = {name: value for name, value in os.environ.items() if name not in {*_OURS, *_SERVICE_MANAGERS}}
    return {**inherited, **{name: _encoded(value) for name, value in occasion.variables().items()}}


def _encoded(value: str) -> bytes:
    """As file names are, so that one that is not UTF-8 comes out as it is on the disk."""
    value = value.replace("\0", "\\0")
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode(errors="backslashreplace")


def _joined(values: Iterable[str], separator: str) -> tuple[str, bool]:
    """The values in one text, as many as fit; whether some did not."""
    text = separator.join(values)
    encoded = _encoded(text)
    if len(encoded) <= LONGEST_VARIABLE:
        return text, False
    return os.fsdecode(encoded[: encoded.rindex(separator.encode(), 0, LONGEST_VARIABLE)]), True


def _fitting(ended: Ended) -> tuple[str, bool]:
    """The end of what was printed, as much as a line takes; whether that is not all."""
    import msgspec

    whole = text = ended.output.decode(errors="backslashreplace").strip()
    while len(msgspec.json.encode(text)) > LONGEST_OUTPUT:
        text = text[len(text) // 8 + 1 :]
    is_cut = ended.is_cut or text != whole
    # It may begin within a line, or even within a character.
    return (text.partition("\n")[2] or text if is_cut else text), is_cut


def _visible(text: str) -> str:
    """For a terminal, which would obey control characters."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )
