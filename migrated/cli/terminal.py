"""Print JSON documents, tables and problems; draw the progress bar of a fleet."""

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
    """Print one JSON document on standard output."""
    print(_formatted(document))


class JsonDocument:
    """Writes one JSON object to standard output while its values arrive, in pieces of about 8 KiB.

    A context manager. An exception leaves the document without its end, so that no reader takes it for complete.
    """

    def __init__(self) -> None:
        self._separator = "{"

    def member(self, key: str, value: object) -> None:
        """Write a key and its value."""
        self._begin(key)
        sys.stdout.write(_formatted(value, "  "))

    def elements(self, key: str, values: Iterable[object]) -> None:
        """Write a key and a list, each element as soon as it arrives."""
        self._begin(key)
        opening = "["
        unsent = 0
        for value in values:
            unsent += sys.stdout.write(f"{opening}\n    {_formatted(value, '    ')}")
            opening = ","
            # Python 3.14 buffers 128 KiB: without the flush a reader would wait for dozens of databases.
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
    """Return a value as indented JSON, with `margin` before every line but the first."""
    import msgspec

    try:
        encoded = msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_writable(value), enc_hook=str)
    text = msgspec.json.format(encoded, indent=2).decode()
    return text.replace("\n", f"\n{margin}") if margin else text


def _writable(document: Any) -> Any:
    """Escape what JSON cannot contain: file names that are not UTF-8."""
    if isinstance(document, dict):
        return {key: _writable(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_writable(value) for value in document]
    return writable(document) if isinstance(document, str) else document


def writable(text: str) -> str:
    """Escape bytes that are not UTF-8, which a stream would refuse to encode."""
    return os.fsencode(text).decode(errors="backslashreplace") if not text.isascii() else text


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: drawn with a coloured last column on a terminal, otherwise separated by tabs."""
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
    """Print a line about an error or warning on standard error."""
    print(writable(f"migrated: {kind}: {text}"), file=sys.stderr)


_DELAY_SECONDS = 1.0
_INTERVAL_SECONDS = 0.1
Thing = TypeVar("Thing")


class FleetBar:
    """Progress bar over many databases: number done, rate, time left. A context manager.

    Draws as `ProgressBar` does, below the lines of `log`, if given. Nothing is drawn without `is_wanted`, for
    example if standard output prints lines to the same terminal all the time. Not thread-safe.
    """

    def __init__(self, total: int, log: "Log | None" = None, *, is_wanted: bool = True) -> None:
        self._total = total
        self._log = log
        self._is_wanted = is_wanted and sys.stderr.isatty()
        self._done = 0
        self._next = time.monotonic() + _DELAY_SECONDS
        self._bar: rich_progress.Progress | None = None

    def advance(self) -> None:
        """Count one more database as done."""
        self._done += 1
        # Drawing costs more than reading a database, so it happens ten times a second at most.
        if self._is_wanted and time.monotonic() >= self._next:
            self._next = time.monotonic() + _INTERVAL_SECONDS
            self._draw()

    def track(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Yield the same things; each counts as done when the next one is requested."""
        for thing in things:
            yield thing
            self.advance()

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
        # With a redirected standard output, rich would print it on the terminal instead.
        redirect_stdout=sys.stdout.isatty(),
    )
    bar.add_task("databases", completed=done, total=total)
    return bar
