"""What looking at many databases came to: how many are in which state, and what keeps the others."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from migrated.cli.groups import Groups, counted, said_of, span
from migrated.fleet.inspect import SUMMARIES, View

_GRAVEST_FIRST = ("blocked", "unavailable", "pending")


class Cause(NamedTuple):
    """Why a database is not current: its state in a word, a text, and of a problem the type and the place."""

    state: str
    message: str
    kind: str | None = None
    place: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.state, self.place, self.message) if part)


class Tally:
    """Told of one database after the other. `codes` are the exit codes of what is wrong, those given among them.

    `pending` is how many databases have something that could be applied.
    """

    def __init__(self, codes: Iterable[int] = ()) -> None:
        self.states: Counter[str] = Counter()
        self.causes: Groups[Cause] = Groups()
        self.codes = set(codes)
        self.refusals: set[int] = set()
        self.pending = 0

    def over(self, views: Iterable[View]) -> Iterator[View]:
        """The same views; each is counted when it is passed on."""
        for view in views:
            self.add(view)
            yield view

    def add(self, view: View) -> None:
        """One more database."""
        state = view.summary
        self.states[state] += 1
        self.pending += bool(view.pending)
        if view.error:
            self.codes.add(view.error.exit_code)
        if view.refusal:
            self.refusals.add(view.refusal.exit_code)
        if view.fault:
            cause = Cause(state, view.fault.message, type(view.fault).__name__, view.fault.place)
            self.causes.add(cause, view.name, said_of(view.fault)[1])
        elif state != "current":
            self.causes.add(Cause(state, span(view.judged.waiting)), view.name)

    def lines(self) -> Iterator[str]:
        """For people: how many are in which state, then every cause, the gravest first."""
        states = ", ".join(f"{self.states[state]:,} {state}" for state in SUMMARIES if self.states[state])
        yield f"# {counted(self.states.total())}: {states}"
        for gravity in _GRAVEST_FIRST:
            for cause, group in self.causes:
                if cause.state == gravity:
                    yield group.told(str(cause))

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "databases": self.states.total(),
            **{state: self.states[state] for state in SUMMARIES},
            "causes": [
                {
                    "state": cause.state,
                    "type": cause.kind,
                    "message": cause.message,
                    "databases": group.count,
                    "examples": group.names,
                }
                for cause, group in self.causes
            ],
        }
