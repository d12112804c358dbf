"""Load a workload, apply a configuration, and measure it: the whole of a trial.

This file is copied as `run.py` beside workload.py, latency.py, memory.py and apply.py, so it stands on torch and the
standard library alone. A search runs it in a forked process; `python run.py` in such a folder repeats the trial.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMA_VERSION = 1


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


def run(
    folder: Path,
    device: str,
    *,
    calls: int,
    warm_up_calls: int,
    phases: Phases,
    after_load: Callable[[dict[str, Any], list[Any]], None] = lambda pipelines, requests: None,
    after_warm_up: Callable[[dict[str, Any]], None] = lambda pipelines: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the configuration in `folder` on `device`.

    Requests of one shape are timed together: at least `calls` calls, and every request at least once, after
    `warm_up_calls` calls. The memory pass is apart, because sampling disturbs timing.

    Returns the measurements (JSON-able; ms, GiB, s), and {request name: pictures (B, 3, H, W), float32 on the CPU, as
    decoded: not rounded, not clamped}.
    """
    latency = load_file(folder / "latency.py", "latency")
    memory = load_file(folder / "memory.py", "memory")
    # Read before this process touches the GPU: where NVML cannot tell processes apart, it is what others use.
    used_before_gib = memory.device_used_gib(device) if device.startswith("cuda") else None
    with phases("load"):
        workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        pipelines = workload.load(device)
        latency.synchronize(device)
        after_load(pipelines, workload.requests)
    with phases("apply"):
        load_file(find_apply(folder), "apply").apply(pipelines)
        latency.synchronize(device)

    shapes: dict[tuple[Any, ...], list[Any]] = {}
    for request in workload.requests:
        shapes.setdefault(request.shape(), []).append(request)

    def call(request: Any) -> tuple[float, Any]:
        milliseconds, images = latency.time_call_ms(lambda: workload.run(pipelines, request), device)
        return milliseconds, images.detach().to("cpu").float()

    with phases("first_call"):
        first_call_ms, _ = call(workload.requests[0])
    with phases("warm_up"):
        for index, requests in enumerate(shapes.values()):
            for _ in range(warm_up_calls - (1 if index == 0 else 0)):
                call(requests[0])
        after_warm_up(pipelines)

    pictures: dict[str, Any] = {}
    measured_shapes = []
    repeat_max_difference = 0.0
    with phases("measure"):
        for requests in shapes.values():
            samples_ms = []
            for index in range(max(calls, len(requests))):
                request = requests[index % len(requests)]
                milliseconds, images = call(request)
                samples_ms.append(milliseconds)
                if request.name in pictures:
                    difference = (images - pictures[request.name]).abs().max().item()
                    # NaN compares false with everything; a NaN picture is caught by the detectors.
                    repeat_max_difference = max(repeat_max_difference, difference)
                else:
                    pictures[request.name] = images
            measured_shapes.append(
                {
                    "requests": [request.name for request in requests],
                    "weight": sum(request.weight for request in requests),
                    "samples_ms": [round(sample, 4) for sample in samples_ms],
                    **latency.summarize(samples_ms).to_dict(),
                }
            )
    with phases("memory"):
        peaks = []
        for requests in shapes.values():
            with memory.PeakMemory(device, used_before_gib=used_before_gib) as peak:
                call(requests[0])
            peaks.append(peak.summary.to_dict())

    mix_latency_ms = latency.mix_latency_ms(
        [shape["median_ms"] for shape in measured_shapes], [shape["weight"] for shape in measured_shapes]
    )
    measurements = {
        "schema": SCHEMA_VERSION,
        "device": device,
        "latency_ms": mix_latency_ms,
        "latency": measured_shapes,
        "first_call_ms": first_call_ms,
        "peak_vram_gib": max(peak["peak_vram_gib"] for peak in peaks),
        "memory": max(peaks, key=lambda peak: float(peak["peak_vram_gib"])),
        "repeat_max_difference": repeat_max_difference,
    }
    return measurements, pictures


def main() -> None:
    """Repeat the trial in this file's folder; print the figures, and save them with --out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default=None, help="cuda or cpu; by default cuda when there is one")
    parser.add_argument("--calls", type=int, default=5, help="timed calls per shape of request")
    parser.add_argument("--warm-up-calls", type=int, default=2, help="calls before timing; the first is the cold one")
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
    measurements, pictures = run(
        folder, device, calls=options.calls, warm_up_calls=options.warm_up_calls, phases=phases
    )
    seconds = {"import": import_s, **phases.seconds}
    measurements["phases_s"] = {name: round(value, 3) for name, value in seconds.items()}
    measurements["cold_start_s"] = import_s + phases.seconds["apply"] + measurements["first_call_ms"] / 1000
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "result.json").write_text(json.dumps(measurements, indent=1))
        np.savez(options.out / "pictures.npz", **{name: images.numpy() for name, images in pictures.items()})
    print(f"latency {measurements['latency_ms']:.1f} ms, peak memory {measurements['peak_vram_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
