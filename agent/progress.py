"""The progress bar of a launch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from ..studies import without_secrets
from .search import Event


class LaunchProgress:
    """Trials done, the front so far, the time left; every result stays as a line above the bar."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("front {task.fields[front]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            # The only column that is cut short in a narrow terminal.
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            console=console,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, front=0, left="?")
        self._counted = ""  # trials or blocks
        self._first_done, self._since = 0, time.monotonic()

    def __enter__(self) -> "LaunchProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """React to one event of the launch."""
        if event.kind in ("server", "note"):
            self._progress.update(self._task, description=escape(without_secrets(event.text)))
            if event.kind == "note":
                self._progress.console.print(escape(event.text))
            return
        counted = "blocks" if event.kind == "block" else "trials"
        if counted != self._counted and event.kind != "step":
            self._counted, self._first_done, self._since = counted, event.done, time.monotonic()
        left = "?" if event.kind == "step" else self._left(event)
        self._progress.update(self._task, completed=event.done, total=event.total, left=left)
        if event.kind == "result":
            self._progress.update(self._task, front=event.front)
            self._progress.console.print(escape(f"{event.done:4}/{event.total} {event.text}"), soft_wrap=True)
        else:
            self._progress.update(self._task, description=escape(without_secrets(event.text)))

    def _left(self, event: Event) -> str:
        done_here = event.done - self._first_done
        known = [] if event.at_most_s is None or event.kind == "block" else [max(0.0, event.at_most_s)]
        if done_here > 0:
            known.append((time.monotonic() - self._since) / done_here * (event.total - event.done))
        if not known:
            return "?"
        seconds = min(known)
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def step_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """A bar for work of known length. Yields a function of the steps done, all steps, and what is done now."""
    with Progress(
        SpinnerColumn(),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda done, total, text: progress.update(
            task, completed=done, total=total, description=escape(without_secrets(text))
        )
