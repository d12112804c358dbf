"""torch.compile of the denoiser, whole or its repeated blocks, and of the VAE decoder."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, torch_modules, vaes
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique, Trait


class TorchCompileParameters(Parameters):
    """region: the whole denoiser as one graph, or each of its repeated blocks alone (far shorter compilation, because
    equal blocks share one graph; a U-Net's residual blocks stay eager). mode: torch.compile's own. vae_decoder: compile
    it too.
    """

    region: Literal["whole", "repeated_blocks"] = "whole"
    mode: Literal["default", "reduce-overhead", "max-autotune-no-cudagraphs"] = "default"
    vae_decoder: bool = False


def torch_compile(pipelines: dict[str, Any], *, region: str, mode: str, vae_decoder: bool) -> None:
    """Compile in place of `forward`, so that hooks and wrappers added later stay outside the compiled graph."""
    import torch

    # Every batch size and resolution is a graph of its own; beyond the limit torch falls back to eager silently.
    torch._dynamo.config.recompile_limit = 64
    for denoiser in denoisers(pipelines):
        if region == "repeated_blocks":
            denoiser.compile_repeated_blocks(mode=mode)
        else:
            # A step cache splits forward() into parts that are each one graph, and lists them here.
            for part in getattr(denoiser, "forward_parts", ["forward"]):
                setattr(denoiser, part, torch.compile(getattr(denoiser, part), mode=mode))
    if vae_decoder:
        for vae in vaes(pipelines):
            vae.decoder.forward = torch.compile(vae.decoder.forward, mode=mode)


def took_effect(pipelines: dict[str, Any], *, region: str, mode: str, vae_decoder: bool) -> str | None:
    """Whether Dynamo made graphs, and as many as there are compiled modules at least."""
    import torch

    compiled = len(denoisers(pipelines)) + (len(vaes(pipelines)) if vae_decoder else 0)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return None if graphs >= compiled else f"{graphs} graphs were compiled for {compiled} modules"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileParameters) -> str | None:
    """Modes that need a GPU, pipelines without a denoiser, and denoisers without known blocks."""
    if target.device != "cuda" and parameters.mode != "default":
        return f"mode {parameters.mode} needs a CUDA device"
    found = [denoiser for pipeline in pipelines.values() for denoiser in pipeline.denoisers]
    if not found:
        return "no pipeline has a denoiser"
    for denoiser in found:
        if parameters.region == "repeated_blocks" and not denoiser.has_repeated_blocks:
            return f"diffusers does not say which blocks of the denoiser, a {denoiser.class_name}, repeat"
    return None


def traits(parameters: TorchCompileParameters) -> frozenset[Trait]:
    """What region and mode add to compiling."""
    found = {Trait.COMPILES}
    if parameters.region == "whole":
        found.add(Trait.COMPILES_WHOLE)
    if parameters.mode == "reduce-overhead":
        found.add(Trait.CUDA_GRAPHS)
    return frozenset(found)


def plan(pipelines: Mapping[str, PipelineFacts], parameters: TorchCompileParameters) -> Any:
    """What is compiled: without a VAE, there is no decoder to compile."""
    has_vae = any(pipeline.vaes for pipeline in pipelines.values())
    return {**parameters.model_dump(), "vae_decoder": parameters.vae_decoder and has_vae}


TECHNIQUE = Technique(
    name="torch_compile",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Compiles the denoiser (and the VAE decoder) with TorchInductor: faster calls, a long first one.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
    parameters=TorchCompileParameters,
    apply=torch_compile,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.COMPILATION,
    traits=traits,
    adapters_later=(
        "LoRAs and IP-Adapters may be loaded after it; the first call with each new combination compiles again."
    ),
    plan=plan,
    helpers=(torch_modules, denoisers, vaes),
)
