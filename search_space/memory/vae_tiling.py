"""The VAE decodes large pictures tile by tile."""

from collections.abc import Mapping
from typing import Any

from .._modules import torch_modules, vaes
from .._target import PipelineFacts, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def vae_tiling(pipelines: dict[str, Any]) -> None:
    """Decode in overlapping tiles, blended where they overlap."""
    for vae in vaes(pipelines):
        vae.enable_tiling()


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether the VAEs are set so."""
    if not all(getattr(vae, "use_tiling", False) for vae in vaes(pipelines)):
        return "the VAE decodes whole pictures"
    return None


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Workloads in which it changes nothing."""
    with_vae = [pipeline for pipeline in pipelines.values() if pipeline.vaes]
    if not with_vae:
        return "no pipeline has a VAE"
    for pipeline in with_vae:
        for vae in pipeline.vaes:
            if vae.tile_side_px is None or pipeline.largest_side_px > vae.tile_side_px:
                return None
    return "every picture fits into one tile"


TECHNIQUE = Technique(
    name="vae_tiling",
    axis=Axis.MEMORY,
    loss=Loss.APPROXIMATE,  # tiles do not see each other: colours may shift between them
    summary="Decodes large pictures in overlapping tiles: the VAE's memory no longer grows with the picture.",
    source="https://huggingface.co/docs/diffusers/optimization/memory#vae-tiling",
    parameters=NoParameters,
    apply=vae_tiling,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    adapters_later="LoRAs and IP-Adapters may be loaded after it.",
    helpers=(torch_modules, vaes),
)
