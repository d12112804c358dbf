"""Classifier-free guidance in the middle of a picture only.

Kynkäänniemi et al.: "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", NeurIPS 2024, arXiv 2404.07724: guidance harms at the noisiest steps and does nothing in the last ones.
guidance_cutoff keeps it in the first steps, where it decides most about the picture; this one does not.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import argument_names, calling_pipeline, step_of_call, wrap_forward
from .._guidance import guide_some_steps
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target, known_steps
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class GuidanceIntervalParameters(Parameters):
    """from_percent, to_percent: the part of a picture's steps, counted from the first, that runs with guidance."""

    from_percent: Literal[10, 20, 30] = 10
    to_percent: Literal[60, 80, 100] = 80


def guided_interval(count: int, from_percent: int, to_percent: int) -> range:
    """Which of a call's `count` steps run with guidance: the percentages rounded down, but the first never does, and
    one at least does where there are two.

    A step is a call of the denoiser: schedulers of second order take two for most of theirs. Image to image takes only
    the end of the schedule, and the percentages are of that.
    """
    begin = max(1, count * from_percent // 100)
    return range(begin, max(begin + 1, count * to_percent // 100))


def guidance_interval(pipelines: dict[str, Any], *, from_percent: int, to_percent: int) -> None:
    """Before and after the interval, compute the prompted half of the batch only."""
    for denoiser in denoisers(pipelines):
        guide_some_steps(
            denoiser,
            "guidance_interval",
            lambda position, count: position in guided_interval(count, from_percent, to_percent),
        )


def took_effect(pipelines: dict[str, Any], *, from_percent: int, to_percent: int) -> str | None:
    """Whether steps ran without guidance and others with it, and whether it was the share that was asked for."""
    none = {"guided": 0, "unguided": 0}
    found = [getattr(denoiser, "guidance_counts", none) for denoiser in denoisers(pipelines)]
    if not any(counts["unguided"] for counts in found):
        return "no step ran without guidance that would have had it"
    if not any(counts["guided"] for counts in found):
        return "no step ran with guidance"
    for counts in found:
        seen, guided = counts.get("last_seen", 0), counts.get("last_guided", 0)
        wanted = len([step for step in guided_interval(seen, from_percent, to_percent) if step < seen])
        if seen and guided != wanted:
            return f"{guided} of {seen} steps ran with guidance, and {wanted} were to"
    return None


def refuses(
    target: Target, pipelines: Mapping[str, PipelineFacts], parameters: GuidanceIntervalParameters
) -> str | None:
    """Denoisers that are not known to guide by a doubled batch, and workloads without guidance."""
    with_denoiser = [pipeline for pipeline in pipelines.values() if pipeline.denoisers]
    if not with_denoiser:
        return "no pipeline has a denoiser"
    for pipeline in with_denoiser:
        for denoiser in pipeline.denoisers:
            if not denoiser.is_unet and denoiser.class_name != "SD3Transformer2DModel":
                return f"a {denoiser.class_name} is not known to be guided by two predictions for each picture"
    if not any(pipeline.guided for pipeline in with_denoiser):
        return "no request uses guidance"
    return None


def plan(pipelines: Mapping[str, PipelineFacts], parameters: GuidanceIntervalParameters) -> Any:
    """Which steps run with guidance."""
    counts = known_steps(pipelines)
    if counts is None:
        return parameters.model_dump()
    return [list(guided_interval(count, parameters.from_percent, parameters.to_percent)) for count in counts]


TECHNIQUE = Technique(
    name="guidance_interval",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Guides in the middle of a picture only: the steps before and after compute half the batch.",
    source="https://arxiv.org/abs/2404.07724",
    parameters=GuidanceIntervalParameters,
    apply=guidance_interval,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.GUIDES_LESS}),
    plan=plan,
    roles=frozenset({Role.DENOISER}),
    helpers=(
        torch_modules,
        denoisers,
        wrap_forward,
        argument_names,
        calling_pipeline,
        step_of_call,
        guide_some_steps,
        guided_interval,
    ),
)
