"""Fewer denoising steps than the request asks for."""

from collections.abc import Mapping
from typing import Any, Literal

from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class FewerStepsParameters(Parameters):
    """percent: how many of the steps that a request asks for."""

    percent: Literal[50, 60, 70, 80, 90] = 80


def fewer_steps(pipelines: dict[str, Any], *, percent: int) -> None:
    """Schedulers are told fewer steps than the pipelines were; timesteps that are given one by one stay."""
    import functools

    def reduce(scheduler: Any) -> None:
        inner = scheduler.set_timesteps

        # Pipelines look at this function's parameters to see what a scheduler can do.
        @functools.wraps(inner)
        def set_timesteps(num_inference_steps: Any = None, *args: Any, **kwargs: Any) -> Any:
            if num_inference_steps is not None:
                num_inference_steps = max(1, round(num_inference_steps * percent / 100))
                scheduler.fewer_steps_calls += 1
            return inner(num_inference_steps, *args, **kwargs)

        scheduler.fewer_steps_calls = 0
        scheduler.set_timesteps = set_timesteps

    schedulers = [getattr(pipeline, "scheduler", None) for pipeline in pipelines.values()]
    for scheduler in {id(each): each for each in schedulers if hasattr(each, "set_timesteps")}.values():
        reduce(scheduler)


def took_effect(pipelines: dict[str, Any], *, percent: int) -> str | None:
    """Whether a scheduler was told fewer steps."""
    schedulers = [getattr(pipeline, "scheduler", None) for pipeline in pipelines.values()]
    if not any(getattr(each, "fewer_steps_calls", 0) for each in schedulers):
        return "no scheduler was told fewer steps"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: FewerStepsParameters) -> str | None:
    """Pipelines without a U-Net: those of transformers give timesteps one by one."""
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if not denoiser.is_unet:
            return f"the denoiser is a transformer ({denoiser.class_name}), whose pipeline counts the steps itself"
    return None


TECHNIQUE = Technique(
    name="fewer_steps",
    axis=Axis.SAMPLING,
    loss=Loss.BY_DESIGN,
    summary="Takes fewer denoising steps than asked for: the pictures are other ones.",
    source="https://arxiv.org/abs/2206.00364",
    parameters=FewerStepsParameters,
    apply=fewer_steps,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.STRUCTURE,
    roles=frozenset(),
    on_request=True,
)
