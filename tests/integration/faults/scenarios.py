"""Named scenarios, and the states that a database may have after one was cut short.

A scenario is prepared in the test's process, acted in a process that a fault strikes, then checked in the test's
process and acted there again, undisturbed. To add one, write its functions and enter them in `SCENARIOS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from support import execute, query

from migrated import (
    Migration,
    MigrationDirection,
    MigrationRunner,
    OnChanged,
    OnMissing,
    Policy,
    Repair,
    SnapshotPolicy,
    SnapshotWhen,
    TransactionMode,
)
from migrated.config.settings import NO_SNAPSHOTS
from migrated.core.sql import statements
from migrated.engine.backend import Observer, StepResult
from migrated.engine.sqlite.snapshots import snapshots

Acknowledge = Callable[[str], None]
Act = Callable[[Path, Acknowledge], object]
Check = Callable[[Path, int], None]
Change = Callable[[Path], object]

_RECORDED = {
    "_migrations": "version, name, checksum",
    # The name of a restored snapshot has the time in it. A migration that was resumed has its text twice.
    "_migrations_history": "action, version, iif(action = 'restore', '', name), checksum, directives, statement, "
    "statements, iif(statement IS NULL, up_sql, NULL), iif(statement IS NULL, down_sql, NULL), "
    "iif(statement IS NULL, rows_changed, NULL)",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way of using the runner.

    `prepare(database)` makes what is there beforehand; the database may exist already, empty, in its journal mode.
    It is called once, and what lies in the database's directory then is put elsewhere as often as needed.
    `act(database, acknowledge)` calls `acknowledge` once for each step that was reported to be done, a step being
    what is committed at once. Called again after it was cut short, it finishes the rest. `check(database, kept)`
    raises `AssertionError` unless the database is in a state that a disturbed `act` may leave, with the first
    `kept` steps still in it.
    """

    prepare: Change
    act: Act
    check: Check


def contents(database: Path) -> list[tuple[object, ...]]:
    """Schema and rows of every table; of the ledger and the history only what is the same in every run."""
    if not database.exists():
        return []
    found = query(database, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")
    for table in [str(row[1]) for row in found if row[0] == "table"]:
        rows = query(database, f'SELECT {_RECORDED.get(table, "*")} FROM "{table}" ORDER BY rowid')
        found += [(table, *row) for row in rows]
    return found


def in_steps(prepare: Change, steps: Sequence[Change]) -> Check:
    """A check for stepwise scenarios: the database equals the state between two of the steps."""

    @cache
    def stages() -> list[list[tuple[object, ...]]]:
        with TemporaryDirectory() as directory:
            database = Path(directory, "app.db")
            prepare(database)
            found = [contents(database)]
            for step in steps:
                step(database)
                found.append(contents(database))
        return found

    def check(database: Path, kept: int) -> None:
        found = contents(database)

        assert found in stages(), f"a state that is never committed:\n{_differences(found, stages())}"
        assert stages().index(found) >= kept, f"{kept} steps were reported to be done, {stages().index(found)} are"

    return check


def _differences(found: list[tuple[object, ...]], stages: list[list[tuple[object, ...]]]) -> str:
    nearest = min(stages, key=lambda stage: len({*stage} ^ {*found}))
    lacks, has = {*nearest} - {*found}, {*found} - {*nearest}
    number = stages.index(nearest)
    return (
        f"nearest is stage {number}; it lacks {sorted(map(repr, lacks))[:9]} and has {sorted(map(repr, has))[:9]}"
    )


MIGRATIONS = [
    Migration(
        1,
        "shop",
        """
CREATE TABLE customers (id INTEGER PRIMARY KEY, email TEXT NOT NULL, city TEXT);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    customer INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    cents INTEGER NOT NULL
);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120)
INSERT INTO customers SELECT i, 'customer' || i || '@example.org', 'city ' || i % 7 FROM n;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 360)
INSERT INTO orders (customer, cents) SELECT 1 + i % 120, i * 100 FROM n;
""",
        "DROP TABLE orders; DROP TABLE customers;",
    ),
    Migration(
        2,
        "journal_of_orders",
        """
CREATE INDEX orders_by_customer ON orders (customer);
CREATE UNIQUE INDEX customers_by_email ON customers (email);
CREATE TABLE changes (id INTEGER PRIMARY KEY, item INTEGER NOT NULL, before INTEGER, after INTEGER);
CREATE TRIGGER order_changed AFTER UPDATE OF cents ON orders BEGIN
    INSERT INTO changes (item, before, after) VALUES (new.id, old.cents, new.cents);
END;
""",
        """
DROP TRIGGER order_changed;
DROP TABLE changes;
DROP INDEX customers_by_email;
DROP INDEX orders_by_customer;
""",
    ),
    Migration(
        3,
        "raise_prices",
        """
UPDATE orders SET cents = cents + 50 WHERE id % 3 <> 0;
CREATE TABLE archive AS SELECT * FROM orders WHERE id > 300;
DELETE FROM orders WHERE id > 300;
""",
        """
INSERT INTO orders SELECT * FROM archive;
DROP TABLE archive;
UPDATE orders SET cents = cents - 50 WHERE id % 3 <> 0;
""",
    ),
    # With a cache of ten pages SQLite writes to the database file long before the commit.
    Migration(
        4,
        "rebuild_customers",
        """
PRAGMA cache_size = 10;
CREATE TABLE customers_new (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL CHECK (email LIKE '%@%'),
    town TEXT NOT NULL,
    card BLOB NOT NULL
);
INSERT INTO customers_new SELECT id, email, coalesce(city, ''), zeroblob(700) FROM customers;
DROP TABLE customers;
ALTER TABLE customers_new RENAME TO customers;
CREATE UNIQUE INDEX customers_by_email ON customers (email);
""",
        """
CREATE TABLE customers_old (id INTEGER PRIMARY KEY, email TEXT NOT NULL, city TEXT);
INSERT INTO customers_old SELECT id, email, town FROM customers;
DROP TABLE customers;
ALTER TABLE customers_old RENAME TO customers;
CREATE UNIQUE INDEX customers_by_email ON customers (email);
""",
    ),
    Migration(
        5,
        "turnover",
        """
CREATE VIEW turnover AS
    SELECT town, sum(cents) AS cents FROM customers JOIN orders ON customer = customers.id GROUP BY town;
CREATE TABLE best AS SELECT * FROM turnover ORDER BY cents DESC LIMIT 3;
""",
        "DROP TABLE best; DROP VIEW turnover;",
    ),
    Migration(
        6,
        "notes",
        """
ALTER TABLE orders ADD COLUMN note TEXT NOT NULL DEFAULT '';
UPDATE orders SET note = 'order ' || id, cents = cents + 1 WHERE id % 2 = 0;
""",
        "UPDATE orders SET cents = cents - 1 WHERE id % 2 = 0; ALTER TABLE orders DROP COLUMN note;",
    ),
]
PRODUCTION = Policy()
FOLLOWING = Policy(on_changed=OnChanged.REDO, on_missing=OnMissing.ROLLBACK)
_VERSIONS = [migration.version for migration in MIGRATIONS]
_HALF = 3


class _Acknowledging(Observer):
    def __init__(self, acknowledge: Acknowledge) -> None:
        self._acknowledge = acknowledge

    def done(self, done: StepResult, direction: MigrationDirection) -> None:
        self._acknowledge(f"{direction.value} {done.entry.label}")


def runner(
    database: Path,
    acknowledge: Acknowledge = lambda _step: None,
    *,
    migrations: Sequence[Migration] = MIGRATIONS,
    snapshots: SnapshotPolicy = NO_SNAPSHOTS,
    transaction: TransactionMode = TransactionMode.EACH,
    policy: Policy = PRODUCTION,
) -> MigrationRunner:
    """A runner with the migrations above."""
    observer = _Acknowledging(acknowledge)
    made = MigrationRunner(
        database, observer=observer, snapshots=snapshots, transaction=transaction, policy=policy
    )
    made.add_migrations(migrations)
    return made


def _nothing(_database: Path) -> None:
    pass


def _ledger(database: Path) -> None:
    """Create an object in the database, so that each migration is a transaction."""
    runner(database).init()


def _apply(database: Path, acknowledge: Acknowledge) -> None:
    runner(database, acknowledge).run()


def _one_up(version: int) -> Change:
    return lambda database: runner(database).run_up_to(version)


def _all_up(database: Path) -> None:
    runner(database).run()


def _roll_back(database: Path, acknowledge: Acknowledge) -> None:
    runner(database, acknowledge).roll_back_to(0)


def _one_down(database: Path) -> None:
    runner(database).roll_back()


def _apply_at_once(database: Path, acknowledge: Acknowledge) -> None:
    # Migrations committed together are acknowledged once.
    if runner(database, transaction=TransactionMode.RUN).run():
        acknowledge("up")


# One transaction for all that is pending.


def _half_up(database: Path) -> None:
    runner(database).run_up_to(_HALF)


def _apply_with_snapshots(database: Path, acknowledge: Acknowledge) -> None:
    runner(database, acknowledge, snapshots=SnapshotPolicy(SnapshotWhen.BEFORE_EACH, keep=2)).run()


def _in_steps_and_sound(check: Check) -> Check:
    """The same, and every existing snapshot is a sound database."""

    def check_both(database: Path, kept: int) -> None:
        check(database, kept)
        for snapshot in snapshots.listed(str(database)):
            assert query(snapshot.path, "PRAGMA integrity_check") == [("ok",)]

    return check_both


# Restoring a snapshot.


def _all_up_with_a_snapshot(database: Path) -> None:
    _half_up(database)
    runner(database, snapshots=SnapshotPolicy()).run()


def _restore(database: Path, acknowledge: Acknowledge) -> None:
    if len(runner(database).get_applied()) > _HALF:
        first = snapshots.listed(str(database))[0]
        runner(database).restore(first)
        acknowledge("restored")


def _restore_by_hand(database: Path) -> None:
    _restore(database, lambda _step: None)


# A migration without a transaction: statement by statement, done here by plain apsw and written down by hand.

PIECES = Migration(
    7,
    "in_pieces",
    """-- migrated: no-transaction
INSERT INTO changes (item, before, after) VALUES (1, 2, 3);
PRAGMA cache_size = 10;
UPDATE orders SET cents = cents + 7 WHERE id % 5 = 0;
VACUUM;
CREATE INDEX orders_by_cents ON orders (cents);
DELETE FROM changes WHERE id % 2 = 0;""",
)
_WITH_PIECES = [*MIGRATIONS, PIECES]


def _in_pieces(database: Path, acknowledge: Acknowledge) -> None:
    made = runner(database, acknowledge, migrations=_WITH_PIECES)
    if made.unfinished():
        made.repair(PIECES.version, Repair.RESUME)
    else:
        made.run()


def _one_piece(number: int) -> Change:
    spans = statements(PIECES.up_sql)
    text = PIECES.up_sql[slice(*spans[number - 1])]

    def do(database: Path) -> None:
        execute(database, f"PRAGMA foreign_keys = off; {text}")
        last = number == len(spans)
        record = (
            "INSERT INTO _migrations_history (action, version, name, checksum, directives, up_sql, down_sql,"
            " execution_time_ms, rows_changed, statement, statements, host, pid, program_version) "
            f"VALUES ('{'apply' if last else 'apply-statement'}', 7, 'in_pieces', '{PIECES.checksum}', '', NULL,"
            f" NULL, 0, 0, {number}, {len(spans)}, '', 0, '')"
        )
        execute(database, record)
        if last:
            entry = (
                f"INSERT INTO _migrations (version, name, checksum) VALUES (7, 'in_pieces', '{PIECES.checksum}')"
            )
            execute(database, entry)

    return do


# Redoing what was edited: in place with the recorded down text, or on a copy of an older snapshot without it.

EDITED = Migration(
    5, "turnover", "CREATE VIEW turnover AS SELECT sum(cents) AS cents FROM orders", "DROP VIEW turnover"
)
_WITH_EDITED = [*MIGRATIONS[:4], EDITED, MIGRATIONS[5]]
_WITHOUT_DOWN = [*MIGRATIONS[:4], Migration(5, "turnover", MIGRATIONS[4].up_sql), MIGRATIONS[5]]


def _follow(database: Path, acknowledge: Acknowledge) -> None:
    if runner(database, migrations=_WITH_EDITED, policy=FOLLOWING).run():
        acknowledge("redone")


def _follow_by_hand(database: Path) -> None:
    _follow(database, lambda _step: None)


def _all_up_without_a_way_back(database: Path) -> None:
    runner(database, migrations=_WITHOUT_DOWN).run_up_to(4)
    runner(database, migrations=_WITHOUT_DOWN, snapshots=SnapshotPolicy(keep=1)).run()


_EACH_UP = in_steps(_ledger, [_one_up(version) for version in _VERSIONS])
SCENARIOS = {
    "apply": Scenario(_ledger, _apply, _EACH_UP),
    "create": Scenario(_nothing, _apply, in_steps(_nothing, [_one_up(version) for version in _VERSIONS])),
    "roll-back": Scenario(_all_up, _roll_back, in_steps(_all_up, [_one_down] * len(_VERSIONS))),
    "at-once": Scenario(_half_up, _apply_at_once, in_steps(_half_up, [_all_up])),
    "snapshots": Scenario(
        _half_up,
        _apply_with_snapshots,
        _in_steps_and_sound(in_steps(_half_up, [_one_up(version) for version in _VERSIONS[_HALF:]])),
    ),
    "restore": Scenario(
        _all_up_with_a_snapshot,
        _restore,
        _in_steps_and_sound(in_steps(_all_up_with_a_snapshot, [_restore_by_hand])),
    ),
    "redo": Scenario(_all_up, _follow, _in_steps_and_sound(in_steps(_all_up, [_follow_by_hand]))),
    "go-back": Scenario(
        _all_up_without_a_way_back,
        _follow,
        _in_steps_and_sound(in_steps(_all_up_without_a_way_back, [_follow_by_hand])),
    ),
    "in-pieces": Scenario(_all_up, _in_pieces, in_steps(_all_up, [_one_piece(number) for number in range(1, 7)])),
}
