"""Matrix products of float32 numbers with the 10 bits of TensorFloat-32."""

from collections.abc import Mapping
from typing import Any

from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def tf32(pipelines: dict[str, Any]) -> None:
    """A switch of the process. Convolutions of float32 numbers use TensorFloat-32 without it."""
    import torch

    torch.set_float32_matmul_precision("high")


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether it is on."""
    import torch

    precision = torch.get_float32_matmul_precision()
    return None if precision == "high" else f"the precision of float32 matrix products is {precision}"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices without TensorFloat-32, and pipelines without large modules."""
    if target.device != "cuda" or target.sm() < 80:
        return "TensorFloat-32 needs a CUDA device of compute capability 8.0"
    if not any(pipeline.denoisers or pipeline.vaes for pipeline in pipelines.values()):
        return "no pipeline has a denoiser or a VAE"
    return None


TECHNIQUE = Technique(
    name="tf32",
    axis=Axis.PRECISION,
    loss=Loss.APPROXIMATE,
    summary="Multiplies float32 matrices on the tensor cores, with 10 bits of each factor's 23.",
    source="https://docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html",
    parameters=NoParameters,
    apply=tf32,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER, Role.VAE, Role.TEXT_ENCODER}),
)
