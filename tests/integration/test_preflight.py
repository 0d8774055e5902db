"""Checks before the first write: each refusal, and that it changes and creates nothing."""

import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from daemon_process import DEADLINE, environment, require
from integration.children import run_script
from support import ROOT, applied_versions, everything, execute, query

from migrated import DatabaseError, Migration, MigrationRunner
from migrated.engine.sqlite import preflight
from migrated.system.permissions import could_use, give_to_owner_of, name_of

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as several users")
US, OWNER = 65534, 1
ME = name_of(os.geteuid())

CHECK = """
import sys
from migrated import DatabaseError
from migrated.engine.sqlite import preflight
try:
    preflight.require_usable(sys.argv[1], create=sys.argv[2:] == ["create"])
except DatabaseError as error:
    print(error.code, error.transient)
    print(error.message)
else:
    print("usable")
"""


def look(directory: Path) -> list[tuple[object, ...]]:
    """Everything in and below a directory, so that it can be compared with what is there later."""
    found: list[tuple[object, ...]] = []
    for path in sorted([directory, *directory.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((path, status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns, content))
    return found


def refusal(path: Path, *, create: bool = False) -> DatabaseError:
    """Return the refusal in this process; it must change nothing."""
    before = look(path.parent)
    with pytest.raises(DatabaseError) as refused:
        preflight.require_usable(str(path), create=create)

    assert refused.value.database == str(path)
    assert refused.value.hint
    assert look(path.parent) == before
    return refused.value


def check(path: Path, *arguments: str, powerless: bool = True) -> str:
    """Return the result in an unprivileged process; it must change nothing."""
    before = look(path.parent)

    done = run_script(CHECK, path, *arguments, powerless=powerless)

    assert done.stderr == ""
    assert look(path.parent) == before
    return done.stdout


@pytest.fixture
def ready(database: Path) -> Path:
    """A database with a table."""
    execute(database, "CREATE TABLE t (x)")
    return database


def test_ordinary_database_is_usable_and_unchanged(ready: Path) -> None:
    assert check(ready) == "usable\n"


def test_missing_database_is_usable_if_it_may_be_created(database: Path) -> None:
    assert check(database, "create") == "usable\n"


# Not a file


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(Path.mkdir, "a directory", id="directory"),
        pytest.param(os.mkfifo, "a named pipe", id="pipe"),
        pytest.param(_socket, "a socket", id="socket"),
        pytest.param(lambda path: path.symlink_to("/dev/null"), "a device", id="link to a device"),
    ],
)
@pytest.mark.parametrize("create", [False, True])
def test_path_that_is_not_a_regular_file_is_refused(
    database: Path,
    make: Callable[[Path], None],
    kind: str,
    create: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(database.parent)
    make(database)

    error = refusal(database, create=create)

    assert (error.code, error.transient) == ("NOT_A_FILE", False)
    assert error.message == f"the path leads to {kind}, not to a file"
    with pytest.raises(DatabaseError, match=kind):
        preflight.require_regular_file(str(database))


def test_require_regular_file_accepts_a_missing_file(ready: Path, tmp_path: Path) -> None:
    preflight.require_regular_file(str(ready))
    preflight.require_regular_file(str(tmp_path / "gone"))


def test_file_that_is_not_a_database_is_reported_by_sqlite(database: Path) -> None:
    database.write_bytes(b"not a database at all\n" * 100)
    before = look(database.parent)

    assert check(database) == "usable\n"
    with pytest.raises(DatabaseError) as refused:
        MigrationRunner(database).init()

    assert (refused.value.code, refused.value.transient) == ("SQLITE_NOTADB", False)
    assert str(refused.value) == (
        "file is not a database\nhint: this is not a SQLite database, or it is encrypted; check the path"
    )
    assert look(database.parent) == before


# Open elsewhere in this process

# `verdict()` is asked in a process that uses SQLite in several ways; sqlite3 plays the application's part.
IN_PROCESS = """
import sqlite3
import sys
from pathlib import Path
import apsw
from migrated import DatabaseError
from migrated.engine.sqlite import preflight
path, other = sys.argv[1], sys.argv[1] + ".other"
def verdict(name=path):
    try:
        preflight.require_usable(name, create=True)
    except DatabaseError as error:
        assert error.transient and "close it first" in error.hint
        return error.code + " " + error.message.partition("(")[2].partition(")")[0]
    return "usable"
def reading(module, name=path):
    connection = module.Connection(name)
    connection.execute("SELECT * FROM t").fetchall()
    return connection
def say(*what):
    print(*what, sep="; ")
"""
REFUSED = "OPEN_ELSEWHERE_IN_PROCESS"
LIBRARY = f"{REFUSED} by another SQLite library"


@pytest.fixture(params=["delete", "wal"])
def either(request: pytest.FixtureRequest, ready: Path) -> Path:
    """A database in either journal mode, and another one beside it."""
    for path in (str(ready), f"{ready}.other"):
        execute(path, f"PRAGMA journal_mode = {request.param}; CREATE TABLE IF NOT EXISTS t (x)")
    return ready


def in_process(database: Path, body: str) -> str:
    before = everything(database)

    done = run_script(IN_PROCESS + body, database)

    assert done.stderr == ""
    assert everything(database) == before
    return done.stdout


def test_standard_library_on_the_database_is_refused_until_it_is_closed(either: Path) -> None:
    body = """
application = reading(sqlite3)
first = verdict()
application.close()
say(first, verdict())
"""
    assert in_process(either, body) == f"{LIBRARY}; usable\n"


def test_standard_library_beside_apsw_on_the_database_is_refused(either: Path) -> None:
    body = """
ours, application = reading(apsw), reading(sqlite3)
first = verdict()
application.close()
say(first, verdict())
"""
    assert in_process(either, body) == f"{LIBRARY}; usable\n"


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_plain_file_is_refused_until_it_is_closed(either: Path, ending: str) -> None:
    if ending and query(either, "PRAGMA journal_mode") != [("wal",)]:
        pytest.skip("only WAL mode has these files")
    body = f"""
ours = reading(apsw)
plain = open(path + "{ending}", "rb")
first = verdict()
plain.close()
say(first.rstrip("0123456789"), verdict())
"""
    assert in_process(either, body) == f"{REFUSED} as a plain file, descriptor ; usable\n"


def test_o_path_descriptor_is_accepted(either: Path) -> None:
    body = """
import os
descriptor = os.open(path, os.O_PATH)
say(verdict())
"""
    assert in_process(either, body) == "usable\n"


def test_standard_library_on_another_database_is_accepted(either: Path) -> None:
    body = """
application = reading(sqlite3, other)
ours = reading(apsw)
say(verdict(), verdict(other).partition(" ")[0])
"""
    assert in_process(either, body) == f"usable; {REFUSED}\n"


def test_caller_may_have_the_database_open_in_apsw_under_any_name(either: Path) -> None:
    body = """
import os
os.mkdir(path + ".d")
symbolic, hard = path + ".d/symbolic.db", path + ".d/hard.db"
os.symlink(path, symbolic)
os.link(path, hard)
first, second = reading(apsw), apsw.Connection(other)
second.execute("ATTACH ? AS attached", [path])
second.execute("SELECT * FROM attached.t").fetchall()
first.close()
only_attached = verdict()
third = apsw.Connection(symbolic)
say(only_attached, verdict(), verdict(symbolic), verdict(hard))
"""
    assert in_process(either, body) == "usable; usable; usable; usable\n"


OPEN_BESIDE = "application = reading(sqlite3, other)"


@pytest.mark.parametrize("beside", ["", OPEN_BESIDE, f"{OPEN_BESIDE}; application.close()"])
def test_descriptor_of_a_closed_connection_is_accepted(either: Path, beside: str) -> None:
    body = f"""
import os
{beside}
first, second = reading(apsw), reading(apsw)
cursor = first.execute("SELECT * FROM sqlite_schema")
next(cursor)
second.close()
held = [name for name in os.listdir("/proc/self/fd") if os.path.realpath("/proc/self/fd/" + name) == path]
during = verdict()
cursor.close()
say(len(held), during, verdict())
"""
    # A reader in rollback-journal mode would block our COMMIT anyway.
    in_doubt = beside == OPEN_BESIDE and query(either, "PRAGMA journal_mode") == [("delete",)]

    assert in_process(either, body) == f"2; {LIBRARY if in_doubt else 'usable'}; usable\n"


def test_descriptor_that_another_thread_keeps_for_long_is_waited_for(either: Path) -> None:
    """On a busy machine that thread ends its transaction late: here, after waiting for more than a second."""
    body = """
import threading
from types import SimpleNamespace
from migrated.engine.sqlite import lock_holders
application = reading(sqlite3, other)
first, second = reading(apsw), reading(apsw)
cursor = first.execute("SELECT * FROM sqlite_schema")
next(cursor)
second.close()
waited = []
def sleep(seconds):
    waited.append(seconds)
    if sum(waited) > 1:
        cursor.close()
lock_holders.time = SimpleNamespace(sleep=sleep)
alone = verdict()
before = len(waited)
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
say(alone, before, verdict())
ended.set()
thread.join()
"""
    # Alone in the process, nothing could end it meanwhile.
    alone = LIBRARY if query(either, "PRAGMA journal_mode") == [("delete",)] else "usable"

    assert in_process(either, body) == f"{alone}; 0; usable\n"


THREADS = """
import sys
import threading
import sqlite3
from migrated import DatabaseError, LockHeldError, Migration, MigrationRunner
from migrated.engine.sqlite import preflight
path = sys.argv[1]
if sys.argv[2] == "beside the standard library":
    application = sqlite3.connect(path + ".other")
    application.execute("SELECT * FROM t").fetchall()
looks, failures = [], []
def work(number):
    try:
        for _ in range(8):
            preflight.require_usable(path, create=True)
            looks.append(number)
            runner = MigrationRunner(path, lock_timeout=600, busy_timeout=600)
            runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)", "DROP TABLE a"))
            runner.run()
            runner.roll_back_to(0)
    except Exception as error:
        failures.append(str(error))
threads = [threading.Thread(target=work, args=[number]) for number in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(looks), failures)
"""


@pytest.mark.parametrize("beside", ["alone", "beside the standard library"])
def test_runners_in_several_threads_are_never_refused(either: Path, beside: str) -> None:
    done = run_script(THREADS, either, beside)

    assert (done.stdout, done.stderr) == ("40 []\n", "")


def test_callers_own_connection_runs_migrations(either: Path) -> None:
    connection = apsw.Connection(str(either))
    runner = MigrationRunner(connection)
    runner.add_migration(Migration(1, "a", "CREATE TABLE a (x)"))

    preflight.require_usable(str(either), create=False)
    runner.run()
    preflight.require_usable(str(either), create=False)
    connection.close()

    assert applied_versions(either) == [1]


def test_without_proc_nothing_is_refused(ready: Path) -> None:
    hidden = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    require((*hidden, "mount -t tmpfs none /proc"))
    script = f"{IN_PROCESS}\napplication = reading(sqlite3)\nsay(verdict())"

    done = subprocess.run(
        [*hidden, 'mount -t tmpfs none /proc && exec "$@"', "sh", sys.executable, "-c", script, str(ready)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("usable\n", "")


# Read-only


def test_file_that_may_not_be_written_is_refused(ready: Path) -> None:
    ready.chmod(0o444)

    assert check(ready) == (
        f"READ_ONLY True\nno permission to read and write the file: mode 0444, owned by {ME}, this is {ME}\n"
    )


@pytest.mark.parametrize("exists", [True, False])
def test_file_system_that_is_mounted_read_only_is_refused(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    mounting = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    place = tmp_path / "place"
    place.mkdir()
    mount = f'mount --bind "{place}" "{place}" && mount -o remount,bind,ro "{place}"'
    require((*mounting, mount))
    if exists:
        execute(place / "app.db", "CREATE TABLE t (x)")
    before = look(place)

    done = subprocess.run(
        [*mounting, f'{mount} && exec "$@"', "sh", sys.executable, "-c", CHECK, str(place / "app.db"), "create"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == (
        "READ_ONLY True\nthe file system is mounted read-only\n",
        "",
    )
    assert look(place) == before


# The directory and SQLite's files in it


@pytest.mark.parametrize("mode", [0o555, 0o666])
@pytest.mark.parametrize("exists", [True, False])
def test_directory_that_may_not_be_written_is_refused(
    tmp_path: Path,
    mode: int,
    exists: bool,  # noqa: FBT001 - a parameter
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if exists:
        execute(place / "app.db", "CREATE TABLE t (x)")
    place.chmod(mode)

    done = run_script(CHECK, place / "app.db", "create", powerless=True)
    place.chmod(0o755)

    assert done.stdout == (
        "DIRECTORY_NOT_WRITABLE True\n"
        f"SQLite creates files beside the database, but {place} is not writable: "
        f"mode {mode:04o}, owned by {ME}, this is {ME}\n"
    )
    assert [path.name for path in place.iterdir()] == (["app.db"] if exists else [])


def test_directory_of_the_link_target_is_checked(tmp_path: Path) -> None:
    shut, free = tmp_path / "shut", tmp_path / "free"
    shut.mkdir()
    free.mkdir()
    for there, link in ((free, shut), (shut, free)):
        execute(there / "app.db", "CREATE TABLE t (x)")
        (link / "link.db").symlink_to(there / "app.db")
    shut.chmod(0o555)

    by_link = check(shut / "link.db"), check(free / "link.db")
    shut.chmod(0o755)

    assert by_link[0] == "usable\n"
    assert by_link[1].startswith(
        f"DIRECTORY_NOT_WRITABLE True\nSQLite creates files beside the database, but {shut} "
    )


def test_missing_directory_is_refused_where_the_database_may_be_created(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as refused:
        preflight.require_usable(str(tmp_path / "gone" / "app.db"), create=True)

    assert (refused.value.code, refused.value.transient) == ("DIRECTORY_NOT_WRITABLE", True)
    assert str(refused.value) == (
        f"the directory {tmp_path}/gone does not exist\nhint: create it, or check the path of the database"
    )
    assert list(tmp_path.iterdir()) == []


def test_missing_database_that_may_not_be_created_is_reported_on_open(tmp_path: Path) -> None:
    preflight.require_usable(str(tmp_path / "app.db"), create=False)
    preflight.require_usable(str(tmp_path / "gone" / "app.db"), create=False)


def test_unsearchable_directory_is_reported_for_a_missing_file(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o666)

    done = run_script(CHECK, place / "app.db", powerless=True)
    place.chmod(0o755)

    assert done.stdout.startswith("DIRECTORY_NOT_WRITABLE True\n")


def test_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep me")

    with pytest.raises(DatabaseError) as refused:
        preflight.require_usable(str(tmp_path / "file" / "app.db"), create=True)

    assert refused.value.code == "DIRECTORY_NOT_WRITABLE"
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
def test_sibling_that_may_not_be_written_is_refused(ready: Path, ending: str) -> None:
    sibling = Path(f"{ready}{ending}")
    sibling.touch()
    sibling.chmod(0o444)

    assert check(ready) == (
        f"SIBLING_NOT_WRITABLE True\nSQLite needs the file app.db{ending} beside the database, but "
        f"there is no permission to read and write it: mode 0444, owned by {ME}, this is {ME}\n"
    )


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(Path.mkdir, "a directory", id="directory"),
        pytest.param(lambda path: path.symlink_to("elsewhere"), "a symbolic link", id="link"),
    ],
)
def test_sibling_that_is_not_a_file_is_refused(ready: Path, make: Callable[[Path], None], kind: str) -> None:
    make(Path(f"{ready}-journal"))

    error = refusal(ready)

    assert (error.code, error.transient) == ("SIBLING_NOT_WRITABLE", True)
    assert (
        error.message == f"SQLite needs the file app.db-journal beside the database, but it is {kind}, not a file"
    )


# Owners


def run_as(script: str, *arguments: object, uid: int, groups: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script as a user, in that user's groups or in `groups` beside his first one."""
    user = [f"--reuid={uid}", f"--regid={uid}"]
    user += [f"--groups={groups}"] if groups else ["--clear-groups"]
    require(
        ("setpriv", *user, sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}]; import migrated")
    )
    return subprocess.run(
        ["setpriv", *user, sys.executable, "-c", script, *map(str, arguments)],
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


WRITE = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.executemany("INSERT INTO t VALUES (zeroblob(?))", [(5000,)] * 20)
if connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
    connection.execute("COMMIT")
if sys.argv[2:] == ["die"]:
    os.kill(os.getpid(), signal.SIGKILL)
print("written")
"""
ACL = struct.pack(
    "<I" + "HHI" * 5,
    2,
    *(1, 7, 2**32 - 1),
    *(2, 6, OWNER),
    *(4, 5, 2**32 - 1),
    *(16, 7, 2**32 - 1),
    *(32, 0, 2**32 - 1),
)


class Layout(NamedTuple):
    """Modes and group of a database of `OWNER`, and the verdict for `US` in the group of `OWNER`."""

    verdict: str
    mode: int
    group: int
    directory_mode: int
    acl: bytes = b""


@AS_ROOT
@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout("usable", 0o666, OWNER, 0o777), id="everybody may"),
        pytest.param(Layout("FOREIGN_OWNER True", 0o660, OWNER, 0o777), id="shared group, but new files get ours"),
        pytest.param(Layout("usable", 0o660, OWNER, 0o2777), id="shared group"),
        pytest.param(Layout("FOREIGN_OWNER True", 0o664, OWNER, 0o777), id="others may only read"),
        pytest.param(Layout("FOREIGN_OWNER True", 0o660, US, 0o777), id="our group"),
        pytest.param(Layout("usable", 0o660, US, 0o777, ACL), id="our group, and an access control list"),
        pytest.param(Layout("usable", 0o606, US + 1, 0o2777), id="others may"),
    ],
)
def test_verdict_on_another_owner_matches_what_that_owner_can_do(
    shared: Path, journal: str, layout: Layout
) -> None:
    """A process of ours is killed while it writes; the owner must be able to continue."""
    database = shared / "app.db"
    execute(database, f"PRAGMA journal_mode = {journal}; CREATE TABLE t (x)")
    for path, mode in ((database, layout.mode), (shared, layout.directory_mode)):
        os.chown(path, OWNER, layout.group)
        path.chmod(mode)
    if layout.acl:
        try:
            os.setxattr(shared, "system.posix_acl_default", layout.acl)
        except OSError as error:
            pytest.skip(f"no access control lists here: {error}")
    before = look(shared)

    told = run_as(CHECK, database, uid=US, groups=str(OWNER))

    assert told.stderr == ""
    assert told.stdout.splitlines()[0] == layout.verdict
    assert look(shared) == before
    killed = run_as(WRITE, database, "die", uid=US, groups=str(OWNER))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(shared.iterdir())) > 1
    written = run_as(WRITE, database, uid=OWNER)
    assert (written.stdout == "written\n") == (layout.verdict == "usable"), written.stderr


def test_group_members_have_only_the_permissions_of_the_group() -> None:
    """As in the kernel, the bits for others do not apply to group members."""
    try:
        user = pwd.getpwuid(OWNER)
    except KeyError:
        pytest.skip(f"nobody has the uid {OWNER} here")

    assert not could_use(OWNER, group=user.pw_gid, mode=0o606)
    assert could_use(OWNER, group=user.pw_gid, mode=0o660)
    assert could_use(OWNER, group=US, mode=0o606)
    assert not could_use(OWNER, group=US, mode=0o664)
    assert could_use(0, group=US, mode=0)


@AS_ROOT
def test_foreign_owner_is_named_with_what_to_do(shared: Path) -> None:
    database = shared / "app.db"
    execute(database, "CREATE TABLE t (x)")
    os.chown(database, OWNER, US)
    database.chmod(0o664)
    shared.chmod(0o777)
    script = CHECK.replace("error.message", "error")

    done = run_as(script, database, uid=US)

    assert done.stdout == (
        "FOREIGN_OWNER True\n"
        f"the database belongs to {name_of(OWNER)}, who could not use the files that SQLite creates beside it "
        f"as {name_of(US)}\n"
        f"hint: run migrated as {name_of(OWNER)} (User= in the unit), or share a group: "
        "mode 0660, a setgid directory of that group\n"
    )


@AS_ROOT
@pytest.mark.parametrize(("mode", "verdict"), [(0o660, "FOREIGN_OWNER True"), (0o666, "usable")])
def test_owner_without_a_name_has_the_permissions_of_others(shared: Path, mode: int, verdict: str) -> None:
    nobody = next(uid for uid in range(54321, 60000) if name_of(uid) == f"uid {uid}")
    database = shared / "app.db"
    execute(database, "CREATE TABLE t (x)")
    os.chown(database, nobody, US)
    database.chmod(mode)
    shared.chmod(0o777)

    done = run_as(CHECK, database, uid=US)

    assert done.stdout.splitlines()[0] == verdict
    assert verdict == "usable" or f"belongs to uid {nobody}," in done.stdout


@AS_ROOT
def test_permission_error_names_both_users(shared: Path) -> None:
    database = shared / "app.db"
    execute(database, "CREATE TABLE t (x)")
    os.chown(database, OWNER, OWNER)

    done = run_as(CHECK, database, uid=US)

    assert done.stdout == (
        "READ_ONLY True\nno permission to read and write the file: "
        f"mode 0644, owned by {name_of(OWNER)}, this is {name_of(US)}\n"
    )


@AS_ROOT
def test_root_may_migrate_anybodys_database_and_leaves_it_usable(shared: Path) -> None:
    database = shared / "app.db"
    execute(database, "PRAGMA journal_mode = wal; CREATE TABLE t (x)")
    os.chown(database, OWNER, OWNER)
    os.chown(shared, OWNER, OWNER)

    assert check(database, powerless=False) == "usable\n"

    assert run_script(WRITE, database, "die").returncode == -signal.SIGKILL
    assert run_as(WRITE, database, uid=OWNER).stdout == "written\n"


# Databases created by root

MAKE = """
import sys
from migrated import DatabaseError
from migrated.engine.sqlite import preflight
try:
    preflight.create_for_owner(sys.argv[1])
except DatabaseError as error:
    print(error)
"""


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@AS_ROOT
def test_new_database_belongs_to_the_owner_of_its_directory(shared: Path) -> None:
    os.chown(shared, OWNER, OWNER + 1)
    (shared / "link.db").symlink_to(shared / "app.db")
    was = os.umask(0o027)
    try:
        preflight.create_for_owner(str(shared / "link.db"))
    finally:
        os.umask(was)

    status = (shared / "app.db").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_size) == (OWNER, OWNER + 1, 0o640, 0)
    assert sorted(path.name for path in shared.iterdir()) == ["app.db", "link.db"]


@AS_ROOT
def test_existing_database_keeps_its_owner(shared: Path) -> None:
    os.chown(shared, OWNER, OWNER)
    execute(shared / "app.db", "CREATE TABLE t (x)")
    before = look(shared)

    preflight.create_for_owner(str(shared / "app.db"))

    assert look(shared) == before


def test_no_file_is_created_in_ones_own_directory(database: Path) -> None:
    preflight.create_for_owner(str(database))
    preflight.create_for_owner(str(database.parent / "gone" / "app.db"))

    assert list(database.parent.iterdir()) == []


@AS_ROOT
def test_no_file_is_created_without_root(shared: Path) -> None:
    os.chown(shared, OWNER, OWNER)
    shared.chmod(0o777)

    done = run_as(MAKE, shared / "app.db", uid=US)

    assert (done.stdout, done.stderr) == ("", "")
    assert list(shared.iterdir()) == []


@AS_ROOT
def test_failed_chown_leaves_no_database(shared: Path) -> None:
    os.chown(shared, OWNER, OWNER)
    without = ("setpriv", "--bounding-set=-chown")
    require(without)

    done = subprocess.run(
        [*without, sys.executable, "-c", MAKE, str(shared / "app.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    name = name_of(OWNER)
    assert done.stderr == ""
    assert done.stdout == (
        f"cannot make {name}, who owns the directory, the owner of the new database: Operation not permitted\n"
        f"hint: run migrated as {name} (User= in the unit)\n"
    )
    assert list(shared.iterdir()) == []


RUN = """
import sys
from migrated import Migration, MigrationRunner
runner = MigrationRunner(sys.argv[1])
runner.add_migrations(Migration(n, "m", f"CREATE TABLE t{n} (x)") for n in range(1, int(sys.argv[2]) + 1))
print([entry.version for entry in runner.run()])
"""


@AS_ROOT
def test_application_can_use_a_database_created_by_root(shared: Path) -> None:
    database = shared / "app.db"
    os.chown(shared, OWNER, OWNER)
    preflight.create_for_owner(str(database))

    first = run_script(RUN, database, 1)

    assert (first.stdout, first.stderr) == ("[1]\n", "")
    assert {path.name: owner(path) for path in shared.rglob("*")} == dict.fromkeys(
        ["app.db", ".migrated", ".gitignore", "lock"], (OWNER, OWNER)
    )
    second = run_as(RUN, database, 2, uid=OWNER)
    assert (second.stdout, second.stderr) == ("[2]\n", "")


@AS_ROOT
def test_lock_file_of_root_gets_the_owner_of_the_folder(shared: Path) -> None:
    database = shared / "app.db"
    for path in (shared, shared / ".migrated"):
        path.mkdir(exist_ok=True)
        os.chown(path, OWNER, OWNER)
    (shared / ".migrated" / "lock").touch()
    preflight.create_for_owner(str(database))

    assert run_script(RUN, database, 1).stdout == "[1]\n"

    assert owner(shared / ".migrated" / "lock") == (OWNER, OWNER)


@AS_ROOT
def test_only_new_files_of_root_change_their_owner(shared: Path, tmp_path: Path) -> None:
    os.chown(shared, OWNER, OWNER)
    precious, other = tmp_path / "precious", tmp_path / "other"
    precious.touch()
    other.touch()
    (shared / "symbolic").symlink_to(other)
    (shared / "hard").hardlink_to(precious)
    (shared / "theirs").touch()
    os.chown(shared / "theirs", US, US)
    (shared / "ours").touch()

    for path in shared.iterdir():
        give_to_owner_of(shared, path)

    assert (owner(precious), owner(other)) == ((0, 0), (0, 0))
    assert owner(shared / "theirs") == (US, US)
    assert owner(shared / "ours") == (OWNER, OWNER)


def test_chown_to_oneself_or_of_a_missing_file_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = look(tmp_path)

    give_to_owner_of(tmp_path, tmp_path / "file")
    give_to_owner_of(tmp_path / "gone", tmp_path / "file")
    give_to_owner_of(tmp_path, tmp_path / "gone")

    assert look(tmp_path) == before


# application_id


@pytest.fixture
def connection(database: Path) -> Iterator[apsw.Connection]:
    """A new database."""
    opened = apsw.Connection(str(database))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("found", "expected"),
    [(0, 0), (7, 0), (7, 7), (-1, -1), (-1, 2**32 - 1), (-(2**31), 2**31)],
)
def test_database_with_the_application_id_is_accepted(
    connection: apsw.Connection, found: int, expected: int
) -> None:
    for _ in connection.execute(f"PRAGMA application_id = {found}; CREATE TABLE t (x)"):
        pass

    preflight.require_application_id(connection, expected, "app.db")


def test_empty_database_accepts_any_application_id(connection: apsw.Connection) -> None:
    preflight.require_application_id(connection, 7, "app.db")


def test_database_of_another_application_is_refused(connection: apsw.Connection) -> None:
    for _ in connection.execute("PRAGMA application_id = -2; CREATE VIEW v AS SELECT 1"):
        pass

    with pytest.raises(DatabaseError) as refused:
        preflight.require_application_id(connection, 252006673, "app.db")

    assert (refused.value.code, refused.value.transient, refused.value.database) == (
        "APPLICATION_ID",
        False,
        "app.db",
    )
    assert str(refused.value) == (
        "the database belongs to another program: "
        "its application_id is -2 (0xfffffffe), not 252006673 (0x0f055111)\n"
        "hint: check the path, and the application_id in the configuration"
    )
    assert connection.pragma("application_id") == -2
    assert not connection.in_transaction
