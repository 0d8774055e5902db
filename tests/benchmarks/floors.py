"""The floors: the least that has to be done, by plain apsw, as programs of their own.

    floors.py apply THREADS plain|snapshot MIGRATIONS PATTERN    each database in one transaction
    floors.py look MIGRATIONS PATTERN                            read every ledger, compare the numbers
    floors.py stat ROUNDS DIRECTORY                              stat each file and its -wal
    floors.py watch MIGRATIONS DATABASE                          inotify, then as apply, for ever

The first three print the seconds that the work took, without the start of the program, and those of the processor.
The files are read and hashed, the ledger and the history get the rows that the program would write, and a commit
is as safe; but nothing is checked, locked or logged. It imports little, so that its start costs little.
"""

import glob
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable

import apsw

_TABLES = """
CREATE TABLE IF NOT EXISTS main._migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (datetime('now')),
    execution_time_ms INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS main._migrations_history (
    id INTEGER PRIMARY KEY,
    happened_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    action TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    directives TEXT NOT NULL DEFAULT '',
    up_sql TEXT,
    down_sql TEXT,
    execution_time_ms INTEGER NOT NULL,
    rows_changed INTEGER NOT NULL,
    statement INTEGER,
    statements INTEGER,
    reason TEXT,
    violations TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    program_version TEXT NOT NULL
);
"""
_ENTER = "INSERT INTO main._migrations (version, name, checksum, execution_time_ms) VALUES (?, ?, ?, 0)"
_RECORD = """
INSERT INTO main._migrations_history (action, version, name, checksum, up_sql, down_sql, execution_time_ms,
    rows_changed, host, pid, program_version)
VALUES ('apply', ?, ?, ?, ?, ?, 0, 0, ?, ?, 'floor')
"""
_HOST = os.uname().nodename
_PID = os.getpid()
_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80
_EVENT_BYTES = 65_536
Found = tuple[int, str, str, str, str]


def read(directory: str) -> list[Found]:
    """Every migration: version, name, checksum, up and down text."""
    found = []
    for file_name in sorted(os.listdir(directory)):
        if not file_name.endswith(".sql"):
            continue
        with open(f"{directory}/{file_name}", encoding="utf-8") as file:
            up, _, down = file.read().partition("-- DOWN")
        up, down = up.removeprefix("-- UP").strip(), down.strip()
        version, _, name = file_name.removesuffix(".sql").partition("_")
        found.append((int(version), name, hashlib.sha256(up.encode()).hexdigest(), up, down))
    return found


def apply(path: str, migrations: Iterable[Found], *, keep: bool = False) -> list[int]:
    """What is not in the ledger yet, in one transaction; with `keep` after a snapshot."""
    connection = apsw.Connection(path)
    connection.set_busy_timeout(10_000)
    if keep:
        snapshot(connection, path)
    run(connection, "PRAGMA synchronous = EXTRA; BEGIN IMMEDIATE")
    run(connection, _TABLES)
    known = {version for (version,) in connection.execute("SELECT version FROM _migrations")}
    new = [migration for migration in migrations if migration[0] not in known]
    for version, name, checksum, up, down in new:
        run(connection, up)
        connection.execute(_ENTER, (version, name, checksum))
        connection.execute(_RECORD, (version, name, checksum, up, down, _HOST, _PID))
    run(connection, "COMMIT")
    connection.close()
    return [version for version, *_ in new]


def run(connection: apsw.Connection, script: str) -> None:
    for _ in connection.execute(script):
        pass


def snapshot(source: apsw.Connection, path: str) -> None:
    """A copy by the backup API that is on the disk, name and all, before anything is changed."""
    directory = f"{os.path.dirname(path)}/floor-snapshots"
    os.makedirs(directory, exist_ok=True)
    part = f"{directory}/{os.path.basename(path)}.part"
    copy = apsw.Connection(part)
    run(copy, "PRAGMA journal_mode = off; PRAGMA synchronous = off")
    with copy.backup("main", source, "main") as backup:
        backup.step(-1)
    copy.close()
    for name in (part, directory):
        descriptor = os.open(name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        if name == part:
            os.rename(part, f"{directory}/{os.path.basename(path)}.{time.time_ns()}")


def apply_to_all(threads: int, kind: str, directory: str, pattern: str) -> None:
    migrations, paths = read(directory), sorted(glob.glob(pattern)) or [pattern]
    if threads == 1:
        for path in paths:
            apply(path, migrations, keep=kind == "snapshot")
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda path: apply(path, migrations, keep=kind == "snapshot"), paths):
            pass


def look(directory: str, pattern: str) -> None:
    expected = [(version, name, checksum) for version, name, checksum, _, _ in read(directory)]
    query = "SELECT version, name, checksum FROM _migrations ORDER BY version"
    for path in glob.iglob(pattern):
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        found = connection.execute(query).fetchall()
        connection.close()
        if found != expected:
            sys.exit(f"{path} is not current")


def stat(rounds: int, directory: str) -> None:
    for _ in range(rounds):
        paths = [entry.path for entry in os.scandir(directory) if entry.name.endswith(".db")]
        for path in paths:
            os.stat(path)
            os.path.exists(f"{path}-wal")


def watch(directory: str, path: str) -> None:
    """Say "watching" once, then "applied VERSION" after each commit."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(0)
    if library.inotify_add_watch(descriptor, directory.encode(), _IN_CLOSE_WRITE | _IN_MOVED_TO) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    print("watching", flush=True)
    while os.read(descriptor, _EVENT_BYTES):
        for version in apply(path, read(directory)):
            print("applied", version, flush=True)


def timed(work: Callable[[], None]) -> None:
    began, used = time.perf_counter(), time.process_time()
    work()
    print(time.perf_counter() - began, time.process_time() - used)


def main() -> None:
    match sys.argv[1:]:
        case ["apply", threads, kind, directory, pattern]:
            timed(lambda: apply_to_all(int(threads), kind, directory, pattern))
        case ["look", directory, pattern]:
            timed(lambda: look(directory, pattern))
        case ["stat", rounds, directory]:
            timed(lambda: stat(int(rounds), directory))
        case ["watch", directory, path]:
            watch(directory, path)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
