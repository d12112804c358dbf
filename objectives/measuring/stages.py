"""Where the time and the memory of one request go: its pipelines' stages, its other modules, changes of adapters."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from .memory import allocated_peak_gib, forget_allocated_peak, resident_gib

TEXT_ENCODING, DENOISING, VAE_DECODE, POST_PROCESSING = "text_encoding", "denoising", "vae_decode", "post_processing"
VAE_ENCODE, IMAGE_ENCODING, ADAPTERS = "vae_encode", "image_encoding", "adapters"
SEPARATOR = "/"
"""Of a workload with several entries, a stage is named "refiner/denoising", and a module's own time "upscaler"."""
_ADAPTER_CHANGES = (
    "load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale", "load_lora_weights", "unload_lora_weights",
    "fuse_lora", "unfuse_lora", "set_adapters", "enable_lora", "disable_lora", "delete_adapters",
)  # fmt: skip


class _Mark(NamedTuple):
    wall_s: float
    event: Any | None
    """torch.cuda.Event in the current stream; None on the CPU."""


class StageTimer:
    """Context manager around one call; read `summary()` after it.

    It wraps methods on the instances that pipelines call (encode_prompt, encode_image, scheduler.scale_model_input,
    scheduler.step, vae.encode, vae.decode, image_processor.postprocess, what loads and unloads adapters), each shared
    one once, and puts back what was there on exit. It touches no module's forward or hooks: compiled modules would
    ignore that or be compiled again. A pipeline without one of these methods lacks that stage.

    `entry` is to be entered around each visit of an entry of load() (see Visits): with several entries, a stage is
    named after the one that was visited, and entries that are no pipelines are stages of their own.

    memory: whether the peak of each stage is taken too, in GiB: of torch's allocator on CUDA, of main memory at the
    end of the stage elsewhere.

    A step lasts from the end of the one before to the return of scheduler.step: callbacks between steps belong to it.
    The first one begins with scheduler.scale_model_input; where a pipeline does not call that, it begins with the end
    of the stage before and so includes the preparation of the latents.

    On CUDA, trust `gpu_ms`, times between events in the stream: a stage's `wall_ms` is only the time it took to queue
    the work. Nothing waits for the GPU inside the call. On the CPU there is only `wall_ms`. `total_ms` is wall-clock
    time in both cases, synchronised at the end.

    Raises ValueError for a device that is neither "cpu" nor "cuda[:index]".
    """

    def __init__(self, pipelines: Mapping[str, Any], device: str, *, memory: bool = False) -> None:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
        self._pipelines = pipelines
        self._device = device
        self._is_cuda = kind == "cuda"
        self._memory = memory
        self._total_ms: float | None = None

    def __enter__(self) -> "StageTimer":
        self._total_ms = None
        self._intervals: dict[str, list[tuple[_Mark, _Mark]]] = {}
        self._peaks_gib: dict[str, float] = {}
        self._entry = ""
        self._in_stage = self._in_steps = False
        self._replaced: dict[tuple[int, str], tuple[Any, Any, bool]] = {}
        self._synchronize()  # work queued earlier must not be charged to this call
        for pipeline in self._pipelines.values():
            scheduler = getattr(pipeline, "scheduler", None)
            self._replace(pipeline, "encode_prompt", functools.partial(self._stage, TEXT_ENCODING))
            self._replace(pipeline, "encode_image", functools.partial(self._stage, IMAGE_ENCODING))
            for name in _ADAPTER_CHANGES:
                self._replace(pipeline, name, functools.partial(self._stage, ADAPTERS))
            self._replace(scheduler, "scale_model_input", self._begin_step)
            self._replace(scheduler, "step", self._end_step)
            self._replace(getattr(pipeline, "vae", None), "encode", functools.partial(self._stage, VAE_ENCODE))
            self._replace(getattr(pipeline, "vae", None), "decode", functools.partial(self._stage, VAE_DECODE))
            processor = getattr(pipeline, "image_processor", None)
            self._replace(processor, "postprocess", functools.partial(self._stage, POST_PROCESSING))
        if self._memory:
            forget_allocated_peak(self._device)
        self._started = self._latest = self._mark()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for (_, name), (owner, before, was_own) in self._replaced.items():
            if was_own:
                vars(owner)[name] = before
            else:
                vars(owner).pop(name, None)
        if error is None:
            self._synchronize()
            self._total_ms = (time.perf_counter() - self._started.wall_s) * 1e3

    @contextmanager
    def entry(self, name: str, kind: str) -> Iterator[None]:
        """Around one visit of an entry of load(); kind: see Visit."""
        before, self._entry = self._entry, name
        try:
            if kind == "pipeline" or self._in_stage:
                yield
                return
            start, self._in_stage, self._in_steps = self._mark(), True, False
            try:
                yield
            finally:
                self._in_stage = False
            self._end("", start)
        finally:
            self._entry = before

    def summary(self) -> dict[str, Any]:
        """JSON-able: {"total_ms", "stages": {name: {"wall_ms", "gpu_ms"}}, "other_ms"}; only stages that ran are in it,
        in the order in which they ended first. Each has "peak_gib" too where memory was asked for.

        Denoising also has "steps", "step_ms" and "median_step_ms": GPU times on CUDA, wall-clock on the CPU.
        `other_ms` is the total less the stages. Raises RuntimeError before the call has ended, and when it failed.
        """
        if self._total_ms is None:
            raise RuntimeError("the measured call has not ended")
        stages: dict[str, dict[str, Any]] = {}
        accounted_ms = 0.0
        for name, intervals in self._intervals.items():
            wall_ms = [(end.wall_s - start.wall_s) * 1e3 for start, end in intervals]
            gpu_ms = [float(start.event.elapsed_time(end.event)) for start, end in intervals if start.event is not None]
            trusted_ms = gpu_ms if self._is_cuda else wall_ms
            accounted_ms += sum(trusted_ms)
            stages[name] = {
                "wall_ms": round(sum(wall_ms), 4),
                "gpu_ms": round(sum(gpu_ms), 4) if self._is_cuda else None,
            }
            if name in self._peaks_gib:
                stages[name]["peak_gib"] = round(self._peaks_gib[name], 4)
            if name.rpartition(SEPARATOR)[2] == DENOISING:
                stages[name] |= {
                    "steps": len(trusted_ms),
                    "step_ms": [round(step_ms, 4) for step_ms in trusted_ms],
                    "median_step_ms": round(statistics.median(trusted_ms), 4),
                }
        return {
            "total_ms": round(self._total_ms, 4),
            "stages": stages,
            "other_ms": round(max(0.0, self._total_ms - accounted_ms), 4),
        }

    def _replace(self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put a wrapper in the way of owner.name, unless that is done or there is no such method."""
        method = getattr(owner, name, None)
        if not callable(method) or not hasattr(owner, "__dict__") or (id(owner), name) in self._replaced:
            return
        # Past __setattr__: an OptimizedModule would hand the attribute on to the module inside.
        own = vars(owner)
        self._replaced[id(owner), name] = (owner, own.get(name), name in own)
        # Pipelines look at the signature of scheduler.step, which wraps() keeps; marks of torch.compile stay behind.
        own[name] = functools.wraps(method, updated=())(wrap(method))

    def _stage(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._in_stage:  # a stage inside a stage is a part of it
                return method(*arguments, **options)
            start = self._mark()
            self._in_stage, self._in_steps = True, False
            try:
                result = method(*arguments, **options)
            finally:
                self._in_stage = False
            self._end(stage, start)
            return result

        return timed

    def _end(self, stage: str, start: _Mark) -> None:
        """Note an interval of a stage that ends now; "" is all that the entry does, which is no pipeline."""
        self._latest = self._mark()
        name = stage
        if stage != ADAPTERS and self._entry and (len(self._pipelines) > 1 or not stage):
            name = SEPARATOR.join(part for part in (self._entry, stage) if part)
        self._intervals.setdefault(name, []).append((start, self._latest))
        if self._memory:
            peak_gib = allocated_peak_gib(self._device) if self._is_cuda else resident_gib()
            self._peaks_gib[name] = max(self._peaks_gib.get(name, 0.0), peak_gib)
            forget_allocated_peak(self._device)

    def _begin_step(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def begun(*arguments: Any, **options: Any) -> Any:
            if not self._in_steps:
                self._latest, self._in_steps = self._mark(), True
            return method(*arguments, **options)

        return begun

    def _end_step(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            start, self._in_steps = self._latest, True
            self._end(DENOISING, start)
            return result

        return ended

    def _mark(self) -> _Mark:
        event = None
        if self._is_cuda:
            import torch

            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        return _Mark(time.perf_counter(), event)

    def _synchronize(self) -> None:
        if self._is_cuda:
            import torch

            torch.cuda.synchronize(self._device)
