"""When requests to the daemon are answered, and what they make it do."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from migrated.core.errors import ConfigError
from migrated.daemon.control.protocol import Answer, PendingRequest, Request
from migrated.daemon.control.requests import RequestQueue
from migrated.daemon.databases import DatabaseRegistry
from migrated.fleet.discovery import DatabasePath
from migrated.fleet.outcome import Outcome, OutcomeKind
from migrated.logs import logger
from migrated.system.cancellation import CancelToken

APP = DatabasePath("app.db", "/srv/app.db")


class Case:
    """A `RequestQueue` with a real token, registry and log."""

    def __init__(self, descriptor: int) -> None:
        self.cancel_token = CancelToken()
        self.databases = DatabaseRegistry()
        self.databases.found([APP], 0.0)
        log = logger.configure("json", "debug", descriptor)
        self.requests = RequestQueue(
            log, self.cancel_token, self.databases, lambda now, paths: {"at": now, "of": paths}
        )

    def ask(self, name: str, now: float = 0.0, **keys: object) -> "Future[Answer]":
        asked = PendingRequest(Request(name, **keys))  # type: ignore[arg-type] # keys chosen by the test
        self.requests.handle(asked, now)
        return asked.answer

    def work(self, result: OutcomeKind = OutcomeKind.CURRENT, now: float = 1.0, *, is_full: bool = True) -> None:
        """Run a pass with this outcome from start to end."""
        self.requests.pass_begins(is_full=is_full)
        self.databases.visited(Outcome(APP, result), now)
        self.requests.pass_ended(now)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    yield Case(descriptor)
    os.close(descriptor)


def test_status_is_answered_at_once(case: Case) -> None:
    answer = case.ask("status", 7.0, databases=("/srv/a.db",))

    assert answer.result(0) == {"ok": True, "at": 7.0, "of": ("/srv/a.db",)}


def test_reload_is_answered_at_once_or_when_done(case: Case) -> None:
    quick, waiting = case.ask("reload"), case.ask("reload", wait=True)
    assert case.requests.reload_wanted
    assert (quick.result(0)["ok"], waiting.done()) == (True, False)
    case.requests.reloaded(ConfigError("no such key", hint="look it up"))

    assert not case.requests.reload_wanted
    assert waiting.result(0)["error"] == {"code": "CONFIG", "message": "no such key", "hint": "look it up"}


def test_retry_is_answered_after_the_pass_that_took_it(case: Case) -> None:
    case.requests.pass_begins(is_full=True)
    answer = case.ask("retry", database="app.db")
    case.requests.pass_ended(1.0)
    assert not answer.done()
    assert case.requests.take_retries() == {APP.path}
    case.work(OutcomeKind.CURRENT, is_full=False)

    assert answer.result(0)["database"]["state"] == "current"


def test_equal_retries_are_all_answered(case: Case) -> None:
    answers = [case.ask("retry", database=name) for name in ("app.db", APP.path)]
    assert case.requests.take_retries() == {APP.path}
    case.work(is_full=False)

    assert [answer.result(0)["database"]["state"] for answer in answers] == ["current", "current"]
    assert case.requests.take_retries() == frozenset()


def test_pause_is_answered_when_the_pass_has_ended(case: Case) -> None:
    case.requests.pass_begins(is_full=True)
    paused, refused = case.ask("pause"), case.ask("retry", database="app.db")
    assert (paused.done(), case.cancel_token.stop_requested()) == (False, True)
    assert refused.result(0)["error"]["code"] == "PAUSED"
    case.requests.pass_ended(1.0)

    assert paused.result(0)["ok"]
    assert case.ask("pause").result(0)["ok"]


def test_pause_declines_waiting_retries(case: Case) -> None:
    answer = case.ask("retry", database="app.db")
    case.ask("pause")

    assert answer.result(0)["error"]["code"] == "PAUSED"
    assert case.requests.take_retries() == frozenset()


def test_resume_waits_for_the_pass_that_the_pause_cut_short(case: Case) -> None:
    case.requests.pass_begins(is_full=True)
    case.ask("pause")
    resumed = case.ask("resume")
    assert (resumed.done(), case.cancel_token.stop_requested()) == (False, True)
    case.requests.pass_ended(1.0)

    assert resumed.result(0)["ok"]
    assert not case.cancel_token.stop_requested()
    assert case.requests.full_pass_wanted


def test_resume_without_a_pause_is_answered_at_once(case: Case) -> None:
    case.requests.pass_begins(is_full=True)

    assert case.ask("resume").result(0)["ok"]
    assert case.requests.full_pass_wanted


def test_resume_resumes_halted_rollouts_once(case: Case) -> None:
    assert not case.requests.take_rollout_resume()
    case.ask("resume")

    assert case.requests.take_rollout_resume()
    assert not case.requests.take_rollout_resume()


def test_wait_is_answered_by_a_full_pass_that_began_after_it(case: Case) -> None:
    case.requests.pass_begins(is_full=True)
    answer = case.ask("wait")
    case.databases.visited(Outcome(APP, OutcomeKind.CURRENT), 1.0)
    case.requests.pass_ended(1.0)
    assert not answer.done()
    assert case.requests.full_pass_wanted
    case.work(is_full=False)
    assert not answer.done()
    case.work()

    assert answer.result(0) == {"ok": True, "current": True, "missing": []}
    assert not case.requests.full_pass_wanted


def test_wait_lasts_until_all_databases_are_current(case: Case) -> None:
    answer = case.ask("wait")
    case.work(OutcomeKind.UNAVAILABLE)
    assert not answer.done()
    case.work(is_full=False)

    assert answer.result(0)["current"]


def test_wait_ends_at_its_timeout(case: Case) -> None:
    case.ask("wait", 10.0)
    limited = case.ask("wait", 10.0, timeout=5.0, databases=("/srv/nix.db",))
    assert case.requests.due_at() == 15.0
    case.requests.expire_waits(14.9)
    assert not limited.done()
    case.requests.expire_waits(15.0)

    missing = ["/srv/nix.db: not managed by this daemon"]
    assert limited.result(0) == {"ok": True, "current": False, "missing": missing}
    assert case.requests.due_at() == float("inf")


def test_abandoned_wait_is_dropped(case: Case) -> None:
    asked = PendingRequest(Request("wait", timeout=5.0))
    case.requests.handle(asked, 0.0)
    asked.is_abandoned = True
    case.work(OutcomeKind.UNAVAILABLE)

    assert case.requests.due_at() == float("inf")
    assert not asked.answer.done()
