"""What pipelines are asked for, taken from the visits that were recorded while requests were served."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ._target import PipelineFacts

IP_ADAPTER, LORA = "ip-adapter", "lora:"
"""How visits name adapters (objectives/measuring/visits.py)."""


def with_visits(
    pipelines: Mapping[str, PipelineFacts],
    visits: Mapping[str, Sequence[Mapping[str, Any]]],
    requests: Iterable[Any],
) -> dict[str, PipelineFacts]:
    """The same descriptions with batch, size, guidance, steps and adapters as they were seen.

    visits: {request: [Visit as plain data]}. What a visit could not show stays what its request asks for.
    """
    asked = {request.name: request for request in requests}
    by_entry: dict[str, list[tuple[Any, Mapping[str, Any]]]] = {}
    for name, found in visits.items():
        for one in found if name in asked else ():
            by_entry.setdefault(one["entry"], []).append((asked[name], one))
    named = {request.pipeline for request in asked.values()}
    return {
        name: _seen(facts, by_entry[name])
        if name in by_entry
        else replace(facts, visited=None if name in named else False)
        for name, facts in pipelines.items()
    }


def _seen(facts: PipelineFacts, visits: Sequence[tuple[Any, Mapping[str, Any]]]) -> PipelineFacts:
    batches = [request.batch if one["batch"] is None else one["batch"] for request, one in visits]
    sides = [
        max(request.width_px, request.height_px) if one["width_px"] is None else max(one["width_px"], one["height_px"])
        for request, one in visits
    ]
    guided = [request.guidance > 1 if one["guided"] is None else one["guided"] for request, one in visits]
    loaded = {tuple(one["adapters"]) for _, one in visits}
    declared = any(request.adapters for request, _ in visits)
    kinds = {"lora" if adapter.startswith(LORA) else adapter for adapters in loaded for adapter in adapters}
    steps = {one["steps"] for _, one in visits}
    return replace(
        facts,
        visited=True,
        largest_batch=max(batches),
        largest_side_px=max(sides),
        guided=any(guided),
        # The steps of a pipeline without any that were seen are not known: an engine may take them.
        steps=() if 0 in steps else tuple(sorted(steps)),
        adapters=bool(facts.denoisers) and (declared or len(loaded) > 1),
        adapter_kinds=tuple(sorted(kinds)),
    )
