"""The progress bar of a launch in a notebook: one output that is written anew, without widgets."""

import html
import importlib
import sys
import time
from typing import Any

from ..studies import without_secrets
from .search import Event

LAST_LINES = 6


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules.get("IPython")
    found = None if shell is None else shell.get_ipython()
    return found is not None and type(found).__name__ == "ZMQInteractiveShell"


class NotebookProgress:
    """Trials done, the front so far, what runs now, and the last results."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lines: list[str] = []
        self._now = "starting"
        self._done = self._total = self._front = 0
        self._handle: Any = None

    def __enter__(self) -> "NotebookProgress":
        self._handle = _shown(self.html(), None)
        return self

    def __exit__(self, *_: object) -> None:
        self._now = "done"
        self._update()

    def show(self, event: Event) -> None:
        """React to one event of the launch."""
        text = without_secrets(event.text)
        if event.kind in ("result", "note"):
            self._lines.append(f"{event.done}/{event.total} {text}" if event.kind == "result" else text)
        else:
            self._now = text
        if event.total and event.kind != "block":
            self._done, self._total = event.done, event.total
        self._front = event.front or self._front
        self._update()

    def html(self) -> str:
        """What is shown now."""
        seconds = time.monotonic() - self._began
        bar = f'<progress value="{self._done}" max="{max(self._total, 1)}"></progress>'
        head = f"{bar} {self._done}/{self._total or '?'} trials, front {self._front}, {seconds:.0f} s: "
        lines = "<br>".join(map(html.escape, self._lines[-LAST_LINES:]))
        return f"<div>{head}{html.escape(self._now)}</div><small>{lines}</small>"

    def _update(self) -> None:
        if self._handle is not None:
            _shown(self.html(), self._handle)


def _shown(text: str, handle: Any) -> Any:
    """Show HTML in a new output of the cell, or in the one of this handle; returns the handle."""
    module: Any = importlib.import_module("IPython.display")
    if handle is None:
        return module.display(module.HTML(text), display_id=True)
    handle.update(module.HTML(text))
    return handle
