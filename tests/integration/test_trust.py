"""Permission checks: directories, files and links that others can write to are not used."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_process import environment, require
from support import put_file, write_migration

from migrated import MigrationFileError, read_migrations
from migrated.config.load import Overrides, load_config
from migrated.core.errors import ConfigError
from migrated.sources.directory import read_directory
from migrated.system.permissions import Trust, Weakness, group_name_of

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others takes root")
US, THEM = 61234, 61235
LOOK = """
import json
import os
import sys
from migrated.system.permissions import Trust
found = [Trust().of(path, os.stat(path)) for path in sys.argv[1:]]
print(json.dumps([each and [each.reason, each.fix] for each in found]))
"""


def weakness(path: Path) -> Weakness | None:
    return Trust().of(path, path.stat())


def made(directory: Path, mode: int, *, uid: int = -1, gid: int = -1, name: str = "made") -> Path:
    path = directory / name
    path.mkdir()
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def seen_by_us(*paths: Path, groups: str = "") -> list[list[str] | None]:
    """Return what one process of the user `US` finds."""
    user = ("setpriv", f"--reuid={US}", f"--regid={US}", f"--groups={groups}" if groups else "--clear-groups")
    require((*user, sys.executable, "-c", "import migrated"))
    command = [*user, sys.executable, "-c", LOOK, *map(str, paths)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)

    assert done.stderr == ""
    found: list[list[str] | None] = json.loads(done.stdout)
    return found


# Modes


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o775, 0o2775, 0o500])
def test_owner_and_our_group_may_write(tmp_path: Path, mode: int) -> None:
    assert weakness(made(tmp_path, mode, gid=os.getegid())) is None


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702, 0o1777])
def test_file_writable_by_others_is_a_weakness(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path, mode, name="it's")

    assert weakness(path) == Weakness(
        f"everyone can write to it (mode {mode:04o})", f"""chmod o-w '{tmp_path}/it'"'"'s'"""
    )


@AS_ROOT
def test_file_writable_by_another_group_is_a_weakness(tmp_path: Path) -> None:
    path = made(tmp_path, 0o775, gid=THEM)

    assert weakness(path) == Weakness(
        f"the group {group_name_of(THEM)} can write to it (mode 0775)", f"chmod g-w {path}"
    )
    path.chmod(0o777)
    assert weakness(path) == Weakness("everyone can write to it (mode 0777)", f"chmod go-w {path}")


def test_suggested_fix_removes_the_weakness(tmp_path: Path) -> None:
    path = made(tmp_path, 0o777)
    found = weakness(path)
    assert found is not None
    subprocess.run(found.fix, shell=True, check=True)  # noqa: S602 - it is for a shell

    assert weakness(path) is None


# Places and links


def test_directory_writable_by_others_is_a_weakness(tmp_path: Path) -> None:
    place = made(tmp_path, 0o777)
    path = made(place, 0o755)

    assert weakness(path) == Weakness(f"everyone can write to {place} (mode 0777)", f"chmod o-w {place}")
    place.chmod(0o1777)
    assert weakness(path) is None


def test_link_is_judged_by_its_target_and_both_directories(tmp_path: Path) -> None:
    path = made(tmp_path, 0o755)
    place = made(tmp_path, 0o755, name="place")
    link = place / "link"
    link.symlink_to(path)

    assert weakness(link) is None
    place.chmod(0o777)
    assert weakness(link) == Weakness(f"everyone can write to {place} (mode 0777)", f"chmod o-w {place}")
    place.chmod(0o755)
    path.chmod(0o777)
    assert weakness(link) == Weakness("everyone can write to it (mode 0777)", f"chmod o-w {link}")
    path.chmod(0o755)
    tmp_path.chmod(0o777)
    assert weakness(link) == Weakness(f"everyone can write to {tmp_path} (mode 0777)", f"chmod o-w {tmp_path}")


# Owners


@AS_ROOT
def test_user_trusts_only_root_himself_and_his_groups(shared: Path) -> None:
    trusted = [
        made(shared, 0o755, name="root's"),
        made(shared, 0o755, uid=US, gid=US, name="ours"),
        made(shared, 0o775, uid=US, gid=US, name="umask 002"),
        made(shared, 0o775, gid=THEM, name="deployed"),
    ]
    theirs = made(shared, 0o755, uid=THEM, gid=THEM, name="theirs")

    assert seen_by_us(*trusted, theirs, groups=str(THEM)) == [
        None,
        None,
        None,
        None,
        [f"it belongs to uid {THEM}, but migrated runs as uid {US}", f"chown root {theirs}"],
    ]
    assert seen_by_us(trusted[-1]) == [
        [f"the group {THEM} can write to it (mode 0775)", f"chmod g-w {shared}/deployed"],
    ]


@AS_ROOT
def test_root_judges_like_the_owner_except_in_sticky_directories(tmp_path: Path) -> None:
    theirs = made(tmp_path, 0o775, uid=THEM, gid=THEM)

    assert weakness(theirs) is None
    os.chown(theirs, THEM, US)
    assert weakness(theirs) == Weakness(f"the group {US} can write to it (mode 0775)", f"chmod g-w {theirs}")
    os.chown(theirs, THEM, THEM)
    tmp_path.chmod(0o1777)
    assert weakness(theirs) == Weakness(
        f"it belongs to uid {THEM}, and everyone can write to {tmp_path} (mode 1777)", f"chown root {theirs}"
    )
    os.chown(theirs, 0, 0)
    assert weakness(theirs) is None


# Migrations


def test_directory_writable_by_others_is_not_read(migrations: Path) -> None:
    write_migration(migrations, 1)
    migrations.chmod(0o777)

    with pytest.raises(MigrationFileError) as caught:
        read_directory(migrations, Trust())

    assert (caught.value.file, caught.value.code) == (str(migrations), "INSECURE_PERMISSIONS")
    assert str(caught.value) == (
        f"{migrations}: the migrations directory has insecure permissions: everyone can write to it (mode 0777)\n"
        f"hint: `chmod o-w {migrations}`; or set allow_insecure_permissions = true "
        "if everyone who can write to it is trusted"
    )
    assert [migration.version for migration in read_directory(migrations).migrations] == [1]


def test_file_writable_by_others_is_reported_with_other_faults(migrations: Path) -> None:
    paths = [write_migration(migrations, version) for version in (1, 2, 3)]
    for path in paths[1:]:
        path.chmod(0o666)

    listing = read_directory(migrations, Trust())

    assert [migration.version for migration in listing.migrations] == [1]
    assert [(error.file, error.version, error.code) for error in listing.invalid] == [
        (str(paths[1]), 2, "INSECURE_PERMISSIONS"),
        (str(paths[2]), 3, "INSECURE_PERMISSIONS"),
    ]
    assert f"`chmod o-w {paths[1]}`" in str(listing.invalid[0])


def test_linked_file_is_judged_by_its_target(tmp_path: Path, migrations: Path) -> None:
    target = put_file(tmp_path, "elsewhere", "-- UP\nSELECT 1;\n")
    (migrations / "1_a.sql").symlink_to(target)

    assert read_directory(migrations, Trust()).invalid == []
    target.chmod(0o666)
    assert [error.version for error in read_directory(migrations, Trust()).invalid] == [1]


def test_permission_check_needs_only_one_fstat_per_file(migrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check adds two or three system calls for the directory, regardless of the number of files."""
    calls: list[object] = []
    for version in range(1, 20):
        write_migration(migrations, version)
    real = os.stat

    def counted(*arguments: Any, **keywords: Any) -> os.stat_result:
        calls.append(arguments)
        return real(*arguments, **keywords)

    monkeypatch.setattr(os, "stat", counted)
    read_directory(migrations, Trust())

    assert 0 < len(calls) < 19


def test_library_reads_without_permission_checks(migrations: Path) -> None:
    write_migration(migrations, 1).chmod(0o666)
    migrations.chmod(0o777)

    assert [migration.version for migration in read_migrations(migrations)] == [1]


# The configuration


def test_configuration_writable_by_others_is_refused_for_any_content(tmp_path: Path) -> None:
    path = tmp_path / "migrated.toml"
    path.write_text("allow_insecure_permissions = true\n")
    path.chmod(0o666)

    with pytest.raises(ConfigError) as caught:
        load_config(Overrides(), tmp_path)

    assert (caught.value.exit_code, caught.value.code) == (78, "INSECURE_PERMISSIONS")
    assert str(caught.value) == (
        f"{path}: the configuration file has insecure permissions: everyone can write to it (mode 0666)\n"
        f"hint: `chmod o-w {path}`; or pass --allow-insecure-permissions if everyone "
        "who can write to it is trusted"
    )
    assert load_config(Overrides(allow_insecure_permissions=True), tmp_path).trust() is None
    path.chmod(0o664)
    assert load_config(Overrides(), tmp_path).trust() is None


def test_pyproject_is_checked_only_if_it_has_our_table(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "not-migrated"\n')
    path.chmod(0o666)

    assert load_config(Overrides(), tmp_path).source == "defaults and options, no configuration file"
    path.write_text("[tool.migrated]\n")
    with pytest.raises(ConfigError, match="insecure permissions"):
        load_config(Overrides(), tmp_path)
