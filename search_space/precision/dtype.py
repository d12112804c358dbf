"""The number format of all weights and activations."""

from collections.abc import Mapping
from typing import Any, Literal

from .._modules import denoisers, other_modules, text_encoders, torch_modules, user_modules, vaes
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, Parameters, Stage, Technique
from .._watch import watch


class DtypeParameters(Parameters):
    """dtype: of every module of the pipelines, because neighbouring modules have to agree."""

    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"


def dtype(pipelines: dict[str, Any], *, dtype: str) -> None:
    """Convert all modules of the pipelines; those beside them are called with what the workload's own code makes.

    A VAE that overflows in float16 is raised to float32 by its pipeline, call by call.

    A denoiser that is converted again later is noticed at the next call. Adapters come in the denoiser's dtype, or
    convert what goes through them.
    """
    import torch

    wanted = getattr(torch, dtype)
    with_role = denoisers(pipelines) + vaes(pipelines) + text_encoders(pipelines)
    beside = list(map(id, user_modules(pipelines)))
    for module in [each for each in with_role + other_modules(pipelines) if id(each) not in beside]:
        # Called on the class: the `to` of diffusers' models warns of modules to keep in float32, also where there are
        # none.
        torch.nn.Module.to(module, dtype=wanted)

    converted = denoisers(pipelines)

    def holds() -> str | None:
        for denoiser in converted:
            # The first weight stands for all: this is asked before every step.
            found = next((weight.dtype for weight in denoiser.parameters()), wanted)
            if found != wanted:
                return f"dtype: the denoiser was converted to {found} after apply(): convert it back to {wanted}"
        return None

    watch(pipelines, holds)


def took_effect(pipelines: dict[str, Any], *, dtype: str) -> str | None:
    """Whether every module is in that dtype."""
    import torch

    with_role = denoisers(pipelines) + vaes(pipelines) + text_encoders(pipelines)
    beside = list(map(id, user_modules(pipelines)))
    for module in [each for each in with_role + other_modules(pipelines) if id(each) not in beside]:
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.dtype != getattr(torch, dtype):
                return f"{type(module).__name__} has weights in {str(parameter.dtype).removeprefix('torch.')}"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: DtypeParameters) -> str | None:
    """The dtype that everything has already, and formats that the device only emulates."""
    present = {module.dtype for pipeline in pipelines.values() for module in pipeline.modules.values()}
    if present - {"none"} == {parameters.dtype}:
        return f"all modules are in {parameters.dtype} already"
    return target.lacks(parameters.dtype)


TECHNIQUE = Technique(
    name="dtype",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Runs the pipelines in another number format: 16 bits halve memory and use the fast matrix units.",
    source="https://huggingface.co/docs/diffusers/optimization/fp16#half-precision",
    parameters=DtypeParameters,
    apply=dtype,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    adapters_later=(
        "LoRAs and IP-Adapters may be loaded after it; converting the denoiser again raises an error at the next call."
    ),
    helpers=(torch_modules, denoisers, vaes, text_encoders, other_modules, user_modules, watch),
)
