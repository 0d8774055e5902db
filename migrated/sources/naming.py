"""File names: which are migrations, which are a mistake to be told, which are none of our business."""

import re
from typing import NamedTuple

from migrated.core.migration import HIGHEST_VERSION, REPEATABLE

RULE = (
    "expected <version>_<name>.sql, such as 20240101120000_add_users.sql, or R__<name>.sql; the name of letters, "
    "digits, _ and -"
)
_NAME = re.compile(r"(?P<version>[0-9]+)_(?P<name>[A-Za-z0-9_-]+)\.sql", re.ASCII)


_REPEATABLE = re.compile(rf"{REPEATABLE}(?P<name>[A-Za-z0-9_-]+)\.sql", re.ASCII)


class FileName(NamedTuple):
    """A name that fits."""

    version: int
    name: str


class RepeatableName(NamedTuple):
    """The name of a repeatable migration's file."""

    name: str
    version: None = None


class Misnamed(NamedTuple):
    """An SQL file whose name does not fit, and why."""

    reason: str


def read_name(file_name: str) -> FileName | RepeatableName | Misnamed | None:
    """What a directory entry's name says; None for hidden files, editors' droppings and other kinds of file."""
    if file_name.startswith(".") or not file_name.lower().endswith(".sql"):
        return None
    fits = _NAME.fullmatch(file_name)
    if fits is None:
        if repeatable := _REPEATABLE.fullmatch(file_name):
            return RepeatableName(repeatable["name"])
        return Misnamed(f"the name does not fit: {RULE}")
    # A number of this many digits could not be an SQLite integer, and int() itself refuses very long ones.
    digits = fits["version"].lstrip("0")
    if len(digits) > len(str(HIGHEST_VERSION)) or not 1 <= int(digits or "0") <= HIGHEST_VERSION:
        return Misnamed(f"the version is out of range: expected 1 to {HIGHEST_VERSION}")
    return FileName(int(digits), fits["name"])


def file_name(version: int | str, name: str) -> str:
    """The file name of a migration. Raises `ValueError` where the name has other characters than allowed."""
    written = f"{version}_{name}.sql"
    if _NAME.fullmatch(written) is None:
        raise ValueError(f"{name!r} may only hold letters, digits, _ and -")
    return written
