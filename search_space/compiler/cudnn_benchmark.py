"""cuDNN tries its convolution algorithms for each shape, and keeps the fastest."""

from collections.abc import Mapping
from typing import Any

from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def cudnn_benchmark(pipelines: dict[str, Any]) -> None:
    """A switch of the process; compiled code calls cuDNN for its convolutions as well."""
    import torch

    torch.backends.cudnn.benchmark = True


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether it is on."""
    import torch

    return None if torch.backends.cudnn.benchmark else "something turned cuDNN's benchmark off"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Devices without cuDNN, and pipelines without convolutions."""
    if target.device != "cuda":
        return "cuDNN needs a CUDA device"
    if not any(pipeline.denoisers or pipeline.vaes for pipeline in pipelines.values()):
        return "no pipeline has a denoiser or a VAE"
    return None


TECHNIQUE = Technique(
    name="cudnn_benchmark",
    axis=Axis.COMPILER,
    loss=Loss.REORDERED,
    summary="Lets cuDNN time its convolution algorithms once per shape and keep the fastest.",
    source="https://docs.pytorch.org/docs/stable/backends.html#torch.backends.cudnn.torch.backends.cudnn.benchmark",
    parameters=NoParameters,
    apply=cudnn_benchmark,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WEIGHTS,
    roles=frozenset({Role.DENOISER, Role.VAE}),
)
