"""Find applied migrations whose whole file was executed as the UP section.

On Python 3.11.2 to 3.11.4, earlier versions of migrated overlooked the section markers: the DOWN section was
executed too, directives were not in force, and the ledger has the checksum of the whole text.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache

from migrated.core.errors import InvalidFormatError
from migrated.core.migration import Migration, MigrationDirection
from migrated.core.sections import cut_sections, cut_text, read_comments
from migrated.core.sql import has_statement
from migrated.core.status import MigrationState, MigrationStatus


class Misreading(StrEnum):
    """Consequence of executing the whole file, as a sentence for messages."""

    DOWN_RAN_AFTER = (
        "its whole file was executed as the UP section; the DOWN section ran right after UP, so the tables that "
        "UP made are probably gone"
    )
    DOWN_RAN_BEFORE = "its whole file was executed as the UP section; the DOWN section ran before UP"
    HARMLESS = (
        "its whole file was executed as the UP section; this is harmless, since the only statements in it are "
        "those of UP"
    )


def misreadings(statuses: Iterable[MigrationStatus], recorded: Mapping[int, Migration]) -> dict[int, Misreading]:
    """Find the migrations that count as changed only because their whole file was executed.

    `recorded` maps versions to the migrations as executed. Migrations whose UP section was edited later are left
    out.
    """
    found = {status.version: _of(status, recorded.get(status.version)) for status in statuses}
    return {version: misreading for version, misreading in found.items() if misreading}


def misreading(expected: str, present: Migration, recorded: Migration | None) -> Misreading | None:
    """Return what executing the whole file did; None if the migration was changed in any other way.

    `expected` is its checksum in the ledger, `recorded` the migration as executed, None if unknown.
    """
    if recorded is None or Migration.compute_checksum(recorded.up_sql) != expected:
        return None
    return _classify(recorded.up_sql, present.up_sql)


def _of(status: MigrationStatus, recorded: Migration | None) -> Misreading | None:
    if status.state is not MigrationState.CHANGED or status.applied is None or status.migration is None:
        return None
    return misreading(status.applied.checksum, status.migration, recorded)


# Cached: every database of a fleet, and every repeated refusal of one database, compares the same two texts.
@lru_cache(maxsize=32)
def _classify(executed: str, up_sql: str) -> Misreading | None:
    # This rules out nearly every edited migration without parsing.
    if up_sql not in executed:
        return None
    try:
        sections = {section.direction: section for section in cut_sections(executed, read_comments(executed)[1])}
        up, down = (sections.get(way) for way in MigrationDirection)
        if up is None or cut_text(executed, up.start, up.end)[0] != up_sql:
            return None
    except InvalidFormatError:
        # The text is not valid in a file, so it was not read from one.
        return None
    if down is not None and has_statement(executed[down.start : down.end]):
        return Misreading.DOWN_RAN_AFTER if up.start < down.start else Misreading.DOWN_RAN_BEFORE
    # Harmless even though foreign-keys=on was not in force: a DELETE that should have cascaded failed because of
    # the violations it left.
    return Misreading.HARMLESS
