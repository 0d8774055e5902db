"""Databases in which an earlier version, on some Pythons, executed whole files as their UP sections."""

import json
import signal
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, bring_up, log_lines, migrated
from support import applied_versions, checksum, everything, execute, put_file, query, schema

from migrated import ExecutionFailedError, Migration, MigrationNotFoundError, MigrationRunner, Repair

HEADER = "-- Migration: users\n-- Version: 1\n\n"
UP, DOWN = "CREATE TABLE users (id INTEGER PRIMARY KEY);", "DROP TABLE users;"
USERS = f"{HEADER}-- UP\n{UP}\n\n-- DOWN\n{DOWN}\n"
POSTS = "-- UP\nCREATE TABLE posts (id INTEGER PRIMARY KEY);\n"
GONE = (
    "its whole file was executed as the UP section; the DOWN section ran right after UP, so the tables that UP "
    "made are probably gone"
)
HARMLESS = (
    "its whole file was executed as the UP section; this is harmless, since the only statements in it are those "
    "of UP"
)
PIECES = f"-- migrated: no-transaction\n-- UP\n{UP}\nVACUUM;\n-- DOWN\n{DOWN}\n"


def whole(path: Path) -> Migration:
    """What the faulty reading made of a file: all of it is the up section, and there is no other."""
    version, _, name = path.stem.partition("_")
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n")
    return Migration(int(version), name, text.strip(), None)


def apply_whole(database: Path, *paths: Path) -> None:
    """Apply files as the faulty version did."""
    runner = MigrationRunner(database)
    runner.add_migrations(whole(path) for path in paths)
    runner.run()


def made_anew(directory: Path, *paths: Path) -> list[tuple[object, ...]]:
    """The schema that files make when they are read as they should be."""
    runner = MigrationRunner(directory / "anew.db")
    runner.add_directory(paths[0].parent)
    runner.run()
    found = schema(directory / "anew.db")
    (directory / "anew.db").unlink()
    return found


def actions(database: Path) -> list[tuple[object, ...]]:
    return query(
        database, "SELECT action, version, checksum, down_sql, reason FROM _migrations_history ORDER BY id"
    )


@pytest.fixture
def users(migrations: Path, database: Path) -> Path:
    """The file of a migration whose table was made and dropped at once."""
    path = put_file(migrations, "1_users.sql", USERS)
    apply_whole(database, path)
    assert (schema(database), applied_versions(database)) == ([], [1])
    return path


@pytest.fixture
def posts(migrations: Path, database: Path, users: Path) -> Path:
    """The file of a second one, which has no DOWN section: its table is there."""
    path = put_file(migrations, "2_posts.sql", POSTS)
    apply_whole(database, users, path)
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["verify"],
        ["status", "--exit-code"],
        ["up"],
        ["up", "--dry-run"],
        ["plan"],
        ["plan", "--to", "0"],
        ["down"],
        ["redo"],
        ["repair", "1", "--resume"],
    ],
    ids=" ".join,
)
def test_refused_with_what_happened_and_what_to_do(
    tmp_path: Path, database: Path, users: Path, command: list[str]
) -> None:
    put_file(users.parent, "3_third.sql", "-- UP\nCREATE TABLE third (x);\n")
    before = everything(database)

    done = migrated(tmp_path, *command)

    assert done.returncode == 4
    assert f"1_users was read wrongly by an earlier version of migrated when it was applied: {GONE}" in done.stderr
    assert "was changed after" not in done.stdout + done.stderr
    assert "`migrated repair 1 --forget`" in done.stderr
    assert "`migrated repair 1 --mark-applied`" in done.stderr
    assert checksum(USERS.strip()) in done.stderr
    assert checksum(UP) in done.stderr
    assert everything(database) == before


def test_documents_say_so_and_have_the_same_keys_as_ever(tmp_path: Path, database: Path, users: Path) -> None:
    verify, status = migrated(tmp_path, "verify", "--json"), migrated(tmp_path, "status", "--json")

    assert (verify.returncode, status.returncode) == (4, 0)
    problem = json.loads(verify.stdout)["databases"][0]["problem"]
    assert {key: problem[key] for key in ("type", "version", "name", "file", "expected", "found")} == {
        "type": "ChecksumMismatchError",
        "version": 1,
        "name": "users",
        "file": str(users),
        "expected": checksum(USERS.strip()),
        "found": checksum(UP),
    }
    assert GONE in problem["message"]
    assert "migrated repair 1 --forget" in problem["hint"]
    (shown,) = json.loads(status.stdout)["databases"]
    assert [each["state"] for each in shown["migrations"]] == ["changed"]
    assert GONE in shown["problem"]["message"]


def test_log_of_the_daemon_says_so_and_the_remedy_unblocks_it(tmp_path: Path, database: Path, users: Path) -> None:
    with DaemonProcess(tmp_path) as daemon:
        line = daemon.wait_for("checksum.mismatch")

        assert line["message"] == f"1_users was read wrongly when it was applied to app.db: {GONE}"
        assert (line["reason"], line["expected"], line["found"]) == (GONE, checksum(USERS.strip()), checksum(UP))
        assert "`migrated repair 1 --forget`" in line["hint"]
        assert GONE in daemon.wait_for("database.blocked")["reason"]

        assert migrated(tmp_path, "repair", "1", "--forget").returncode == 0

        daemon.send(signal.SIGUSR1)
        daemon.wait_for_all({"event": "migration.applied", "version": 1}, {"event": "database.unblocked"})
        assert daemon.stop() == 0
    assert migrated(tmp_path, "verify").returncode == 0


def test_log_for_people_shows_no_difference(tmp_path: Path, users: Path) -> None:
    done = migrated(tmp_path, "up", "--log-format", "console")

    assert f"1_users was read wrongly when it was applied to app.db: {GONE}\n" in done.stderr
    assert DOWN not in done.stderr


def test_diff_says_so(tmp_path: Path, users: Path) -> None:
    shown, document = migrated(tmp_path, "diff"), migrated(tmp_path, "diff", "--json")

    assert shown.stdout.startswith(f"app.db: 1_users was read wrongly when it was applied: {GONE}\n---")
    assert f"-{DOWN}\n" in shown.stdout
    ((difference,), _) = json.loads(document.stdout).values()
    assert (difference["reason"], difference["down"]) == (GONE, None)


def test_doctor_says_so(tmp_path: Path, users: Path) -> None:
    done = migrated(tmp_path, "doctor")

    assert done.returncode == 1
    assert GONE in done.stdout + done.stderr


# The remedies, to the end


def test_forgotten_it_is_applied_as_it_should_have_been(tmp_path: Path, database: Path, users: Path) -> None:
    settled = migrated(tmp_path, "repair", "1", "--forget", "--reason", "DOWN ran too")

    assert (settled.returncode, settled.stdout, settled.stderr) == (
        0,
        "app.db: 1 is recorded as not applied\n",
        "",
    )
    assert (schema(database), applied_versions(database)) == ([], [])
    assert migrated(tmp_path, "up").returncode == 0
    assert migrated(tmp_path, "verify").returncode == 0
    assert schema(database) == made_anew(tmp_path, users)
    assert actions(database) == [
        ("apply", 1, checksum(USERS.strip()), None, "the database was new"),
        ("forget", 1, checksum(UP), DOWN, "DOWN ran too"),
        ("apply", 1, checksum(UP), DOWN, None),
    ]
    assert migrated(tmp_path, "down").returncode == 0
    assert (schema(database), applied_versions(database)) == ([], [])


def test_schema_that_was_repaired_by_hand_is_accepted(tmp_path: Path, database: Path, users: Path) -> None:
    execute(database, UP)
    execute(database, "INSERT INTO users VALUES (7)")
    applied_at = query(database, "SELECT applied_at FROM _migrations")

    settled = migrated(tmp_path, "repair", "1", "--mark-applied", "--reason", "made by hand")

    assert (settled.returncode, settled.stdout, settled.stderr) == (0, "app.db: 1 is recorded as applied\n", "")
    assert query(database, "SELECT name, checksum FROM _migrations") == [("users", checksum(UP))]
    assert query(database, "SELECT applied_at FROM _migrations") == applied_at
    assert actions(database)[1:] == [("mark-applied", 1, checksum(UP), DOWN, "made by hand")]
    verified = migrated(tmp_path, "verify")
    assert (verified.returncode, verified.stdout) == (0, "app.db: 1 applied, all match their files\n")
    assert query(database, "SELECT id FROM users") == [(7,)]
    # The DOWN section of the file is known now, also when the file has gone.
    users.unlink()
    assert migrated(tmp_path, "down").returncode == 0
    assert (schema(database), applied_versions(database)) == ([], [])


def test_harmless_one_is_accepted(tmp_path: Path, database: Path, users: Path, posts: Path) -> None:
    users.unlink()
    execute(database, "DELETE FROM _migrations WHERE version = 1")
    before = schema(database)

    refused = migrated(tmp_path, "verify")
    assert refused.returncode == 4
    assert HARMLESS in refused.stderr
    assert "--forget" not in refused.stderr
    assert refused.stderr.endswith(
        "hint: 2_posts: `migrated repair 2 --mark-applied` accepts the file as it is; see `migrated help repair`\n"
    )

    assert migrated(tmp_path, "repair", "2", "--mark-applied").returncode == 0

    assert migrated(tmp_path, "verify").returncode == 0
    assert migrated(tmp_path, "up").returncode == 0
    assert schema(database) == before


def test_several_are_repaired_one_by_one_and_applied_below_the_highest(
    tmp_path: Path, database: Path, users: Path, posts: Path
) -> None:
    tags = put_file(users.parent, "3_tags.sql", "-- UP\nCREATE TABLE tags (x);\n-- DOWN\nDROP TABLE tags;\n")
    apply_whole(database, users, posts, tags)

    refused = migrated(tmp_path, "up")
    assert "for each of 1_users, 3_tags: look at the schema" in refused.stderr
    for command in (["1", "--forget"], ["2", "--mark-applied"]):
        assert migrated(tmp_path, "repair", *command).returncode == 0
        assert migrated(tmp_path, "verify").returncode == 4
    assert migrated(tmp_path, "repair", "3", "--forget").returncode == 0

    assert migrated(tmp_path, "up").returncode == 0
    assert migrated(tmp_path, "verify").returncode == 0
    assert applied_versions(database) == [1, 2, 3]
    assert schema(database) == made_anew(tmp_path, users)


def test_down_section_above_up(tmp_path: Path, migrations: Path, database: Path) -> None:
    path = put_file(migrations, "1_users.sql", f"-- DOWN\nDROP TABLE IF EXISTS users;\n\n-- UP\n{UP}\n")
    apply_whole(database, path)

    refused = migrated(tmp_path, "verify")
    assert refused.returncode == 4
    assert "the DOWN section ran before UP" in refused.stderr

    assert migrated(tmp_path, "repair", "1", "--mark-applied").returncode == 0
    assert migrated(tmp_path, "verify").returncode == 0
    assert schema(database) == made_anew(tmp_path, path)


@pytest.mark.parametrize(
    "text",
    [
        PIECES,
        f"-- UP\n-- migrated: no-transaction\n{UP}\n-- DOWN\n{DOWN}\n",
        f"\ufeff{USERS}".replace("\n", "\r\n"),
        f"\n\n{USERS}\n\n",
    ],
    ids=["no-transaction", "no-transaction in UP", "byte-order mark and CRLF", "blank lines"],
)
@pytest.mark.parametrize("how", ["--forget", "--mark-applied"])
def test_whatever_the_file_is_like(tmp_path: Path, migrations: Path, database: Path, text: str, how: str) -> None:
    path = put_file(migrations, "1_users.sql", text)
    apply_whole(database, path)
    refused = migrated(tmp_path, "verify")
    assert refused.returncode == 4
    assert GONE in refused.stderr
    if how == "--mark-applied":
        execute(database, UP)

    assert migrated(tmp_path, "repair", "1", how).returncode == 0
    assert migrated(tmp_path, "up").returncode == 0

    assert migrated(tmp_path, "verify").returncode == 0
    assert schema(database) == made_anew(tmp_path, path)


@pytest.mark.parametrize("how", ["--forget", "--mark-applied"])
def test_one_that_stopped_in_its_down_section_is_repaired_as_any_other(
    tmp_path: Path, migrations: Path, database: Path, how: str
) -> None:
    path = put_file(migrations, "1_users.sql", PIECES.replace(DOWN, f"{DOWN}\nDROP TABLE nonsense;"))
    with pytest.raises(ExecutionFailedError, match="stopped after statement 3 of 4"):
        apply_whole(database, path)
    assert migrated(tmp_path, "verify").returncode == 4
    if how == "--mark-applied":
        execute(database, UP)

    assert migrated(tmp_path, "repair", "1", how).returncode == 0
    assert migrated(tmp_path, "up").returncode == 0

    assert migrated(tmp_path, "verify").returncode == 0
    assert schema(database) == made_anew(tmp_path, path)


# What is not settled so


@pytest.mark.parametrize("how", ["--forget", "--mark-applied", "--resume"])
def test_edited_migration_is_changed_as_ever(tmp_path: Path, database: Path, users: Path, how: str) -> None:
    put_file(users.parent, users.name, USERS.replace("PRIMARY KEY", "PRIMARY KEY, name TEXT"))
    before = everything(database)

    verify, repair = migrated(tmp_path, "verify"), migrated(tmp_path, "repair", "1", how)

    assert (verify.returncode, repair.returncode) == (4, 4)
    assert "1_users was changed after it was applied: expected checksum" in verify.stderr
    assert "migrated repair" not in verify.stderr
    assert repair.stderr == "migrated: error: no database has a stopped migration 1\n"
    assert everything(database) == before


def test_library_repairs_nothing_else(database: Path, users: Path) -> None:
    runner = MigrationRunner(database)
    runner.add_migrations([Migration(1, "users", "SELECT 1"), Migration(2, "other", "SELECT 2")])
    before = everything(database)

    for version in (1, 2, 3):
        with pytest.raises(MigrationNotFoundError, match=f"migration {version} is not stopped, nor is any other"):
            runner.repair(version, Repair.FORGET)

    assert everything(database) == before


def test_nothing_is_repaired_beside_a_stopped_migration(tmp_path: Path, database: Path, users: Path) -> None:
    stops = put_file(
        users.parent,
        "2_stops.sql",
        "-- migrated: no-transaction\n-- UP\nCREATE TABLE a (x);\nDROP TABLE nonsense;\n",
    )
    with pytest.raises(ExecutionFailedError, match="stopped after statement 1 of 2"):
        apply_whole(database, users, stops)
    before = everything(database)

    assert migrated(tmp_path, "repair", "1", "--forget").returncode == 4
    runner = MigrationRunner(database)
    runner.add_directory(users.parent)
    with pytest.raises(MigrationNotFoundError, match="migration 1 is not stopped: 2_stops stopped after"):
        runner.repair(1, Repair.FORGET)

    assert everything(database) == before


def test_of_many_databases_those_that_have_it_are_repaired(tmp_path: Path, users: Path, database: Path) -> None:
    databases = [tmp_path / f"{number:02}.db" for number in range(12)]
    for one in databases[:10]:
        apply_whole(one, users)
    database.unlink()
    bring_up(tmp_path, database="10.db")

    refused = migrated(tmp_path, "verify", "-d", "*.db")
    assert refused.returncode == 4
    assert refused.stderr.count(GONE) == 1
    assert "10 databases" in refused.stderr
    assert GONE in migrated(tmp_path, "status", "-d", "*.db").stdout

    settled = migrated(tmp_path, "repair", "1", "--forget", "-d", "*.db")

    assert (settled.returncode, settled.stderr) == (0, "")
    assert settled.stdout.splitlines() == [f"{one.name}: 1 is recorded as not applied" for one in databases[:10]]
    assert migrated(tmp_path, "up", "-d", "*.db").returncode == 0
    assert migrated(tmp_path, "verify", "-d", "*.db").returncode == 0
    assert {tuple(schema(one)) for one in databases[:11]} == {tuple(made_anew(tmp_path, users))}


# Where changed migrations are redone


def redo_by_policy(directory: Path, more: str = "") -> None:
    target = f'[[target]]\ndatabases = ["app.db"]\nmigrations = "migrations"\non_changed = "redo"\n{more}'
    (directory / "migrated.toml").write_text(target)


def test_it_is_redone_where_there_is_a_way_back(tmp_path: Path, database: Path, users: Path, posts: Path) -> None:
    execute(database, "INSERT INTO posts VALUES (7)")
    redo_by_policy(tmp_path)

    assert migrated(tmp_path, "up").returncode == 0

    assert migrated(tmp_path, "verify").returncode == 0
    assert schema(database) == made_anew(tmp_path, users)
    assert query(database, "SELECT id FROM posts") == [(7,)]


@pytest.mark.parametrize("command", ["up", "redo", "down"])
def test_it_is_refused_where_there_is_none(tmp_path: Path, migrations: Path, database: Path, command: str) -> None:
    path = put_file(migrations, "1_users.sql", USERS)
    execute(database, "CREATE TABLE older (x)")
    apply_whole(database, path)
    redo_by_policy(tmp_path, 'snapshots = { when = "never" }\n')
    before = everything(database)

    done = migrated(tmp_path, command)

    assert done.returncode == 4
    assert GONE in log_lines(done.stderr)[0]["reason"]
    assert "no down text" not in done.stderr
    assert everything(database) == before
    assert migrated(tmp_path, "repair", "1", "--forget").returncode == 0
    assert migrated(tmp_path, "up").returncode == 0
    assert migrated(tmp_path, "verify").returncode == 0
