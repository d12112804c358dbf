"""Counts what is compiled and recorded anew: in the steady state nothing should be."""

import functools
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Made:
    """So many since counting began."""

    graphs: int
    """That torch.compile has made, the first ones and those of recompilations."""
    captures: int
    """CUDA graphs that were recorded, by whomever."""

    def since(self, before: "Made") -> "Made":
        """What has been added."""
        return Made(self.graphs - before.graphs, self.captures - before.captures)


class Compilations:
    """Context manager in which graphs and captures are counted; `made()` says how many there are by now."""

    def __init__(self) -> None:
        self._captures = 0
        self._before = 0

    def __enter__(self) -> "Compilations":
        import torch

        self._captures, self._before = 0, _graphs()
        # Of every kind: those of techniques, and those that torch.compile records in some of its modes.
        self._owner = torch.cuda.CUDAGraph
        self._begin: Any = getattr(self._owner, "capture_begin", None)
        if self._begin is not None:

            @functools.wraps(self._begin)
            def begin(*arguments: Any, **options: Any) -> Any:
                self._captures += 1
                return self._begin(*arguments, **options)

            owner: Any = self._owner
            owner.capture_begin = begin
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._begin is not None:
            owner: Any = self._owner
            owner.capture_begin = self._begin

    def made(self) -> Made:
        """So far."""
        return Made(_graphs() - self._before, self._captures)


def _graphs() -> int:
    """Graphs that torch.compile has made in this process. Not imported for it: that takes seconds."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
