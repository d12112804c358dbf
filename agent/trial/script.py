"""Load a workload, apply a configuration, and measure it: the whole of a trial.

This file is copied as `run.py` beside workload.py, apply.py and the measuring files of `FLAT_FILES`, so it stands on
torch and the standard library alone. A search runs it in a forked process; `python run.py` in such a folder repeats
the trial.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMA_VERSION = 2
FLAT_FILES = ("latency", "memory", "intervals", "stopping", "machine_state", "energy", "stages", "timing")
"""Modules of paretune.objectives that lie beside this script."""
VARIANT = "~"
"""`cat~2` is the request cat with other seeds: its second variant."""
VARIANT_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process does with a configuration."""

    calls: int = 5
    most_calls: int = 100
    most_seconds: float = 60.0
    target: float = 0.01
    """Relative width of the median's interval that is narrow enough."""
    warm_up_calls: int = 2
    measure: bool = True
    memory: bool = True
    stages: bool = True
    only_cold: bool = False
    """Stop after the first call."""
    pictures: tuple[str, ...] = ()
    """Requests, or variants of them, to keep pictures of; at least the timed ones'."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The inverse of dataclasses.asdict, also after a way through JSON."""
        return cls(**{**values, "pictures": tuple(values.get("pictures", ()))})


def load_file(path: Path, name: str) -> ModuleType:
    """Import a Python file under the given name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find_apply(folder: Path) -> Path:
    """apply.py beside this script, or in the folder above it (where a bundle has it)."""
    beside = folder / "apply.py"
    return beside if beside.is_file() else folder.parent / "apply.py"


def variant(requests: Sequence[Any], name: str) -> Any:
    """The request of that name; "cat~2" is cat with its seeds raised by 2000. Raises KeyError."""
    plain, _, number = name.partition(VARIANT)
    found = {request.name: request for request in requests}[plain]
    return dataclasses.replace(found, name=name, seed=found.seed + VARIANT_SEEDS * int(number)) if number else found


class Phases:
    """Seconds per phase; tells a listener when each one starts, so that deadlines can be kept."""

    def __init__(self, on_phase: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.current = "start"
        self._on_phase = on_phase

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time one phase."""
        self.current = name
        self._on_phase(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass
class Made:
    """What came out of the pipelines: by request, as decoded, neither rounded nor clamped."""

    pictures: dict[str, Any]
    """(B, 3, H, W), float32 on the CPU."""
    latents: dict[str, Any]
    """(B, C, h, w) as the decoder got them, on the CPU; only where a pipeline has a VAE that was called."""


class LatentTap:
    """Keeps what went last into a VAE's decoder, by a wrapper on the instance that adds nothing to the call."""

    def __init__(self, pipelines: Mapping[str, Any]) -> None:
        self.last: Any = None
        vaes = {id(p.vae): p.vae for p in pipelines.values() if hasattr(getattr(p, "vae", None), "decode")}
        for vae in vaes.values():
            self._wrap(vae, vae.decode)

    def _wrap(self, vae: Any, decode: Callable[..., Any]) -> None:
        def tapped(latents: Any, *arguments: Any, **options: Any) -> Any:
            self.last = latents
            return decode(latents, *arguments, **options)

        vae.decode = tapped

    def take(self) -> Any:
        """What the last call decoded, on the CPU, or None; forgets it."""
        latents, self.last = self.last, None
        return None if latents is None else latents.detach().to("cpu")


def run(
    folder: Path,
    device: str,
    *,
    plan: Plan,
    phases: Phases,
    after_load: Callable[[dict[str, Any], list[Any]], None] = lambda pipelines, requests: None,
    after_warm_up: Callable[[dict[str, Any]], None] = lambda pipelines: None,
    dominated: Callable[[Mapping[str, Any], Mapping[str, Any]], int | None] = lambda known, pictures: None,
) -> tuple[dict[str, Any], Made]:
    """Measure the configuration in `folder` on `device` as `plan` says.

    Memory and stages have passes of their own, because sampling and marking disturb timing. `dominated` is asked
    between timed calls, with the measurements and the pictures so far; a trial number ends timing.

    Returns the measurements (JSON-able; ms, GiB, s, J) and what was made.
    """
    flat = {name: load_file(folder / f"{name}.py", name) for name in FLAT_FILES}
    latency, memory = flat["latency"], flat["memory"]
    # Read before this process touches the GPU: where NVML cannot tell processes apart, it is what others use.
    used_before_gib = memory.device_used_gib(device) if device.startswith("cuda") else None
    with phases("load"):
        workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        pipelines = workload.load(device)
        latency.synchronize(device)
        after_load(pipelines, workload.requests)
    measurements: dict[str, Any] = {"schema": SCHEMA_VERSION, "device": device}
    made = Made({}, {})

    shapes: dict[tuple[Any, ...], list[Any]] = {}
    for request in workload.requests:
        shapes.setdefault(request.shape(), []).append(request)

    def call(request: Any) -> tuple[float, Any]:
        milliseconds, images = latency.time_call_ms(lambda: workload.run(pipelines, request), device)
        return milliseconds, images.detach().to("cpu").float()

    def keep(request: Any, images: Any) -> float:
        """Remember a request's pictures; returns how far a repetition is from the first time (NaN compares as 0)."""
        if request.name in made.pictures:
            return float((images - made.pictures[request.name]).abs().nan_to_num().max())
        made.pictures[request.name] = images
        if (latents := tap.take()) is not None:
            made.latents[request.name] = latents
        return 0.0

    # Sampled rarely: the first call is a part of the cold start, and compiling takes long enough to be seen.
    with memory.PeakMemory(device, interval_ms=50.0, used_before_gib=used_before_gib) as setup:
        with phases("apply"):
            load_file(find_apply(folder), "apply").apply(pipelines)
            latency.synchronize(device)
        tap = LatentTap(pipelines)
        with phases("first_call"):
            measurements["first_call_ms"], images = call(workload.requests[0])
            keep(workload.requests[0], images)
        if not plan.only_cold:
            with phases("warm_up"):
                for index, requests in enumerate(shapes.values()):
                    for _ in range(plan.warm_up_calls - (1 if index == 0 else 0)):
                        call(requests[0])
                after_warm_up(pipelines)
    measurements["setup_peak_vram_gib"] = setup.summary.peak_vram_gib
    if plan.only_cold:
        return measurements, made
    if plan.memory:
        with phases("memory"):
            memory.release_unused(device)
            peaks = []
            for requests in shapes.values():
                with memory.PeakMemory(device, used_before_gib=used_before_gib) as peak:
                    call(requests[0])
                peaks.append(peak.summary.to_dict())
        measurements["memory"] = max(peaks, key=lambda peak: float(peak["peak_vram_gib"]))
        measurements["peak_vram_gib"] = measurements["memory"]["peak_vram_gib"]
    if plan.measure:
        with phases("measure"):
            rule = flat["stopping"].StopRule(plan.calls, plan.most_calls, plan.most_seconds, plan.target)
            timed = flat["timing"].time_shapes(
                [_timed_requests(requests, plan.pictures) for requests in shapes.values()],
                call=call,
                keep=keep,
                rule=rule,
                relative_width=flat["intervals"].relative_interval_width,
                summarize=latency.summarize,
                state=flat["machine_state"].MachineState(device, _nvml_handle(memory, device)),
                energy_meter=lambda: flat["energy"].EnergyMeter(_nvml_handle(memory, device)),
                dominated=lambda latency_ms: dominated({**measurements, "latency_ms": latency_ms}, made.pictures),
            )
        measurements |= timed
    if plan.pictures and "dominated_by" not in measurements:
        with phases("pictures"):
            for name in plan.pictures:
                if name not in made.pictures:
                    request = variant(workload.requests, name)
                    keep(request, call(request)[1])
    if plan.stages and "dominated_by" not in measurements:
        with phases("stages"):
            measurements["stages"] = []
            for requests in shapes.values():
                with flat["stages"].StageTimer(pipelines, device) as timer:
                    call(requests[0])
                measurements["stages"].append({"requests": [r.name for r in requests], **timer.summary()})
    return measurements, made


def _timed_requests(requests: Sequence[Any], pictures: Sequence[str]) -> list[Any]:
    """Those of one shape that pictures are kept of; one at least."""
    return [request for request in requests if not pictures or request.name in pictures] or [requests[0]]


def _nvml_handle(memory: ModuleType, device: str) -> Any:
    if not device.startswith("cuda"):
        return None
    try:
        return memory.nvml_handle(memory.device_index(device))
    except Exception:  # without NVML there is nothing to say about the machine's state; timing goes on
        return None


def main() -> None:
    """Repeat the trial in this file's folder; print the figures, and save them with --out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default=None, help="cuda or cpu; by default cuda when there is one")
    parser.add_argument("--calls", type=int, default=5, help="timed calls per shape of request, at least")
    parser.add_argument("--most-calls", type=int, default=100, help="timed calls per shape of request, at most")
    parser.add_argument("--most-seconds", type=float, default=60.0, help="timed seconds per shape of request, at most")
    parser.add_argument("--target", type=float, default=0.01, help="relative width of the median's interval to reach")
    parser.add_argument("--warm-up-calls", type=int, default=2, help="calls before timing; the first is the cold one")
    parser.add_argument("--pictures", nargs="*", help="requests, NAME~1 with other seeds; by default all as written")
    parser.add_argument("--cold", action="store_true", help="only the first call: a cold start")
    parser.add_argument("--out", type=Path, default=None, help="folder for result.json and pictures.npz")
    options = parser.parse_args()
    started = time.perf_counter()
    import diffusers  # noqa: F401 (a cold start pays for this import, so it is timed)
    import numpy as np
    import torch

    import_s = time.perf_counter() - started
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    phases = Phases(lambda name: print(f"{name} ...", file=sys.stderr, flush=True))
    folder = Path(__file__).resolve().parent
    pictures = options.pictures
    if pictures is None:
        pictures = [request["name"] for request in json.loads((folder / "workload.json").read_text())["requests"]]
    plan = Plan(
        calls=options.calls,
        most_calls=options.most_calls,
        most_seconds=options.most_seconds,
        target=options.target,
        warm_up_calls=options.warm_up_calls,
        only_cold=options.cold,
        pictures=tuple(pictures),
    )
    measurements, made = run(folder, device, plan=plan, phases=phases)
    ended = time.perf_counter()
    seconds = {"import": import_s, **phases.seconds}
    measurements["phases_s"] = {name: round(value, 3) for name, value in seconds.items()}
    measurements["cold_start_s"] = import_s + phases.seconds["apply"] + measurements["first_call_ms"] / 1000
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / "pictures.npz", **{name: images.numpy() for name, images in made.pictures.items()})
        measurements["after_s"] = time.perf_counter() - ended  # writing is no part of a start
        (options.out / "result.json").write_text(json.dumps(measurements, indent=1))
    if options.cold:
        print(f"cold start {measurements['cold_start_s']:.1f} s")
    else:
        print(f"latency {measurements['latency_ms']:.1f} ms, peak memory {measurements['peak_vram_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
