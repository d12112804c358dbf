"""Builds the compiled code that travels in a bundle: applies a configuration, serves every request, keeps the code."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .contract import checked_pictures
from .latency import synchronize
from .loading import find_apply, load_file, only_sources
from .phases import Phases

PORTABLE = "portable_cache"
"""torch.compile, and what torch has kept of it in its caches."""
WAYS = ("standalone_compile", "aot_compile", "aotinductor", PORTABLE)
"""Of each call: torch.export and standalone_compile; torch.compile(...).aot_compile; torch.export and AOTInductor. What
is most likely to be the best comes first: with the last one every worker traces again."""


CLAIMS = "claims"
"""Key of an index: the folder in which each of several processes claims what it builds."""


def build_side_by_side(artefacts: Path, way: str, processes: int) -> None:
    """Build in so many processes at once what can be built apart, by this process's own command; none of it is needed
    for `build_artefacts`, which builds afterwards what is missing, alone.

    Most of compiling keeps one core busy. Each process serves every request, and compiles of the calls that it meets
    those that no other one has claimed. Interrupted, what they had finished stays beside `artefacts`, and is taken up,
    also where there is room for one process only by then.
    """
    beside = artefacts.with_name(f"{artefacts.name}.beside")
    _take_up(beside, artefacts)
    if processes == 1:
        return
    claims = beside / CLAIMS
    claims.mkdir(parents=True)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": str(threads), **os.environ}
    running = []
    for number in range(processes):
        place = beside / str(number)
        if artefacts.is_dir():
            shutil.copytree(artefacts, place)
        place.mkdir(exist_ok=True)
        _write_index(place, way, claims)
        options = ["--processes", "1", "--artefacts", str(place), "--out", str(beside / "out")]
        command = [sys.executable, *sys.orig_argv[1:], *options]
        running.append(subprocess.Popen(command, env=environment))
    for process in running:
        if process.wait() != 0:  # for want of memory, say
            print(f"a process of {processes} that build failed: what it leaves is built alone", file=sys.stderr)
    _take_up(beside, artefacts)


def _take_up(beside: Path, artefacts: Path) -> None:
    """Move what was built beside `artefacts` into it; what failed there may be built when nothing is beside it."""
    for file in sorted(beside.glob("*/index.json")):
        index = json.loads(file.read_text())
        index.pop(CLAIMS, None)
        ours = artefacts / "index.json"
        known = json.loads(ours.read_text())["parts"] if ours.exists() else []
        there = {part["code"] for part in known}
        new = [part for part in index["parts"] if part["code"] not in there and "failed" not in part]
        (artefacts / "code").mkdir(parents=True, exist_ok=True)
        for part in new:
            os.replace(file.parent / "code" / part["code"], artefacts / "code" / part["code"])
        if (file.parent / "driver").is_dir() and not (artefacts / "driver").exists():
            os.replace(file.parent / "driver", artefacts / "driver")
        _write_json(ours, {**index, "parts": known + new})
    shutil.rmtree(beside, ignore_errors=True)


def build_artefacts(
    folder: Path,
    device: str,
    artefacts: Path,
    way: str,
    packages: list[str],
    phases: Phases,
) -> dict[str, Any]:
    """Build, in one of WAYS, what the requests in `folder` need of its apply.py; `artefacts` is where it goes.

    Every request is served, because shapes, adapters and prompts decide what is called. What lies in `artefacts` is
    used, so a build that was interrupted goes on. packages: whose versions the code depends on, beside torch's.
    Returns {"seconds", "parts": how many are there, "reasons": {part: why it was not built}}. Raises RuntimeError where
    nothing was, but for a process of `build_side_by_side`, to which the others may have left nothing.
    """
    with phases("load"):
        workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
        if workload.python is not None:
            only_sources(workload.python.parent)
        pipelines = workload.load(device)
        synchronize(device)
    file = find_apply(folder)
    artefacts.mkdir(parents=True, exist_ok=True)
    described = load_file(file.with_name("trust.py"), "trust").describe(pipelines, packages)
    (artefacts / "built_for.json").write_text(json.dumps(described, indent=1))
    index_file = artefacts / "index.json"
    began = time.perf_counter()
    with phases("apply"):
        applied = load_file(file, "apply")
        if way != PORTABLE:
            if not index_file.exists():
                _write_index(artefacts, way)
            applied.apply(pipelines, artefacts=artefacts, on_miss="build")
        else:
            applied.apply(pipelines)
    with phases("build"):
        for request in workload.requests:
            checked_pictures(workload.run(pipelines, request), request)
        synchronize(device)
    seconds = time.perf_counter() - began
    if way != PORTABLE:
        index = json.loads(index_file.read_text())
        reasons = {f"{one['part']} of {one['module']}": one["failed"] for one in index["parts"] if "failed" in one}
        if CLAIMS not in index and not any("failed" not in one for one in index["parts"]):
            raise RuntimeError(f"nothing could be built: {'; '.join(f'{k}: {v}' for k, v in reasons.items())}")
        built = len(index["parts"]) - len(reasons)
        return {"seconds": seconds, "parts": built, "reasons": reasons}
    import torch

    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        raise RuntimeError("torch has nothing in its caches")
    (artefacts / "cache.bin").write_bytes(saved[0])
    _write_index(artefacts, way)
    return {"seconds": seconds, "parts": 1, "reasons": {}}


def _write_index(artefacts: Path, way: str, claims: Path | None = None) -> None:
    """What search_space/_artefacts.py reads; the parts of one that is there stay."""
    import torch

    file = artefacts / "index.json"
    parts = json.loads(file.read_text())["parts"] if file.exists() else []
    index: dict[str, Any] = {"schema": 1, "way": way, "torch": torch.__version__, "parts": parts}
    if claims is not None:
        index[CLAIMS] = str(claims)
    _write_json(file, index)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=1))
    os.replace(draft, file)
