"""Forecasting cache: what the denoiser would say in a skipped step is extrapolated from the steps that were computed.

TaylorSeer (arXiv 2503.06923) continues features of transformers by a Taylor series; Spectrum (arXiv 2603.01623) fits
polynomials, for U-Nets as well. Here the polynomial goes through the last steps that were computed, and is continued in
the number of the step: plain arithmetic on numbers known beforehand, so the host never waits for the device.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._steps import STEP_HELPERS, wrap_steps
from .._target import PipelineFacts, Role, Target, known_steps
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait
from .._unet_parts import UNET_PARTS, unet_parts, unet_refusal


class ForecastCacheParameters(Parameters):
    """interval: one step in so many is computed. order: of the polynomial, 1 for a straight line; one step more is kept
    than that. first_percent: so many of a picture's steps, from the first on, are all computed. forecast: the
    denoiser's whole output (a skipped step then costs nothing), or a U-Net's deep features (its outermost layers are
    computed on top, as in deepcache with branch 0).
    """

    interval: Literal[2, 3, 4, 5] = 3
    order: Literal[1, 2] = 1
    first_percent: Literal[10, 20, 30, 50] = 20
    forecast: Literal["output", "deep_features"] = "output"


def forecast_plan(count: int, interval: int, order: int, first_percent: int) -> list[bool]:
    """Which of a call's `count` steps are computed.

    The first first_percent of them, rounded down, but as many as the polynomial goes through at least; then every
    interval-th from the last of these on; and the last one, which nothing later would correct.
    """
    last = max(order, count * first_percent // 100 - 1)
    return [step <= last or (step - last) % interval == 0 or step == count - 1 for step in range(count)]


def forecast_weights(computed: list[int], step: int) -> list[float]:
    """Of the values at the steps `computed`: their weighted sum is the polynomial through them, at `step`."""
    weights = []
    for here in computed:
        weight = 1.0
        for other in computed:
            if other != here:
                weight *= (step - other) / (here - other)
        weights.append(weight)
    return weights


def forecast_cache(pipelines: dict[str, Any], *, interval: int, order: int, first_percent: int, forecast: str) -> None:
    """Replace each denoiser's forward() by a dispatcher between computing and extrapolating.

    denoiser.forward_parts names what is computed, so that a compiler can compile each part as one graph; the dispatcher
    stays outside of any graph.
    """

    def extrapolated(kept: Any, step: int) -> Any:
        """In float32: the weights of distant steps are large, and cancel."""
        weights = forecast_weights(kept["steps"], step)
        total = sum(value.float() * weight for value, weight in zip(kept["values"], weights, strict=True))
        return total.to(kept["values"][-1].dtype)

    def keep(kept: Any, step: int, value: Any) -> None:
        # A copy, because CUDA graphs write the next call's results over this one's.
        kept["steps"] = [*kept.get("steps", []), step][-order - 1 :]
        kept["values"] = [*kept.get("values", []), value.clone()][-order - 1 :]

    def output_forecast(denoiser: Any, state: Any) -> None:
        # accelerate's offload hooks keep forward() there, see wrap_forward.
        denoiser.forecast_computed = getattr(denoiser, "_old_forward" if hasattr(denoiser, "_hf_hook") else "forward")
        denoiser.forward_parts = ["forecast_computed"]

        def step(inner: Any, named: Any, place: Any, skip: bool) -> Any:
            as_tuple = named.get("return_dict") is False
            if not skip:
                # Not `inner`, which a compiler does not see.
                result = denoiser.forecast_computed(**named)
                keep(place["kept"], place["position"], result[0] if as_tuple else result.sample)
                place["kept"]["kind"] = None if as_tuple else type(result)
                return result
            value = extrapolated(place["kept"], place["position"])
            return (value,) if as_tuple else place["kept"]["kind"](sample=value)

        follow_plan(denoiser, state, step)

    def deep_forecast(unet: Any, state: Any) -> None:
        parts = unet_parts(unet, "forecast_cache", 0)

        def compute(inputs: Any, place: Any, skip: bool) -> Any:
            if skip:
                return unet.forecast_shallow(*inputs, extrapolated(place["kept"], place["position"]))
            noise, deep = unet.forecast_full(*inputs)
            keep(place["kept"], place["position"], deep)
            return noise

        run = parts["call"](compute)

        def step(inner: Any, named: Any, place: Any, skip: bool) -> Any:
            whole = parts["why_whole"](named)
            if whole:
                # Whatever was to be skipped is computed, and nothing is kept that a later step could continue.
                state["whole"] = whole
                state["excused"] += skip
                place["kept"].clear()
                return inner(**named)
            return run(named, place, skip)

        follow_plan(unet, state, step)
        unet.forecast_full, unet.forecast_shallow = parts["full"], parts["shallow"]
        unet.forward_parts = ["forecast_full", "forecast_shallow"]

    def follow_plan(denoiser: Any, state: Any, step: Any) -> None:
        def forecast_step(inner: Any, named: Any, place: Any) -> Any:
            position, kept = place["position"], place["kept"]
            # The plan is for this call's length; a step beyond it is computed.
            planned = [*forecast_plan(place["count"], interval, order, first_percent), True]
            wanted = not planned[min(position, place["count"])]
            # Too few steps are kept after a change of prompt or batch in the middle of a picture.
            skip = wanted and len(kept.get("steps", ())) == order + 1
            state["steps"] += 1
            state["planned"] += wanted
            state["excused"] += wanted and not skip
            state["skipped"] += skip
            return step(inner, named, place, skip)

        wrap_steps(denoiser, "forecast_cache", forecast_step)
        denoiser.forecast_state = state

    for denoiser in denoisers(pipelines):
        # steps, planned, skipped: over the denoiser's life; planned are the skips. excused: planned, but computed.
        state: dict[str, Any] = {"steps": 0, "planned": 0, "skipped": 0, "excused": 0, "whole": ""}
        if forecast == "output":
            output_forecast(denoiser, state)
        else:
            deep_forecast(denoiser, state)


def took_effect(
    pipelines: dict[str, Any], *, interval: int, order: int, first_percent: int, forecast: str
) -> str | None:
    """Whether steps were extrapolated, and as many as were planned."""
    states = [getattr(denoiser, "forecast_state", {"skipped": 0, "planned": 0}) for denoiser in denoisers(pipelines)]
    if not any(state["skipped"] for state in states):
        why = next((state["whole"] for state in states if state.get("whole")), "")
        return f"every step was computed{': ' + why if why else ''}"
    for state in states:
        if 2 * state["skipped"] < state["planned"]:
            return f"{state['skipped']} steps were forecast, and {state['planned']} were to be"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: ForecastCacheParameters) -> str | None:
    """Deep features of what is no U-Net."""
    if parameters.forecast == "deep_features":
        return unet_refusal(pipelines, 0)
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    return None


def traits(parameters: ForecastCacheParameters) -> frozenset[Trait]:
    """Deep features are found by calling the layers around them."""
    found = {Trait.CACHES_STEPS}
    if parameters.forecast == "deep_features":
        found.add(Trait.CALLS_INNER_LAYERS)
    return frozenset(found)


def plan(pipelines: Mapping[str, PipelineFacts], parameters: ForecastCacheParameters) -> Any:
    """Which steps are computed, and what is forecast in the others; None where every step is computed."""
    counts = known_steps(pipelines)
    if counts is None:
        return parameters.model_dump()
    order, percent = parameters.order, parameters.first_percent
    patterns = [forecast_plan(count, parameters.interval, order, percent) for count in counts]
    return None if all(map(all, patterns)) else [parameters.forecast, order, patterns]


TECHNIQUE = Technique(
    name="forecast_cache",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Computes one step in several and extrapolates what the denoiser would say in the others.",
    source="https://arxiv.org/abs/2603.01623",
    parameters=ForecastCacheParameters,
    apply=forecast_cache,
    took_effect=took_effect,
    refuses=refuses,
    plan=plan,
    stage=Stage.STRUCTURE,
    traits=traits,
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers, *STEP_HELPERS, *UNET_PARTS, forecast_plan, forecast_weights),
)
