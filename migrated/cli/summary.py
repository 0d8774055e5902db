"""Summaries of many databases: totals, and databases grouped by cause or result."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from migrated.cli.terminal import print_problem, writable
from migrated.core.errors import MigrationError
from migrated.fleet.inspect import SUMMARIES, DatabaseView

MANY = 10
"""More databases than this are shown in groups."""
_MOST_NAMED = 3
Key = TypeVar("Key", bound=Hashable)


class Group:
    """A count of databases, the `names` of the first few, and a remark about the first one."""

    def __init__(self, remark: str | None = None, count: int = 0, names: Sequence[str] = ()) -> None:
        self.remark = remark
        self.count = count
        self.names = list(names)

    @property
    def members(self) -> str:
        """The first few names, and how many more there are."""
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more:,} more" if more else "")

    def describe(self, text: str, *details: str) -> str:
        """Return a text about the group, with details, remark and members on indented lines."""
        is_short = self.count == len(self.names)
        title = self.members if is_short else pluralize(self.count)
        below = [*details, self.remark, None if is_short else self.members]
        return "\n  ".join([f"{title}: {text}", *(line for each in below if each for line in each.splitlines())])


class Groups(Generic[Key]):
    """Groups databases by a key. Only a few names of each group are stored, so memory does not grow."""

    def __init__(self) -> None:
        self._groups: dict[Key, Group] = {}

    def add(self, key: Key, name: str, remark: str | None = None) -> None:
        """Add a database. Only the remark of the first one in a group is stored."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(remark)
        group.count += 1
        if len(group.names) < _MOST_NAMED:
            group.names.append(name)

    def __iter__(self) -> Iterator[tuple[Key, Group]]:
        """Iterate over the groups, the largest first."""
        return iter(sorted(self._groups.items(), key=lambda item: -item[1].count))


class Report:
    """Prints results of many databases in groups: problems on standard error, others on standard output."""

    def __init__(self) -> None:
        self._problems: Groups[str] = Groups()
        self._others: Groups[tuple[str, ...]] = Groups()

    def problem(self, name: str, problem: MigrationError) -> None:
        """Add a database with a problem."""
        text, remark = split_error(problem)
        self._problems.add(text, name, remark)

    def add(self, name: str, *lines: str) -> None:
        """Add a database without a problem, and the lines to print about it."""
        self._others.add(lines, name)

    def print(self) -> None:
        """Print each text once for all databases that share it."""
        for text, group in self._problems:
            print_problem(group.describe(text))
        for lines, group in self._others:
            print(writable(group.describe(*lines)))


def split_error(problem: MigrationError) -> tuple[str, str | None]:
    """Split `str(problem)` into the text that is equal for one cause, and the rest, which may differ.

    The rest is, for example, a hint that names the holder of a lock.
    """
    text = f"{problem.place}: {problem.message}" if problem.place else problem.message
    return text, str(problem).removeprefix(text).lstrip("\n") or None


def pluralize(number: int, noun: str = "database") -> str:
    """Return a number with its noun, such as `1 database` or `2,000 databases`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(databases: Sequence[str]) -> str:
    """Return all names, or the first few if there are many."""
    shown = databases if len(databases) <= MANY else databases[:_MOST_NAMED]
    return Group(count=len(databases), names=shown).members


def range_label(labels: Sequence[str]) -> str:
    """Return the number of migrations, with the first and the last label."""
    ends = labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
    return f"{pluralize(len(labels), 'migration')} ({ends})"


_WORST_FIRST = ("blocked", "unavailable", "pending")


class FailureCause(NamedTuple):
    """Why a database is not current: state, message, and the type and place of an error."""

    state: str
    message: str
    kind: str | None = None
    place: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.state, self.place, self.message) if part)


class StatusTotals:
    """Counts the states of databases and groups the causes.

    `codes` are the exit codes of all errors, including those given. `pending` is the number of databases with
    pending migrations.
    """

    def __init__(self, codes: Iterable[int] = ()) -> None:
        self.states: Counter[str] = Counter()
        self.causes: Groups[FailureCause] = Groups()
        self.codes = set(codes)
        self.refusals: set[int] = set()
        self.pending = 0

    def over(self, views: Iterable[DatabaseView]) -> Iterator[DatabaseView]:
        """Yield the same views; each is counted when it is yielded."""
        for view in views:
            self.add(view)
            yield view

    def add(self, view: DatabaseView) -> None:
        """Count a database."""
        state = view.summary
        self.states[state] += 1
        self.pending += bool(view.pending)
        if view.error:
            self.codes.add(view.error.exit_code)
        if view.refusal:
            self.refusals.add(view.refusal.exit_code)
        if view.problem:
            cause = FailureCause(state, view.problem.message, type(view.problem).__name__, view.problem.place)
            self.causes.add(cause, view.name, split_error(view.problem)[1])
        elif state != "current":
            self.causes.add(FailureCause(state, range_label(view.waiting)), view.name)

    def lines(self) -> Iterator[str]:
        """Yield the lines for people: the counts of states, then every cause, the most severe first."""
        states = ", ".join(f"{self.states[state]:,} {state}" for state in SUMMARIES if self.states[state])
        yield f"# {pluralize(self.states.total())}: {states}"
        for state in _WORST_FIRST:
            for cause, group in self.causes:
                if cause.state == state:
                    yield group.describe(str(cause))

    def document(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
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
