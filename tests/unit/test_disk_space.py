import pytest

from migrated.engine.sqlite.disk_space import WHOLE_DATABASE, rewritten

TEXTBOOK = """
CREATE TABLE new_users (id INTEGER PRIMARY KEY, email TEXT NOT NULL);
INSERT INTO new_users SELECT id, email FROM users;
DROP TABLE users;
ALTER TABLE new_users RENAME TO users;
"""
RENAMED_AWAY = """
ALTER TABLE users RENAME TO old_users;
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL);
INSERT INTO users SELECT id, email FROM old_users;
DROP TABLE IF EXISTS main.old_users;
"""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        pytest.param(TEXTBOOK, {"users": 2}, id="rebuild"),
        pytest.param(RENAMED_AWAY, {"users": 2}, id="rebuild, the old table renamed away first"),
        pytest.param(TEXTBOOK.replace(" users", ' "My Users"'), {"my users": 2}, id="quoted"),
        pytest.param('ALTER TABLE main."Users" DROP COLUMN a', {"users": 1}, id="dropped column"),
        pytest.param("ALTER TABLE Ärger DROP COLUMN a", {"Ärger": 1}, id="letters beyond A to Z"),
        pytest.param("alter table users drop a; ALTER TABLE users DROP b", {"users": 2}, id="two of them"),
        pytest.param(TEXTBOOK + "ALTER TABLE users DROP COLUMN a", {"users": 3}, id="both"),
        pytest.param("VACUUM; SELECT 1", {WHOLE_DATABASE: 2}, id="vacuum"),
        pytest.param("/* why */ -- and\nVACUUM main", {WHOLE_DATABASE: 2}, id="vacuum below comments"),
        pytest.param("DROP TABLE users", {}, id="really dropped"),
        pytest.param("ALTER TABLE users RENAME TO people", {}, id="really renamed"),
        pytest.param("ALTER TABLE users RENAME COLUMN a TO b", {}, id="renamed column"),
        pytest.param("ALTER TABLE users ADD COLUMN a", {}, id="added column"),
        pytest.param("ALTER TABLE users DROP CONSTRAINT c", {}, id="dropped constraint"),
        pytest.param("INSERT INTO t VALUES ('DROP TABLE users; VACUUM')", {}, id="in a text"),
        pytest.param("-- VACUUM\n/* VACUUM; */ SELECT 1", {}, id="in a comment"),
        pytest.param("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END", {}, id="trigger"),
        pytest.param("", {}, id="nothing"),
    ],
)
def test_rewritten_tables_are_found(sql: str, expected: dict[str, int]) -> None:
    assert rewritten(sql) == expected
