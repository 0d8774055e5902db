"""What an application does while its database is migrated: run as a process of its own, never imported.

It has Python's own SQLite, as applications do; two SQLite libraries in one process would drop each other's locks.

    application.py writer DATABASE NUMBER foreign-keys|plain
    application.py reader DATABASE
    application.py holder DATABASE

It says `ready`, and then answers every line with the number of things to do by one line of JSON.
"""

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 10.0
SCHEMA = "SELECT group_concat(type || name || sql) FROM sqlite_schema"
ROWS = "SELECT id, account_id, writer, number FROM entry ORDER BY id"


class Application:
    """One connection, and what came of using it since the last report."""

    def __init__(self, database: str) -> None:
        self.connection = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None)
        self.busy = 0

    def one(self, sql: str, *parameters: object) -> Any:
        return self.connection.execute(sql, parameters).fetchone()[0]

    @contextmanager
    def transaction(self, begin: str) -> Iterator[None]:
        """Count an answer of BUSY; any other error ends the process."""
        try:
            self.connection.execute(begin)
            yield
            self.connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            self.busy += 1
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def report(self, **keys: object) -> None:
        say(json.dumps({"busy": self.busy, **keys}))
        self.busy = 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def write(database: str, writer: str, foreign_keys: str) -> Callable[[int], None]:
    """Count up an account and log that, in one transaction; report the numbers that were committed."""
    application = Application(database)
    application.connection.execute(f"PRAGMA foreign_keys = {foreign_keys == 'foreign-keys'}")
    number = 0

    def work(times: int) -> None:
        nonlocal number
        acknowledged = []
        for _ in range(times):
            number += 1
            account = number % 2 + 1
            busy = application.busy
            with application.transaction("BEGIN IMMEDIATE"):
                total = application.one("SELECT total FROM account WHERE id = ?", account)
                change = "UPDATE account SET total = ? WHERE id = ?"
                application.connection.execute(change, (total + 1, account))
                log = "INSERT INTO entry (account_id, writer, number) VALUES (?, ?, ?)"
                application.connection.execute(log, (account, int(writer), number))
            if application.busy == busy:
                acknowledged.append(number)
        application.report(acknowledged=acknowledged)

    return work


def read(database: str) -> Callable[[int], None]:
    """See in one transaction that the accounts agree with the log; report how often, and under which schemas."""
    application = Application(database)

    def work(times: int) -> None:
        reads, schemas = 0, set()
        for _ in range(times):
            with application.transaction("BEGIN"):
                # The first read takes the snapshot; the statements were prepared under an older schema.
                total = application.one("SELECT sum(total) FROM account")
                application.connection.execute("SELECT * FROM entry ORDER BY id DESC LIMIT 1").fetchall()
                entries = application.one("SELECT count(*) FROM entry JOIN account ON account.id = account_id")
                audited = entries
                if application.one("SELECT count(*) FROM sqlite_schema WHERE name = 'audit'"):
                    audited = application.one("SELECT count(DISTINCT entry_id) FROM audit")
                schemas.add(application.one("PRAGMA schema_version"))
                if not total == entries == audited:
                    raise AssertionError((total, entries, audited))
                reads += 1
        application.report(reads=reads, schemas=sorted(schemas))

    return work


def hold(database: str) -> Callable[[int], None]:
    """Begin to read, and see every time the same; asked for 0, end that and look anew."""
    application = Application(database)
    application.connection.execute("BEGIN")
    application.one(SCHEMA)

    def work(times: int) -> None:
        if times == 0:
            application.connection.execute("COMMIT")
        rows = application.connection.execute(ROWS).fetchall()
        application.report(schema=application.one(SCHEMA), rows=rows)

    return work


ROLES: dict[str, Callable[..., Callable[[int], None]]] = {"writer": write, "reader": read, "holder": hold}


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    work = ROLES[role](*arguments)
    say("ready")
    for line in sys.stdin:
        work(int(line))
