"""The VAE decodes one picture of a batch at a time."""

from collections.abc import Mapping
from typing import Any

from .._modules import torch_modules, vaes
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def vae_slicing(pipelines: dict[str, Any]) -> None:
    """Decode a batch picture by picture."""
    for vae in vaes(pipelines):
        vae.enable_slicing()


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether the VAEs are set so."""
    if not all(getattr(vae, "use_slicing", False) for vae in vaes(pipelines)):
        return "the VAE decodes whole batches"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Workloads in which it changes nothing."""
    with_vae = [pipeline for pipeline in pipelines.values() if pipeline.vaes]
    if not with_vae:
        return "no pipeline has a VAE"
    if max(pipeline.largest_batch for pipeline in with_vae) == 1:
        return "every request asks for one picture, which slicing does not change"
    return None


TECHNIQUE = Technique(
    name="vae_slicing",
    axis=Axis.MEMORY,
    loss=Loss.REORDERED,  # other batch sizes may take other kernels
    summary="Decodes the pictures of a batch one after the other: the VAE's memory no longer grows with the batch.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#vae-slicing",
    parameters=NoParameters,
    apply=vae_slicing,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    roles=frozenset({Role.VAE}),
    helpers=(torch_modules, vaes),
)
