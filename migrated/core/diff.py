"""Compare a migration's text with the text that was applied: verdict, reason and unified diff."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from migrated.core.migration import Migration, MigrationDirection, Step
from migrated.core.misread import Misreading, misreading
from migrated.core.records import AppliedMigration
from migrated.core.sql import exact_tokens

UNRECORDED = "the text that was applied is not recorded"
LONGEST_EXCERPT = 40
"""Maximum number of diff lines shown inside other output, such as a log line."""

_WIDEST_EXCERPT = 200
_CONTEXT = 3
# difflib takes up to 0.2 s for this many lines and a minute for ten times as many. Longer texts are shown as one
# replaced block.
_MOST_LINES = 10_000
_Opcode = tuple[str, int, int, int, int]


class Verdict(StrEnum):
    """Effect of a difference on what SQLite executes.

    Cosmetic: only comments and white space differ, and the directives are the same. Letter case is never cosmetic:
    a column keeps the case it was created with, and programs see it.
    """

    COSMETIC = "cosmetic"
    REAL = "real"


class Difference(NamedTuple):
    """How two texts differ. `hunks` are unified-diff hunks; both sides use the line numbers of the file."""

    verdict: Verdict
    reason: str
    hunks: tuple[str, ...]


class Change(NamedTuple):
    """An applied migration compared with the present one.

    `up` and `down` are None if that section is unchanged, or if its applied text is unknown. If `misread` is set,
    the whole file was executed as the UP section; `up` then compares the whole text, and `down` is None.
    """

    applied: AppliedMigration
    present: Migration
    up: Difference | None = None
    down: Difference | None = None
    misread: Misreading | None = None

    @property
    def is_mismatch(self) -> bool:
        """True if the checksums differ, so that the migration counts as changed."""
        return self.applied.checksum != self.present.checksum

    @property
    def what(self) -> str:
        """Short description of what happened to the migration, for messages."""
        return "was read wrongly when it was applied" if self.misread else "was changed after it was applied"

    @property
    def reason(self) -> str:
        """Explanation of the mismatch, for messages."""
        if self.misread:
            return self.misread
        return self.up.reason if self.up else UNRECORDED

    def diff(self, difference: Difference, times: Sequence[datetime] = ()) -> list[str]:
        """Return the lines of a unified diff.

        `times` are the times of application if several databases have the same change.
        """
        moments = sorted(f"{when:%Y-%m-%d %H:%M:%S}" for when in times or [self.applied.applied_at])
        when = " to ".join(dict.fromkeys((moments[0], moments[-1])))
        new = self.present.file or f"{self.present.label} as it is now"
        return [f"--- as applied {when} UTC", f"+++ {new}", *difference.hunks]


def change(applied: AppliedMigration, present: Migration, recorded: Migration | None) -> Change:
    """Compare a migration with the text `recorded` when it was applied.

    The recorded text is ignored if its checksum is not the ledger's: an entry made by other means (such as
    `repair --mark-applied`) has no text, or a different one than the last in the history.
    """
    if recorded is None or Migration.compute_checksum(recorded.up_sql) != applied.checksum:
        return Change(applied, present)
    up, down = (_difference(Step(recorded, way), Step(present, way)) for way in MigrationDirection)
    if misread := misreading(applied.checksum, present, recorded):
        return Change(applied, present, up, misread=misread)
    return Change(applied, present, up, down)


def excerpt(diff: Sequence[str], version: int) -> str:
    """Shorten a diff for display inside other output, and name the command that shows the rest."""
    shown = [line if len(line) <= _WIDEST_EXCERPT else f"{line[:_WIDEST_EXCERPT]} …" for line in diff]
    left = len(diff) - LONGEST_EXCERPT
    if left > 0:
        shown[LONGEST_EXCERPT:] = [f"… {left} more line{'s' * (left != 1)}: migrated diff {version}"]
    return "\n".join(shown)


def _difference(old: Step, new: Step) -> Difference | None:
    if old.sql == new.sql:
        return None
    return _compare(old.sql, new.sql, new.place.line, same_directives=old.directives == new.directives)


# Cached: every database of a fleet, and every repeated refusal of one database, compares the same two texts.
@lru_cache(maxsize=32)
def _compare(old: str, new: str, first_line: int, *, same_directives: bool) -> Difference:
    if exact_tokens(old) != exact_tokens(new):
        verdict, reason = Verdict.REAL, "statements differ"
    elif not same_directives:
        verdict, reason = Verdict.REAL, "directives differ"
    else:
        verdict, reason = Verdict.COSMETIC, "only comments and white space differ"
    return Difference(verdict, reason, tuple(_hunks(_lines(old), _lines(new), first_line)))


def _lines(text: str) -> list[str]:
    # Not splitlines(): for SQLite and for editors only a line feed ends a line.
    return text.split("\n") if text else []


def _hunks(old: list[str], new: list[str], first_line: int) -> Iterator[str]:
    above, below = _common(old, new)
    old, new = old[above : len(old) - below], new[above : len(new) - below]
    first_line += above
    for group in _groups(old, new):
        (_, old_start, _, new_start, _), (_, _, old_end, _, new_end) = group[0], group[-1]
        yield f"@@ -{_range(old_start, old_end, first_line)} +{_range(new_start, new_end, first_line)} @@"
        for kind, old_from, old_to, new_from, new_to in group:
            if kind == "equal":
                yield from (f" {line}" for line in old[old_from:old_to])
                continue
            yield from (f"-{line}" for line in old[old_from:old_to])
            yield from (f"+{line}" for line in new[new_from:new_to])


def _common(old: list[str], new: list[str]) -> tuple[int, int]:
    """Count the equal lines above and below that can be dropped, keeping the lines of context."""
    shorter = min(len(old), len(new))
    above = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    below = next((n for n in range(shorter - above) if old[-1 - n] != new[-1 - n]), shorter - above)
    return max(above - _CONTEXT, 0), max(below - _CONTEXT, 0)


def _groups(old: list[str], new: list[str]) -> Iterable[Sequence[_Opcode]]:
    if max(len(old), len(new)) > _MOST_LINES:
        return [[("replace", 0, len(old), 0, len(new))]]
    # Imported here: most of the time nothing differs, and commands start sooner without it.
    from difflib import SequenceMatcher

    return SequenceMatcher(None, old, new).get_grouped_opcodes(_CONTEXT)


def _range(start: int, end: int, first_line: int) -> str:
    """Format a line range as diff does: an empty range is named by the line before it."""
    length = end - start
    line = first_line + start - (length == 0)
    return str(line) if length == 1 else f"{line},{length}"
