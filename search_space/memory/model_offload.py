"""Modules wait in main memory and visit the GPU one at a time."""

from collections.abc import Mapping
from typing import Any

from .._modules import denoisers
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique, Trait


def model_offload(pipelines: dict[str, Any]) -> None:
    """Move whole modules to the GPU when they are called.

    A module that several pipelines share carries the hook of the pipeline that set up last. That hook moves it for the
    others as well; each pipeline sets up its own hooks anew, and moves all of its modules out, after every call.
    """
    import torch

    for pipeline in pipelines.values():
        if hasattr(pipeline, "enable_model_cpu_offload"):
            pipeline.enable_model_cpu_offload(device="cuda")
        elif isinstance(pipeline, torch.nn.Module):
            pipeline.to("cuda")  # it stands beside the pipelines, and nothing would bring it there


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether hooks are in place and the large module has left the GPU after the call."""
    offloaded = {name: p for name, p in pipelines.items() if hasattr(p, "enable_model_cpu_offload")}
    if not offloaded:
        return "there is no diffusers pipeline to offload"
    for name, pipeline in offloaded.items():
        if not getattr(pipeline, "_all_hooks", None):
            return f"pipeline {name} has no offload hooks"
        for denoiser in denoisers({name: pipeline}):
            if any(parameter.device.type != "cpu" for parameter in denoiser.parameters()):
                return f"the denoiser of pipeline {name} stayed on the GPU"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices without memory of their own."""
    return None if target.device == "cuda" else "there is no GPU memory to save"


TECHNIQUE = Technique(
    name="model_offload",
    axis=Axis.MEMORY,
    loss=Loss.BIT_IDENTICAL,
    summary="Keeps modules in main memory and brings each to the GPU while it runs: less GPU memory, slower calls.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#model-offloading",
    parameters=NoParameters,
    apply=model_offload,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.PLACEMENT,
    traits=frozenset({Trait.MOVES_WEIGHTS}),
    adapters_later="LoRAs and IP-Adapters may be loaded after it: diffusers takes its hooks off for that.",
)
