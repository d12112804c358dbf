"""Which entries of load() a request visits, and how: recorded while it is served, not declared.

A visit is one call of an entry. Counting denoising steps belongs to it: a call that takes none, because a cache
answered it, is no measurement.
"""

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from types import FunctionType, TracebackType
from typing import Any

_DENOISER = re.compile(r"(unet|transformer)(_\d+)?")
PIPELINE, MODULE, OBJECT = "pipeline", "module", "object"


@dataclass
class Visit:
    """One call of an entry of load(). What could not be seen is None."""

    entry: str
    kind: str
    """ "pipeline", "module" (a torch.nn.Module that is an entry itself) or "object"."""
    calls: int = 1
    """In a row, and all alike."""
    batch: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    steps: int = 0
    """Denoising steps; of each call."""
    guided: bool | None = None
    """Whether it used classifier-free guidance."""
    adapters: tuple[str, ...] = ()
    """Adapters that were loaded and active: "ip-adapter", and LoRAs as "lora:NAME"."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "adapters": list(self.adapters)}


class Visits:
    """Context manager around one call of a workload's run(): `made` has the visits in the order in which they began,
    `taken` is how often a denoiser was called or a scheduler stepped.

    Either of the two is enough for a step: a compiled engine may stand in for the denoiser, and a loop of one's own
    needs no scheduler. It wraps methods on classes and takes the wrappers off again. So no instance, no hook and no
    `forward` is touched, which compiled modules would notice, and schedulers that a call makes anew are counted too.

    detailed: whether batch, size, guidance and adapters of each visit are looked at, which costs milliseconds.
    around: entered around each visit; gets the entry's name and kind.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Any],
        *,
        detailed: bool = False,
        around: Callable[[str, str], AbstractContextManager[Any]] = lambda entry, kind: nullcontext(),
    ) -> None:
        self._entries = {id(entry): (name, entry) for name, entry in reversed(list(pipelines.items()))}
        self._detailed = detailed
        self._around = around
        self._owners = [
            (name, entry)
            for name, entry in pipelines.items()
            if getattr(entry, "scheduler", None) is not None or any(True for _ in denoisers_of(entry))
        ]
        self._open = threading.local()
        self.made: list[Visit] = []
        self.taken = 0

    def __enter__(self) -> "Visits":
        import torch

        self.taken = 0
        self.made = []
        self._loops: dict[str, Visit] = {}
        wrapped: dict[tuple[type, str], tuple[Any, Callable[[Any], Any]]] = {}

        def plan(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
            method = next((vars(kind)[name] for kind in owner.__mro__ if name in vars(kind)), None)
            if isinstance(method, FunctionType):  # else not written in Python
                wrapped.setdefault((owner, name), (method, wrap))

        for _, entry in self._entries.values():
            if (scheduler := getattr(entry, "scheduler", None)) is not None:
                plan(type(scheduler), "step", self._counted)
            for denoiser in denoisers_of(entry):
                plan(type(denoiser), "__call__", self._counted)
        for _, entry in self._entries.values():
            if any(entry is denoiser for _, each in self._entries.values() for denoiser in denoisers_of(each)):
                continue  # a pipeline's own denoiser that is an entry too: its calls are steps
            plan(type(entry), "__call__", self._visited)
        self._is_compiling = torch.compiler.is_compiling
        self._replaced = {key: vars(key[0]).get(key[1]) for key in wrapped}
        # Looked up before any is replaced: a class and one derived from it may both be there.
        for (owner, name), (method, wrap) in wrapped.items():
            setattr(owner, name, wrap(method))
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for (owner, name), before in self._replaced.items():
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def _stack(self) -> list[tuple[Any, Visit]]:
        if not hasattr(self._open, "stack"):
            self._open.stack = []
        stack: list[tuple[Any, Visit]] = self._open.stack
        return stack

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        is_scheduler = method.__name__ == "step"

        @functools.wraps(method)  # pipelines look at the signature of scheduler.step
        def counted(*arguments: Any, **options: Any) -> Any:
            if not self._is_compiling():  # no counting inside a graph, which would guard on the count
                self.taken += 1
                stack = self._stack()
                visit = stack[-1][1] if stack else self._loop(arguments[0])
                visit.__dict__.setdefault("counted", [0, 0])[is_scheduler] += 1
                if not stack:
                    visit.steps = visit.__dict__["counted"][1] or visit.__dict__["counted"][0]
            return method(*arguments, **options)

        return counted

    def _loop(self, part: Any) -> Visit:
        """Steps outside of any call of an entry: a loop of the workload's own, around an entry's denoiser."""
        owning = (
            e for e in self._owners if part is getattr(e[1], "scheduler", None) or _is_one_of(part, denoisers_of(e[1]))
        )
        name, entry = next(owning, self._owners[0])
        if name not in self._loops:
            adapters = adapters_of(entry) if self._detailed else ()
            self._loops[name] = Visit(entry=name, kind=PIPELINE, adapters=adapters)
            self.made.append(self._loops[name])
        return self._loops[name]

    def _visited(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def visited(*arguments: Any, **options: Any) -> Any:
            known = None if self._is_compiling() or not arguments else self._entries.get(id(arguments[0]))
            stack = self._stack() if known is not None else []
            if known is None or (stack and stack[-1][0] is arguments[0]):  # a method of its base class
                return method(*arguments, **options)
            name, entry = known
            visit = Visit(entry=name, kind=kind_of(entry))
            if self._detailed:
                visit.adapters = adapters_of(entry)
            self.made.append(visit)
            stack.append((entry, visit))
            try:
                with self._around(name, visit.kind):
                    returned = method(*arguments, **options)
            finally:
                stack.pop()
                denoised, stepped = vars(visit).pop("counted", (0, 0))
                visit.steps = stepped or denoised
            if self._detailed:
                _look_at(visit, entry, method, arguments, options, returned)
            self._merge(visit)
            return returned

        return visited

    def _merge(self, visit: Visit) -> None:
        """Calls in a row that are alike are one visit with a count: a module that is called tile by tile, say."""
        at = next((index for index, one in enumerate(self.made) if one is visit), 0)
        if at and at == len(self.made) - 1:
            before = self.made[at - 1]
            if {**asdict(before), "calls": 1} == asdict(visit):
                before.calls += 1
                self.made.pop()


def kind_of(entry: Any) -> str:
    """ "pipeline" for what has components or a scheduler of its own, "module" for a torch module, else "object"."""
    import torch

    if isinstance(entry, torch.nn.Module):
        return MODULE
    is_pipeline = isinstance(getattr(entry, "components", None), dict) or any(True for _ in denoisers_of(entry))
    return PIPELINE if is_pipeline else OBJECT


def denoisers_of(entry: Any) -> Iterator[Any]:
    """What a workload's entry has as unet, transformer, transformer_2 and so on; a plain module has none."""
    import torch

    if isinstance(entry, torch.nn.Module):
        return
    components = getattr(entry, "components", None)
    if not isinstance(components, dict):
        components = getattr(entry, "__dict__", {})
    yield from (part for name, part in components.items() if part is not None and _DENOISER.fullmatch(name))


def _is_one_of(part: Any, parts: Iterator[Any]) -> bool:
    return any(part is each for each in parts)


def adapters_of(entry: Any) -> tuple[str, ...]:
    """The adapters that are loaded into a pipeline's denoisers and active, sorted."""
    found: set[str] = set()
    for denoiser in denoisers_of(entry):
        if getattr(denoiser, "encoder_hid_proj", None) is not None and _ip_scales(denoiser):
            found.add("ip-adapter")
        if getattr(denoiser, "peft_config", None):
            active = denoiser.active_adapters() if hasattr(denoiser, "active_adapters") else ()
            found |= {f"lora:{name}" for name in active}
    return tuple(sorted(found))


def _ip_scales(denoiser: Any) -> bool:
    processors = getattr(denoiser, "attn_processors", {}).values()
    scales = [scale for each in processors for scale in _listed(getattr(each, "scale", None))]
    return any(scale != 0 for scale in scales) if scales else False


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def _look_at(visit: Visit, entry: Any, method: Callable[..., Any], arguments: Any, options: Any, returned: Any) -> None:
    """Note batch, size and guidance, from what a call got and gave. Nothing that it gave is read."""
    if visit.kind != PIPELINE:
        pictures = next((_shape(value) for value in (*arguments[1:], *options.values()) if _shape(value)), None)
        if pictures is not None:
            visit.batch, visit.height_px, visit.width_px = pictures
        return
    try:
        bound = inspect.signature(method).bind(*arguments, **options)
        bound.apply_defaults()
        asked = dict(bound.arguments)
    except TypeError:
        asked = dict(options)
    first = getattr(returned, "images", returned[0] if isinstance(returned, tuple) and returned else returned)
    pictures = _shape(first)
    factor = getattr(entry, "vae_scale_factor", 1) if asked.get("output_type") == "latent" else 1
    if pictures is not None:
        visit.batch, visit.height_px, visit.width_px = pictures[0], pictures[1] * factor, pictures[2] * factor
    guidance = getattr(entry, "do_classifier_free_guidance", None)
    if guidance is None and isinstance(asked.get("guidance_scale"), (int, float)):
        guidance = asked["guidance_scale"] > 1
    visit.guided = None if guidance is None else bool(guidance)


def _shape(value: Any) -> tuple[int, int, int] | None:
    """(pictures, height, width) of pictures or latents as they may come; None for anything else."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) == 4:
        channels_last = type(value).__module__.startswith("numpy")
        height, width = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
        return int(shape[0]), int(height), int(width)
    if hasattr(value, "convert"):
        return 1, int(value.height), int(value.width)
    if isinstance(value, (list, tuple)) and value:
        if hasattr(value[0], "convert"):
            return len(value), int(value[0].height), int(value[0].width)
        if len(getattr(value[0], "shape", ())) == 3 and type(value[0]).__module__.startswith("numpy"):
            return len(value), int(value[0].shape[0]), int(value[0].shape[1])
    return None
