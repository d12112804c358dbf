"""Counts the denoising steps of a call: one that takes none, because a cache answered it, is no measurement."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, TracebackType
from typing import Any

_DENOISER = re.compile(r"(unet|transformer)(_\d+)?")


class StepCounter:
    """Context manager around one call; `taken` is how often a denoiser was called or a scheduler stepped.

    Either is enough: a compiled engine may stand in for the denoiser, and a loop of one's own needs no scheduler. It
    wraps methods on classes and takes the wrappers off again. So no instance, no hook and no `forward` is touched,
    which compiled modules would notice, and schedulers that a call makes anew are counted too.
    """

    def __init__(self, pipelines: Mapping[str, Any]) -> None:
        self._pipelines = pipelines
        self.taken = 0

    def __enter__(self) -> "StepCounter":
        self.taken = 0
        self._replaced: dict[tuple[type, str], Any] = {}
        for entry in self._pipelines.values():
            if (scheduler := getattr(entry, "scheduler", None)) is not None:
                self._replace(type(scheduler), "step")
            for denoiser in denoisers_of(entry):
                self._replace(type(denoiser), "__call__")
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for (owner, name), before in self._replaced.items():
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def _replace(self, owner: type, name: str) -> None:
        method = next((vars(kind)[name] for kind in owner.__mro__ if name in vars(kind)), None)
        if isinstance(method, FunctionType) and (owner, name) not in self._replaced:  # else not written in Python
            self._replaced[owner, name] = vars(owner).get(name)
            setattr(owner, name, self._counted(method))

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        @functools.wraps(method)  # pipelines look at the signature of scheduler.step
        def counted(*arguments: Any, **options: Any) -> Any:
            if not torch.compiler.is_compiling():  # no counting inside a graph, which would guard on the count
                self.taken += 1
            return method(*arguments, **options)

        return counted


def denoisers_of(entry: Any) -> Iterator[Any]:
    """What a workload's entry has as unet, transformer, transformer_2 and so on; a plain module has none."""
    import torch

    if isinstance(entry, torch.nn.Module):
        return
    components = getattr(entry, "components", None)
    if not isinstance(components, dict):
        components = getattr(entry, "__dict__", {})
    yield from (part for name, part in components.items() if part is not None and _DENOISER.fullmatch(name))
