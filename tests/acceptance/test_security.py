"""Files that others can write to are refused with a command that fixes the permissions."""

import os
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, log_lines, migrated
from support import applied_versions, write_migration

from migrated.cli import main


def test_up_refuses_a_directory_writable_by_others_without_the_option(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    migrations.chmod(0o777)

    refused = migrated(tmp_path, "up")

    (line,) = [line for line in log_lines(refused.stderr) if line["event"] == "file.invalid"]
    assert refused.returncode == 4
    assert (line["file"], line["error"]["code"]) == (str(migrations), "INSECURE_PERMISSIONS")
    assert line["hint"].startswith(f"`chmod o-w {migrations}`; ")
    assert sorted(os.listdir(tmp_path)) == ["migrations"]
    (tmp_path / "migrated.toml").write_text("allow_insecure_permissions = true\n")
    assert migrated(tmp_path, "up").returncode == 0
    assert applied_versions(tmp_path / "app.db") == [1]


def test_reading_commands_refuse_too_and_accept_the_option_on_either_side(
    tmp_path: Path, migrations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_migration(migrations, 1)
    path.chmod(0o666)

    assert main(["verify"]) == 4
    assert f"`chmod o-w {path}`" in capsys.readouterr().err
    assert main(["verify", "--allow-insecure-permissions"]) == 0
    (tmp_path / "migrated.toml").write_text("")
    (tmp_path / "migrated.toml").chmod(0o606)
    assert main(["verify"]) == 78
    assert f"`chmod o-w {tmp_path / 'migrated.toml'}`" in capsys.readouterr().err
    assert main(["--allow-insecure-permissions", "verify"]) == 0


def test_daemon_applies_nothing_until_the_permissions_are_fixed(tmp_path: Path, migrations: Path) -> None:
    write_migration(migrations, 1)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait_until_ready()
        write_migration(migrations, 2).chmod(0o666)
        migrations.chmod(0o777)
        daemon.wait_for("file.invalid", file=str(migrations))
        migrations.chmod(0o755)
        daemon.wait_for("file.invalid", file=str(migrations / "2_change.sql"))
        write_migration(migrations, 3)
        daemon.look()
        assert applied_versions(tmp_path / "app.db") == [1]

        (migrations / "2_change.sql").chmod(0o644)
        daemon.wait_for("migration.applied", version=3)
        assert daemon.stop() == 0

    assert applied_versions(tmp_path / "app.db") == [1, 2, 3]
    warnings = daemon.logged("daemon.as_root")
    assert [line["hint"] for line in warnings] == (
        ["run migrated as the user that owns the databases (User= in the unit)"] if os.geteuid() == 0 else []
    )
