"""Loads, applies, and serves every request twice, counting what is compiled: the proof that a bundle starts ready."""

from pathlib import Path
from typing import Any

from .compilations import counting, difference
from .contract import checked_pictures
from .latency import synchronize
from .loading import apply_beside, load_file, only_sources
from .phases import Phases

ROUNDS = 2


def serve_twice(folder: Path, device: str, phases: Phases) -> tuple[dict[str, Any], dict[str, Any]]:
    """{"loading": what was counted until the first request, "rounds": [{request: what was counted}, ...],
    "missed": {request: calls that fitted no artefact}}, and {request: its pictures of the first round}.

    See compilations.COUNTED for what is counted; zeros are left out. JSON-able. Raises InvalidOutputError.
    """
    pictures: dict[str, Any] = {}
    rounds: list[dict[str, dict[str, int]]] = []
    missed: dict[str, int] = {}
    with counting() as so_far:
        with phases("load"):
            workload = load_file(folder / "workload.py", "workload").Workload.read(folder)
            if workload.python is not None:
                only_sources(workload.python.parent)
            pipelines = workload.load(device)
        with phases("apply"):
            applied = apply_beside(folder, pipelines, strict=True)
            synchronize(device)
        before = so_far()
        loading = {kind: count for kind, count in before.items() if count}
        # Every apply.py with compiled parts counts the calls of them (search_space/_compiled.py).
        misses = getattr(applied, "counters", lambda pipelines: {"missed": 0})
        missed_before = misses(pipelines)["missed"]
        for number in range(ROUNDS):
            counted = {}
            with phases(f"round_{number + 1}"):
                for request in workload.requests:
                    made = checked_pictures(workload.run(pipelines, request), request)
                    synchronize(device)
                    pictures.setdefault(request.name, made.to("cpu").float())
                    after = so_far()
                    counted[request.name] = difference(before, after)
                    before = after
                    if (missed_now := misses(pipelines)["missed"]) > missed_before:
                        missed[request.name] = missed.get(request.name, 0) + missed_now - missed_before
                        missed_before = missed_now
            rounds.append(counted)
    return {"loading": loading, "rounds": rounds, "missed": missed}, pictures
