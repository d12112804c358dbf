"""The denoiser's weights wait in main memory and visit the GPU block by block, or layer by layer."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, other_modules, text_encoders, torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class GroupOffloadParameters(Parameters):
    """level: what is moved at a time, a block or a single layer. use_stream: copy the next group while this one
    computes; that pins the weights in main memory.
    """

    level: Literal["block_level", "leaf_level"] = "block_level"
    use_stream: bool = True


def group_offload(pipelines: dict[str, Any], *, level: str, use_stream: bool) -> None:
    """Offload the denoisers, which hold most of the weights; everything else is small enough to stay on the GPU."""
    import torch

    device = torch.device("cuda")
    # Not pipeline.to(device), which would move the denoiser as well: the pipelines may come in main memory.
    for module in vaes(pipelines) + text_encoders(pipelines) + other_modules(pipelines):
        module.to(device)
    for denoiser in denoisers(pipelines):
        denoiser.enable_group_offload(
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type=level,
            num_blocks_per_group=1 if level == "block_level" else None,
            use_stream=use_stream,
        )


def took_effect(pipelines: dict[str, Any], *, level: str, use_stream: bool) -> str | None:
    """Whether the denoisers have left the GPU after the call."""
    for denoiser in denoisers(pipelines):
        parameters = list(denoiser.parameters())
        on_gpu = sum(parameter.numel() for parameter in parameters if parameter.device.type != "cpu")
        if on_gpu > sum(parameter.numel() for parameter in parameters) / 2:
            return "most of the denoiser's weights stayed on the GPU"
        # Leaf-level hooks sit on the layers, block-level ones on the blocks: the denoiser itself may have none.
        if not any(hasattr(module, "_diffusers_hook") for module in denoiser.modules()):
            return "the denoiser has no offload hooks"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: GroupOffloadParameters) -> str | None:
    """Devices without memory of their own, and pipelines without a denoiser."""
    if target.device != "cuda":
        return "there is no GPU memory to save"
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    return None


TECHNIQUE = Technique(
    name="group_offload",
    axis=Axis.MEMORY,
    loss=Loss.BIT_IDENTICAL,
    summary="Keeps the denoiser's weights in main memory and streams blocks or layers to the GPU as they are needed.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#group-offloading",
    parameters=GroupOffloadParameters,
    apply=group_offload,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.PLACEMENT,
    roles=frozenset({Role.DENOISER}),
    traits=frozenset({Trait.MOVES_WEIGHTS}),
    helpers=(torch_modules, denoisers, vaes, text_encoders, other_modules),
)
