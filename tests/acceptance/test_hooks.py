"""Hooks as their users have them: run by `migrated up` and `down`, once after their work."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from daemon_process import DEADLINE, bring_up, log_lines, migrated, poll, running
from support import PROGRAM, applied_versions, write_migration

BROKEN = "INSERT INTO nowhere VALUES (1);"
# Writes down what it was told. The argument, if any, is its exit code.
RECORD = f"""#!{sys.executable} -IS
import json, os, sys
told = {{name.removeprefix("MIGRATED_"): value for name, value in os.environ.items() if "MIGRATED_" in name}}
with open("runs", "a") as file:
    print(json.dumps({{"CWD": os.getcwd(), **told}}), file=file)
sys.exit(int(sys.argv[1]) if sys.argv[1:] else 0)
"""
# Begins, waits until somebody opens the gate, and ends.
GATED = """#!/bin/sh
echo "begun $MIGRATED_VERSIONS $$" >> runs
cat gate
echo ended >> runs
"""
CHILDREN_IGNORED = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""
Run = dict[str, str]


def configure(directory: Path, hooks: str, top: str = "", databases: str = '["app.db"]') -> None:
    """A configuration file beside which `./record` and `./gated` lie."""
    text = f"{top}\n[hooks]\n{hooks}\n[[target]]\ndatabases = {databases}\n"
    (directory / "migrated.toml").write_text(text)
    for name, script in (("record", RECORD), ("gated", GATED)):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    os.mkfifo(directory / "gate")


def runs(directory: Path) -> list[Run]:
    path = directory / "runs"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def notes(directory: Path) -> list[str]:
    """What `./gated` wrote down, without the numbers of its processes."""
    path = directory / "runs"
    return [line.rpartition(" ")[0] or line for line in path.read_text().splitlines()] if path.exists() else []


def has_begun(directory: Path, times: int) -> Callable[[], bool]:
    return lambda: sum(note.startswith("begun") for note in notes(directory)) == times


def open_gate(directory: Path) -> None:
    """Let the one that waits at the gate go on; it is there, or comes."""
    os.close(os.open(directory / "gate", os.O_WRONLY))


def events(text: str, name: str) -> list[dict[str, object]]:
    return [line for line in log_lines(text) if line["event"].startswith(name)]


class TestCommands:
    def test_up_runs_it_and_its_failure_changes_nothing_else(self, tmp_path: Path, migrations: Path) -> None:
        """Also where the exit code of a child would not be told: SIGCHLD was ignored when the program started."""
        configure(tmp_path, 'after_apply = ["./record", "3"]\non_failure = ["./record"]')
        write_migration(migrations, 1)
        write_migration(migrations, 2)
        done = migrated(tmp_path, "up", wrapper=(sys.executable, "-c", CHILDREN_IGNORED))

        assert done.returncode == 0
        assert applied_versions(tmp_path / "app.db") == [1, 2]
        (failed,) = events(done.stderr, "hook.")
        assert (failed["event"], failed["reason"]) == ("hook.failed", "it exited with 3")
        assert log_lines(done.stderr)[-1] == failed
        assert runs(tmp_path) == [
            {
                "CWD": str(tmp_path),
                "EVENT": "after_apply",
                "DATABASE": str(tmp_path / "app.db"),
                "DATABASES": str(tmp_path / "app.db"),
                "VERSIONS": "1 2",
                "OUTCOME": "applied",
                "RUN_ID": failed["run_id"],
            }
        ]

    def test_down_runs_it_and_nothing_to_do_does_not(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'after_apply = ["./record"]\non_failure = ["./record"]')
        for version in (1, 2, 3):
            write_migration(migrations, version, down=f"DROP TABLE t{version};")
        bring_up(tmp_path)

        assert migrated(tmp_path, "up").returncode == 0
        assert runs(tmp_path) == []
        assert migrated(tmp_path, "down", "--steps", "2").returncode == 0
        assert [(run["EVENT"], run["VERSIONS"], run["OUTCOME"]) for run in runs(tmp_path)] == [
            ("after_apply", "2 3", "applied")
        ]

    def test_up_over_several_runs_each_once(self, tmp_path: Path, migrations: Path) -> None:
        configure(
            tmp_path,
            'after_apply = ["./record"]\non_failure = ["./record"]',
            databases='["a.db", "b.db", "gone/c.db"]',
        )
        write_migration(migrations, 1)
        file = write_migration(migrations, 2, up=BROKEN)
        done = migrated(tmp_path, "up")

        assert done.returncode == 1
        assert [line["event"] for line in events(done.stderr, "hook.")] == ["hook.finished", "hook.finished"]
        applied, failed = runs(tmp_path)
        a, b, c = (str(tmp_path / name) for name in ("a.db", "b.db", "gone/c.db"))
        assert (applied["EVENT"], applied["VERSIONS"], applied["OUTCOME"]) == ("after_apply", "1", "failed")
        assert applied["DATABASES"] == f"{a}\n{b}"
        assert "DATABASE" not in applied
        assert "REASON" not in applied
        assert (failed["EVENT"], failed["VERSIONS"], failed["OUTCOME"]) == ("on_failure", "2", "failed")
        assert failed["DATABASES"] == f"{a}\n{b}\n{c}"
        assert (failed["REASON"], failed["FILE"]) == ("no such table: nowhere", str(file))

    def test_invalid_file_runs_it_and_the_hook_s_own_up_runs_none(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'on_failure = ["./again"]')
        # Were it run a second time, it would not begin a third one.
        (tmp_path / "again").write_text(
            f"#!/bin/sh\n./record\n[ $(wc -l < runs) = 1 ] && {' '.join(PROGRAM)} up\n"
        )
        (tmp_path / "again").chmod(0o755)
        write_migration(migrations, 7)
        write_migration(migrations, "007", "other")
        done = migrated(tmp_path, "up")

        assert done.returncode == 4
        (run,) = runs(tmp_path)
        assert (run["EVENT"], run["VERSIONS"], run["OUTCOME"]) == ("on_failure", "7", "refused")
        assert run["DATABASE"] == str(tmp_path / "app.db")
        assert run["REASON"].startswith("version 7 is claimed by more than one file")
        (failed,) = events(done.stderr, "hook.")
        assert failed["reason"] == "it exited with 4"
        assert '"event":"file.invalid"' in str(failed["output"])

    def test_first_signal_lets_it_finish(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'after_apply = ["./gated"]')
        write_migration(migrations, 1)
        with running(*PROGRAM, "up", cwd=tmp_path, stderr=subprocess.PIPE) as up:
            poll(has_begun(tmp_path, 1), "the hook")
            up.send_signal(signal.SIGTERM)
            assert up.stderr is not None
            while "may finish within 30 s" not in up.stderr.readline():
                pass
            open_gate(tmp_path)
            (line,) = log_lines(up.stderr.read())

            assert up.wait(DEADLINE) == 143
        assert (line["event"], line["name"]) == ("hook.finished", "after_apply")
        assert notes(tmp_path) == ["begun 1", "ended"]
