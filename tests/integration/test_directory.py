"""Reading a migrations directory: complete files only; every skipped file is reported."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from integration.children import Children, line_from, run_script, tell
from support import put_file, write_migration

from migrated import InvalidFormatError, MigrationFileError, read_migrations
from migrated.sources.directory import QUIET_SECONDS, read_directory, read_finished

MISNAMED = (
    "the file name is invalid: expected <version>_<name>.sql, such as 20240101120000_add_users.sql, or "
    "R__<name>.sql; the name may contain letters, digits, _ and -"
)
OUT_OF_RANGE = "the version is out of range: expected 1 to 9223372036854775807"
WRITING = "another process has it open for writing"


def test_whole_directory_is_read_ascending(migrations: Path) -> None:
    write_migration(migrations, 10, "ten")
    write_migration(migrations, "0009", "nine", down="DROP TABLE t0009;")
    write_migration(migrations, 9223372036854775807, "last-one")

    found = read_migrations(migrations)

    assert [(migration.version, migration.name) for migration in found] == [
        (9, "nine"),
        (10, "ten"),
        (9223372036854775807, "last-one"),
    ]
    assert [migration.origin.file for migration in found if migration.origin] == [
        str(migrations / name) for name in ("0009_nine.sql", "10_ten.sql", "9223372036854775807_last-one.sql")
    ]
    assert found[0].down_sql == "DROP TABLE t0009;"


def test_empty_directory_has_no_migrations(migrations: Path) -> None:
    assert read_migrations(migrations) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1_a.SQL", MISNAMED),
        ("1_a.Sql", MISNAMED),
        ("users.sql", MISNAMED),
        ("1.sql", MISNAMED),
        ("_a.sql", MISNAMED),
        ("1_.sql", MISNAMED),
        ("1-a.sql", MISNAMED),
        ("v1_a.sql", MISNAMED),
        ("1_a b.sql", MISNAMED),
        ("1_a.up.sql", MISNAMED),
        ("1_é.sql", MISNAMED),
        ("\u0661_a.sql", MISNAMED),
        (" 1_a.sql", MISNAMED),
        ("-1_a.sql", MISNAMED),
        ("1_a.sql\n.sql", MISNAMED),
        ("0_a.sql", OUT_OF_RANGE),
        ("000_a.sql", OUT_OF_RANGE),
        ("9223372036854775808_a.sql", OUT_OF_RANGE),
        (f"{'9' * 200}_a.sql", OUT_OF_RANGE),
    ],
)
def test_misnamed_file_is_reported_and_the_others_are_read(migrations: Path, name: str, reason: str) -> None:
    write_migration(migrations, 7)
    (migrations / name).write_text("nonsense")

    listing = read_directory(migrations)

    assert [(remark.file, remark.reason) for remark in listing.ignored] == [(str(migrations / name), reason)]
    assert [migration.version for migration in listing.migrations] == [7]
    assert (listing.invalid, listing.unfinished) == ([], [])


def test_name_that_is_not_utf8_is_reported(migrations: Path) -> None:
    with Path(os.fsdecode(os.fsencode(migrations) + b"/1_\xff.sql")).open("wb"):
        pass

    assert [remark.reason for remark in read_directory(migrations).ignored] == [MISNAMED]


@pytest.mark.parametrize(
    "name",
    [
        ".1_a.sql",
        ".1_a.sql.swp",
        "1_a.sql~",
        "1_a.sql.bak",
        "1_a.sql.swx",
        "4913",
        "sedAbCdEf",
        "#1_a.sql#",
        "README.md",
        "1_asql",
        ".gitkeep",
    ],
)
def test_hidden_and_temporary_files_are_skipped(migrations: Path, name: str) -> None:
    (migrations / name).write_text("nonsense")

    listing = read_directory(migrations)

    assert (listing.migrations, listing.ignored, listing.unfinished, listing.invalid) == ([], [], [], [])


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "named pipe"])
def test_path_that_is_not_a_regular_file_is_reported_without_blocking(
    migrations: Path, make: Callable[[Path], None]
) -> None:
    make(migrations / "1_a.sql")
    write_migration(migrations, 2)

    listing = read_directory(migrations)

    assert [(remark.file, remark.reason) for remark in listing.ignored] == [
        (str(migrations / "1_a.sql"), "not a regular file")
    ]
    assert [migration.version for migration in listing.migrations] == [2]


def test_link_to_a_file_is_followed(migrations: Path) -> None:
    real = put_file(migrations.parent, "real.txt", "CREATE TABLE a (x);")
    (migrations / "1_a.sql").symlink_to(real)

    assert [migration.up_sql for migration in read_migrations(migrations)] == ["CREATE TABLE a (x);"]


def test_link_to_a_directory_is_reported(migrations: Path) -> None:
    (migrations / "1_a.sql").symlink_to(migrations)

    assert [remark.reason for remark in read_directory(migrations).ignored] == ["not a regular file"]


@pytest.mark.parametrize("target", ["nowhere", "1_a.sql"], ids=["dangling", "to itself"])
def test_dangling_link_blocks_the_directory(migrations: Path, target: str) -> None:
    (migrations / "1_a.sql").symlink_to(target)

    listing = read_directory(migrations)

    assert listing.migrations == []
    assert [remark.file for remark in listing.unfinished] + [error.file for error in listing.invalid] == [
        str(migrations / "1_a.sql")
    ]
    with pytest.raises(MigrationFileError):
        read_finished(migrations, timeout=0).require_valid()


def test_linked_directory_is_read_as_if_it_were_there(migrations: Path) -> None:
    write_migration(migrations, 1)
    link = migrations.parent / "link"
    link.symlink_to(migrations)

    assert [migration.origin and migration.origin.file for migration in read_migrations(link)] == [
        str(link / "1_change.sql")
    ]


LIST = """
import sys
from migrated import MigrationError, read_migrations
try:
    print([migration.version for migration in read_migrations(sys.argv[1])])
except MigrationError as error:
    print(type(error).__name__, error.exit_code)
    print(error)
"""
HINT = "hint: check that it exists, has the right type and is readable by this user\n"


def test_unreadable_file_blocks_the_directory(migrations: Path) -> None:
    write_migration(migrations, 1)
    file = write_migration(migrations, 2)
    file.chmod(0)

    done = run_script(LIST, migrations, powerless=True)

    assert (done.stdout, done.stderr) == (
        f"MigrationFileError 4\n{file}: the migration cannot be read: Permission denied\n{HINT}",
        "",
    )


def test_unreadable_directory_is_an_error_of_its_own(migrations: Path) -> None:
    write_migration(migrations, 1)
    migrations.chmod(0)

    done = run_script(LIST, migrations, powerless=True)
    migrations.chmod(0o755)

    assert (done.stdout, done.stderr) == (
        f"MigrationFileError 4\n{migrations}: the migrations directory cannot be read: Permission denied\n{HINT}",
        "",
    )


@pytest.mark.parametrize(
    ("name", "reason"), [("gone", "No such file or directory"), ("1_file.sql", "Not a directory")]
)
def test_path_that_is_not_a_directory_is_an_error(migrations: Path, name: str, reason: str) -> None:
    put_file(migrations, "1_file.sql", "SELECT 1;")

    for read in (read_migrations, read_directory, read_finished):
        with pytest.raises(MigrationFileError) as refused:
            read(migrations / name)

        assert f"{refused.value}\n" == (
            f"{migrations / name}: the migrations directory cannot be read: {reason}\n{HINT}"
        )


def test_two_files_of_one_version_are_refused_naming_both(migrations: Path) -> None:
    first = write_migration(migrations, "007", "a")
    second = write_migration(migrations, 7, "b")
    write_migration(migrations, 8)

    with pytest.raises(InvalidFormatError) as refused:
        read_migrations(migrations)

    assert str(refused.value) == (
        f"{first}: version 7 is used by more than one file: {first}, {second}\n"
        "hint: rename one of them to an unused version, such as the one `migrated new` would choose"
    )
    assert refused.value.version == 7


def test_two_files_of_one_version_are_found_even_when_one_is_invalid(migrations: Path) -> None:
    write_migration(migrations, 7, "a")
    put_file(migrations, "007_b.sql", "-- migrated: nonsense\nSELECT 1;")

    listing = read_directory(migrations)

    messages = [error.message for error in listing.invalid]
    assert any("unknown directive" in message for message in messages)
    assert any("version 7 is used by more than one file" in message for message in messages)


def test_all_faults_are_reported_together(migrations: Path) -> None:
    put_file(migrations, "1_a.sql", "-- Version: 2\nSELECT 1;")
    put_file(migrations, "2_b.sql", b"SELECT 1;\n\xff")
    put_file(migrations, "3_c.sql", "-- migrated: nonsense\nSELECT 1;")
    write_migration(migrations, 4, "d")
    write_migration(migrations, "04", "d")
    put_file(migrations, "5_e.sql", "SELECT 1;\n-- UP\nSELECT 2;")

    with pytest.raises(InvalidFormatError) as refused:
        read_migrations(migrations)

    text = str(refused.value)
    assert (refused.value.file, refused.value.line) == (str(migrations / "1_a.sql"), 1)
    assert "5 files are invalid; the others:" in text
    for place in (
        "2_b.sql:2: byte 0xff",
        "3_c.sql:1: unknown directive 'nonsense'",
        "5_e.sql:1: a statement above",
    ):
        assert f"{migrations}/{place}" in text
    assert "version 4 is used by more than one file" in text


# Files that are being written


def test_file_open_for_writing_is_unfinished_until_it_is_closed(migrations: Path) -> None:
    path = migrations / "1_a.sql"
    with path.open("w") as file:
        file.write("CREATE TABLE a (x);\n")
        file.flush()

        listing = read_directory(migrations)

        assert [(remark.file, remark.reason) for remark in listing.unfinished] == [(str(path), WRITING)]
        assert listing.migrations == []
        file.write("CREATE TABLE b (x);\n")

    assert [migration.up_sql for migration in read_directory(migrations).migrations] == [
        "CREATE TABLE a (x);\nCREATE TABLE b (x);"
    ]


WRITER = """
import sys
with open(sys.argv[1], "a") as file:
    file.write("CREATE TABLE a (x);\\n")
    file.flush()
    print("open", flush=True)
    sys.stdin.readline()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_file_that_another_process_writes_is_unfinished_at_any_age(migrations: Path, children: Children) -> None:
    path = migrations / "1_a.sql"
    writer = children.start(WRITER, path)
    assert line_from(writer) == "open"
    os.utime(path, (1, 1))

    assert [remark.reason for remark in read_directory(migrations).unfinished] == [WRITING]
    tell(writer)
    assert line_from(writer) == "closed"

    assert [migration.version for migration in read_directory(migrations).migrations] == [1]


def test_writer_that_is_killed_leaves_a_file_that_is_read(migrations: Path, children: Children) -> None:
    writer = children.start(WRITER, migrations / "1_a.sql")
    assert line_from(writer) == "open"

    writer.kill()
    writer.wait(10)

    assert read_directory(migrations).unfinished == []


def test_reading_waits_for_a_file_to_be_finished(migrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_migration(migrations, 1)
    writing = (migrations / "2_b.sql").open("w")
    writing.write("SELECT 1;")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            writing.close()

    monkeypatch.setattr(time, "sleep", wait)

    assert [migration.version for migration in read_migrations(migrations)] == [1, 2]
    assert len(waits) == 3


def test_reading_fails_after_the_timeout_for_an_unfinished_file(migrations: Path) -> None:
    path = migrations / "1_a.sql"
    with path.open("w"), pytest.raises(MigrationFileError) as refused:
        read_finished(migrations, timeout=0.1)

    assert str(refused.value) == (
        f"{path}: the file is incomplete: {WRITING}\nhint: try again once the file is complete"
    )


def test_read_migrations_fails_after_the_timeout(migrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))

    with (
        (migrations / "1_a.sql").open("w"),
        pytest.raises(MigrationFileError, match="the file is incomplete"),
    ):
        read_migrations(migrations)

    # Long enough for a file whose rest has to be waited for.
    assert QUIET_SECONDS < now[0] - 1000 < 5 * QUIET_SECONDS


def test_open_reader_does_not_make_a_file_unfinished(migrations: Path) -> None:
    with write_migration(migrations, 1).open():
        assert [migration.version for migration in read_directory(migrations).migrations] == [1]


AGES = """
import os
import sys
import time
from migrated.sources.directory import read_directory
path = os.path.join(sys.argv[1], "1_a.sql")
for age in sys.argv[2:]:
    listing = read_directory(sys.argv[1])
    print(*[remark.reason for remark in listing.unfinished], *[found.version for found in listing.migrations])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, f"it was written less than {QUIET_SECONDS:.0f} s ago\n"),
        (60, "1\n"),
        (-3600, "1\n"),
    ],
    ids=["just written", "at rest", "from the future"],
)
def test_file_without_a_lease_must_reach_the_minimum_age(migrations: Path, age: int, expected: str) -> None:
    path = write_migration(migrations, 1)
    os.chown(path, 12345, 12345)
    # Far from the limit on either side, so that the start of the child does not matter.
    written = time.time() - age if age else time.time() + 1
    os.utime(path, (written, written))

    done = run_script(AGES, migrations, "once", powerless=True)

    assert (done.stdout, done.stderr) == (expected, "")


READER = """
import sys
from migrated.sources.directory import read_directory
print("reading", flush=True)
whole = set()
for _ in range(int(sys.argv[2])):
    for migration in read_directory(sys.argv[1]).migrations:
        whole.add(migration.up_sql)
print(sorted(whole))
"""


def test_concurrent_writers_do_not_kill_us_and_are_never_read_partially(
    migrations: Path, children: Children
) -> None:
    path = put_file(migrations, "1_a.sql", "SELECT 1;\nSELECT 2;")
    reader = children.start(READER, migrations, 2000)
    assert line_from(reader) == "reading"

    while reader.poll() is None:
        with path.open("w") as file:
            file.write("SELECT 1;\n")
            file.flush()
            file.write("SELECT 2;")
    output, errors = reader.communicate()

    assert (reader.returncode, errors) == (0, "")
    # On a busy machine the writer may never have been seen to pause.
    assert output in {"['SELECT 1;\\nSELECT 2;']\n", "[]\n"}
    assert [migration.up_sql for migration in read_directory(migrations).migrations] == ["SELECT 1;\nSELECT 2;"]


def test_nonblocking_writer_succeeds_after_the_lease(migrations: Path) -> None:
    """The lease held during the check must be released afterwards."""
    path = write_migration(migrations, 1)
    read_directory(migrations)

    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_no_descriptor_is_left_open(migrations: Path) -> None:
    write_migration(migrations, 1)
    put_file(migrations, "2_b.sql", b"\xff")
    os.mkfifo(migrations / "3_c.sql")
    with (migrations / "4_d.sql").open("w"):
        read_directory(migrations)
        before = os.listdir("/proc/self/fd")

        for _ in range(20):
            read_directory(migrations)

        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_files_created_and_removed_during_reading_are_harmless(migrations: Path) -> None:
    write_migration(migrations, 1)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            write_migration(migrations, 2).unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            listing = read_directory(migrations)
            assert listing.invalid == []
            assert [migration.version for migration in listing.migrations] in ([1], [1, 2])
    finally:
        stop.set()
        thread.join()


def test_file_whose_reading_fails_is_a_fault_of_the_directory(migrations: Path) -> None:
    """Reading /proc/self/mem at address 0 fails with EIO, as a failing disk does."""
    (migrations / "1_a.sql").symlink_to("/proc/self/mem")
    write_migration(migrations, 2)

    (fault,) = read_directory(migrations).invalid

    assert fault.message == "the migration cannot be read: Input/output error"
    assert (fault.version, fault.file) == (1, str(migrations / "1_a.sql"))
