"""Summaries of many databases: totals, and databases grouped by what they have in common."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from migrated.cli.terminal import print_problem, writable
from migrated.core.errors import MigrationError
from migrated.fleet.inspect import SUMMARIES, DatabaseView

MANY = 10
"""More databases than these are told of in groups."""
_MOST_NAMED = 3
Key = TypeVar("Key", bound=Hashable)


class Group:
    """How many databases, the `names` of the first few, and what is to be said of the first beyond the key."""

    def __init__(self, remark: str | None = None, count: int = 0, names: Sequence[str] = ()) -> None:
        self.remark = remark
        self.count = count
        self.names = list(names)

    @property
    def members(self) -> str:
        """The first few by name, and how many more."""
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more:,} more" if more else "")

    def told(self, text: str, *details: str) -> str:
        """A text about all of them, with the details, the remark, and who they are."""
        is_short = self.count == len(self.names)
        title = self.members if is_short else pluralize(self.count)
        below = [*details, self.remark, None if is_short else self.members]
        return "\n  ".join([f"{title}: {text}", *(line for each in below if each for line in each.splitlines())])


class Groups(Generic[Key]):
    """Groups by what their databases have in common. Only a few names of each are held."""

    def __init__(self) -> None:
        self._groups: dict[Key, Group] = {}

    def add(self, key: Key, name: str, remark: str | None = None) -> None:
        """One more database; the remark counts of the first in a group."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(remark)
        group.count += 1
        if len(group.names) < _MOST_NAMED:
            group.names.append(name)

    def __iter__(self) -> Iterator[tuple[Key, Group]]:
        """The largest first."""
        return iter(sorted(self._groups.items(), key=lambda item: -item[1].count))


class Report:
    """What is to be said of many databases: of those at fault on standard error, else on standard output."""

    def __init__(self) -> None:
        self._faults: Groups[str] = Groups()
        self._others: Groups[tuple[str, ...]] = Groups()

    def fault(self, name: str, fault: MigrationError) -> None:
        """A database is at fault."""
        text, remark = split_error(fault)
        self._faults.add(text, name, remark)

    def add(self, name: str, *lines: str) -> None:
        """A database is not, and there are lines to be said of it."""
        self._others.add(lines, name)

    def print(self) -> None:
        """Say it, once for all databases of which it is true."""
        for text, group in self._faults:
            print_problem(group.told(text))
        for lines, group in self._others:
            print(writable(group.told(*lines)))


def split_error(fault: MigrationError) -> tuple[str, str | None]:
    """What `str(fault)` says, in two parts: what is the same for all with one cause, and what may differ.

    The latter is the hint, say, which names who holds a database.
    """
    text = f"{fault.place}: {fault.message}" if fault.place else fault.message
    return text, str(fault).removeprefix(text).lstrip("\n") or None


def pluralize(number: int, noun: str = "database") -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(databases: Sequence[str]) -> str:
    """All by name, or the first few where there are many."""
    shown = databases if len(databases) <= MANY else databases[:_MOST_NAMED]
    return Group(count=len(databases), names=shown).members


def range_label(labels: Sequence[str]) -> str:
    """How many migrations, with the first and the last."""
    ends = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    return f"{pluralize(len(labels), 'migration')} ({ends})"


_GRAVEST_FIRST = ("blocked", "unavailable", "pending")


class FailureCause(NamedTuple):
    """Why a database is not current: its state in a word, a text, and of a problem the type and the place."""

    state: str
    message: str
    kind: str | None = None
    place: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.state, self.place, self.message) if part)


class StatusTotals:
    """Told of one database after the other. `codes` are the exit codes of what is wrong, those given among them.

    `pending` is how many databases have something that could be applied.
    """

    def __init__(self, codes: Iterable[int] = ()) -> None:
        self.states: Counter[str] = Counter()
        self.causes: Groups[FailureCause] = Groups()
        self.codes = set(codes)
        self.refusals: set[int] = set()
        self.pending = 0

    def over(self, views: Iterable[DatabaseView]) -> Iterator[DatabaseView]:
        """The same views; each is counted when it is passed on."""
        for view in views:
            self.add(view)
            yield view

    def add(self, view: DatabaseView) -> None:
        """One more database."""
        state = view.summary
        self.states[state] += 1
        self.pending += bool(view.pending)
        if view.error:
            self.codes.add(view.error.exit_code)
        if view.refusal:
            self.refusals.add(view.refusal.exit_code)
        if view.fault:
            cause = FailureCause(state, view.fault.message, type(view.fault).__name__, view.fault.place)
            self.causes.add(cause, view.name, split_error(view.fault)[1])
        elif state != "current":
            self.causes.add(FailureCause(state, range_label(view.waiting)), view.name)

    def lines(self) -> Iterator[str]:
        """For people: how many are in which state, then every cause, the gravest first."""
        states = ", ".join(f"{self.states[state]:,} {state}" for state in SUMMARIES if self.states[state])
        yield f"# {pluralize(self.states.total())}: {states}"
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
