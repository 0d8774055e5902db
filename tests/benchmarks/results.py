"""What was found, as values: a row has our figures, what they are compared with, and the goals."""

import statistics
from dataclasses import dataclass, field
from enum import Enum

from benchmarks.measuring import Samples, difference, ratio


class Kind(Enum):
    """How a goal is stated."""

    TIMES = "at most so many times the other"
    FASTER = "at least so many times faster than the other"
    BEYOND = "at most so much more than the other"
    LIMIT = "at most so much"


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted; `limit` is in the unit of the row, where it is not a ratio."""

    kind: Kind
    limit: float


@dataclass(frozen=True, slots=True)
class Beside:
    """What our figures are compared with; `samples` is None where it could not be run."""

    name: str
    samples: Samples | None
    goal: Goal | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line or more of the table. `unit` is s, ms, MB, % or nothing, and all samples are in it.

    `size` is how many of what `what` speaks of there were. Without anything beside it, `goal` is an absolute one.
    """

    what: str
    size: float
    unit: str
    ours: Samples
    beside: list[Beside] = field(default_factory=list)
    goal: Goal | None = None


def in_milliseconds(seconds: Samples) -> Samples:
    return [value * 1000 for value in seconds]


def at_most_times(limit: float) -> Goal:
    return Goal(Kind.TIMES, limit)


def times_faster(limit: float) -> Goal:
    return Goal(Kind.FASTER, limit)


def at_most_beyond(limit: float) -> Goal:
    return Goal(Kind.BEYOND, limit)


def at_most(limit: float) -> Goal:
    return Goal(Kind.LIMIT, limit)


def value(ours: Samples, other: Samples | None, goal: Goal | None) -> float | None:
    """The figure that a goal is about, by default the ratio; None where the other could not be run."""
    kind = goal.kind if goal else Kind.TIMES
    if kind is Kind.LIMIT:
        return statistics.median(ours)
    if other is None:
        return None
    if kind is Kind.BEYOND:
        return difference(ours, other)
    return ratio(ours, other) if kind is Kind.TIMES else ratio(other, ours)


def is_met(found: float, goal: Goal) -> bool:
    return found >= goal.limit if goal.kind is Kind.FASTER else found <= goal.limit
