"""Classifier-free guidance in the noisy part of the schedule only.

Kynkäänniemi et al.: "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", NeurIPS 2024, arXiv 2404.07724. diffusers has the same idea as a pipeline callback (SDXLCFGCutoffCallback),
which handles neither batches nor IP-Adapters.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique


class GuidanceCutoffParameters(Parameters):
    """guided_percent: how much of the noise schedule, from its noisy end, runs with guidance."""

    guided_percent: Literal[40, 50, 60, 70, 80, 90] = 70


def guidance_cutoff(pipelines: dict[str, Any], *, guided_percent: int) -> None:
    """Below the cut-off, compute the prompted half of the batch only and return it in place of both halves.

    The pipeline's uncond + scale * (cond - uncond) then is cond: no guidance. With guidance_rescale that is cond as
    well. Nothing is kept between calls. A batch of two unguided pictures that starts from the very same latents below
    the cut-off (image to image) with two prompts would be taken for guidance.
    """
    import torch

    def cut_off(unet: Any, threshold: float) -> None:
        inner = unet.forward

        def forward(sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
            now = timestep.flatten()[0].item() if torch.is_tensor(timestep) else timestep
            batch, half = sample.shape[0], sample.shape[0] // 2
            # Pipelines that guide repeat the latents: [a, b, a, b] for the pictures a and b. Nothing else in the
            # arguments says so.
            if now >= threshold or batch % 2 or not torch.equal(sample[:half], sample[half:]):
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

            unet.guidance_cutoff_steps += 1
            result = inner(sample[half:], prompted(timestep), *prompted(args), **prompted(kwargs))
            if isinstance(result, tuple):
                return (torch.cat([result[0], result[0]]), *result[1:])
            return type(result)(sample=torch.cat([result.sample, result.sample]))

        unet.guidance_cutoff_steps = 0
        unet.forward = forward

    for unet in denoisers(pipelines):
        owner = next(p for p in pipelines.values() if any(found is unet for found in denoisers({"": p})))
        cut_off(unet, (1 - guided_percent / 100) * owner.scheduler.config.num_train_timesteps)


def took_effect(pipelines: dict[str, Any], *, guided_percent: int) -> str | None:
    """Whether steps ran without guidance."""
    if not any(getattr(unet, "guidance_cutoff_steps", 0) for unet in denoisers(pipelines)):
        return "no step ran without guidance that would have had it"
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


TECHNIQUE = Technique(
    name="guidance_cutoff",
    axis=Axis.CACHING,
    loss=Loss.APPROXIMATE,
    summary="Stops classifier-free guidance after part of the schedule: the other steps compute half the batch.",
    source="https://arxiv.org/abs/2404.07724",
    parameters=GuidanceCutoffParameters,
    apply=guidance_cutoff,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    roles=frozenset({Role.DENOISER}),
    helpers=(torch_modules, denoisers),
)
