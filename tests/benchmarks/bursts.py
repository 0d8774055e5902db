"""What else a watcher meets: a checkout of many files, wanted as one pass, and a file written in two halves."""

import subprocess
import time
from pathlib import Path

from benchmarks.bench import Bench, configure
from benchmarks.daemon import Daemon
from benchmarks.making import NothingDoneError, file_name, migration_text, require_applied, write_migrations
from benchmarks.results import Row, at_most
from support import query

_FILES = 200
_SWITCHES = 5
_TORN = 5
_HALF_SECONDS = 0.3
_QUIET_SECONDS = 0.7
_SECOND_HALF = "CREATE TABLE second_half{} (id INTEGER PRIMARY KEY);\n"


def measure(bench: Bench) -> list[Row]:
    """The rows of group 8 that are counts."""
    return [_switches(bench), _torn(bench)]


def _switches(bench: Bench) -> Row:
    """`migrated dev` while branches with and without many files are switched to and fro."""
    files = bench.size(_FILES)
    with bench.home("switches") as home:
        configure(home, ["app.db"], top=bench.settle)
        _branches(home, files)
        passes = []
        with Daemon(home, "dev") as daemon:
            daemon.pass_ended()
            for branch in ("many", "few") * _SWITCHES:
                _git(home, "switch", "-q", branch)
                daemon.pass_ended()
                passes.append(1.0 + daemon.passes_until_quiet(_QUIET_SECONDS))
                require_applied([home / "app.db"], files + 1 if branch == "many" else 1)
    return Row(f"`git switch` of {files} files: passes, {len(passes)} times", files, "", passes, goal=at_most(1))


def _branches(home: Path, files: int) -> None:
    write_migrations(home / "migrations", [0])
    _git(home, "init", "-q", "-b", "few")
    _git(home, "add", "migrations")
    _git(home, "commit", "-qm", "few")
    _git(home, "switch", "-qc", "many")
    write_migrations(home / "migrations", range(1, files + 1))
    _git(home, "add", "migrations")
    _git(home, "commit", "-qm", "many")
    _git(home, "switch", "-q", "few")


def _git(home: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *identity, *arguments], cwd=home, check=True, capture_output=True)


def _torn(bench: Bench) -> Row:
    """Files that are written in place, with a pause where the first half is a whole migration."""
    halves = 0
    with bench.home("torn") as home:
        configure(home, ["app.db"], top=bench.settle)
        write_migrations(home / "migrations", [0])
        with Daemon(home) as daemon:
            daemon.pass_ended()
            for number in range(1, _TORN + 1):
                up = migration_text(number).partition("\n\n-- DOWN")[0]
                with (home / "migrations" / file_name(number)).open("w") as file:
                    file.write(f"{up}\n")
                    file.flush()
                    time.sleep(_HALF_SECONDS)
                    halves += _tables(home, f"t{number}")
                    file.write(_SECOND_HALF.format(number))
                while not _tables(home, f"t{number}"):
                    daemon.pass_ended()
                halves += 1 - _tables(home, f"second_half{number}")
        require_applied([home / "app.db"], _TORN + 1)
    what = f"{_TORN} files in two halves, {_HALF_SECONDS * 1000:.0f} ms apart: applied by half"
    return Row(what, _TORN, "", [float(halves)], goal=at_most(0))


def _tables(home: Path, name: str) -> int:
    database = home / "app.db"
    if not database.exists():
        raise NothingDoneError(f"{database} is not there")
    return len(query(database, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", name))
