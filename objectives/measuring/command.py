"""The command line of run.py, which lies beside this package."""

import argparse
import gc
import json
import sys
import time
from pathlib import Path

from .building import PORTABLE, WAYS, build_artefacts, build_side_by_side
from .contract import InvalidOutputError
from .measure import measure_configuration
from .phases import Phases
from .plan import Plan
from .twice import serve_twice


def main(folder: Path) -> None:
    """Measure what lies in `folder` once, as the command line says; print the figures, and save them with --out."""
    options = _options(folder)
    started = time.perf_counter()
    gc.disable()  # as a worker should: what is being imported is no garbage, and would be looked through repeatedly
    import diffusers  # noqa: F401 (a cold start pays for this import, so it is timed)
    import numpy as np
    import torch

    gc.enable()
    import_s = time.perf_counter() - started
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
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
        artefacts=not options.no_artefacts,
        pictures=tuple(pictures),
    )
    phases = Phases(lambda name: print(f"{name} ...", file=sys.stderr, flush=True))
    if options.build is not None:
        _build(folder, device, phases, options)
        return
    if options.twice:
        _count(folder, device, phases, options.out)
        return
    try:
        measurements, made = measure_configuration(folder, device, plan=plan, phases=phases)
    except InvalidOutputError as error:
        sys.exit(str(error))
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


def _build(folder: Path, device: str, phases: Phases, options: argparse.Namespace) -> None:
    way, artefacts = options.build, options.artefacts
    if way != PORTABLE:  # torch's caches are those of one process
        with phases("build side by side"):
            build_side_by_side(artefacts, way, options.processes)
    built = build_artefacts(folder, device, artefacts, way, options.packages, phases)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "result.json").write_text(json.dumps(built, indent=1))
    print(f"built in {built['seconds']:.1f} s")


def _count(folder: Path, device: str, phases: Phases, out: Path | None) -> None:
    import numpy as np

    try:
        counted, pictures = serve_twice(folder, device, phases)
    except InvalidOutputError as error:
        sys.exit(str(error))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        np.savez(out / "pictures.npz", **{name: images.numpy() for name, images in pictures.items()})
        (out / "result.json").write_text(json.dumps(counted, indent=1))
    print(json.dumps(counted, indent=1))


def _options(folder: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default=None, help="cuda or cpu; by default cuda when there is one")
    parser.add_argument("--calls", type=int, default=Plan.calls, help="timed calls per shape of request, at least")
    parser.add_argument("--most-calls", type=int, default=Plan.most_calls, help="the same, at most")
    parser.add_argument(
        "--most-seconds", type=float, default=Plan.most_seconds, help="timed seconds per shape of request, at most"
    )
    parser.add_argument(
        "--target", type=float, default=Plan.target, help="relative width of the median's interval to reach"
    )
    parser.add_argument(
        "--warm-up-calls", type=int, default=Plan.warm_up_calls, help="calls before timing; the first is the cold one"
    )
    parser.add_argument("--pictures", nargs="*", help="requests, NAME~1 with other seeds; by default all as written")
    parser.add_argument("--cold", action="store_true", help="only the first call: a cold start")
    parser.add_argument(
        "--twice", action="store_true", help="serve every request twice and count what is compiled, instead of timing"
    )
    parser.add_argument(
        "--no-artefacts", action="store_true", help="compile as without the compiled code that lies beside apply.py"
    )
    parser.add_argument("--build", choices=WAYS, help="build compiled code in this way, instead of timing")
    parser.add_argument("--artefacts", type=Path, default=folder / "artefacts", help="folder for it")
    parser.add_argument("--processes", type=int, default=1, help="so many build side by side")
    parser.add_argument("--packages", nargs="*", default=[], help="packages whose versions it depends on, beside torch")
    parser.add_argument("--out", type=Path, default=None, help="folder for result.json and pictures.npz")
    return parser.parse_args()
