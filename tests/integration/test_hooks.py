"""Hooks with real programs: their environment, how they end, and what is logged."""

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import children, poll

from migrated.config.settings import Config, HookName, Hooks
from migrated.fleet import hooks
from migrated.fleet.hooks import HookEvent, run_hook
from migrated.logs.logger import LONGEST_LINE, configure
from migrated.system import processes
from migrated.system.cancellation import CancelToken

Line = dict[str, Any]
APPLIED = HookEvent(HookName.AFTER_APPLY, "r1", "applied", ("/srv/a.db",), (7, 8))
DIRECTORY_HINT = "a name without a slash is looked up in PATH, other paths are relative to"


class Place:
    """A directory with a configuration file and a hook."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.supervision = CancelToken()
        self.raw = b""

    def put(self, text: str, name: str = "hook", mode: int = 0o755) -> Path:
        path = self.home / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def run(
        self, *command: str, script: str | None = None, timeout: float = 30.0, of: HookEvent = APPLIED
    ) -> Line:
        """Run a hook; return its one log line."""
        if script is not None:
            self.put(f"#!/bin/sh\n{script}\n")
        found = command or ("./hook",)
        config = Config(str(self.home / "migrated.toml"), (), hooks=Hooks(found, found, timeout))
        log_file = self.home / "log"
        descriptor = os.open(log_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        try:
            run_hook(config, of, configure("json", "debug", descriptor), self.supervision)
        finally:
            os.close(descriptor)
        self.raw = log_file.read_bytes()
        (line,) = (json.loads(line) for line in self.raw.splitlines())
        assert isinstance(line, dict)
        assert isinstance(line["execution_time_ms"], int)
        return line

    def failure(self, *command: str, script: str | None = None, timeout: float = 30.0) -> tuple[str, str | None]:
        line = self.run(*command, script=script, timeout=timeout)
        assert (line["event"], line["level"], line["name"]) == ("hook.failed", "error", "after_apply")
        return line["reason"], line.get("hint")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    before = children(os.getpid())
    yield Place(tmp_path)
    # Every child of a test must be reaped, unless it is meant to survive.
    assert set(children(os.getpid())) - set(before) == set()


def is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# Environment


def test_environment_of_the_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_DAEMON", "kept")
    for foreign in ("MIGRATED_REASON", "MIGRATED_DATABASE", "MIGRATED_TRUNCATED", "NOTIFY_SOCKET"):
        monkeypatch.setenv(foreign, "of an outer one")
    two = HookEvent(HookName.ON_FAILURE, "r1", "refused", ("/srv/a b.db", "/srv/ü.db"), (7,), None, "/srv/7_x.sql")
    line = place.run(
        script='printf "%s|" "$MIGRATED_EVENT" "$MIGRATED_DATABASES" "$MIGRATED_VERSIONS" "$MIGRATED_OUTCOME" '
        '"$MIGRATED_RUN_ID" "$MIGRATED_FILE" "$OF_THE_DAEMON" '
        '"${MIGRATED_REASON-none}" "${MIGRATED_DATABASE-none}" "${NOTIFY_SOCKET-none}"',
        of=two,
    )

    assert line["output"] == ("on_failure|/srv/a b.db\n/srv/ü.db|7|refused|r1|/srv/7_x.sql|kept|none|none|none|")
    assert (line["event"], line["level"], line["name"], line["run_id"]) == (
        "hook.finished",
        "info",
        "on_failure",
        "r1",
    )
    assert "reason" not in line


@pytest.mark.parametrize(
    ("reason", "seen"),
    [
        pytest.param(os.fsdecode(b"caf\xe9.sql"), b"caf\xe9.sql", id="a file name that is not UTF-8"),
        pytest.param("a\0b", b"a\\0b", id="NUL"),
        pytest.param("half \ud800", b"half \\ud800", id="lone surrogate"),
        pytest.param("x" * 10_000, b"x" * 4000, id="long text"),
    ],
)
def test_unusual_text_in_the_environment(place: Place, reason: str, seen: bytes) -> None:
    place.run(
        script='printf %s "$MIGRATED_REASON" > seen',
        of=HookEvent(HookName.ON_FAILURE, "r1", "failed", (), (), reason),
    )

    assert (place.home / "seen").read_bytes() == seen


def test_long_list_of_databases_is_truncated(place: Place) -> None:
    many = tuple(f"/srv/tenants/{number:040}.db" for number in range(10_000))
    occasion = HookEvent(HookName.AFTER_APPLY, "r1", "applied", many, tuple(range(10**14, 10**14 + 10_000)))
    line = place.run(script='echo "$MIGRATED_DATABASES" | head -1; echo "$MIGRATED_TRUNCATED"', of=occasion)

    assert line["output"] == f"{many[0]}\n1"


def test_program_starts_with_a_clean_process_state(place: Place) -> None:
    """It inherits neither the blocked signals of the worker thread nor open descriptors."""
    stdin_before = os.dup(0)
    inherited = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(inherited, 0)
    os.set_inheritable(inherited, True)  # noqa: FBT003 - so is its signature
    script = (
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; pwd; readlink /proc/$$/fd/0; cat; "
        "set -- $(cat /proc/$$/stat); echo $1 $5 $6; "
        f"test -e /proc/$$/fd/{inherited} && echo {inherited}"
    )
    lines: list[Line] = []

    def work() -> None:
        blocked = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        lines.append(place.run(script=script))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= blocked

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    os.dup2(stdin_before, 0)
    os.close(stdin_before)
    os.close(inherited)

    mask, ignored, here, stdin, numbers = lines[0]["output"].split("\n")
    assert mask.split() == ["SigBlk:", "0" * 16]
    # Signals ignored when this process started, such as SIGHUP under nohup, stay ignored.
    assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1) == 0
    assert (here, stdin) == (str(place.home), "/dev/null")
    # The hook has its own process group and session.
    assert len(set(numbers.split())) == 1


# Exit


def test_program_is_found_beside_the_configuration_or_in_path(place: Place) -> None:
    assert place.run("echo", "two words")["output"] == "two words"
    place.put("#!/bin/sh\necho here $1\n", "other")
    assert place.run("./other", "now")["output"] == "here now"


def test_program_that_cannot_be_started(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # A directory on the path that may not be entered would leave open whether the program is there.
    monkeypatch.setenv("PATH", os.defpath)
    assert place.failure("no-such-program", "x") == (
        "no-such-program or its interpreter was not found",
        f"{DIRECTORY_HINT} {place.home}",
    )
    place.put("#!/no/such/shell\n", "orphan")
    assert place.failure("./orphan")[0] == "./orphan or its interpreter was not found"
    place.put("#!/bin/sh\n", "plain", 0o644)
    assert place.failure("./plain") == ("./plain is not executable", "chmod +x ./plain")
    place.put("echo no first line\n", "shapeless")
    assert place.failure("./shapeless") == (
        "./shapeless is not a program",
        "a script begins with a line such as #!/bin/sh",
    )
    assert place.failure("true", "x" * 200_000)[0] == (
        "true could not be started: [Errno 7] Argument list too long: 'true'"
    )


def test_no_descriptor_left_for_the_output_of_the_program(place: Place) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.open("/dev/null", os.O_RDONLY)
    os.close(highest)
    # One descriptor is left, for the log.
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        reason, _ = place.failure("true")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert reason == "true could not be started: [Errno 24] Too many open files"


def test_deleted_working_directory(place: Place, tmp_path: Path) -> None:
    config = Config(str(tmp_path / "gone" / "migrated.toml"), (), hooks=Hooks(("true",)))
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    run_hook(config, APPLIED, configure("json", "info", descriptor), place.supervision)
    os.close(descriptor)
    line = json.loads((tmp_path / "log").read_text())

    gone = tmp_path / "gone"
    assert line["reason"] == f"cannot enter its working directory {gone}: No such file or directory"


def test_exit_code_is_logged_with_the_output(place: Place) -> None:
    line = place.run(script="echo out; echo err >&2; exit 3")

    assert (line["event"], line["reason"], line["output"]) == ("hook.failed", "it exited with code 3", "out\nerr")
    assert line["hint"] == f"run it by hand in {place.home} to see why"
    assert line["message"] == "hook after_apply failed: it exited with code 3"


@pytest.mark.parametrize(("number", "name"), [("KILL", "SIGKILL"), ("40", "signal 40")])
def test_signal_that_ended_the_program_is_logged(place: Place, number: str, name: str) -> None:
    assert place.failure(script=f"kill -{number} $$")[0] == f"it was terminated by {name}"


def test_timeout_ends_the_whole_process_group(place: Place) -> None:
    reason, hint = place.failure(script="sleep 600 & echo $$ $! > pids; echo begun; sleep 600", timeout=0.3)

    assert (reason, hint) == ("it ran longer than 0.3 s and was terminated", "raise `timeout` in [hooks]")
    assert json.loads(place.raw)["output"] == "begun"
    assert json.loads(place.raw)["execution_time_ms"] >= 300
    pids = (place.home / "pids").read_text().split()
    poll(lambda: not any(map(is_alive, pids)), "the end of the group")


def test_program_has_time_to_end_after_sigterm(place: Place) -> None:
    reason, _ = place.failure(script="trap 'echo tidy; exit 0' TERM; while :; do sleep 0.05; done", timeout=0.3)

    assert reason == "it ran longer than 0.3 s and was terminated"
    assert json.loads(place.raw)["output"].endswith("tidy")


def test_program_that_ignores_sigterm_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    place.failure(script="trap '' TERM; echo $$ > pids; while :; do sleep 0.05; done", timeout=0.2)

    assert not is_alive((place.home / "pids").read_text().strip())
    assert json.loads(place.raw)["execution_time_ms"] >= 500


def test_background_processes_are_not_waited_for(place: Place) -> None:
    line = place.run(script="sleep 600 & echo $! > pids; echo done")
    pid = (place.home / "pids").read_text().strip()

    assert (line["event"], line["output"]) == ("hook.finished", "done")
    assert is_alive(pid)
    os.kill(int(pid), signal.SIGKILL)


def test_program_that_closes_its_output_is_waited_for(place: Place) -> None:
    line = place.run(script="exec >&- 2>&-; sleep 0.3; : > ended; exit 4")

    assert line["reason"] == "it exited with code 4"
    assert (place.home / "ended").exists()


# Output


def test_output_that_is_not_utf8(place: Place) -> None:
    line = place.run(script=r"printf 'caf\351 \000\033[31m red'; exit 1")

    assert line["output"] == "caf\\xe9 \0\033[31m red"


@pytest.mark.parametrize("what", ["yes wordy", "yes \"$(printf '\\377\\001')\""], ids=["text", "bytes"])
def test_long_output_is_cut_to_its_end(place: Place, what: str) -> None:
    line = place.run(script=f"{what} | head -c 5000000; echo; echo the last line; exit 1")

    assert line["truncated"] is True
    assert line["output"].endswith("\nthe last line")
    assert 1000 < len(json.dumps(line["output"], ensure_ascii=False)) <= hooks.LONGEST_OUTPUT
    assert len(place.raw) < LONGEST_LINE
    assert line["reason"] == "it exited with code 1"


def test_endless_output_uses_little_memory_and_ends_at_the_timeout(place: Place) -> None:
    line = place.run("yes", timeout=0.3)

    assert line["reason"] == "it ran longer than 0.3 s and was terminated"
    assert set(line["output"].split("\n")) == {"y"}


def test_cut_output_begins_with_a_whole_line(place: Place) -> None:
    line = place.run(script="seq 10000 20000")
    first, *_, last = line["output"].split("\n")

    assert (len(first), last, line["truncated"]) == (5, "20000", True)


def test_control_characters_are_escaped(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.put("#!/bin/sh\nprintf 'one\\033[2J\\ntwo'\n")
    config = Config(str(place.home / "migrated.toml"), (), hooks=Hooks(("./hook",)))
    run_hook(config, APPLIED, configure("console", "info"), place.supervision)

    assert capfd.readouterr().err.partition("\n")[2] == "         one\\x1b[2J\n         two\n"


# Stopping


def test_hook_is_ended_after_stop_grace(place: Place) -> None:
    place.supervision.stop("SIGTERM", time.monotonic() + 0.3)
    reason, hint = place.failure(script="sleep 600")

    assert (reason, hint) == ("it was terminated because migrated is stopping: SIGTERM", "raise stop_grace")


def test_hook_does_not_start_after_stop_grace(place: Place) -> None:
    place.supervision.stop("SIGTERM", time.monotonic())
    reason, hint = place.failure(script=": > begun")

    assert (reason, hint) == ("not run, because migrated is stopping: SIGTERM", "raise stop_grace")
    assert not (place.home / "begun").exists()


def test_stop_request_does_not_end_the_hook(place: Place) -> None:
    place.supervision.stop("SIGTERM", time.monotonic() + 60)

    assert place.run(script="sleep 0.2; echo done")["output"] == "done"


def test_internal_error_is_logged_and_not_raised(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(hooks, "run_program", fails)

    assert place.failure() == (
        "internal error: RuntimeError('ours')",
        "this is a bug in migrated; please report it",
    )
