"""Matrix products of float16 numbers add up in float16."""

from collections.abc import Mapping
from typing import Any

from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def fp16_accumulation(pipelines: dict[str, Any]) -> None:
    """A switch of the process. GPUs for desktops add up in float16 twice as fast as in float32; others do not."""
    import torch

    torch.backends.cuda.matmul.allow_fp16_accumulation = True


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether it is on."""
    import torch

    return None if torch.backends.cuda.matmul.allow_fp16_accumulation else "float16 products add up in float32"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices without it, and pipelines without a denoiser."""
    if target.device != "cuda" or target.sm() < 80:
        return "accumulation in float16 needs a CUDA device of compute capability 8.0"
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    return None


TECHNIQUE = Technique(
    name="fp16_accumulation",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Lets matrix products of float16 numbers add up in float16: twice the rate on desktop GPUs.",
    source="https://docs.pytorch.org/docs/stable/notes/cuda.html#full-fp16-accumulation-in-fp16-gemms",
    parameters=NoParameters,
    apply=fp16_accumulation,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER, Role.VAE, Role.TEXT_ENCODER}),
)
