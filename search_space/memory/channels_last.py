"""Channels-last memory layout for convolutions."""

from collections.abc import Mapping
from typing import Any

from .._modules import denoisers, torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def channels_last(pipelines: dict[str, Any]) -> None:
    """Lay out the weights of denoisers and VAEs channels-last; activations follow at the first convolution."""
    import torch

    for module in denoisers(pipelines) + vaes(pipelines):
        module.to(memory_format=torch.channels_last)


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether the convolution weights lie so (1x1 kernels lie both ways at once)."""
    import torch

    for module in denoisers(pipelines) + vaes(pipelines):
        for name, parameter in module.named_parameters():
            if parameter.ndim == 4 and not parameter.is_contiguous(memory_format=torch.channels_last):
                return f"{name} is not in channels-last layout"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Pipelines without convolutions."""
    if not any(pipeline.denoisers or pipeline.vaes for pipeline in pipelines.values()):
        return "no pipeline has a denoiser or a VAE"
    return None


TECHNIQUE = Technique(
    name="channels_last",
    axis=Axis.MEMORY,
    loss=Loss.REORDERED,
    summary="Lays out images with channels innermost, as tensor-core convolutions want them: no transposing copies.",
    source="https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html",
    parameters=NoParameters,
    apply=channels_last,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.LAYERS,
    roles=frozenset({Role.DENOISER, Role.VAE}),
    helpers=(torch_modules, denoisers, vaes),
)
