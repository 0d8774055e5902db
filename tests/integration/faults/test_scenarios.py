"""The scenarios without faults: their expected results, given independently."""

from pathlib import Path

from integration.faults.scenarios import MIGRATIONS, SCENARIOS
from support import applied_versions, query, schema

LABELS = [migration.label for migration in MIGRATIONS]


def test_applying_keeps_every_row_of_the_child_of_a_rebuilt_table(database: Path) -> None:
    steps: list[str] = []
    SCENARIOS["apply"].act(database, steps.append)

    assert steps == [f"up {label}" for label in LABELS]
    assert applied_versions(database) == [1, 2, 3, 4, 5, 6]
    counts = (
        "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders), (SELECT count(*) FROM archive)"
    )
    assert query(database, counts) == [(120, 300, 60)]
    assert query(database, "SELECT count(*), sum(after - before) FROM changes") == [(240 + 150, 240 * 50 + 150)]
    SCENARIOS["apply"].check(database, len(steps))


def test_rolling_back_takes_everything_away(database: Path) -> None:
    SCENARIOS["roll-back"].prepare(database)
    steps: list[str] = []
    SCENARIOS["roll-back"].act(database, steps.append)

    assert steps == [f"down {label}" for label in reversed(LABELS)]
    assert applied_versions(database) == []
    assert {row[1] for row in schema(database)} == {"sqlite_sequence"}
    SCENARIOS["roll-back"].check(database, len(steps))
