"""Output for people and programs: JSON documents, tables, problems, and the progress bar of a fleet."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from rich import progress as rich_progress

    from migrated.logs.logger import Log


_STYLES = {
    "applied": "green",
    "pending": "yellow",
    "late": "yellow",
    "draft": "dim",
    "changed": "bold red",
    "missing": "bold red",
    "stopped": "bold red",
}
_PIECE = 8192  # characters


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(_formatted(document))


class JsonDocument:
    """One JSON object on standard output, written as it comes, in pieces of some 8 KiB.

    A context manager. What is raised within leaves the document unfinished: nobody shall take it for a whole one.
    """

    def __init__(self) -> None:
        self._separator = "{"

    def member(self, key: str, value: object) -> None:
        """Write a key with its value."""
        self._begin(key)
        sys.stdout.write(_formatted(value, "  "))

    def elements(self, key: str, values: Iterable[object]) -> None:
        """Write a key with a list, each element as soon as it is there."""
        self._begin(key)
        opening = "["
        unsent = 0
        for value in values:
            unsent += sys.stdout.write(f"{opening}\n    {_formatted(value, '    ')}")
            opening = ","
            # The buffer of Python 3.14 has 128 KiB: a reader would wait for dozens of databases.
            if unsent >= _PIECE:
                sys.stdout.flush()
                unsent = 0
        sys.stdout.write("[]" if opening == "[" else "\n  ]")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            sys.stdout.write("{}\n" if self._separator == "{" else "\n}\n")

    def _begin(self, key: str) -> None:
        sys.stdout.write(f"{self._separator}\n  {_formatted(key)}: ")
        self._separator = ","


def _formatted(value: object, margin: str = "") -> str:
    """A value as indented JSON, its lines after the first behind a margin."""
    import msgspec

    try:
        encoded = msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_writable(value), enc_hook=str)
    text = msgspec.json.format(encoded, indent=2).decode()
    return text.replace("\n", f"\n{margin}") if margin else text


def _writable(document: Any) -> Any:
    """The same without what no JSON holds: file names that are not UTF-8."""
    if isinstance(document, dict):
        return {key: _writable(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_writable(value) for value in document]
    return writable(document) if isinstance(document, str) else document


def writable(text: str) -> str:
    """A text that any stream takes."""
    return os.fsencode(text).decode(errors="backslashreplace") if not text.isascii() else text


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table: drawn on a terminal, one line a row with tabs between elsewhere. The last column is coloured."""
    if sys.stdout.isatty():
        _draw(title, header, rows)
        return
    print(writable(f"# {title}"))
    for row in [header, *rows]:
        print(writable("\t".join(str(cell) for cell in row)))


def _draw(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold", justify="right" if name == "ms" else "left")
    for row in rows:
        table.add_row(*(Text(str(cell), style=_STYLES.get(str(cell), "")) for cell in row))
    Console().print(table)


def print_problem(text: str, kind: str = "error") -> None:
    """A line about something wrong, on standard error."""
    print(writable(f"migrated: {kind}: {text}"), file=sys.stderr)


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
