"""Hooks run by `migrated up`, `down` and the daemon: once per pass that has a reason."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon_process import (
    DEADLINE,
    DaemonProcess,
    bring_up,
    children,
    is_caught,
    log_lines,
    migrated,
    poll,
    running,
)
from support import PROGRAM, applied_versions, put_file, write_migration

BROKEN = "INSERT INTO nowhere VALUES (1);"
# Writes its environment to a file. The argument, if any, is its exit code.
RECORD = f"""#!{sys.executable} -IS
import json, os, sys
told = {{name.removeprefix("MIGRATED_"): value for name, value in os.environ.items() if "MIGRATED_" in name}}
with open("runs", "a") as file:
    print(json.dumps({{"CWD": os.getcwd(), **told}}), file=file)
sys.exit(int(sys.argv[1]) if sys.argv[1:] else 0)
"""
# Starts, waits until the test opens the gate, and ends.
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
    """Write a configuration file, and beside it the programs `./record` and `./gated`."""
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
    """Return the lines that `./gated` wrote, without its process ids."""
    path = directory / "runs"
    return [line.rpartition(" ")[0] or line for line in path.read_text().splitlines()] if path.exists() else []


def has_begun(directory: Path, times: int) -> Callable[[], bool]:
    return lambda: sum(note.startswith("begun") for note in notes(directory)) == times


def open_gate(directory: Path) -> None:
    """Let the waiting hook continue. If it has not reached the gate yet, wait for it."""
    os.close(os.open(directory / "gate", os.O_WRONLY))


def events(text: str, name: str) -> list[dict[str, object]]:
    return [line for line in log_lines(text) if line["event"].startswith(name)]


class TestCommands:
    def test_up_runs_the_hook_and_ignores_its_failure(self, tmp_path: Path, migrations: Path) -> None:
        """Works even if SIGCHLD was ignored at the start, which hides the exit codes of children."""
        configure(tmp_path, 'after_apply = ["./record", "3"]\non_failure = ["./record"]')
        write_migration(migrations, 1)
        write_migration(migrations, 2)
        done = migrated(tmp_path, "up", wrapper=(sys.executable, "-c", CHILDREN_IGNORED))

        assert done.returncode == 0
        assert applied_versions(tmp_path / "app.db") == [1, 2]
        (failed,) = events(done.stderr, "hook.")
        assert (failed["event"], failed["reason"]) == ("hook.failed", "it exited with code 3")
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

    def test_down_runs_the_hook_only_if_it_changes_something(self, tmp_path: Path, migrations: Path) -> None:
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

    def test_up_over_several_databases_runs_each_hook_once(self, tmp_path: Path, migrations: Path) -> None:
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

    def test_invalid_file_runs_the_hook_and_a_nested_up_runs_none(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'on_failure = ["./again"]')
        # If the hook ran a second time, it would not start a third run.
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
        assert run["REASON"].startswith("version 7 is used by more than one file")
        (failed,) = events(done.stderr, "hook.")
        assert failed["reason"] == "it exited with code 4"
        assert '"event":"file.invalid"' in str(failed["output"])

    def test_first_signal_lets_the_hook_finish(self, tmp_path: Path, migrations: Path) -> None:
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


class TestDaemon:
    def test_hook_runs_once_per_pass_for_all_applied_migrations(self, tmp_path: Path, migrations: Path) -> None:
        configure(tmp_path, 'after_apply = ["./record"]\non_failure = ["./record"]', databases='["a.db", "b.db"]')
        write_migration(migrations, 1)
        write_migration(migrations, 2)
        with DaemonProcess(tmp_path) as daemon:
            first = daemon.wait_for("hook.finished", name="after_apply")
            write_migration(migrations, 3)
            second = daemon.wait_for("hook.finished", name="after_apply")
            daemon.look()
            assert children(daemon.pid) == []
            assert daemon.stop() == 0

        common = {
            "CWD": str(tmp_path),
            "EVENT": "after_apply",
            "OUTCOME": "applied",
            "DATABASES": f"{tmp_path / 'a.db'}\n{tmp_path / 'b.db'}",
        }
        assert runs(tmp_path) == [
            common | {"VERSIONS": "1 2", "RUN_ID": first["run_id"]},
            common | {"VERSIONS": "3", "RUN_ID": second["run_id"]},
        ]
        assert {line["run_id"] for line in daemon.logged("run.finished")} == {first["run_id"], second["run_id"]}

    def test_failing_hook_does_not_undo_the_migration_and_reload_replaces_it(
        self, tmp_path: Path, migrations: Path, database: Path
    ) -> None:
        configure(tmp_path, 'after_apply = ["./missing"]')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            failed = daemon.wait_for("hook.failed", name="after_apply", level="error")
            assert "./missing or its interpreter was not found" in failed["reason"]
            assert applied_versions(database) == [1]
            text = (tmp_path / "migrated.toml").read_text().replace("./missing", "./record")
            (tmp_path / "migrated.toml").write_text(text)
            daemon.send(signal.SIGHUP)
            daemon.wait_for("daemon.reloaded")
            write_migration(migrations, 2)
            daemon.wait_for("hook.finished")
            assert daemon.stop() == 0
        assert applied_versions(database) == [1, 2]
        assert [run["VERSIONS"] for run in runs(tmp_path)] == ["2"]

    def test_passes_go_on_during_a_slow_hook_and_waiting_runs_are_merged(
        self, tmp_path: Path, migrations: Path
    ) -> None:
        configure(tmp_path, 'after_apply = ["./gated"]')
        write_migration(migrations, 1)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_until_ready()
            poll(has_begun(tmp_path, 1), "the hook")
            for version in (2, 3):
                write_migration(migrations, version)
                daemon.wait_for("migration.applied", version=version)
                daemon.look()
            assert notes(tmp_path) == ["begun 1"]
            open_gate(tmp_path)
            daemon.wait_for("hook.finished")
            open_gate(tmp_path)
            daemon.wait_for("hook.finished")
            assert daemon.stop() == 0
        assert notes(tmp_path) == ["begun 1", "ended", "begun 2 3", "ended"]

    def test_failure_hook_runs_only_for_new_problems(self, tmp_path: Path, migrations: Path) -> None:
        """A refusal is evaluated again at every pass, a failure whenever a file has changed."""
        configure(tmp_path, 'on_failure = ["./record"]', 'resync_interval = "50ms"')
        first = write_migration(migrations, 1)
        bring_up(tmp_path)
        broken = write_migration(migrations, 2, up=BROKEN)
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait_for("hook.finished", name="on_failure")
            write_migration(migrations, 3)
            daemon.wait_for("run.finished", outcome="failed")
            daemon.look()
            double = put_file(migrations, "02_double.sql", "SELECT 1;")
            daemon.wait_for("hook.finished", name="on_failure")
            daemon.look()
            double.unlink()
            daemon.look()
            write_migration(migrations, 1, up="SELECT 'changed';")
            daemon.wait_for("hook.finished", name="on_failure")
            daemon.look()
            daemon.look()
            assert daemon.stop() == 0

        told = [(run["VERSIONS"], run["OUTCOME"], run["FILE"]) for run in runs(tmp_path)]
        assert told == [
            ("2", "failed", str(broken)),
            ("2", "refused", str(double)),
            ("1", "refused", str(first)),
        ]
        reasons = [run["REASON"] for run in runs(tmp_path)]
        assert reasons[0] == "no such table: nowhere"
        assert reasons[1].startswith("version 2 is used by more than one file")
        assert reasons[2].startswith("1_change was changed after it was applied")
        assert {run["DATABASE"] for run in runs(tmp_path)} == {str(tmp_path / "app.db")}


class TestStop:
    """One hook is running, and another one waits for it."""

    @contextmanager
    def two(self, directory: Path, migrations: Path, hook: str = "./gated") -> Iterator[DaemonProcess]:
        configure(directory, f'after_apply = ["{hook}"]')
        (directory / "deaf").write_text(GATED.replace("\n", "\ntrap '' TERM\n", 1))
        (directory / "deaf").chmod(0o755)
        write_migration(migrations, 1)
        with DaemonProcess(directory) as daemon:
            daemon.wait_until_ready()
            poll(has_begun(directory, 1), "the hook")
            write_migration(migrations, 2)
            daemon.wait_for("migration.applied", version=2)
            daemon.look()
            daemon.send(signal.SIGTERM)
            daemon.wait_for("daemon.stopping")
            yield daemon

    def test_both_hooks_run_within_the_grace_period(self, tmp_path: Path, migrations: Path) -> None:
        with self.two(tmp_path, migrations) as daemon:
            open_gate(tmp_path)
            poll(has_begun(tmp_path, 2), "the second hook")
            open_gate(tmp_path)

            assert daemon.wait() == 0
        told = [line["event"] for line in daemon.lines]
        assert told[told.index("daemon.stopping") :] == [
            "daemon.stopping",
            "hook.finished",
            "hook.finished",
            "daemon.stopped",
        ]
        assert notes(tmp_path) == ["begun 1", "ended", "begun 2", "ended"]

    def test_second_signal_ends_the_hooks(self, tmp_path: Path, migrations: Path) -> None:
        with self.two(tmp_path, migrations) as daemon:
            daemon.send(signal.SIGTERM)

            assert daemon.wait() == 0
        assert [line["reason"] for line in daemon.logged("hook.failed")] == [
            "it was terminated because migrated is stopping: SIGTERM",
            "not run, because migrated is stopping: SIGTERM",
        ]
        assert daemon.lines[-1]["event"] == "daemon.stopped"
        assert notes(tmp_path) == ["begun 1"]
        assert not Path(f"/proc/{(tmp_path / 'runs').read_text().split()[2]}").exists()

    def test_third_signal_kills_the_daemon_during_a_hook(self, tmp_path: Path, migrations: Path) -> None:
        with self.two(tmp_path, migrations, "./deaf") as daemon:
            daemon.send(signal.SIGTERM)
            poll(lambda: not is_caught(daemon.pid, signal.SIGTERM), "the second signal obeyed")
            daemon.send(signal.SIGTERM)

            assert daemon.wait() == -signal.SIGTERM
        assert daemon.logged("hook.failed") == []
        open_gate(tmp_path)
