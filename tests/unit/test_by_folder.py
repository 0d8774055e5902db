"""`by_folder` groups databases by the directory of the real file."""

from pathlib import Path

import pytest

from migrated.system.files import by_folder


def test_databases_are_grouped_by_directory_in_order(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a/2.db", "b/1.db", "a/1.db")]

    assert by_folder(paths) == {str(tmp_path / "a"): [paths[0], paths[2]], str(tmp_path / "b"): [paths[1]]}


def test_link_is_grouped_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.db").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/link.db").symlink_to("../real/a.db")
    (tmp_path / "other/b.db").touch()
    (tmp_path / "way").symlink_to("real")
    paths = [str(tmp_path / name) for name in ("other/link.db", "way/a.db", "real/a.db", "other/b.db")]

    assert by_folder(paths) == {str(tmp_path / "real"): paths[:3], str(tmp_path / "other"): paths[3:]}


def test_bare_name_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert by_folder(["app.db"]) == {str(tmp_path): ["app.db"]}
