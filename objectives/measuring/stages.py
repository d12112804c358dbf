"""Where the time of one call of a pipeline goes: text encoding, denoising steps, VAE decoding, post-processing."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

TEXT_ENCODING, DENOISING, VAE_DECODE, POST_PROCESSING = "text_encoding", "denoising", "vae_decode", "post_processing"


class _Mark(NamedTuple):
    wall_s: float
    event: Any | None
    """torch.cuda.Event in the current stream; None on the CPU."""


class StageTimer:
    """Context manager around one call; read `summary()` after it.

    It wraps methods on the instances that pipelines call (encode_prompt, scheduler.scale_model_input, scheduler.step,
    vae.decode, image_processor.postprocess), each shared one once, and puts back what was there on exit. It touches no
    module's forward or hooks: compiled modules would ignore that or be compiled again. A pipeline without one of these
    methods lacks that stage.

    A step lasts from the end of the one before to the return of scheduler.step: callbacks between steps belong to it.
    The first one begins with scheduler.scale_model_input; where a pipeline does not call that, it begins with the end
    of the stage before and so includes the preparation of the latents.

    On CUDA, trust `gpu_ms`, times between events in the stream: a stage's `wall_ms` is only the time it took to queue
    the work. Nothing waits for the GPU inside the call. On the CPU there is only `wall_ms`. `total_ms` is wall-clock
    time in both cases, synchronised at the end.

    Raises ValueError for a device that is neither "cpu" nor "cuda[:index]".
    """

    def __init__(self, pipelines: Mapping[str, Any], device: str) -> None:
        kind = device.partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"device {device!r} is not supported: use 'cpu' or 'cuda[:index]'")
        self._pipelines = pipelines
        self._device = device
        self._is_cuda = kind == "cuda"
        self._total_ms: float | None = None

    def __enter__(self) -> "StageTimer":
        self._total_ms = None
        self._intervals: dict[str, list[tuple[_Mark, _Mark]]] = {}
        self._in_stage = self._in_steps = False
        self._replaced: dict[tuple[int, str], tuple[Any, Any, bool]] = {}
        self._synchronize()  # work queued earlier must not be charged to this call
        for pipeline in self._pipelines.values():
            scheduler = getattr(pipeline, "scheduler", None)
            self._replace(pipeline, "encode_prompt", functools.partial(self._stage, TEXT_ENCODING))
            self._replace(scheduler, "scale_model_input", self._begin_step)
            self._replace(scheduler, "step", self._end_step)
            self._replace(getattr(pipeline, "vae", None), "decode", functools.partial(self._stage, VAE_DECODE))
            processor = getattr(pipeline, "image_processor", None)
            self._replace(processor, "postprocess", functools.partial(self._stage, POST_PROCESSING))
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

    def summary(self) -> dict[str, Any]:
        """JSON-able: {"total_ms", "stages": {name: {"wall_ms", "gpu_ms"}}, "other_ms"}; only stages that ran are in it.

        `denoising` also has "steps", "step_ms" and "median_step_ms": GPU times on CUDA, wall-clock on the CPU.
        `other_ms` is the total less the stages. Raises RuntimeError before the call has ended, and when it failed.
        """
        if self._total_ms is None:
            raise RuntimeError("the measured call has not ended")
        stages: dict[str, dict[str, Any]] = {}
        accounted_ms = 0.0
        for name in (TEXT_ENCODING, DENOISING, VAE_DECODE, POST_PROCESSING):
            if not (intervals := self._intervals.get(name)):
                continue
            wall_ms = [(end.wall_s - start.wall_s) * 1e3 for start, end in intervals]
            gpu_ms = [float(start.event.elapsed_time(end.event)) for start, end in intervals if start.event is not None]
            trusted_ms = gpu_ms if self._is_cuda else wall_ms
            accounted_ms += sum(trusted_ms)
            stages[name] = {
                "wall_ms": round(sum(wall_ms), 4),
                "gpu_ms": round(sum(gpu_ms), 4) if self._is_cuda else None,
            }
            if name == DENOISING:
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
            self._latest = self._mark()
            self._intervals.setdefault(stage, []).append((start, self._latest))
            return result

        return timed

    def _begin_step(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def begun(*arguments: Any, **options: Any) -> Any:
            if not self._in_steps:
                self._latest, self._in_steps = self._mark(), True
            return method(*arguments, **options)

        return begun

    def _end_step(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            start, self._latest, self._in_steps = self._latest, self._mark(), True
            self._intervals.setdefault(DENOISING, []).append((start, self._latest))
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
