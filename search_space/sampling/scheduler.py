"""Another scheduler: another way from the same noise to a picture."""

from collections.abc import Mapping
from typing import Any, Literal

from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class SchedulerParameters(Parameters):
    """scheduler: diffusers' name of its class."""

    scheduler: Literal[
        "EulerDiscreteScheduler",
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "LCMScheduler",
    ] = "DPMSolverMultistepScheduler"


def scheduler(pipelines: dict[str, Any], *, scheduler: str) -> None:
    """With the settings of the pipeline's own, as far as the other one has them."""
    import diffusers

    for pipeline in pipelines.values():
        if hasattr(getattr(pipeline, "scheduler", None), "config"):
            pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)


def took_effect(pipelines: dict[str, Any], *, scheduler: str) -> str | None:
    """Whether all pipelines have it."""
    kinds = {type(p.scheduler).__name__ for p in pipelines.values() if getattr(p, "scheduler", None) is not None}
    return None if kinds == {scheduler} else f"the scheduler is a {' and a '.join(sorted(kinds)) or 'thing of no kind'}"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: SchedulerParameters) -> str | None:
    """The scheduler that there is already; models that were trained with other noise than these schedulers know: for
    EDM, or for flow matching, as most transformers are.
    """
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    if {pipeline.scheduler for pipeline in pipelines.values() if pipeline.scheduler} == {parameters.scheduler}:
        return f"the scheduler is {parameters.scheduler} already"
    for denoiser in found:
        if not denoiser.is_unet:
            return f"these schedulers are for U-Nets, and the denoiser is a {denoiser.class_name}"
    for pipeline in pipelines.values():
        if not pipeline.noise_by_betas:
            return f"a {pipeline.scheduler} says nothing of betas, so the noise of a {parameters.scheduler} is unknown"
    return None


TECHNIQUE = Technique(
    name="scheduler",
    axis=Axis.SAMPLING,
    loss=Loss.BY_DESIGN,
    summary="Takes another scheduler, which may need fewer steps: the pictures are other ones.",
    source="https://huggingface.co/docs/diffusers/using-diffusers/schedulers",
    parameters=SchedulerParameters,
    apply=scheduler,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset(),
    adapters_later="LoRAs and IP-Adapters may be loaded after it.",
    on_request=True,
)
