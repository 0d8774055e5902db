"""The other tools: where they are, and how they are called. What cannot be had is not run, and never guessed.

dbmate is called as the binary that its npm package brings: the package's own command starts node first.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

INOTIFYWAIT = "inotifywait -m, dbmate"
ENTR = "entr -d, dbmate"
_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Peers:
    """The paths of the programs, None where one is missing."""

    dbmate: str | None
    inotifywait: str | None
    entr: str | None
    watchfiles: str | None

    def describe(self) -> str:
        """Which there are, in words."""
        missing = [name for name in self.__slots__ if getattr(self, name) is None]
        return f"not to be had: {', '.join(missing)}" if missing else "all peers are there"


def find(directory: Path) -> Peers:
    """Look in a directory where `npm install dbmate` was run and a venv with watchfiles lies, then on the path."""

    def there(name: str, *patterns: str) -> str | None:
        found = [str(path) for pattern in patterns for path in sorted(directory.glob(pattern))]
        return found[0] if found else shutil.which(name)

    return Peers(
        there("dbmate", "node_modules/@dbmate/*/bin/dbmate"),
        there("inotifywait"),
        there("entr"),
        there("watchfiles", "*/bin/watchfiles"),
    )


def dbmate_up(dbmate: str, migrations: str, database: str) -> list[str]:
    """Bring one database up to date."""
    return [dbmate, "--url", f"sqlite:{database}", "--migrations-dir", migrations, "--no-dump-schema", "up"]


def dbmate_fleet(dbmate: str, migrations: str, directory: str) -> list[str]:
    """Bring every database of a directory up to date, two at a time."""
    each = _line(dbmate_up(dbmate, migrations, f"{directory}/{{}}"))
    return ["sh", "-c", f"ls {directory} | grep 'db$' | xargs -P{_PROCESSES} -I{{}} {each}"]


def loops(peers: Peers, migrations: str, database: str) -> dict[str, list[str]]:
    """The do-it-yourself daemons: a watcher that calls dbmate. Each prints what dbmate prints."""
    found: dict[str, list[str]] = {}
    if peers.dbmate is None:
        return found
    up = _line(dbmate_up(peers.dbmate, migrations, database))
    if peers.inotifywait:
        found[INOTIFYWAIT] = _inotifywait(peers.inotifywait, migrations, up)
    if peers.watchfiles:
        found["watchfiles, dbmate"] = [peers.watchfiles, up, migrations]
    if peers.entr:
        found[ENTR] = _entr(peers.entr, migrations, up)
    return found


def _inotifywait(inotifywait: str, migrations: str, up: str) -> list[str]:
    watch = f"{quote(inotifywait)} -q -m -e close_write -e moved_to {migrations}"
    return ["sh", "-c", f"{watch} | while read -r line; do {up}; done"]


def _entr(entr: str, migrations: str, up: str) -> list[str]:
    # It ends when a file is new; the list is made again then, and dbmate is called at once.
    return ["sh", "-c", f"while :; do ls -d {migrations}/*.sql | {quote(entr)} -dn {up}; done"]


def _line(command: list[str]) -> str:
    return " ".join(word if word.endswith("{}") else quote(word) for word in command)
