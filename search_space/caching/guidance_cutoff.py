"""Classifier-free guidance in the first steps of a picture only.

Kynkäänniemi et al.: "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", NeurIPS 2024, arXiv 2404.07724. diffusers has the same idea as a pipeline callback (SDXLCFGCutoffCallback),
which handles neither batches nor IP-Adapters.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import argument_names, calling_pipeline, step_of_call, wrap_forward
from .._guidance import guide_some_steps
from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target, known_steps
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class GuidanceCutoffParameters(Parameters):
    """guided_percent: how many of a call's steps, from the first on, run with guidance; see guided_steps."""

    guided_percent: Literal[40, 50, 60, 70, 80, 90] = 70


def guided_steps(count: int, guided_percent: int) -> int:
    """How many of a call's `count` steps run with guidance: the percentage, rounded down, but one at least.

    A step is a call of the denoiser: schedulers of second order take two for most of theirs. Image to image takes only
    the end of the schedule, and the percentage is of that.
    """
    return max(1, count * guided_percent // 100)


def guidance_cutoff(pipelines: dict[str, Any], *, guided_percent: int) -> None:
    """After the cut-off, compute the prompted half of the batch only."""
    for unet in denoisers(pipelines):
        guide_some_steps(
            unet, "guidance_cutoff", lambda position, count: position < guided_steps(count, guided_percent)
        )


def took_effect(pipelines: dict[str, Any], *, guided_percent: int) -> str | None:
    """Whether steps ran without guidance, and whether it was the share that was asked for."""
    none = {"unguided": 0}
    found = [getattr(unet, "guidance_counts", none) for unet in denoisers(pipelines)]
    if not any(counts["unguided"] for counts in found):
        return "no step ran without guidance that would have had it"
    for counts in found:
        seen, guided = counts.get("last_seen", 0), counts.get("last_guided", 0)
        wanted = guided_steps(seen, guided_percent)
        if seen and guided != wanted:
            return f"{guided} of {seen} steps ran with guidance, and {guided_percent} % of them are {wanted}"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: GuidanceCutoffParameters) -> str | None:
    """Pipelines whose denoiser is no U-Net, and workloads without guidance."""
    with_denoiser = [pipeline for pipeline in pipelines.values() if pipeline.denoisers]
    if not with_denoiser:
        return "no pipeline has a denoiser"
    for pipeline in with_denoiser:
        for denoiser in pipeline.denoisers:
            if not denoiser.is_unet:
                return f"the denoiser is a transformer ({denoiser.class_name}), which is not called as a U-Net is"
    if not any(pipeline.guided for pipeline in with_denoiser):
        return "no request uses guidance"
    return None


def plan(pipelines: Mapping[str, PipelineFacts], parameters: GuidanceCutoffParameters) -> Any:
    """How many steps run without guidance; None where none does."""
    counts = known_steps(pipelines)
    if counts is None:
        return parameters.model_dump()
    unguided = [count - guided_steps(count, parameters.guided_percent) for count in counts]
    return unguided if any(unguided) else None


TECHNIQUE = Technique(
    name="guidance_cutoff",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Stops classifier-free guidance after part of a picture's steps: the others compute half the batch.",
    source="https://arxiv.org/abs/2404.07724",
    parameters=GuidanceCutoffParameters,
    apply=guidance_cutoff,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    traits=frozenset({Trait.GUIDES_LESS}),
    roles=frozenset({Role.DENOISER}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it.",
    plan=plan,
    helpers=(
        torch_modules,
        denoisers,
        wrap_forward,
        argument_names,
        calling_pipeline,
        step_of_call,
        guide_some_steps,
        guided_steps,
    ),
)
