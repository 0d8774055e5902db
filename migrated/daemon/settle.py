"""Times -> "now" or "not before": waiting until a burst of changes is over, but not for ever."""

from dataclasses import dataclass, field

QUICK_SECONDS = 0.002
"""How long a directory must be quiet where all that changed is one file: in a burst the next one comes sooner."""

LONGEST_TO_SHORTEN = 0.05
"""Who asks for more quiet than that wants it in any case."""


@dataclass(slots=True)
class Settle:
    """Due once `quiet` seconds passed without a change, and at the latest `maximum` after the first one.

    While only one file changed it is due `quickly` before that, for who finds that it can be taken by itself.
    """

    quiet: float
    maximum: float
    _first: float | None = None
    _last: float = 0.0
    _names: set[str] = field(default_factory=set)
    _is_patient: bool = False

    def notice(self, now: float, name: str | None = None) -> None:
        """Take a change into account: of the file `name`, of none if that is empty, of any if it is not known."""
        if self._first is None:
            self._first, self._is_patient = now, self.quiet > LONGEST_TO_SHORTEN
            self._names.clear()
        self._last = now
        if name:
            self._names.add(name)
        if name is None or len(self._names) > 1:
            self._is_patient = True

    def only_one(self, now: float) -> str | None:
        """The file to be taken by itself, once it is time for that."""
        due = self._first is not None and not self._is_patient and now >= self._last + QUICK_SECONDS
        return next(iter(self._names), None) if due else None

    def be_patient(self) -> None:
        """It is no file to be taken by itself."""
        self._is_patient = True

    def due_at(self) -> float | None:
        """When to act; None while nothing changed."""
        if self._first is None:
            return None
        is_quick = self._names and not self._is_patient
        quiet = min(self.quiet, QUICK_SECONDS) if is_quick else self.quiet
        return min(self._last + quiet, self._first + self.maximum)

    def take(self, now: float) -> bool:
        """Whether to act now; if so, the burst is over."""
        if not self.is_due(now):
            return False
        self._first = None
        return True

    def is_due(self, now: float) -> bool:
        """Whether to act now; a change that is noticed may put that off, up to the maximum."""
        due = self.due_at()
        return due is not None and now >= due
