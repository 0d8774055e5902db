"""A progress bar on the terminal for a run that takes longer than a second."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from migrated.core.migration import MigrationDirection, Step
from migrated.engine.backend import Observer, Progress, StepResult

if TYPE_CHECKING:
    from rich import progress as rich_progress

    from migrated.logs.logger import Log

_DELAY_SECONDS = 1.0


class ProgressBar(Observer):
    """Draws a progress bar on standard error, below the lines of the log. A context manager.

    Nothing is drawn if standard error is not a terminal, or during the first second of a run.
    """

    def __init__(self, log: "Log") -> None:
        self._log = log
        self._is_wanted = sys.stderr.isatty()
        self._began = 0.0
        self._steps = self._taken = 0
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None

    def planned(self, steps: int) -> None:
        self._steps, self._taken, self._began = steps, 0, time.monotonic()

    def beginning(self, step: Step, *, late: bool) -> None:  # noqa: ARG002 - the signature of Observer
        if time.monotonic() - self._began >= _DELAY_SECONDS:
            self._show(step.migration.label)

    def progress(self, progress: Progress) -> None:
        self._show(f"{progress.step.migration.label}, statement {progress.statement} of {progress.statements}")

    def done(self, done: StepResult, direction: MigrationDirection) -> None:  # noqa: ARG002 - the signature of Observer
        self._taken += 1
        if self._bar is not None:
            self._show(done.entry.label)
        if self._taken >= self._steps:
            self._hide()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def _show(self, text: str) -> None:
        if not self._is_wanted:
            return
        if self._bar is None:
            self._start()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text, completed=self._taken, total=self._steps)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=self._steps)
        self._bar.start()
        # Log lines must go through rich's replacement of sys.stderr, or they would be drawn into the bar.
        self._log.write_through(sys.stderr.write)

    def _hide(self) -> None:
        if self._bar is not None:
            self._log.write_through(None)
            self._bar.stop()
            self._bar = self._task = None
