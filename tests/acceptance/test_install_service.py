"""`migrated install-service`: the unit that it writes, and files that it must not change."""

import configparser
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from support import ROOT

from migrated.cli import main
from migrated.core.errors import RefusedError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with databases in several directories, and the program installed in it."""
    for name in ("data", "tenants", "migrations"):
        (tmp_path / name).mkdir()
    (tmp_path / "migrated.toml").write_text('[[target]]\ndatabases = ["data/app.db", "tenants/*/x.db"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin/migrated")])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Return the last value of every key of the printed unit."""
    assert main(["install-service", "--print", *arguments]) == 0
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(capsys.readouterr().out)
    return dict(parser["Service"])


def test_unit_has_the_paths_of_this_installation(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = printed(capsys)

    assert service["ExecStart"] == f"{project}/bin/migrated run"
    assert service["ExecReload"] == f"{project}/bin/migrated reload --wait"
    assert service["WorkingDirectory"] == str(project)
    assert service["ReadWritePaths"] == f"{project}/data {project}/tenants"
    assert service["User"] == (project / "data").owner()


def test_unit_equals_the_template_except_for_edited_lines(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["install-service", "--print"])
    written = set(capsys.readouterr().out.splitlines())
    template = set((ROOT / "systemd/migrated.service").read_text().splitlines())
    own = ("ExecStart=", "ExecReload=", "WorkingDirectory=", "User=", "ReadWritePaths=", "ProtectHome=", "#")

    assert {line for line in written ^ template if not line.startswith(own)} == set()
    assert {line for line in written if "EDIT" in line} == set()


def test_unit_has_the_given_options(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "migrated.toml").unlink()

    service = printed(capsys, "-d", "data/my 100% $app.db", "-m", "migrations", "--log-level", "debug")

    end = '-d "data/my 100%% $$app.db" -m migrations --log-level debug'
    assert service["ExecStart"] == f"{project}/bin/migrated run {end}"


def test_database_url_of_the_environment_is_written_into_the_unit(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "migrated.toml").unlink()
    monkeypatch.setenv("DATABASE_URL", "sqlite:data/app.db")

    assert shlex.split(printed(capsys)["ExecStart"])[1:] == ["run", "-d", "data/app.db"]


def test_home_directories_are_readable_if_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for prefix in ("prefix", "base_prefix"):
        monkeypatch.setattr(sys, prefix, "/usr")
    assert printed(capsys)["ProtectHome"] == "yes"

    monkeypatch.setattr(sys, "prefix", "/home/somebody/.venv")
    assert printed(capsys)["ProtectHome"] == "read-only"


def test_user_unit_runs_dev_and_is_written_to_the_user_directory_of_systemd(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install-service", "--user"]) == 0

    unit = project / "config/systemd/user/migrated.service"
    assert f"ExecStart={project}/bin/migrated dev" in unit.read_text().splitlines()
    assert f"WorkingDirectory={project}" in unit.read_text().splitlines()
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {unit}. Next:",
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now migrated",
    ]


def test_edited_unit_is_overwritten_only_with_force(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["install-service", "--user"])
    unit = project / "config/systemd/user/migrated.service"
    ours = unit.read_text()
    assert main(["install-service", "--user"]) == 0
    unit.write_text(ours + "# mine\n")
    capsys.readouterr()

    assert main(["install-service", "--user"]) == RefusedError.exit_code
    assert "--force" in capsys.readouterr().err
    assert unit.read_text() == ours + "# mine\n"

    assert main(["install-service", "--user", "--force"]) == 0
    assert unit.read_text() == ours


def test_missing_directory_is_reported_before_anything_is_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "data").rmdir()

    assert main(["install-service"]) == RefusedError.exit_code
    assert f"{project}/data" in capsys.readouterr().err


def test_wheel_contains_the_units() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]

    assert build["wheel"]["force-include"] == {"systemd": "migrated/units"}
    assert "systemd" in build["sdist"]["include"]
