"""Requests to the daemon that are not answered yet. Used by the main thread only."""

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from migrated.core.errors import MigrationError
from migrated.daemon.control.protocol import Answer, PendingRequest, accepted, declined, failed
from migrated.daemon.databases import DatabaseRegistry, DatabaseState
from migrated.daemon.status import database_view
from migrated.logs import events
from migrated.logs.logger import Log
from migrated.system.cancellation import CancelToken

_PAUSED = "the daemon is paused"
Describe = Callable[[float, tuple[str, ...]], Answer]
"""Builds the live status from the current time and the paths of databases; no paths mean all."""


@dataclass(slots=True)
class _Wait:
    """A `wait` request. Database states count only after a full pass that began after the request.

    `pass_number` is the number of passes begun before the request.
    """

    pending: PendingRequest
    until: float
    pass_number: int
    is_seen: bool = False


class RequestQueue:
    """Takes requests and answers each once, at the right moment. Times are seconds of one monotonic clock.

    The main loop reads what to do from `reload_wanted`, `full_pass_wanted`, `is_paused`, `take_retries` and
    `take_rollout_resume`.
    """

    def __init__(
        self, log: Log, cancel_token: CancelToken, databases: DatabaseRegistry, describe: Describe
    ) -> None:
        self._log = log
        self._cancel_token = cancel_token
        self._databases = databases
        self._describe = describe
        self._passes = 0
        self._is_full = False
        self._is_working = False
        self._reloads: list[Future[Answer]] = []
        self._pauses: list[Future[Answer]] = []
        self._resumes: list[Future[Answer]] = []
        self._waits: list[_Wait] = []
        self._retries: dict[str, list[Future[Answer]]] = {}
        self._trying: dict[str, list[Future[Answer]]] = {}
        self.reload_wanted = False
        self.full_pass_wanted = False
        self.is_paused = False
        self._resume_rollout = False

    def handle(self, pending: PendingRequest, now: float) -> None:
        """Answer a request at once if possible; otherwise keep it until its condition is met."""
        match pending.request.name:
            case "status":
                pending.answer.set_result(accepted(**self._describe(now, pending.request.databases)))
            case "reload":
                self._take_reload(pending)
            case "retry":
                self._take_retry(pending)
            case "pause":
                self._pause(pending.answer)
            case "resume":
                self._resumes.append(pending.answer)
                # While the paused pass still ends, its cancelled work would be reported as failures if the pause
                # were already over. Resume in `pass_ended` instead.
                if not (self.is_paused and self._is_working):
                    self._resume()
            case _:
                limit = math.inf if pending.request.timeout is None else now + pending.request.timeout
                self._waits.append(_Wait(pending, limit, self._passes))
                self.full_pass_wanted = True

    def pass_begins(self, *, is_full: bool) -> None:
        """Note the start of a pass. `is_full`: it covers all databases."""
        self._passes += 1
        self._is_full, self._is_working = is_full, True
        self.full_pass_wanted = self.full_pass_wanted and not is_full

    def pass_ended(self, now: float) -> None:
        """Note the end of the pass and answer the requests that waited for it."""
        self._is_working = False
        _answer(self._pauses, accepted())
        if self._resumes:
            self._resume()
        for path, answers in self._trying.items():
            _answer(answers, _retry_answer(self._databases.get(path), now))
        self._trying = {}
        for wait in self._waits:
            # A pass that was running when the request came may have visited its databases before the change that
            # the client waits for.
            wait.is_seen = wait.is_seen or (self._is_full and self._passes > wait.pass_number)
            if wait.is_seen and not self._why_not_current(wait):
                wait.pending.answer.set_result(accepted(current=True, missing=[]))
        self._drop_answered()

    def reloaded(self, error: MigrationError | None) -> None:
        """Answer reload requests: the new configuration is in force, or `error` says why it is not."""
        self.reload_wanted = False
        _answer(self._reloads, failed(error) if error else accepted())

    def take_retries(self) -> frozenset[str]:
        """Return the paths of databases to retry now. Their requests are answered when the next pass ends."""
        self._trying, self._retries = self._retries, {}
        return frozenset(self._trying)

    def take_rollout_resume(self) -> bool:
        """Return True, once, if halted rollouts must resume."""
        wanted, self._resume_rollout = self._resume_rollout, False
        return wanted

    def due_at(self) -> float:
        """Return when to call `expire_waits`; infinity if no request has a time limit."""
        return min((wait.until for wait in self._waits), default=math.inf)

    def expire_waits(self, now: float) -> None:
        """Answer `wait` requests whose time limit has passed with what is missing."""
        for wait in self._waits:
            if now >= wait.until:
                missing = self._why_not_current(wait) or ["not checked yet"]
                paused = [_PAUSED] if self.is_paused else []
                wait.pending.answer.set_result(accepted(current=False, missing=paused + missing))
        self._drop_answered()

    def waiting(self) -> dict[str, object]:
        """Return the work that was requested but has not begun, for the status."""
        return {"reload": self.reload_wanted, "retry": list(self._retries)}

    def _take_reload(self, pending: PendingRequest) -> None:
        self.reload_wanted = True
        if pending.request.wait:
            self._reloads.append(pending.answer)
        else:
            pending.answer.set_result(accepted())

    def _take_retry(self, pending: PendingRequest) -> None:
        name = pending.request.database
        state = self._databases.get(name)
        if state is None:
            pending.answer.set_result(declined(f"this daemon does not manage {name}", code="UNKNOWN_DATABASE"))
        elif self.is_paused:
            pending.answer.set_result(declined(_PAUSED, "run `migrated resume` first", "PAUSED"))
        else:
            self._retries.setdefault(state.database.path, []).append(pending.answer)

    def _pause(self, answer: "Future[Answer]") -> None:
        if not self.is_paused:
            self.is_paused = True
            self._cancel_token.pause()
            self._log(events.DAEMON_PAUSED)
        for answers in self._retries.values():
            _answer(answers, declined(_PAUSED, "run `migrated resume` first", "PAUSED"))
        self._retries = {}
        if self._is_working:
            self._pauses.append(answer)
        else:
            answer.set_result(accepted())

    def _resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self._cancel_token.resume()
            self._log(events.DAEMON_RESUMED)
        self._resume_rollout = self.full_pass_wanted = True
        _answer(self._resumes, accepted())

    def _why_not_current(self, wait: _Wait) -> list[str]:
        return self._databases.why_not_current(wait.pending.request.databases)

    def _drop_answered(self) -> None:
        waits = [wait for wait in self._waits if not wait.pending.is_abandoned]
        self._waits = [wait for wait in waits if not wait.pending.answer.done()]


def _answer(answers: "list[Future[Answer]]", answer: Answer) -> None:
    for each in answers:
        each.set_result(answer)
    answers.clear()


def _retry_answer(state: DatabaseState | None, now: float) -> Answer:
    """Build the answer to a `retry` request from the state of the database."""
    if state is None:
        return declined("the database no longer exists", code="UNKNOWN_DATABASE")
    return accepted(database=database_view(state, now, None))
