"""A progress bar on the terminal for many databases."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from rich import progress as rich_progress

    from migrated.logs.log import Log

_PATIENCE_SECONDS = 1.0
_BETWEEN_SECONDS = 0.1

Thing = TypeVar("Thing")


class FleetBar:
    """How many databases are done of all, how many a second, and how long the rest will take. A context manager.

    Draws as `ProgressBar` does, and lets the lines of the `log`, where there is one, through. Without `is_wanted`
    nothing is drawn: where standard output goes to the same terminal, and has lines all the while. One
    thread tells it.
    """

    def __init__(self, total: int, log: "Log | None" = None, *, is_wanted: bool = True) -> None:
        self._total = total
        self._log = log
        self._is_wanted = is_wanted and sys.stderr.isatty()
        self._done = 0
        self._next = time.monotonic() + _PATIENCE_SECONDS
        self._bar: rich_progress.Progress | None = None

    def one_done(self) -> None:
        """One more of them is."""
        self._done += 1
        # Drawing costs more than looking at a database does.
        if self._is_wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + _BETWEEN_SECONDS
            self._draw()

    def over(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """The same things; each counts as done when the next is asked for."""
        for thing in things:
            yield thing
            self.one_done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if self._bar is not None:
            self._draw()
            if self._log is not None:
                self._log.write_through(None)
            self._bar.stop()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _fleet_bar(self._done, self._total)
            self._bar.start()
            if self._log is not None:
                self._log.write_through(sys.stderr.write)
        self._bar.update(self._bar.task_ids[0], completed=self._done)


def _fleet_bar(done: int, total: int) -> "rich_progress.Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: "rich_progress.Task") -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="progress.data.speed")

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # What goes elsewhere than to a terminal must not come out on this one.
        redirect_stdout=sys.stdout.isatty(),
    )
    bar.add_task("databases", completed=done, total=total)
    return bar
