"""Builds the compiled code that travels in a bundle: applies a configuration, serves every request, keeps the code."""

import json
import time
from pathlib import Path
from typing import Any

from .contract import checked_pictures
from .latency import synchronize
from .loading import find_apply, load_file, only_sources
from .phases import Phases

PORTABLE = "portable_cache"
"""torch.compile, and what torch has kept of it in its caches."""
WAYS = ("standalone_compile", "aot_compile", PORTABLE, "aotinductor")
"""Of each call: torch.export and standalone_compile; torch.compile(...).aot_compile; torch.export and AOTInductor. What
is most likely to be the best, or quick to build, comes first."""


def build_artefacts(
    folder: Path, device: str, artefacts: Path, way: str, packages: list[str], phases: Phases
) -> dict[str, Any]:
    """Build, in one of WAYS, what the requests in `folder` need of its apply.py; `artefacts` is where it goes.

    Every request is served, because shapes, adapters and prompts decide what is called. What lies in `artefacts` is
    used, so a build that was interrupted goes on. packages: whose versions the code depends on, beside torch's.
    Returns {"seconds", "before_s": how long an interrupted build had taken for what is there of it, "parts": how many
    were built, "reasons": {part: why it was not}}. Raises RuntimeError where nothing was.
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
    before = json.loads(index_file.read_text())["parts"] if index_file.exists() else []
    before_s = sum(part["seconds"] for part in before)
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
        if not any("failed" not in one for one in index["parts"]):
            raise RuntimeError(f"nothing could be built: {'; '.join(f'{k}: {v}' for k, v in reasons.items())}")
        built = len(index["parts"]) - len(reasons)
        return {"seconds": seconds, "before_s": before_s, "parts": built, "reasons": reasons}
    import torch

    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        raise RuntimeError("torch has nothing in its caches")
    (artefacts / "cache.bin").write_bytes(saved[0])
    _write_index(artefacts, way)
    return {"seconds": seconds, "before_s": 0.0, "parts": 1, "reasons": {}}


def _write_index(artefacts: Path, way: str) -> None:
    """Of a folder that holds nothing yet; search_space/_artefacts.py reads it."""
    import torch

    index = {"schema": 1, "way": way, "torch": torch.__version__, "parts": []}
    (artefacts / "index.json").write_text(json.dumps(index, indent=1))
