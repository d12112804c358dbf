"""torch.compile of the U-Net, whole or its repeated blocks, and of the VAE decoder."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import unique_modules
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, Parameters, Technique


class TorchCompileParameters(Parameters):
    """region: the whole U-Net as one graph, or each BasicTransformerBlock alone (far shorter compilation, because
    equal blocks share one graph; residual blocks stay eager). mode: torch.compile's own. vae_decoder: compile it too.
    """

    region: Literal["whole", "repeated_blocks"] = "whole"
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"] = "default"
    vae_decoder: bool = False


def torch_compile(pipelines: dict[str, Any], *, region: str, mode: str, vae_decoder: bool) -> None:
    """Compile in place of `forward`, so that hooks and wrappers added later stay outside the compiled graph."""
    import torch

    # Every batch size and resolution is a graph of its own; beyond the limit torch falls back to eager silently.
    torch._dynamo.config.recompile_limit = 64
    for unet in unique_modules(pipelines, "unet"):
        if region == "repeated_blocks":
            unet.compile_repeated_blocks(mode=mode)
        else:
            # A step cache splits forward() into parts that are each one graph, and lists them here.
            for part in getattr(unet, "forward_parts", ["forward"]):
                setattr(unet, part, torch.compile(getattr(unet, part), mode=mode))
    if vae_decoder:
        for vae in unique_modules(pipelines, "vae"):
            vae.decoder.forward = torch.compile(vae.decoder.forward, mode=mode)


def took_effect(pipelines: dict[str, Any], *, region: str, mode: str, vae_decoder: bool) -> str | None:
    """Whether Dynamo made graphs, and as many as there are compiled modules at least."""
    import torch

    compiled = len(unique_modules(pipelines, "unet")) + (len(unique_modules(pipelines, "vae")) if vae_decoder else 0)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return None if graphs >= compiled else f"{graphs} graphs were compiled for {compiled} modules"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileParameters) -> str | None:
    """Modes that need a GPU, and pipelines without a U-Net."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    if not any("unet" in pipeline.modules for pipeline in pipelines.values()):
        return "no pipeline has a U-Net"
    return None


TECHNIQUE = Technique(
    name="torch_compile",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the U-Net (and the VAE decoder) with TorchInductor: faster calls, a long first one.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileParameters,
    apply=torch_compile,
    took_effect=took_effect,
    refuses=refuses,
    helpers=(unique_modules,),
)
