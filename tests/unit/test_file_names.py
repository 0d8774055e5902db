import pytest

from migrated.sources.formats.native import FileName, Misnamed, file_name, read_name

UNFIT = Misnamed(
    "the file name is invalid: expected <version>_<name>.sql, such as 20240101120000_add_users.sql, or "
    "R__<name>.sql; the name may contain letters, digits, _ and -"
)
OUT_OF_RANGE = Misnamed("the version is out of range: expected 1 to 9223372036854775807")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        pytest.param("20240101120000_create_users.sql", FileName(20240101120000, "create_users"), id="usual"),
        pytest.param("1_a.sql", FileName(1, "a"), id="shortest"),
        pytest.param("007_a.sql", FileName(7, "a"), id="leading zeros"),
        pytest.param("0000000000000000000000000000001_a.sql", FileName(1, "a"), id="many leading zeros"),
        pytest.param(f"{'0' * 5000}1_a.sql", FileName(1, "a"), id="more than int() takes"),
        pytest.param("9223372036854775807_a.sql", FileName(2**63 - 1, "a"), id="highest version"),
        pytest.param("1_Add-Users_2.sql", FileName(1, "Add-Users_2"), id="every kind of character"),
        pytest.param("1__.sql", FileName(1, "_"), id="name of an underscore"),
        pytest.param("1_2_3.sql", FileName(1, "2_3"), id="name of digits"),
        pytest.param("1_-.sql", FileName(1, "-"), id="name of a dash"),
    ],
)
def test_valid_file_name_gives_version_and_name(name: str, read: FileName) -> None:
    assert read == read_name(name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a.sql", id="no version"),
        pytest.param("1.sql", id="no name"),
        pytest.param("1_.sql", id="empty name"),
        pytest.param("_a.sql", id="empty version"),
        pytest.param("1-a.sql", id="dash for the underscore"),
        pytest.param("1 a.sql", id="space for the underscore"),
        pytest.param("v1_a.sql", id="letter before the version"),
        pytest.param("V1__a.sql", id="another tool's name"),
        pytest.param("-1_a.sql", id="negative"),
        pytest.param("+1_a.sql", id="plus sign"),
        pytest.param("1.5_a.sql", id="fraction"),
        pytest.param("1e3_a.sql", id="exponent"),
        pytest.param("0x1_a.sql", id="hexadecimal"),
        pytest.param("\u0661_a.sql", id="digits of another script"),
        pytest.param("1_a b.sql", id="space in the name"),
        pytest.param("1_a.b.sql", id="dot in the name"),
        pytest.param("1_a.up.sql", id="up file of another tool"),
        pytest.param("1_é.sql", id="letter with an accent"),
        pytest.param("1_a (1).sql", id="a downloaded copy"),
        pytest.param("1_a\n.sql", id="line end in the name"),
        pytest.param(" 1_a.sql", id="leading space"),
        pytest.param("1_a.SQL", id="suffix in upper case"),
        pytest.param("1_\udcff.sql", id="name that is not UTF-8"),
    ],
)
def test_invalid_file_name_is_reported(name: str) -> None:
    assert read_name(name) == UNFIT


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("0_a.sql", id="zero"),
        pytest.param("000_a.sql", id="zeros"),
        pytest.param("9223372036854775808_a.sql", id="one too high"),
        pytest.param(f"{'9' * 200}_a.sql", id="far too high"),
        pytest.param(f"{'9' * 5000}_a.sql", id="more digits than int() takes"),
    ],
)
def test_version_out_of_range_is_reported(name: str) -> None:
    assert read_name(name) == OUT_OF_RANGE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(".1_a.sql", id="hidden"),
        pytest.param(".#1_a.sql", id="lock of Emacs"),
        pytest.param("#1_a.sql#", id="autosave of Emacs"),
        pytest.param("1_a.sql~", id="backup"),
        pytest.param(".1_a.sql.swp", id="swap file of Vim"),
        pytest.param("4913", id="probe of Vim"),
        pytest.param("1_a.sql.tmp", id="temporary file"),
        pytest.param("1_a.sql___jb_tmp___", id="temporary file of an IDE"),
        pytest.param("1_a.sql.orig", id="left over by a merge"),
        pytest.param("README.md", id="other file"),
        pytest.param("1_a.py", id="other suffix"),
        pytest.param("1_a_sql", id="no suffix"),
        pytest.param("sql", id="the suffix alone"),
        pytest.param(".sql", id="nothing but a suffix"),
        pytest.param(".gitignore", id="dot file"),
    ],
)
def test_files_that_are_not_sql_are_skipped(name: str) -> None:
    assert read_name(name) is None


@pytest.mark.parametrize(("version", "written"), [(7, "7_add-users.sql"), ("007", "007_add-users.sql")])
def test_file_name_of_a_migration(version: int | str, written: str) -> None:
    assert written == file_name(version, "add-users")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "é", "a.b", "a\n"])
def test_name_with_other_characters_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared below
        file_name(1, name)

    assert str(caught.value) == f"{name!r} may only contain letters, digits, _ and -"
