"""Classifier-free guidance in the first steps of a picture only.

Kynkäänniemi et al.: "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", NeurIPS 2024, arXiv 2404.07724. diffusers has the same idea as a pipeline callback (SDXLCFGCutoffCallback),
which handles neither batches nor IP-Adapters.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._calls import calling_pipeline, step_of_call, wrap_forward
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
    """After the cut-off, compute the prompted half of the batch only and return it in place of both halves.

    The pipeline's uncond + scale * (cond - uncond) then is cond: no guidance. With guidance_rescale that is cond as
    well. The pipeline that calls says whether it guides; calls from outside of a pipeline are left as they are.
    """
    import weakref

    import torch

    def cut_off(unet: Any) -> None:
        # steps: without guidance, over the U-Net's life. The others: of the last call of a pipeline that guides.
        state = {"steps": 0, "seen": 0, "guided": 0}
        calls: Any = weakref.WeakKeyDictionary()

        def cut_off_forward(inner: Any, sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            pipeline, names = calling_pipeline()
            guides = getattr(pipeline, "do_classifier_free_guidance", names.get("do_classifier_free_guidance"))
            if pipeline is None or not guides:
                return inner(sample, timestep, *args, **kwargs)
            batch, latents = sample.shape[0], names.get("latents")
            half = batch // 2
            prompt = kwargs.get("encoder_hidden_states", args[0] if args else None)
            if not torch.is_tensor(latents) or batch != 2 * latents.shape[0]:
                raise RuntimeError(
                    f"guidance_cutoff: {type(pipeline).__name__} guides in another way than by two predictions for "
                    "each picture, and it is not known which of them to leave out; leave the technique out"
                )
            if torch.is_tensor(prompt) and prompt.shape[0] != batch:
                raise RuntimeError(
                    f"guidance_cutoff: {type(pipeline).__name__} does not pass one prompt for each prediction, and it "
                    "is not known which to leave out; leave the technique out"
                )
            before = calls.get(pipeline)
            call = calls[pipeline] = step_of_call("guidance_cutoff", pipeline, timestep, before)
            position = call["index"] - call["first"]
            guided = position < guided_steps(call["count"], guided_percent)
            call["guided"] = position + 1 if guided else call.get("guided", 0)
            state.update(seen=position + 1, guided=call["guided"])
            if guided:
                return inner(sample, timestep, *args, **kwargs)

            def prompted(value: Any) -> Any:
                """The second half of whatever has the batch as its first dimension."""
                if torch.is_tensor(value):
                    return value[half:] if value.ndim and value.shape[0] == batch else value
                if isinstance(value, dict):
                    return {key: prompted(item) for key, item in value.items()}
                if isinstance(value, (list, tuple)):
                    return type(value)(prompted(item) for item in value)
                return value

            state["steps"] += 1
            result = inner(sample[half:], prompted(timestep), *prompted(args), **prompted(kwargs))
            if isinstance(result, tuple):
                return (torch.cat([result[0], result[0]]), *result[1:])
            return type(result)(sample=torch.cat([result.sample, result.sample]))

        wrap_forward(unet, "guidance_cutoff", cut_off_forward)
        unet.guidance_cutoff_state = state

    for unet in denoisers(pipelines):
        cut_off(unet)


def took_effect(pipelines: dict[str, Any], *, guided_percent: int) -> str | None:
    """Whether steps ran without guidance, and whether it was the share that was asked for."""
    states = [getattr(unet, "guidance_cutoff_state", {"steps": 0}) for unet in denoisers(pipelines)]
    if not any(state["steps"] for state in states):
        return "no step ran without guidance that would have had it"
    for state in states:
        seen, guided = state.get("seen", 0), state.get("guided", 0)
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
    helpers=(torch_modules, denoisers, wrap_forward, calling_pipeline, step_of_call, guided_steps),
)
